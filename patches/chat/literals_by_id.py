# SPDX-License-Identifier: Apache-2.0
"""Keep as text a control token that the model spells out in ordinary tokens.

SGLang's parsers get text alone, in which `<|"|>` in a string and the token of that name look alike.
The ids come with the text from the tokenizer manager, so literals are marked there.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from sglang_gemma4_ext.chat.literals import Literals
from sglang_gemma4_ext.chat.markers import MARKERS, marker_ids
from sglang_gemma4_ext.chat.parsers import PARSER
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source

MANAGER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
ENTRYPOINTS = "sglang.srt.entrypoints"
CHAT = f"{ENTRYPOINTS}.openai.serving_chat.OpenAIServingChat"
RESPONSES = f"{ENTRYPOINTS}.openai.serving_responses.OpenAIServingResponses"
# An attribute of ours, of a request to the engine.
_IS_PARSED = "_gemma4_ext_is_parsed"


def _note_chat(result: Any, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER _convert_to_internal_request: note that the answer goes through our parsers."""
    _note(self, result[0])


def _note_response(self: Any, *args: Any, **kwargs: Any) -> None:
    """BEFORE _generate_with_builtin_tools(request_id, request_prompt, adapted_request, ...)."""
    _note(self, kwargs["adapted_request"] if "adapted_request" in kwargs else args[2])


def _note(serving: Any, request: Any) -> None:
    """Mark the request if our reasoning parser reads its answer, and so takes the marks out."""
    params = request.sampling_params
    shows_controls = isinstance(params, dict) and params.get("skip_special_tokens") is False
    if serving.reasoning_parser == PARSER and shows_controls:
        setattr(request, _IS_PARSED, True)


def _generate(original: Any, self: Any, obj: Any, request: Any = None) -> Any:
    """AROUND generate_request, from which chat, Anthropic and Responses get text and ids."""
    outputs = original(self, obj, request)
    return _marked(outputs, self) if getattr(obj, _IS_PARSED, False) else outputs


async def _marked(outputs: AsyncGenerator[Any, None], manager: Any) -> AsyncGenerator[Any, None]:
    """Yield the same outputs: dicts, or one list of them for several choices that do not stream."""
    tokenizer = manager.tokenizer
    controls = marker_ids(tokenizer, MARKERS)
    decode = functools.partial(
        tokenizer.decode, skip_special_tokens=False, spaces_between_special_tokens=False
    )
    choices: dict[int, _Choice] = {}
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            if isinstance(output, list):
                yield [_Choice(Literals(controls, decode)).marked(one, False) for one in output]
                continue
            index = output.get("index", 0)
            choice = choices.setdefault(index, _Choice(Literals(controls, decode)))
            yield choice.marked(output, manager.incremental_streaming_output)


class _Choice:
    """Keep how much of one choice has been read, and its text once it has marks."""

    def __init__(self, literals: Literals):
        self._literals = literals
        self._characters = self._tokens = 0
        self._text: str | None = None

    def marked(self, output: dict[str, Any], is_incremental: bool) -> dict[str, Any]:
        meta, text, ids = output["meta_info"], output.get("text"), output.get("output_ids")
        finish = meta.get("finish_reason") or {}
        if not isinstance(text, str) or not isinstance(ids, Sequence):
            return output
        if is_incremental:
            return {**output, "text": self._mark(*self._new(text, ids, meta), finish)}
        # The choice shares a list of ids that goes on growing, so take those of this text.
        ids = ids[: meta.get("completion_tokens", len(ids))]
        before = text[: self._characters]
        new = self._mark(text[self._characters :], ids[self._tokens :], finish)
        if self._text is None and self._characters + len(new) > len(text):
            self._text = before
        self._characters, self._tokens = len(text), len(ids)
        if self._text is None:
            return output
        self._text += new
        return {**output, "text": self._text}

    def _new(
        self, text: str, ids: Sequence[int], meta: dict[str, Any]
    ) -> tuple[str, Sequence[int]]:
        """Return the text and the ids of a piece that were not in an earlier one.

        SGLang ends a request aborted in its queue with the whole text and the last id once more.
        """
        new_ids = ids[: max(0, meta.get("completion_tokens", len(ids)) - self._tokens)]
        if len(new_ids) < len(ids):
            text = text[: (len(text) - self._characters) // 2]
        self._characters += len(text)
        self._tokens += len(new_ids)
        return text, new_ids

    def _mark(self, text: str, ids: Sequence[int], finish: dict[str, Any]) -> str:
        matched = finish.get("matched")
        if isinstance(matched, int) and ids and ids[-1] == matched:
            ids = ids[:-1]  # the stop token, which the text does not have
        return self._literals.mark(text, ids, is_cut=isinstance(matched, str))


def _stands_down(ctx: Context) -> str | None:
    """Stand down where no patch reads the text, which takes the marks out."""
    missing = sorted({"reasoning", "tool_calls"} & set(ctx.settings.disable))
    return f"without the patch {missing[0]}" if missing else None


def _retired() -> bool:
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    parse = inspect.unwrap(ReasoningParser.parse_stream_chunk)
    return any("ids" in name for name in inspect.signature(parse).parameters)


PATCH = Patch(
    name="literals_by_id",
    theme="chat",
    summary="Text that reads like a control token is told from the token by its ids",
    why="SGLang's parsers see text alone, so a string that holds <|\"|> ends there, and <turn|> in "
    "an answer ends the answer",
    upstream="unreported",
    retire_when="ReasoningParser.parse_stream_chunk takes the ids of its text",
    retired=_retired,
    stands_down=_stands_down,
    hooks=(
        Hook(f"{MANAGER}.generate_request", "894e0b7b0450", "around", _generate),
        Hook(f"{CHAT}._convert_to_internal_request", "ec9c8aec4463", "after", _note_chat),
        Hook(f"{RESPONSES}._generate_with_builtin_tools", "9e4855a0723b", "before", _note_response),
    ),
    relies_on=(
        Source(f"{MANAGER}._handle_batch_output", "75a0538d1093"),
        Source(
            "sglang.srt.managers.detokenizer_manager.DetokenizerManager.trim_matched_stop",
            "d0bc0d8a2805",
        ),
    ),
    required=False,
)
