# SPDX-License-Identifier: Apache-2.0
"""Check the page of recipes, its figures and `plan --compare` against the planner."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from docs import cards
from sglang_gemma4_ext.plan import __main__ as cli
from sglang_gemma4_ext.plan import compare, figure, search, weights
from sglang_gemma4_ext.plan.cards import CARDS
from sglang_gemma4_ext.plan.compare import FORMATS, MACHINES, Machine
from sglang_gemma4_ext.plan.geometry import BUILT_IN
from sglang_gemma4_ext.plan.question import Question

SVG = "{http://www.w3.org/2000/svg}"
SAMPLE = (Machine(CARDS["rtx3090"]), Machine(CARDS["l4"]), Machine(CARDS["h100"]))


@pytest.fixture(scope="module")
def found():
    """Plan the rows of each model on a few cards."""
    return {model: compare.rows(model, SAMPLE) for model in BUILT_IN}


@pytest.mark.parametrize("machine", SAMPLE, ids=lambda machine: machine.card.key)
def test_the_page_has_these_plans(found, machine):
    """The whole page: the slow test below."""
    assert f"\n{cards.section(machine, found)}\n" in cards.PAGE.read_text()


@pytest.mark.slow
def test_page_and_figures_are_renewed(found):
    assert cards.PAGE.read_text() == cards.page()
    for model in BUILT_IN:
        drawn = (cards.FIGURES / f"{model}.svg").read_text()
        assert drawn == figure.draw(model, compare.rows(model))


def test_every_named_card_is_there():
    text = cards.PAGE.read_text()
    for machine in MACHINES:
        assert f"\n## {machine.title}\n" in text
    named = ("rtx3060", "rtx4060ti", "rtx3090", "a10g", "rtx4090", "l4", "rtx5090", "a6000",
             "l40s", "a100-40gb", "a100", "h100", "h200", "rtxpro6000")  # fmt: skip
    assert {machine.card.key for machine in MACHINES} == set(named)
    assert Machine(CARDS["rtx3090"], 2) in MACHINES


def test_a_row_is_the_answer_of_plan(found):
    for model, rows in found.items():
        for row in rows:
            card = row.machine.card
            held = weights.estimate(BUILT_IN[model], row.fmt)
            question = Question(BUILT_IN[model], held, card.memory, capability=card.capability)
            plan = search.fit(question)
            assert (row.context > 0) == plan.fits
            if plan.fits:
                assert row.plan.flags == plan.flags
                assert row.context == plan.longest_request
                assert row.at_once >= 1


def test_eight_bit_kv_is_listed_only_where_it_runs_and_fp8_weights_everywhere(found):
    rows = [row for of_model in found.values() for row in of_model]
    machines = {row.machine for row in rows}
    assert {(r.machine, r.fmt) for r in rows} == {(m, f) for m in machines for f in FORMATS}
    for row in rows:
        if row.machine.card.capability >= (10, 0):  # a Blackwell, which SGLang sizes
            assert row.kv8_tokens == 0
    for capability in ((8, 6), (8, 9), (9, 0)):
        assert any(r.kv8_tokens for r in rows if r.machine.card.capability == capability)


@pytest.mark.parametrize("model", sorted(BUILT_IN))
def test_a_figure_is_labelled_and_in_the_same_colours(model):
    root = ElementTree.parse(cards.FIGURES / f"{model}.svg").getroot()
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert f"Gemma 4 {model}: longest request by card and weights, BF16 keys and values" in texts
    assert {"longest request, tokens", "card, by memory"} <= set(texts)
    assert {"BF16 weights", "FP8 weights", "NVFP4 weights"} <= set(texts)
    for machine in MACHINES:
        assert any(text.startswith(f"{machine.title}, ") for text in texts)
    colours = {}
    for mark in root.iter(f"{SVG}circle"):
        title = mark.find(f"{SVG}title")
        if title is not None:
            colours.setdefault(title.text.partition(":")[0], set()).add(mark.get("fill"))
    assert all(colours[fmt] == {figure.COLOURS[fmt]} for fmt in colours)
    assert len(set(figure.COLOURS.values())) == len(figure.COLOURS)


def test_more_tokens_are_drawn_higher(found):
    root = ElementTree.fromstring(figure.draw("31B", found["31B"]))
    marks = []
    for mark in root.iter(f"{SVG}circle"):
        title = mark.find(f"{SVG}title")
        if title is not None:
            tokens = re.search(r": ([\d,]+) tokens", title.text)[1].replace(",", "")
            marks.append((int(tokens), -float(mark.get("cy"))))
    assert len(marks) == sum(row.context > 0 for row in found["31B"])
    assert [y for _, y in sorted(marks)] == sorted(y for _, y in marks)


def test_where_others_report_more_the_reason_is_said():
    text = cards.peers()
    assert f"\n{text}\n" in cards.PAGE.read_text()
    for who, theirs, *_, why in cards.PEERS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {who} |"))
        reported = float(re.search(r"([\d,.]+)K?", theirs)[1].replace(",", ""))
        reported *= 1000 if "K KV" in theirs else 1
        longest, tokens = (int(cell.replace(",", "")) for cell in row.split(" | ")[2:4])
        ours = tokens if "KV tokens" in theirs else longest
        assert (ours < reported) == bool(why), row


def test_compare_prints_and_draws_a_model(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare.rows, "__defaults__", (SAMPLE,))
    file = tmp_path / "31B.svg"
    assert cli.main(["--model-path", "31B", "--compare", "--plot", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["GPU", "memory", "weights"]
    assert len(lines) == 1 + len(compare.rows("31B"))
    assert any(line.startswith("RTX 3090") and "27,466" in line for line in lines)
    assert file.read_text() == figure.draw("31B", compare.rows("31B"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--gpu", "l4"], "leave out --gpu, --memory and --json"),
        (["--plot", "x.png"], "writes a .svg file, not x.png"),
        (["--plot", "/nowhere/x.svg"], "/nowhere/x.svg cannot be written: No such file"),
    ],
)
def test_compare_says_what_is_wrong(monkeypatch, capsys, argv, said):
    monkeypatch.setattr(compare.rows, "__defaults__", (SAMPLE[:1],))
    assert cli.main(["--model-path", "E2B", "--compare", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_large_card_that_holds_few_requests_gives_context_instead():
    """31B in BF16 on 80 GB: throughput settings would leave 5,667 tokens."""
    held = weights.estimate(BUILT_IN["31B"], "bf16")
    card = CARDS["a100"]
    question = Question(BUILT_IN["31B"], held, card.memory, capability=card.capability)
    throughput = search._best_of(question)
    assert throughput.concurrent.get(search.TYPICAL, 0) < search.WORTHWHILE
    plan = search.fit(question)
    assert plan.fits and plan.longest_request > 20 * throughput.longest_request
