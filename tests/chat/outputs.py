# SPDX-License-Identifier: Apache-2.0
"""Provide model outputs: recorded cases, a renderer of calls, random good and bad outputs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from sglang_gemma4_ext.chat.events import Call, Event, Text, Thought
from sglang_gemma4_ext.chat.markers import MARKERS, QUOTE
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.turn import Start, Turn
from sglang_gemma4_ext.chat.wire import Decoder, Encoder

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
}
ANY = {"type": "object", "properties": {}}
SCHEMAS = {
    "get_weather": CITY,
    "search": ANY,
    "write_file": ANY,
    "update_sheet": ANY,
    "noargs": ANY,
    "my-tool.v2": ANY,
}
TOOLS = Tools(SCHEMAS)


@dataclass(frozen=True)
class Case:
    """Hold a recorded output. kind: `grammar` is well formed, `broken` is not, `cut` ends early."""

    name: str
    kind: str
    output: str
    thought: str
    text: str
    calls: list[dict[str, Any]]


def cases() -> list[Case]:
    lines = Path(__file__).with_name("cases.jsonl").read_text().splitlines()
    return [Case(**json.loads(line)) for line in lines]


@dataclass(frozen=True)
class Answer:
    """Hold what a client gets: calls as (name, JSON of the arguments), by index."""

    thought: str
    text: str
    calls: tuple[tuple[str, str], ...]

    @property
    def parsed(self) -> list[dict[str, Any]]:
        return [{"name": name, "arguments": strict_json(given)} for name, given in self.calls]


def strict_json(text: str) -> Any:
    """Parse JSON without Python's NaN and Infinity."""
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def answer(events: Iterable[Event]) -> Answer:
    """Join the parts of a turn as a client does. Fails where a part does not fit."""
    thought = text = ""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, Thought):
            thought += event.text
        elif isinstance(event, Text):
            text += event.text
        else:
            assert isinstance(event, Call)
            if event.name is not None:
                assert event.index == len(calls)
                calls.append([event.name, ""])
            calls[event.index][1] += event.arguments
    return Answer(thought, text, tuple((name, arguments) for name, arguments in calls))


def read(chunks: Iterable[str], *, tools: Tools = TOOLS, start: Start = Start.CONTENT) -> Answer:
    turn = Turn(tools, start)
    events = [event for chunk in chunks for event in turn.feed(chunk)]
    return answer(events + turn.finish())


def read_in_two_stages(
    chunks: Iterable[str], *, tools: Tools = TOOLS, start: Start = Start.CONTENT
) -> Answer:
    """Parse as SGLang's two parsers do, with a string between them."""
    turn, encoder, decoder = Turn(tools, start), Encoder(), Decoder()
    events: list[Event] = []

    def hand_over(found: list[Event]) -> None:
        events.extend(event for event in found if isinstance(event, Thought))
        for character in encoder.encode(found):
            events.extend(decoder.decode(character))

    for chunk in chunks:
        hand_over(turn.feed(chunk))
    hand_over(turn.finish())
    decoder.finish()
    assert decoder.open_calls == turn.open_calls
    return answer(events)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    """Cut the text at the given places."""
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


def ways_to_cut(text: str) -> Iterator[list[str]]:
    """Cut the text by character, and in two at every place."""
    yield list(text)
    for place in range(1, len(text)):
        yield [text[:place], text[place:]]


def render(value: Any) -> str:
    """Write a value as the official template does."""
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{render(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(render, value)) + "]"
    return json.dumps(value)


def render_call(name: str, arguments: dict[str, Any]) -> str:
    return f"<|tool_call>call:{name}{render(arguments)}<tool_call|>"


def _without_quote(text: str) -> bool:
    return QUOTE not in text and not text.endswith(tuple(QUOTE[:size] for size in range(1, 5)))


# The first stage takes the characters that frame calls between the stages out of a model's text.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2\ufdd3"),
    max_size=40,
) | st.sampled_from(
    [
        "}",
        "]}",
        "a,b:",
        ",city:",
        "<tool_call|>",
        "}<tool_call|>",
        "<|channel>x",
        "\r\n",
        "<|",
        "[{",
    ]
)
strings = st.lists(texts, max_size=3).map("".join).filter(_without_quote)
keys = st.from_regex(r"[A-Za-z_а-яé][\w.\- ]{0,12}", fullmatch=True).map(str.strip).filter(bool)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
arguments = st.dictionaries(keys, values, max_size=5)
names = st.sampled_from([*SCHEMAS, "undeclared", "a.b-c_d"])


def malformed(count: int, seed: int) -> Iterator[str]:
    """Make random outputs of control tokens, pieces of calls and text; or damage good calls."""
    choose = random.Random(seed)
    words = [*sorted(MARKERS), *"{}[]():,\"' \n\\<|>", "call:", "search", "q:", "1e5", "true"]
    words += ["thought\n", "a", "ключ", "call:search{", 'q:"x"', "city:"]
    for _ in range(count):
        if choose.random() < 0.5:
            yield "".join(choose.choices(words, k=choose.randint(1, 40)))
        else:
            yield _damaged(choose)


def _damaged(choose: random.Random) -> str:
    inner = {"q": "a, b: {c}", "n": [1, [2.5, "x]y"], {"k": None}], "t": True}
    text = list(render_call("search", inner) + "Done." + render_call("get_weather", {"city": "Å"}))
    for _ in range(choose.randint(1, 4)):
        place = choose.randrange(len(text))
        damage: Callable[[], Any] = choose.choice(
            [
                lambda place=place: text.pop(place),
                lambda place=place: text.insert(place, choose.choice("{}[],:<|\"'>")),
                lambda place=place: text.__delitem__(slice(place, place + choose.randint(1, 9))),
            ]
        )
        damage()
        if not text:
            break
    return "".join(text)
