# SPDX-License-Identifier: Apache-2.0
"""Separate thoughts from text and calls by one state machine, from the end of the prompt on.

SGLang takes a turn for a thought when the request enables thinking, although Gemma 4's template
opens none. An answer without a thought then becomes reasoning. SGLang also knows only one thought a
turn, and its reasoning detector ends before the one for calls begins.

Here the reasoning detector reads the whole turn and passes text and framed calls on. If the prompt
ends in an opened thought, the turn starts inside it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sglang_gemma4_ext.chat.markers import THOUGHT_CLOSE, THOUGHT_OPEN, TURN_OPEN, marker_ids
from sglang_gemma4_ext.chat.parsers import PARSER
from sglang_gemma4_ext.chat.stages import Plan, ThoughtStage
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.turn import Start
from sglang_gemma4_ext.registry import Hook, Patch, Source

MODULE = "sglang.srt.parser.reasoning_parser"
DETECTOR = f"{MODULE}.Gemma4Detector"
CHAT = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"
RESPONSES = "sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses"
# Our attributes on a detector and on a request.
_PLAN, _STAGE = "_gemma4_ext_plan", "_gemma4_ext_stage"
START, SHOWS_THOUGHTS = "_gemma4_ext_start", "_gemma4_ext_shows_thoughts"


def _plan_reading(
    result: None,
    self: Any,
    model_type: str | None = None,
    stream_reasoning: bool = True,
    force_reasoning: bool | None = None,
    request: Any = None,
    tokenizer: Any = None,
    tool_call_parser_active: bool = False,
    prefix: str | None = None,
) -> None:
    """AFTER ReasoningParser.__init__, which knows the request: decide how its turns are read."""
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest
    from sglang.srt.parser.reasoning_parser import Gemma4Detector

    if not isinstance(self.detector, Gemma4Detector):
        return
    is_answer = isinstance(request, ChatCompletionRequest | ResponsesRequest)
    plan = Plan(
        start=getattr(request, START, None) or _start_after(self.detector.previous_content),
        tools=Tools(dict(map(_declaration, request.tools or []))) if is_answer else Tools(),
        calls="read" if tool_call_parser_active else "text" if is_answer else "verbatim",
        keeps_marks=tool_call_parser_active and not _is_json_call(request),
        shows_thoughts=getattr(request, SHOWS_THOUGHTS, False),
    )
    setattr(self.detector, _PLAN, plan)


def _is_json_call(request: Any) -> bool:
    """Tell whether SGLang forces the request's calls into a JSON array, with a parser of its own.

    It does for a demanded call, unless the detector for calls says that it reads those too.
    """
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    is_demanded = getattr(request, "tool_choice", None) not in (None, "auto", "none")
    detector = FunctionCallParser.ToolCallParserEnum[PARSER]()
    return is_demanded and not detector.parses_required_natively()


def _declaration(tool: Any) -> tuple[str, Any]:
    """Return name and schema of a tool, as chat completions and as Responses write it."""
    function = getattr(tool, "function", None) or tool
    return str(getattr(function, "name", "")), getattr(function, "parameters", None)


def _start_after(prefix: str) -> Start:
    """Tell where a prompt, given as text, leaves the turn."""
    opened = prefix.rfind(THOUGHT_OPEN)
    is_open = opened > max(prefix.rfind(THOUGHT_CLOSE), prefix.rfind(TURN_OPEN))
    return Start.THOUGHT if is_open else Start.CONTENT


def _start_after_ids(ids: Sequence[int], tokenizer: Any) -> Start:
    """Tell where a prompt, given as tokens, leaves the turn."""
    markers = marker_ids(tokenizer, (THOUGHT_OPEN, THOUGHT_CLOSE, TURN_OPEN))
    last = next((markers[token] for token in reversed(ids) if token in markers), None)
    return Start.THOUGHT if last == THOUGHT_OPEN else Start.CONTENT


def _note_prompt(result: Any, self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER _process_messages: record on the request where the prompt leaves the turn.

    Thoughts that are shown as text also go through the detector, which removes their control
    tokens.
    """
    setattr(request, START, _start_of_turn(result, self.tokenizer_manager.tokenizer))
    if self.reasoning_parser == PARSER and not request.separate_reasoning:
        request.separate_reasoning = True
        setattr(request, SHOWS_THOUGHTS, True)


async def _note_response(
    original: Any, self: Any, request: Any, *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    """AROUND _make_request: Responses renders the prompt from a chat request, which it drops."""
    made = await original(self, request, *args, **kwargs)
    setattr(request, START, _start_of_turn(made[3], self.tokenizer_manager.tokenizer))
    return made


def _start_of_turn(processed: Any, tokenizer: Any) -> Start:
    """Read off a processed prompt where it leaves the turn."""
    ids = processed.prompt_ids
    if isinstance(ids, list) and ids and isinstance(ids[0], int):
        return _start_after_ids(ids, tokenizer)
    return _start_after(processed.prompt or "")


def _detect_and_parse(self: Any, text: str) -> Any:
    """Parse the whole turn at once."""
    from sglang.srt.parser.reasoning_parser import StreamingParseResult

    stage = ThoughtStage(replace(_plan(self), needs_text=False))
    (thought, plain), (more_thought, more_plain) = stage.feed(text), stage.finish()
    result = StreamingParseResult(plain + more_plain, thought + more_thought)
    return self._maybe_apply_force_nonempty_content(result)


def _parse_streaming_increment(self: Any, new_text: str) -> Any:
    from sglang.srt.parser.reasoning_parser import StreamingParseResult

    thought, text = _stage(self).feed(new_text)
    return StreamingParseResult(text, thought)


def _finish(self: Any) -> Any:
    from sglang.srt.parser.reasoning_parser import StreamingParseResult

    thought, text = _stage(self).finish()
    return StreamingParseResult(text, thought)


def _stage(detector: Any) -> ThoughtStage:
    if not hasattr(detector, _STAGE):
        setattr(detector, _STAGE, ThoughtStage(_plan(detector)))
    return getattr(detector, _STAGE)


def _plan(detector: Any) -> Plan:
    plan = getattr(detector, _PLAN, None) or Plan(_start_after(detector.previous_content))
    return replace(
        plan,
        holds_thoughts=not detector.stream_reasoning,
        needs_text=detector._force_nonempty_content,
    )


def _keep_special_tokens(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER OpenAIServingChat.__init__: the text-only class writes the same control tokens."""
    config = getattr(self.tokenizer_manager.model_config, "hf_config", None)
    self.is_gemma4 = self.is_gemma4 or getattr(config, "model_type", None) == "gemma4_text"


def _retired() -> bool:
    from sglang.srt.parser.reasoning_parser import Gemma4Detector

    source = inspect.getsource(inspect.unwrap(Gemma4Detector.__init__))
    return "tool_start_token" in source


PATCH = Patch(
    name="reasoning",
    theme="chat",
    summary="Thoughts, text and calls are told apart from where the prompt leaves the turn",
    why=(
        "with thinking on, SGLang takes an answer or a call without a thought for reasoning and "
        "reads one thought a turn; it leaves control tokens in the text with "
        "separate_reasoning=false; for Gemma4ForCausalLM it strips the tokens that mark a thought"
    ),
    upstream="unreported",
    retire_when="Gemma4Detector gives its base class a tool_start_token",
    retired=_retired,
    hooks=(
        Hook(f"{DETECTOR}.detect_and_parse", "ce5a9d62cf5f", "replace", _detect_and_parse),
        Hook(
            f"{DETECTOR}.parse_streaming_increment",
            "c99595f4e4e6",
            "replace",
            _parse_streaming_increment,
        ),
        Hook(f"{DETECTOR}.finish", "3be972f9c50d", "replace", _finish),
        Hook(f"{MODULE}.ReasoningParser.__init__", "b63c83ddd095", "after", _plan_reading),
        Hook(f"{CHAT}.__init__", "f4153439ed6e", "after", _keep_special_tokens),
        Hook(f"{CHAT}._process_messages", "00296c1f9bed", "after", _note_prompt),
        Hook(f"{RESPONSES}._make_request", "d4e8fb380128", "around", _note_response),
    ),
    relies_on=(
        Source(f"{CHAT}._process_reasoning_stream", "0e7dfa43abce"),
        Source(f"{CHAT}._build_chat_response", "ac2d10c00a09"),
        Source(f"{CHAT}._tool_call_parsing_active", "c54f5907a2ac"),
    ),
)
