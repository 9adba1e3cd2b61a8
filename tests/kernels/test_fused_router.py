# SPDX-License-Identifier: Apache-2.0
"""Test the patch that runs our router kernels in SGLang's layers: kernel and scale."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.kernels import router_dispatch
from sglang_gemma4_ext.kernels.router import route_ref
from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch_ref
from sglang_gemma4_ext.patches.model import fused_router
from tests.patches.hooks import hook_of

HIDDEN, EXPERTS, K, EPS = 64, 8, 2, 1e-6


@pytest.fixture
def layer(monkeypatch, device):
    """Build a decoder layer's router and experts, as far as the patch reads them."""
    from sglang.srt.layers.layernorm import Gemma4RMSNorm
    from sglang.srt.layers.linear import ReplicatedLinear

    class Projection(ReplicatedLinear):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.weight = torch.nn.Parameter(torch.randn(EXPERTS, HIDDEN, device=device) / 8)

    torch.manual_seed(0)
    router = torch.nn.Module()
    router.scale = torch.nn.Parameter(torch.randn(HIDDEN, device=device))
    router.proj = Projection()
    router.norm = Gemma4RMSNorm(HIDDEN, eps=EPS, with_scale=False)
    moe = torch.nn.Module()
    moe.per_expert_scale = torch.nn.Parameter(torch.rand(EXPERTS, device=device) + 0.5)
    config = SimpleNamespace(
        top_k=K, custom_routing_function=lambda *args: "stock", output_format=None
    )
    moe.topk = SimpleNamespace(topk_config=config)
    layer = SimpleNamespace(router=router, moe=moe)
    _serve(monkeypatch)
    connect(None, layer)
    router.to(device)
    return layer


connect = hook_of(fused_router.PATCH, "after", "__init__")
forward = hook_of(fused_router.PATCH, "around", "forward")
FLAGS = ("enable_memory_saver", "enable_pdmux", "enable_two_batch_overlap")


def _serve(monkeypatch, *flags: str) -> None:
    args = SimpleNamespace(**{flag: flag in flags for flag in FLAGS})
    monkeypatch.setattr("sglang.srt.runtime_context.get_server_args", lambda: args)


def choice(layer, x, logits):
    return layer.moe.topk.topk_config.custom_routing_function(x, logits, K, True)


def want(layer, x):
    router, scale = layer.router, layer.moe.per_expert_scale
    return route_one_launch_ref(x, router.scale, router.proj.weight, scale, K, EPS)


def stock(router, x):
    raise AssertionError("SGLang's router was called")


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_few_tokens_are_routed_in_one_launch(tokens, layer, device, monkeypatch) -> None:
    x = torch.randn(tokens, HIDDEN, device=device)
    logits = forward(stock, layer.router, x)
    monkeypatch.setattr("sglang_gemma4_ext.kernels.router.route", stock)
    weights, ids = choice(layer, x, logits)
    expected = want(layer, x)
    torch.testing.assert_close(logits, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, expected[1], rtol=0, atol=1e-5)
    assert torch.equal(ids, expected[2])


def test_logits_that_changed_in_between_are_routed_again(layer, device) -> None:
    x = torch.randn(2, HIDDEN, device=device)
    logits = forward(stock, layer.router, x)
    other = logits.flip(-1).contiguous()
    _, ids = choice(layer, x, other)
    assert torch.equal(ids, route_ref(other, layer.moe.per_expert_scale, K)[1])
    # The first choice was dropped and is not returned later.
    layer.moe.per_expert_scale.data.fill_(3.0)
    weights, _ = choice(layer, x, logits)
    torch.testing.assert_close(weights.sum(-1), torch.full((2,), 3.0, device=device))


def test_many_tokens_keep_sglangs_projection(layer, device) -> None:
    x = torch.randn(9, HIDDEN, device=device)
    logits = torch.randn(9, EXPERTS, device=device)
    assert forward(lambda router, given: logits, layer.router, x) is logits
    weights, ids = choice(layer, x, logits)
    expected = route_ref(logits, layer.moe.per_expert_scale, K)
    torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-6)
    assert torch.equal(ids, expected[1])


@pytest.mark.parametrize("tokens", [2, 9])
@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_scale_updated_after_loading_is_used(how, tokens, layer, device) -> None:
    new = torch.linspace(1, 2, EXPERTS, device=device)
    if how == "in place":
        layer.moe.per_expert_scale.data.copy_(new)
    else:
        layer.moe.per_expert_scale = torch.nn.Parameter(new)
    x = torch.randn(tokens, HIDDEN, device=device)
    expected = want(layer, x)
    logits = forward(lambda router, given: expected[0], layer.router, x)
    torch.testing.assert_close(choice(layer, x, logits)[0], expected[1], rtol=0, atol=1e-5)


def test_an_adapter_on_the_projection_keeps_sglangs_router(layer, device) -> None:
    layer.router.proj = torch.nn.Linear(HIDDEN, EXPERTS, device=device)
    x = torch.randn(2, HIDDEN, device=device)
    assert forward(lambda router, given: "stock", layer.router, x) == "stock"


def test_under_torch_compile_sglangs_code_runs(layer, device, monkeypatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.randn(2, HIDDEN, device=device)
    assert forward(lambda router, given: "stock", layer.router, x) == "stock"
    assert choice(layer, x, torch.zeros(2, EXPERTS)) == "stock"


@pytest.mark.parametrize("flag", FLAGS)
def test_there_are_no_counters_where_they_may_be_lost_or_shared(
    flag, layer, device, monkeypatch
) -> None:
    from sglang.srt.arg_groups.field_order import POSITIONAL_FIELD_ORDER

    assert flag in POSITIONAL_FIELD_ORDER
    _serve(monkeypatch, flag)
    connect(None, layer)
    x = torch.randn(1, HIDDEN, device=device)
    assert forward(lambda router, given: "stock", layer.router, x) == "stock"


def test_a_backend_that_routes_by_itself_is_left_alone(layer) -> None:
    from sglang.srt.layers.moe.topk import TopKOutputFormat

    for output_format in TopKOutputFormat:
        config = layer.moe.topk.topk_config
        config.output_format, config.custom_routing_function = output_format, None
        connect(None, layer)
        assert bool(config.custom_routing_function) is (output_format == TopKOutputFormat.STANDARD)


def test_counters_and_choices_are_not_parameters(layer) -> None:
    """Check that the parameters which a checkpoint is loaded into are unchanged."""
    assert set(layer.router.state_dict()) == {"scale", "proj.weight"}
    assert set(dict(layer.router.named_parameters())) == {"scale", "proj.weight"}
    assert set(dict(layer.moe.named_parameters())) == {"per_expert_scale"}


def test_without_a_measurement_sglangs_router_is_preferred(tmp_path) -> None:
    rows = router_dispatch.read()
    assert set(rows) == {"sm_80", "sm_86", "sm_89", "sm_90"}
    table = tmp_path / "table.json"
    table.write_text('{"sm_90": {"measured": null, "prefer": "fused", "one_launch_max_tokens": 8}}')
    with pytest.raises(ValueError, match="sm_90 prefers fused and names no measurement"):
        router_dispatch.read(table)
