# SPDX-License-Identifier: Apache-2.0
"""Parse Gemma 4 outputs whole and in pieces: recorded cases, properties, time and hangs."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sglang_gemma4_ext.chat.calls import HELD_CHARACTERS
from sglang_gemma4_ext.chat.events import Call
from sglang_gemma4_ext.chat.markers import MARKER, QUOTE
from sglang_gemma4_ext.chat.stages import Plan, ThoughtStage
from sglang_gemma4_ext.chat.tools import Tools
from sglang_gemma4_ext.chat.turn import Start, Turn
from tests.chat import outputs

CASES = outputs.cases()
cuts = st.lists(st.integers(0, 10_000), max_size=8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_output_gives_the_recorded_answer_in_every_chunking(case):
    whole = outputs.read([case.output])
    assert whole.parsed == case.calls
    assert (whole.thought, whole.text) == (case.thought, case.text)
    for chunks in outputs.ways_to_cut(case.output):
        assert outputs.read(chunks) == whole
        assert outputs.read_in_two_stages(chunks) == whole


@given(outputs.names, outputs.arguments, cuts)
def test_rendered_arguments_come_back_equal_under_any_split(name, given_, places):
    text = outputs.render_call(name, given_)
    found = outputs.read(outputs.pieces(text, places), tools=Tools())
    assert found.parsed == [{"name": name, "arguments": given_}]
    assert found.text == found.thought == ""
    assert found == outputs.read(list(text), tools=Tools())


@given(st.lists(st.tuples(outputs.names, outputs.arguments), max_size=4), cuts)
def test_text_thoughts_and_calls_of_a_turn_come_back_in_any_chunking(calls, places):
    text = "<|channel>thought\nPlan.\n<channel|>Before."
    text += "".join(itertools.starmap(outputs.render_call, calls)) + "After.<turn|>made up"
    expected = [{"name": name, "arguments": given_} for name, given_ in calls]
    chunks = outputs.pieces(text, places)
    for found in (outputs.read(chunks), outputs.read_in_two_stages(chunks)):
        assert found.parsed == expected
        assert (found.thought, found.text) == ("Plan.", "Before.After.")


@given(st.integers(0, 2**32), cuts)
@settings(max_examples=200)
def test_a_malformed_output_is_parsed_alike_in_any_chunking(seed, places):
    (text,) = outputs.malformed(1, seed)
    whole = outputs.read([text])
    assert_complete_alike(outputs.read(outputs.pieces(text, places)), whole, text)
    assert_complete_alike(outputs.read_in_two_stages(outputs.pieces(text, places)), whole, text)


def assert_complete_alike(streamed, whole, text):
    """Compare calls only in short texts: a long cut call is streamed in parts, but not whole."""
    if len(text) <= HELD_CHARACTERS:
        assert streamed == whole
    else:
        assert (streamed.thought, streamed.text) == (whole.thought, whole.text)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError once this process has used `seconds` of CPU; other processes may run."""

    def ring(*_) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(
    ("inner", "shown"),
    [
        ("<|tool_call>\n<|tool_call>call:>", "\ncall:>"),
        ("<|tool_call>call:search{q:<|think|>1}<tool_call|>", "call:search{q:1}"),
    ],
)
def test_a_broken_call_in_a_thought_shows_no_control_token(inner, shown):
    text = f"<|channel>thought\nI could {inner} here.<channel|>No."
    for chunks in ([text], list(text)):
        found = outputs.read(chunks)
        assert (found.thought, found.text, found.calls) == (f"I could {shown} here.", "No.", ())


@pytest.mark.parametrize("fields", [{"shows_thoughts": True}, {"needs_text": True}])
def test_a_thought_that_is_shown_as_text_has_no_control_token(fields):
    """A call that the model only thought of keeps its tokens in the thought alone."""
    inner = outputs.render_call("search", {"q": "x"})
    stage = ThoughtStage(Plan(Start.CONTENT, **fields))
    given_ = stage.feed(f"<|channel>thought\nI could {inner} here.<channel|>"), stage.finish()
    text = "".join(text for _, text in given_)
    assert text.strip() == 'I could call:search{q:"x"} here.'


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_malformed_output_hangs_or_reaches_the_text_with_control_tokens(count):
    for text in outputs.malformed(count, seed=count):
        with alarm(2):
            found = outputs.read([text])
            by_character = outputs.read(list(text))
        assert_complete_alike(by_character, found, text)
        assert not MARKER.search(found.text), text
        found.parsed  # noqa: B018 (raises where the arguments are not JSON)


ARRAY = "<|tool_call>call:search{v:[%s]}<tool_call|>"
STRING = f"<|tool_call>call:search{{v:{QUOTE}%s{QUOTE}}}<tool_call|>"
SHAPES: dict[str, Callable[[int], str]] = {
    "code in a string": lambda n: STRING % ("x = [1, {y}], a: b\n" * (n // 19)),
    "edits": lambda n: ARRAY % ",".join([outputs.render({"old": "a, b", "new": "b}"})] * (n // 33)),
    "numbers": lambda n: ARRAY % ",".join(["3.25"] * (n // 5)),
    "JSON quotes": lambda n: '<|tool_call>call:search{v:"' + 'ab, "c" ' * (n // 8) + '"}',
    "no opening delimiter": lambda n: STRING.replace(QUOTE, "", 1) % ("ab, c d " * (n // 8)),
    "closers in a string": lambda n: STRING % ("}" * n),
    "end tokens in a string": lambda n: STRING % ("ab <tool_call|> d " * (n // 18)),
    "delimiters in a string": lambda n: STRING % (f"a{QUOTE}b" * (n // 7)),
    "openers": lambda n: "<|tool_call>" * (n // 12),
    "brackets": lambda n: "<|tool_call>call:search{v:" + "[" * n,
    "calls in a thought": lambda n: "<|channel>" + "<|tool_call>call:f{}<tool_call|> x" * (n // 34),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_parsing_takes_time_in_proportion_to_the_text(shape):
    """Parse eight times the text in at most twelve times the time, in tokens of four characters."""
    small, large = SHAPES[shape](8 << 10), SHAPES[shape](64 << 10)
    few, many = best_time(small, runs=7), best_time(large, runs=3)
    assert many < 12 * few


@pytest.mark.parametrize(
    "seconds",
    # Another worker of pytest may share the core, which doubles the time.
    [0.5, pytest.param(0.2, marks=pytest.mark.slow)],
)
def test_64_kb_of_arguments_are_parsed_in_time(seconds):
    assert best_time(SHAPES["code in a string"](64 << 10), runs=5) < seconds


def best_time(text: str, runs: int) -> float:
    chunks = [text[i : i + 4] for i in range(0, len(text), 4)]
    times = []
    for _ in range(runs):
        start = time.process_time()
        turn = Turn(outputs.TOOLS)
        for chunk in chunks:
            turn.feed(chunk)
        turn.finish()
        times.append(time.process_time() - start)
    return min(times)


def test_long_arguments_are_sent_in_pieces():
    text = STRING % ("line of text\n" * 100)
    turn = Turn()
    parts = [(place, e) for place, ch in enumerate(text) for e in turn.feed(ch)]
    first, last = parts[0], parts[-1]
    assert isinstance(first[1], Call) and first[1].name == "search"
    assert first[0] < HELD_CHARACTERS + 20
    assert last[1].is_last and len(parts) > 500


def test_a_long_call_that_is_cut_stays_open():
    turn = Turn()
    text = STRING.split("%s")[0] + "line of text\n" * 100
    events = [
        event for piece in outputs.pieces(text, range(0, 2000, 7)) for event in turn.feed(piece)
    ]
    events += turn.finish()
    assert not any(event.is_last for event in events)
    assert turn.open_calls == {0}


def test_a_call_after_an_interrupted_one_has_the_next_index():
    turn = Turn()
    long = STRING.split("%s")[0] + "x" * 400 + f"{QUOTE},]}}<tool_call|>"
    events = [event for ch in long + outputs.render_call("search", {}) for event in turn.feed(ch)]
    assert [e.index for e in events if isinstance(e, Call) and e.is_last] == [1]
    assert turn.open_calls == {0}


@pytest.mark.parametrize("output", ["Hm.\n<channel|>Yes.", "thought\nHm.\n<channel|>Yes."])
def test_a_thought_that_the_prompt_opened_needs_no_opening_token(output):
    for chunks in ([output], list(output)):
        found = outputs.read(chunks, start=Start.THOUGHT)
        assert (found.thought, found.text) == ("Hm.", "Yes.")


def test_a_call_ends_a_thought_that_the_prompt_opened():
    text = "I look." + outputs.render_call("search", {"q": "x"})
    found = outputs.read(list(text), start=Start.THOUGHT)
    assert found.thought == "I look."
    assert found.parsed == [{"name": "search", "arguments": {"q": "x"}}]


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": "integer"}, QUOTE + "5" + QUOTE, 5),
        ({"type": "integer"}, QUOTE + "five" + QUOTE, "five"),
        ({"type": ["integer", "null"]}, QUOTE + "5" + QUOTE, 5),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, QUOTE + "5" + QUOTE, "5"),
        ({"$ref": "#/$defs/n"}, QUOTE + "5" + QUOTE, 5),
        ({"type": "object"}, QUOTE + '{"a": [1]}' + QUOTE, {"a": [1]}),
        ({"type": "array"}, QUOTE + "[1, 2" + QUOTE, "[1, 2"),
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "12, Main St", "12, Main St"),
        ({"type": "string"}, "null", None),
        ({"type": "boolean"}, "True", True),
        ({"enum": [1, 2]}, QUOTE + "2" + QUOTE, 2),
        ({}, QUOTE + "5" + QUOTE, "5"),
        ("nonsense", "5", 5),
        ({"type": 7, "anyOf": "x", "$ref": "#/nowhere"}, "5", 5),
    ],
)
def test_a_value_takes_the_type_that_the_schema_asks_for(schema, written, value):
    parameters = {"properties": {"v": schema, "w": {}}, "$defs": {"n": {"type": "integer"}}}
    text = f"<|tool_call>call:f{{v:{written},w:1}}<tool_call|>"
    found = outputs.read(list(text), tools=Tools({"f": parameters}))
    assert found.parsed == [{"name": "f", "arguments": {"v": value, "w": 1}}]


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("Use <|tool_call> to call.", "Use  to call."),
        ("<|tool_call>call:f{Oslo}<tool_call|>", "call:f{Oslo}"),
        (f"<|tool_call>call:f{{a:{QUOTE}x{QUOTE} b}}<tool_call|>!", 'call:f{a:"x" b}!'),
        ("<|tool_call>call:f{a:]}<tool_call|>", None),
        ("see <|tool_", "see <|tool_"),
        ("<|channel>thou", ""),
        ("call:search{q:1} is a call", "call:search{q:1} is a call"),
    ],
)
def test_text_that_is_not_a_call_stays_text(output, text):
    for chunks in ([output], list(output)):
        found = outputs.read(chunks)
        if text is not None:
            assert (found.text, found.calls) == (text, ())


@example("")
@given(st.text(max_size=200))
def test_plain_text_passes_unchanged(text):
    if not MARKER.search(text) and not text.startswith("thought\n"):
        assert outputs.read(list(text)).text == text


def test_verbatim_removes_only_thoughts():
    call = outputs.render_call("search", {"q": "<|channel>x<channel|>"})
    text = f"<|channel>thought\nHm.\n<channel|>A{call} <tool_call|>B<|tool_call>no{QUOTE}C<turn|>"
    for chunks in ([text], list(text)):
        turn = Turn(calls="verbatim")
        events = [event for chunk in chunks for event in turn.feed(chunk)] + turn.finish()
        found = outputs.answer(events)
        assert found.thought == "Hm."
        assert found.text == f"A{call} <tool_call|>B<|tool_call>no{QUOTE}C<turn|>"


def test_calls_of_a_request_without_tools_are_text_without_control_tokens():
    text = "<|channel>thought\nHm." + outputs.render_call("search", {"q": "x"}) + "Done."
    for chunks in ([text], list(text)):
        turn = Turn(calls="text")
        found = outputs.answer([e for chunk in chunks for e in turn.feed(chunk)] + turn.finish())
        assert (found.thought, found.text) == ("Hm.", 'call:search{q:"x"}Done.')


def test_a_schema_that_refers_to_itself_in_many_ways_takes_no_time():
    loop = {"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}] * 20}] * 20}
    with alarm(1):
        found = outputs.read(["<|tool_call>call:f{a:{b:1}}<tool_call|>"], tools=Tools({"f": loop}))
    assert found.parsed == [{"name": "f", "arguments": {"a": {"b": 1}}}]
