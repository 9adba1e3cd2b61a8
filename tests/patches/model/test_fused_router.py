# SPDX-License-Identifier: Apache-2.0
"""Check where the fused router acts; tests/kernels/test_fused_router.py has its numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels import router, router_one_launch
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.model import fused_router
from sglang_gemma4_ext.patches.model.fused_router import PATCH
from sglang_gemma4_ext.settings import Settings
from tests.patches.hooks import hook_of

MOE = ModelInfo("", "Gemma4ForConditionalGeneration", {"text_config": {"num_experts": 8}})
DENSE = ModelInfo("", "Gemma4ForConditionalGeneration", {"text_config": {}})
H200 = Gpu("nvidia", "NVIDIA H200", (9, 0))
connect = hook_of(fused_router.PATCH, "after", "__init__")


def test_a_dense_layer_is_left_alone() -> None:
    layer = SimpleNamespace(router=None, moe=None)
    connect(None, layer)
    assert vars(layer) == {"router": None, "moe": None}


@pytest.mark.parametrize(
    ("settings", "model", "gpu", "reason"),
    [
        ({}, DENSE, H200, "no experts"),
        ({}, MOE, H200, "not compared"),
        ({"router": "fused"}, MOE, H200, None),
        ({"router": "fused"}, DENSE, H200, "no experts"),
        ({"router": "sglang"}, MOE, H200, "--gemma4-router sglang"),
        ({"router": "fused"}, MOE, Gpu("nvidia", "B200", (10, 0)), "compute capability"),
        ({"router": "fused"}, MOE, Gpu("nvidia", "Orin", (8, 7)), "compute capability"),
        ({"router": "fused"}, MOE, Gpu("amd", "MI300X"), "compute capability"),
        ({"cpu": True}, MOE, Gpu("none"), "interpreter is not in use"),
        ({"cpu": True, "router": "fused"}, MOE, Gpu("none"), "interpreter is not in use"),
        ({"cpu": True, "cpu_attention": "triton"}, MOE, Gpu("none"), None),
        ({"cpu": True, "cpu_attention": "triton", "router": "sglang"}, MOE, Gpu("none"), "sglang"),
    ],
)
def test_where_it_stands_down(settings, model, gpu, reason) -> None:
    found = PATCH.stands_down(Context(Settings(**settings), model, gpu))
    assert (found is None) if reason is None else (reason in found)


def test_a_layer_routes_by_our_kernels(monkeypatch) -> None:
    """Use one launch for few tokens, whose choice is used once; else launch the choice alone."""
    monkeypatch.setattr(fused_router, "counters_are_safe", lambda: True)
    monkeypatch.setattr(router_one_launch, "route_one_launch", lambda *a: ("logits", "w", ids))
    monkeypatch.setattr(router, "route", lambda *a: ("chosen", "anew"))
    ids = torch.zeros(1, 2)
    config = SimpleNamespace(top_k=2, output_format=None, custom_routing_function=None)
    routed = torch.nn.Module()
    routed.scale = torch.nn.Parameter(torch.ones(4))
    routed.proj = SimpleNamespace(weight=torch.ones(8, 4))
    routed.norm = SimpleNamespace(eps=1e-6)
    moe = SimpleNamespace(per_expert_scale=torch.ones(8), topk=SimpleNamespace(topk_config=config))
    connect(None, SimpleNamespace(router=routed, moe=moe))
    monkeypatch.setattr(fused_router.Routing, "takes", lambda self, x: len(x) == 1)
    forward = hook_of(PATCH, "around", "forward")
    assert forward(None, routed, torch.ones(1, 4)) == "logits"
    assert config.custom_routing_function(None, "logits", 2, True) == ("w", ids)
    assert config.custom_routing_function(None, "logits", 2, True) == ("chosen", "anew")
    assert forward(lambda router, x: "SGLang's", routed, torch.ones(9, 4)) == "SGLang's"
