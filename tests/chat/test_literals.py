# SPDX-License-Identifier: Apache-2.0
"""Text that reads like a control token, told from the token by id, in any chunking."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bench.checkpoints.tokenizer import TOKEN_ID, tokenizer
from sglang_gemma4_ext.chat.literals import MARK, Literals, without_marks
from sglang_gemma4_ext.chat.markers import MARKER, MARKERS, marker_ids
from tests.chat.tokens import encode, spell

TOKENIZER = tokenizer()
CONTROLS = marker_ids(TOKENIZER, MARKERS)
# A token of its own, the same spelled out, or text that comes near one.
tokens = st.sampled_from(sorted(CONTROLS)).map(lambda token: [token])
spelled = st.sampled_from([*sorted(MARKERS), "<", "<|", '<|"', ">", "|>", '"|>', "call:f{", "é"])
turns = st.lists(tokens | spelled.map(spell), max_size=24)
cuts = st.lists(st.integers(0, 300), max_size=12)


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def literals() -> Literals:
    return Literals(CONTROLS, decode)


def expected(ids: list[int]) -> str:
    """Mark the literals of each run of ordinary tokens, and no control token."""
    runs = itertools.groupby(ids, key=lambda token: token in CONTROLS)
    return "".join(
        decode(run) if are_controls
        else MARKER.sub(lambda found: found.group()[:-1] + MARK + ">", decode(run))
        for are_controls, run in ((flag, list(run)) for flag, run in runs)
    )  # fmt: skip


@given(turns, cuts, cuts)
def test_literals_alone_are_marked_in_any_chunking(turn, places, ahead):
    """Ids may come before their text, as where choices are merged into one stream."""
    ids = list(itertools.chain.from_iterable(turn))
    bounds = sorted({min(place, len(ids)) for place in places} | {len(ids)})
    reader, marked, start, known = literals(), "", 0, 0
    for bound, more in itertools.zip_longest(bounds, ahead[: len(bounds)], fillvalue=0):
        come = min(len(ids), max(known, bound + more))
        marked += reader.mark(decode(ids[start:bound]), ids[known:come], is_cut=come > bound)
        start, known = bound, come
    assert marked == expected(ids)
    assert without_marks(marked) == decode(ids)


@given(turns, cuts)
def test_a_stop_string_may_cut_the_text_anywhere(turn, places):
    ids = list(itertools.chain.from_iterable(turn))
    text = decode(ids)
    size = min([*places, len(text)])
    marked = literals().mark(text[:size], ids, is_cut=True)
    assert without_marks(marked) == text[:size]
    assert expected(ids).startswith(marked)


def test_ids_that_do_not_fit_the_text_change_nothing():
    quote = [TOKEN_ID['<|"|>']]
    reader = literals()
    assert reader.mark("<turn|>", quote) == "<turn|>"
    assert reader.mark('<|"|>', spell('<|"|>')) == '<|"|>'


def test_a_text_of_control_tokens_alone_is_not_decoded():
    def never(ids: list[int]) -> str:
        raise AssertionError(ids)

    reader = Literals(CONTROLS, never)
    for token in encode('<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|>'):
        assert MARK not in reader.mark(decode([token]), [token])
