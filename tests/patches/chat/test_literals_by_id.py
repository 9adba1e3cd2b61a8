# SPDX-License-Identifier: Apache-2.0
"""Mark literals in SGLang's tokenizer manager's outputs, in all their shapes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bench.checkpoints.tokenizer import TOKEN_ID, tokenizer
from sglang_gemma4_ext.chat.literals import MARK
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.chat import literals_by_id
from sglang_gemma4_ext.settings import Settings
from tests.chat.tokens import encode, spell
from tests.patches.hooks import hook_of

generate = hook_of(literals_by_id.PATCH, "around", "generate_request")
note_chat = hook_of(literals_by_id.PATCH, "after", "_convert_to_internal_request")
note_response = hook_of(literals_by_id.PATCH, "before", "_generate_with_builtin_tools")
TOKENIZER = tokenizer()
QUOTE = '<|"|>'
IDS = [*encode(f"a{QUOTE}"), *spell(f"b{QUOTE}"), *encode(QUOTE)]
MARKED = f'a{QUOTE}b<|"|{MARK}>{QUOTE}'
STOP = TOKEN_ID["<turn|>"]
ABORT = {"type": "abort"}


def request(**params: Any) -> SimpleNamespace:
    made = SimpleNamespace(sampling_params={"skip_special_tokens": False, **params})
    note_chat((made, None), SimpleNamespace(reasoning_parser="gemma4"))
    return made


def output(ids: list[int], start: int = 0, finish: Any = None, index: int = 0) -> dict[str, Any]:
    meta = {"finish_reason": finish, "completion_tokens": len(ids)}
    text = TOKENIZER.decode(ids[start:])
    return {"text": text, "output_ids": ids[start:], "index": index, "meta_info": meta}


def through(asked: Any, outputs: list[Any], is_incremental: bool = False) -> list[Any]:
    async def original(*_: Any) -> Any:
        for one in outputs:
            yield one

    manager = SimpleNamespace(tokenizer=TOKENIZER, incremental_streaming_output=is_incremental)

    async def collect() -> list[Any]:
        return [one async for one in generate(original, manager, asked)]

    return asyncio.run(collect())


def test_a_whole_answer_and_each_of_several():
    (one,) = through(request(), [output(IDS)])
    assert one["text"] == MARKED
    (several,) = through(request(), [[output(IDS), output(spell("c"), index=1)]])
    assert [one["text"] for one in several] == [MARKED, "c"]


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_stream_of_texts_that_grow(step):
    """SGLang hands out one list of ids, which may be ahead of the text by then."""
    bounds = [*range(step, len(IDS), step), len(IDS)]
    outputs = [output(IDS[:bound]) for bound in bounds]
    for one in outputs:
        one["output_ids"] = IDS
    found = [one["text"] for one in through(request(), outputs)]
    assert found[-1] == MARKED
    assert all(MARKED.startswith(text) for text in found)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_stream_of_pieces_of_two_choices(step):
    outputs = [
        {**output(IDS[: start + step], start), "index": index}
        for start in range(0, len(IDS), step)
        for index in (0, 1)
    ]
    found = through(request(), outputs, is_incremental=True)
    for index in (0, 1):
        assert "".join(one["text"] for one in found if one["index"] == index) == MARKED


def test_the_stop_token_is_among_the_ids_alone():
    """Else a literal at the end would be taken for the stop token of that name."""
    finish = {"type": "stop", "matched": STOP}
    ended = {**output(spell("<turn|>"), finish=finish), "output_ids": [*spell("<turn|>"), STOP]}
    (one,) = through(request(), [ended])
    assert one["text"] == f"<turn|{MARK}>"


def test_a_stop_string_cuts_the_text():
    finish = {"type": "stop", "matched": "b"}
    cut = {**output(IDS, finish=finish), "text": f"a{QUOTE}"}
    assert through(request(), [cut])[0]["text"] == f"a{QUOTE}"


@pytest.mark.parametrize("cut", range(1, len(IDS)))
def test_the_last_piece_of_an_aborted_stream_is_marked(cut):
    """A running request that is aborted ends with a piece of new text and new ids."""
    outputs = [output(IDS[:cut]), output(IDS, cut, ABORT)]
    found = through(request(), outputs, is_incremental=True)
    assert "".join(one["text"] for one in found) == MARKED


@pytest.mark.parametrize("cut", range(len(IDS) + 1))
def test_an_abort_that_sends_all_text_and_the_last_token_again(cut):
    """SGLang repeats them for a request in its queue, and joins them to pieces not yet taken."""
    repeated = {**output(IDS, cut, ABORT), "output_ids": [*IDS[cut:], IDS[-1]]}
    repeated["text"] += TOKENIZER.decode(IDS)
    outputs = [output(IDS[:cut]), repeated] if cut else [repeated]
    found = through(request(), outputs, is_incremental=True)
    assert "".join(one["text"] for one in found) == MARKED


def test_each_choice_is_read_by_its_own_ids_when_one_list_goes_on_growing():
    """Of several choices that stream, SGLang hands on a text whose list of ids has grown since."""
    shared: list[list[int]] = [[], []]
    outputs = []
    for bound in (2, 5, len(IDS)):
        for index, ids in enumerate(shared):
            ids[:] = IDS
            outputs.append({**output(IDS[:bound], index=index), "output_ids": ids})
    found = through(request(), outputs)
    assert [one["text"] for one in found[-2:]] == [MARKED, MARKED]


@pytest.mark.parametrize(
    ("parser", "params"),
    [("gemma4", {"skip_special_tokens": True}), ("qwen3", {}), (None, {})],
)
def test_what_no_parser_of_ours_reads_is_left_alone(parser, params):
    asked = SimpleNamespace(sampling_params={"skip_special_tokens": False, **params})
    note_chat((asked, None), SimpleNamespace(reasoning_parser=parser))
    assert through(asked, [output(IDS)]) == [output(IDS)]


def test_nothing_is_marked_where_no_patch_takes_the_marks_out():
    gpu = Gpu("none", "", None)
    for name in ("reasoning", "tool_calls"):
        ctx = Context(Settings(disable=frozenset({name})), None, gpu, "0.5.23")
        assert literals_by_id.PATCH.stands_down(ctx) == f"without the patch {name}"
    assert literals_by_id.PATCH.stands_down(Context(Settings(), None, gpu, "0.5.23")) is None


def test_responses_are_marked_too():
    asked = SimpleNamespace(sampling_params={"skip_special_tokens": False})
    note_response(SimpleNamespace(reasoning_parser="gemma4"), "id", "prompt", asked, {})
    assert through(asked, [output(IDS)])[0]["text"] == MARKED
