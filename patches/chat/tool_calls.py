# SPDX-License-Identifier: Apache-2.0
"""Read tool calls by one linear scanner, whole and streamed.

SGLang's detector for Gemma 4 parses arguments again with every chunk and numbers calls by the
tool's place in the request. On some nested arrays it does not end. Its methods are replaced, so
every endpoint (chat, Responses, /parse_function_call) parses alike. Text from the `reasoning` patch
has framed calls; any other text is parsed here.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.chat.events import Call, Event, Text
from sglang_gemma4_ext.chat.literals import MARK
from sglang_gemma4_ext.chat.markers import MARKER
from sglang_gemma4_ext.chat.stages import CallStage
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.wire import has_calls
from sglang_gemma4_ext.registry import Hook, Patch, Source

DETECTOR = "sglang.srt.function_call.gemma4_detector.Gemma4Detector"
PARSER = "sglang.srt.function_call.function_call_parser.FunctionCallParser"
_STATE = "_gemma4_ext_stage"


def _has_tool_call(self: Any, text: str) -> bool:
    """Tell whether the text has control tokens to take out or calls; else SGLang keeps it."""
    is_marked = has_calls(text) or MARK in text
    return is_marked or MARKER.search(text) is not None or text.startswith("call:")


def _detect_and_parse(self: Any, text: str, tools: list[Any]) -> Any:
    """Parse the whole turn at once; a truncated call is left out."""
    from sglang.srt.function_call.core_types import StreamingParseResult, ToolCallItem

    stage = _stage(tools)
    events = [*stage.feed(text), *stage.finish()]
    calls: dict[int, list[Call]] = {}
    for event in events:
        if isinstance(event, Call):
            calls.setdefault(event.index, []).append(event)
    items = [
        ToolCallItem(
            tool_index=place,
            name=parts[0].name,
            parameters="".join(part.arguments for part in parts),
        )
        for place, parts in enumerate(p for p in calls.values() if p[-1].is_last)
    ]
    return StreamingParseResult(normal_text=_text(events), calls=items)


def _parse_streaming_increment(self: Any, new_text: str, tools: list[Any]) -> Any:
    return _result(self, _begun(self, tools).feed(new_text))


def _finish(self: Any, tools: list[Any]) -> Any:
    """End the stream; a call that was truncated after parts of it were sent stays open."""
    return _result(self, _begun(self, tools).finish())


def _begun(detector: Any, tools: list[Any]) -> CallStage:
    if not hasattr(detector, _STATE):
        setattr(detector, _STATE, _stage(tools))
    return getattr(detector, _STATE)


def _stage(tools: list[Any]) -> CallStage:
    return CallStage(Tools({tool.function.name: tool.function.parameters for tool in tools}))


def _result(detector: Any, events: list[Event]) -> Any:
    from sglang.srt.function_call.core_types import StreamingParseResult, ToolCallItem

    items = []
    for event in events:
        if not isinstance(event, Call):
            continue
        if event.name is not None:
            items.append(ToolCallItem(tool_index=event.index, name=event.name, parameters=""))
        if event.arguments:
            items.append(ToolCallItem(tool_index=event.index, parameters=event.arguments))
    # SGLang reads this before it calls a turn finished by tool calls.
    detector.incomplete_tool_call_indices = getattr(detector, _STATE).open_calls
    return StreamingParseResult(normal_text=_text(events), calls=items)


def _text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def _retired() -> bool:
    from sglang.srt.function_call.gemma4_detector import Gemma4Detector

    source = inspect.getsource(inspect.unwrap(Gemma4Detector.parse_streaming_increment))
    return "_tool_indices" not in source


PATCH = Patch(
    name="tool_calls",
    theme="chat",
    summary="Tool calls are read exactly, in time linear in their length, and numbered in order",
    why=(
        "SGLang's detector never ends on some nested arrays and merges two calls of one tool in a "
        "stream; it makes strings of null and of exponents, and shows a truncated call as text"
    ),
    upstream="https://github.com/sgl-project/sglang/pull/28857 (the hang) and "
    "https://github.com/sgl-project/sglang/pull/38198 (the index), both open",
    retire_when="Gemma4Detector no longer numbers calls by the tool's place in the request",
    retired=_retired,
    hooks=(
        Hook(f"{DETECTOR}.has_tool_call", "a94c80148858", "replace", _has_tool_call),
        Hook(f"{DETECTOR}.detect_and_parse", "822c150e276a", "replace", _detect_and_parse),
        Hook(
            f"{DETECTOR}.parse_streaming_increment",
            "4a2fc4869e24",
            "replace",
            _parse_streaming_increment,
        ),
        Hook(f"{DETECTOR}.finish", "598e8752e965", "replace", _finish),
    ),
    relies_on=(
        Source(f"{DETECTOR}.__init__", "bd036977fce4"),
        Source(f"{PARSER}.parse_non_stream", "23b691e7d8f6"),
        Source(f"{PARSER}.parse_stream_chunk", "76e2c4524c57"),
        Source(f"{PARSER}.parse_stream_end", "f10c19b6c4cc"),
    ),
)
