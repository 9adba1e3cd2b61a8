# SPDX-License-Identifier: Apache-2.0
"""Hold a fitted server to its plan: its pools, its longest request, and one token more."""

from __future__ import annotations

import re
from collections.abc import Iterator

import openai
import pytest
import requests

from bench.checkpoints.tokenizer import MAX_LENGTH
from sglang_gemma4_ext.plan import pools, search, served
from sglang_gemma4_ext.plan.answer import NEW_TOKENS, Plan
from sglang_gemma4_ext.plan.question import Question
from tests.probes import byte_budget
from tests.serving.harness import Server, serve

# The least memory that fits the tiny model is 1.317 GiB; of this, 2.2 MiB are KV pools.
MEMORY = int(1.318 * 2**30)
# A fixed split, and one buffer shared by both pools, which SGLang offers for Triton alone. The
# interpreter makes a few tokens a second, so there most of the request is prompt.
CASES = {"upstream": ("torch_native", NEW_TOKENS), "auto": ("triton", 16)}
# SGLang ends a request two positions before its context does (Scheduler.init_req_max_new_tokens).
UNUSED = 2


@pytest.fixture(scope="module", params=CASES)
def fitted(request, checkpoint, tmp_path_factory) -> Iterator[tuple[Plan, Server, int]]:
    """Serve with the plan's flags, as the launcher does on a GPU, and with the plan's KV bytes."""
    path = checkpoint("dense")
    subject = served.read(str(path))
    plan = search.fit(Question(subject.geometry, subject.weights, MEMORY, policy=request.param))
    assert plan.fits and NEW_TOKENS < plan.longest_request < MAX_LENGTH
    folder = tmp_path_factory.mktemp("fitted")
    flags = ("--model-path", str(path), *" ".join(plan.flags).split())
    attention, new_tokens = CASES[request.param]
    flags += ("--gemma4-cpu-attention", attention)
    env = byte_budget.installed(folder / "plugin", plan.parts["kv"])
    with serve(*flags, log_dir=folder, env=env) as server:
        yield plan, server, new_tokens


@pytest.mark.slow
@pytest.mark.server
def test_the_pools_are_as_planned(fitted):
    plan, server, _ = fitted
    info = requests.get(f"{server.url}/server_info", timeout=90).json()
    label = info["max_total_num_tokens"]
    if plan.pools.shared_bytes is None:
        assert label == plan.pools.full
    else:
        # SGLang counts a shared buffer in tokens of a split of 0.8; its log has both pools.
        # The buffer begins with a few slots that padding writes to.
        split = pools.split(plan.pools.shared_bytes, plan.kv, pools.UPSTREAM_RATIO)
        assert abs(label - split.full) <= 1
        made = [int(size) for size in re.findall(r"#tokens: (\d+)", server.log)]
        assert len(made) == 2
        for size, planned in zip(made, (plan.pools.full, plan.pools.swa), strict=True):
            assert planned - 4 <= size <= planned
    assert info["max_running_requests"] == plan.load.requests


@pytest.mark.slow
@pytest.mark.server
def test_the_longest_request_is_served_and_one_token_more_refused(fitted):
    plan, server, new_tokens = fitted
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    prompt = [40 + place % 60 for place in range(plan.longest_request - new_tokens)]

    def ask(most: int) -> int:
        answer = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=most, extra_body={"ignore_eos": True}
        )
        return answer.usage.total_tokens

    assert ask(new_tokens) == plan.longest_request - UNUSED
    with pytest.raises(openai.BadRequestError, match="exceeds the model's maximum context length"):
        ask(new_tokens + 1)
