# SPDX-License-Identifier: Apache-2.0
"""Check the demo's tool stories: the template's text, held-out exchanges, and the figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sglang_gemma4_ext.chat.template import declares_tools, is_outdated
from sglang_gemma4_ext.demo import model_path
from sglang_gemma4_ext.demo.training import dialogues, second_lesson, tokenizer
from sglang_gemma4_ext.demo.training.tool_stories import TOKENS, TOOLS, draw_declared, draw_exchange
from tests.patches.chat.engine import template

ROOT = Path(__file__).parents[2]
FIGURES = json.loads((ROOT / "bench" / "results" / "demo_model.json").read_text())
OFFICIAL = template("2026-07-15_small")
TYPES = {
    "type": "object",
    "properties": {
        "mode": {"type": "string", "enum": ["a", "b"], "description": "How."},
        "tags": {"type": "array", "items": {"type": "string"}},
        "inner": {
            "type": "object",
            "properties": {"x": {"type": "number", "nullable": True}},
            "required": ["x"],
        },
    },
    "required": ["mode"],
}
ARGUMENTS = {"a": 'say "x"', "b": [1, 2.5, None], "c": {"k": True, "j": False}, "d": ""}


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(model_path())


def render(shipped, messages, tools=None, official=False):
    more = {"chat_template": OFFICIAL} if official else {}
    return shipped.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, **more
    )


def test_the_shipped_template_declares_tools_and_is_current(shipped):
    assert shipped.chat_template == tokenizer.build().chat_template
    assert declares_tools(shipped.chat_template) and not is_outdated(shipped.chat_template)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_dialogue_renders_as_the_official_template_does(shipped, size):
    for one in dialogues.held_out(30, seed=size):
        messages = [*one.messages[:size], *([] if size < 4 else [{"role": "user", "content": "?"}])]
        for before in ([], [{"role": "system", "content": " Be kind. "}]):
            for tools in (None, one.declared.tools):
                ours = render(shipped, [*before, *messages], tools)
                assert ours == render(shipped, [*before, *messages], tools, official=True)


def test_any_tool_and_argument_renders_as_the_official_template_does(shipped):
    function = {"name": "f", "description": "Do.", "parameters": TYPES}
    tools = [{"type": "function", "function": function}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "2"}]},
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "two"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And?"},
    ]
    for size in range(1, len(messages) + 1):
        ours = render(shipped, messages[:size], tools)
        assert ours == render(shipped, messages[:size], tools, official=True), size
    unanswered = [*messages[:4], messages[-1]]
    assert render(shipped, unanswered, tools) == render(shipped, unanswered, tools, official=True)


def test_training_writes_what_the_template_writes(shipped):
    """Compare the tokens of an exchange with those of a client's history of it."""
    draw = random.Random(0)
    for _ in range(20):
        declared = draw_declared(draw)
        exchange = draw_exchange(draw, draw.choice(declared.names))
        row = second_lesson.Row()
        second_lesson.begin(row, declared)
        second_lesson.call(row, exchange)
        one = dialogues.Dialogue(exchange, declared)
        wanted = render(shipped, one.messages, declared.tools).removesuffix("<|turn>model\n")
        assert row.ids == shipped(wanted, add_special_tokens=False).input_ids


def test_held_out_exchanges_are_not_trained_on(monkeypatch):
    trained = []

    def caught(*args, **kwargs):
        trained.append(draw_exchange(*args, **kwargs))
        return trained[-1]

    monkeypatch.setattr(second_lesson, "draw_exchange", caught)
    for step in range(60):
        second_lesson.batch(0, step)
    assert len(trained) > 100
    assert not any(exchange.is_held_out for exchange in trained)
    asked = dialogues.held_out(60)
    assert all(one.exchange.is_held_out for one in asked)
    assert {one.exchange.tool for one in asked} == {tool.name for tool in TOOLS}


def test_the_second_lesson_changes_no_id_of_the_first():
    vocabulary = tokenizer.build().get_vocab()
    first = tokenizer.first_tool_token()
    assert first == vocabulary[TOKENS[0]]
    assert all(vocabulary[token] >= first for token in TOKENS)
    assert len(vocabulary) <= tokenizer.vocabulary_size() == 960


def test_a_batch_depends_only_on_its_seed_and_step():
    assert second_lesson.batch(0, 7) == second_lesson.batch(0, 7)
    assert second_lesson.batch(0, 7) != second_lesson.batch(0, 8)


@pytest.mark.parametrize("weights", ["bf16", "nvfp4"])
def test_the_committed_figures_of_tools_are_good_enough(weights):
    found = FIGURES["tools"][weights]
    for part in ("calls", "answers", "direct"):
        assert found[part] >= 0.9 * found["dialogues"], (part, found)
