# SPDX-License-Identifier: Apache-2.0
"""Decode required and restricted calls in Gemma 4's own format.

SGLang forces `required` and named calls into a JSON array, which the model was never trained to
write. It does so only after a thought, which the model may leave out. With `auto` it ignores
`strict` and `parallel_tool_calls=false`. Here a grammar of the whole turn, with its thought,
constrains each token from the first one on.

Only SGLang's XGrammar backend knows tokens by id; with another backend nothing changes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from sglang_gemma4_ext.chat.call import is_name
from sglang_gemma4_ext.chat.grammar import (
    Calls,
    ControlTokens,
    Function,
    control_tokens_in,
    start_of,
    turn_grammar,
)
from sglang_gemma4_ext.chat.parsers import PARSER
from sglang_gemma4_ext.patches.chat._turn_compiler import compile_turn
from sglang_gemma4_ext.registry import Hook, Patch, Source

logger = logging.getLogger(__name__)

SERVING = "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"
CALLING = "sglang.srt.function_call"
DETECTOR = f"{CALLING}.base_format_detector.BaseFormatDetector"
XGRAMMAR = "sglang.srt.constrained.xgrammar_backend.XGrammarGrammarBackend"


def _demand(original: Any, self: Any, request: Any, is_multimodal: bool, **kwargs: Any) -> Any:
    """AROUND _process_messages, which knows the prompt and chooses the constraint."""
    result = original(self, request, is_multimodal, **kwargs)
    if self.tool_call_parser != PARSER or not _uses_xgrammar():
        return result
    functions, calls = _demanded(request, self._effective_tools(request))
    tokens = ControlTokens.of(self.tokenizer_manager.tokenizer) if functions else None
    if tokens is None:
        return result
    if request.regex or request.ebnf or _kind(request.response_format) != "text":
        if calls in (Calls.SOME, Calls.ONE):
            raise ValueError(
                "tool_choice 'required' or a named tool cannot be combined with response_format, "
                "regex or ebnf: leave one of them out"
            )
        return result
    for function in functions:
        if not is_name(function.name):
            raise ValueError(
                f"tool {function.name[:64]!r} has a name that no call of Gemma 4 can hold: give it "
                "letters, digits, _, -, ., / or :, and 256 characters at most"
            )
    prompt = result.prompt_ids if isinstance(result.prompt_ids, Sequence) else ()
    grammar, left_out = turn_grammar(
        functions,
        tokens,
        calls,
        start_of(prompt, tokens),
        self.tokenizer_manager.model_config.vocab_size,
    )
    for name, words in left_out.items():
        _say_once(name, ", ".join(sorted(words)))
    result.tool_call_constraint = ("full_assistant_ebnf", grammar)
    return result


def _demanded(request: Any, tools: Sequence[Any]) -> tuple[list[Function], Calls]:
    """Return the functions that a request constrains, and how many calls; none for plain auto.

    With `auto` only `strict` tools must follow their schemas. SGLANG_TOOL_STRICT_LEVEL means what
    it means for other models: 1 constrains each call's format, 2 its arguments too.
    """
    from sglang.srt.environ import ToolStrictLevel, envs

    choice, parallel = request.tool_choice, request.parallel_tool_calls is not False
    level = envs.SGLANG_TOOL_STRICT_LEVEL.get()
    if not tools or choice == "none":
        return [], Calls.ANY
    if not isinstance(choice, str):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        return _functions(tools, all_strict=True), Calls.ONE
    if choice == "required":
        return _functions(tools, all_strict=True), Calls.SOME if parallel else Calls.ONE
    strict = level >= ToolStrictLevel.FUNCTION or any(tool.function.strict for tool in tools)
    if parallel and not strict:
        return [], Calls.ANY
    all_strict = level >= ToolStrictLevel.PARAMETER
    return _functions(tools, all_strict=all_strict), Calls.ANY if parallel else Calls.AT_MOST_ONE


def _functions(tools: Sequence[Any], *, all_strict: bool) -> list[Function]:
    return [
        Function(tool.function.name, tool.function.parameters, all_strict or tool.function.strict)
        for tool in tools
    ]


def _kind(response_format: Any) -> str:
    return "text" if response_format is None else response_format.type


@functools.cache
def _say_once(name: str, words: str) -> None:
    logger.warning("The grammar of tool %s does not enforce: %s", name, words)


def _natively(original: Any, self: Any) -> bool:
    """AROUND parses_required_natively, by which SGLang chooses the parser of a required call."""
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    ours = isinstance(self, FunctionCallParser.ToolCallParserEnum[PARSER])
    return original(self) or (ours and _uses_xgrammar())


def _uses_xgrammar() -> bool:
    from sglang.srt import runtime_context

    return runtime_context.get_context().config_leaf("grammar_backend") == "xgrammar"


def _compile(original: Any, self: Any, key_string: str) -> Any:
    """AROUND dispatch_ebnf: compile our grammars where control tokens are not text."""
    if control_tokens_in(key_string) is None:
        return original(self, key_string)
    return compile_turn(self, key_string)


def _retired() -> bool:
    from sglang.srt.function_call.gemma4_detector import Gemma4Detector

    return "parses_required_natively" in vars(Gemma4Detector)


PATCH = Patch(
    name="native_tool_grammar",
    theme="chat",
    summary="required, named, strict and single calls are constrained to Gemma 4's own format",
    why=(
        "SGLang forces required calls into a JSON array and ignores strict and "
        "parallel_tool_calls=false; it enforces nothing when thinking is on and no thought comes"
    ),
    upstream="unreported; XGrammar 0.2.7 dropped its own Gemma 4 format",
    retire_when="SGLang's Gemma4Detector overrides parses_required_natively",
    retired=_retired,
    hooks=(
        Hook(f"{SERVING}._process_messages", "00296c1f9bed", "around", _demand),
        Hook(f"{DETECTOR}.parses_required_natively", "7cda5672e38a", "around", _natively),
        Hook(f"{XGRAMMAR}.dispatch_ebnf", "f09705be2a3b", "around", _compile),
    ),
    relies_on=(
        Source(
            f"{CALLING}.function_call_parser.FunctionCallParser.owns_tool_format", "85b8b827a9c3"
        ),
        Source(f"{XGRAMMAR}._from_context", "87ebe3362abd"),
    ),
    required=False,
)
