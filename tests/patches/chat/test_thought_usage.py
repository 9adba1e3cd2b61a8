# SPDX-License-Identifier: Apache-2.0
"""Check the token count of thoughts in SGLang's own scheduler component."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.patches.chat import thought_usage
from tests.chat.masked import made_tokenizer

PROMPT = "<|turn>user\nhi<turn|>\n<|turn>model\n"
THOUGHT = "<|channel>thought\n"


def ids(text: str) -> list[int]:
    return made_tokenizer().encode(text, add_special_tokens=False)


@pytest.fixture
def count(apply):
    from sglang.srt.managers.scheduler_components import batch_result_processor
    from sglang.srt.parser.reasoning_parser import ReasoningParser

    apply(thought_usage.PATCH)
    detector = ReasoningParser("gemma4").detector
    config = SimpleNamespace(
        think_end_ids=detector.get_think_end_token_ids(made_tokenizer()),
        self_opened_think_start_ids=detector.get_self_opened_think_start_token_ids(
            made_tokenizer()
        ),
    )
    update = batch_result_processor.SchedulerBatchResultProcessor._maybe_update_reasoning_tokens

    def counted(prompt: str, output: str, step: int) -> int:
        req = SimpleNamespace(
            origin_input_ids=ids(prompt), require_reasoning=True, reasoning_tokens=0
        )
        tokens = ids(output)
        for i in range(0, len(tokens), step):
            new = tokens[i : i + step]
            update(SimpleNamespace(model_config=config), req, new[0] if step == 1 else new)
        return req.reasoning_tokens

    return counted


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(
    ("prompt", "output", "thought"),
    [
        (PROMPT, "Hello.", ""),
        (PROMPT, "<|tool_call>call:f{}<tool_call|>", ""),
        (PROMPT, THOUGHT + "Hm.<channel|>Yes.", THOUGHT + "Hm.<channel|>"),
        (PROMPT, THOUGHT + "Hm.", THOUGHT + "Hm."),
        (PROMPT + THOUGHT, "Hm.<channel|>Yes.", "Hm.<channel|>"),
        (PROMPT + THOUGHT + "<channel|>", "Yes.", ""),
        (
            PROMPT,
            "A" + THOUGHT + "b<channel|>C" + THOUGHT + "d<channel|>E",
            2 * THOUGHT + "b<channel|>d<channel|>",
        ),
    ],
)
def test_only_thoughts_are_counted(count, prompt, output, thought, step):
    assert count(prompt, output, step) == len(ids(thought))
