# SPDX-License-Identifier: Apache-2.0
"""Test draft trees without a GPU: cache slots, tree kernels, sampling and the draft's backend."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.cpu_reference.speculative import extend_cache_locs
from sglang_gemma4_ext.kernels import tree_sampling
from sglang_gemma4_ext.patches.cpu import cpu_speculative_ops
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of
from tests.serving.harness import run_to_end


def _probe(how: str) -> Any:
    return run_to_end(
        how, module=("-m", "tests.probes.tree_operators"), env={"TRITON_INTERPRET": "1"}
    )


def test_a_tree_is_built_and_verified_by_the_triton_kernels():
    """Verify five nodes: 0 is the newest token, 1 and 2 follow it, 3 follows 1, 4 follows 2."""
    ended = _probe("patched")
    assert ended.returncode == 0, ended.stdout[-2000:]
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["positions"] == [7, 8, 8, 9, 9]
    assert found["first_child"] == [1, 3, 4, -1, -1]
    assert found["next_sibling"] == [-1, 2, -1, -1, -1]
    # The target predicts 102, then 104: the tokens of nodes 2 and 4.
    assert found["accepted"] == [0, 2, 4]
    assert found["predicted"] == [102, 104, 105]
    assert found["next_level"] == [6, 9]


@pytest.mark.slow
def test_sglang_alone_has_no_tree_kernel_for_a_cpu():
    ended = _probe("stock")
    assert ended.returncode != 0
    assert "name 'sgl_build_tree_kernel_efficient' is not defined" in ended.stdout


def test_sampling_from_a_tree_works(monkeypatch):
    from sglang.srt.speculative import eagle_utils

    provided = {
        "tree_speculative_sampling_target_only": tree_sampling.sample_tree,
        "top_k_renorm_prob": tree_sampling.top_k_renorm,
        "top_p_renorm_prob": tree_sampling.top_p_renorm,
    }
    for name in provided:
        monkeypatch.setattr(eagle_utils, name, None)
    hook_of(cpu_speculative_ops.PATCH, "before", "eagle_sample")()
    assert {name: getattr(eagle_utils, name) for name in provided} == provided


def test_torch_native_drafts_use_the_runners_backend():
    choose = hook_of(cpu_speculative_ops.PATCH, "around", "_init_draft_attn_backend")
    for name, expected in (("torch_native", "the runner's"), ("triton", "SGLang's")):
        worker = SimpleNamespace(
            _resolve_draft_backend_type=lambda name=name: name,
            draft_model_runner=SimpleNamespace(attn_backend="the runner's"),
        )
        assert choose(lambda self: "SGLang's", worker) == expected


def test_cache_slots_of_spans_of_unequal_length():
    table = torch.arange(40, dtype=torch.int32).view(4, 10)
    slots = extend_cache_locs(
        req_pool_indices=torch.tensor([3, 1]),
        req_to_token=table,
        start_offset=torch.tensor([2, 5]),
        end_offset=torch.tensor([4, 8]),
        batch_size=2,
        draft_token_num=3,
        device="cpu",
    )
    assert slots.dtype == torch.int64
    assert slots.tolist() == [32, 33, 15, 16, 17, 0]


def test_drafts_need_the_interpreter_with_every_attention_backend():
    for speculative, expected in ((False, None), (True, "1")):
        env: dict[str, str] = {}
        Settings(cpu=True).export(env, speculative=speculative)
        assert env.get("TRITON_INTERPRET") == expected
    env = {}
    Settings().export(env, speculative=True)
    assert "TRITON_INTERPRET" not in env
