# SPDX-License-Identifier: Apache-2.0
"""Test the fused kernels as operators, inside SGLang's layers and against SGLang's reference."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.kernels import nvfp4_linear as module
from sglang_gemma4_ext.kernels.nvfp4_dispatch import table_of
from sglang_gemma4_ext.kernels.nvfp4_ref import nvfp4_experts_ref
from sglang_gemma4_ext.patches.weights import (
    _layers,
    _modelopt_layers,
    _ops,
    nvfp4_fused_activation,
)
from tests.kernels.allocations import Allocations, our_operators
from tests.kernels.oracle import draw, error
from tests.patches.hooks import hook_of
from tests.patches.weights.test_layers import Loaded, both

# test_schema is left out, because it compares inputs with arithmetic that PyTorch lacks for FP8.
FAKE = ("test_faketensor",)


@pytest.fixture(autouse=True)
def _fused(monkeypatch, mended_bf16) -> Any:
    """Make NVFP4 layers use the operators."""
    _ops.register()
    monkeypatch.setattr(_layers, "fused", lambda: True)
    return torch.ops.sglang_gemma4_ext


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9)).half()


def _experts(tokens: int, device: str) -> list[torch.Tensor]:
    w13, w2 = draw(4, 64, 64).to(device), draw(4, 64, 32).to(device)
    ids = torch.randint(0, 4, (tokens, 2), dtype=torch.int32, device=device)
    return [_x(tokens, 64).to(device), ids, torch.rand(tokens, 2, device=device), *w13, *w2]


@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_the_linear_operator_can_be_traced(activation, device) -> None:
    weight = draw(32, 64).to(device)
    given = (_x(3, 64).to(device), *weight, None, activation)
    torch.library.opcheck(torch.ops.sglang_gemma4_ext.nvfp4_linear, given, test_utils=FAKE)


def test_the_experts_operator_can_be_traced(device) -> None:
    given = (*_experts(3, device), "gelu_tanh")
    torch.library.opcheck(torch.ops.sglang_gemma4_ext.nvfp4_experts, given, test_utils=FAKE)


def test_torch_compile_keeps_the_operator_whole(device) -> None:
    weight = draw(32, 64).to(device)
    traced = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        traced.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def layer(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.sglang_gemma4_ext.nvfp4_linear(x, *weight, None, None) + 1

    x = _x(3, 64).to(device)
    got = torch.compile(layer, backend=backend, fullgraph=True)(x)
    assert torch.equal(got, layer(x))
    assert any("nvfp4_linear" in target for target in traced)


@pytest.mark.parametrize(
    ("over", "path"),
    [(0, "nvfp4_experts"), (1, "nvfp4_grouped_experts")],
    ids=["decode", "grouped"],
)
def test_both_paths_of_the_experts_operator(over, path, device, monkeypatch) -> None:
    """The decode path serves token counts up to the table's limit, and none beyond."""
    tokens = table_of(torch.device(device)).largest_m("experts_up") + over
    given, called = _experts(tokens, device), []
    for name in ("nvfp4_experts", "nvfp4_grouped_experts"):
        run = getattr(_ops, name)
        noted = functools.partial(_noted, called, name, run)
        monkeypatch.setattr(_ops, name, noted)
    got = torch.ops.sglang_gemma4_ext.nvfp4_experts(*given, "gelu_tanh")
    want = nvfp4_experts_ref(given[0].double(), *given[1:], "gelu_tanh")
    assert error(got, want).rms < 1e-3
    assert called == [path]


def _noted(called: list[str], name: str, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    called.append(name)
    return run(*args, **kwargs)


@both
def test_a_layer_loaded_twice(make) -> None:
    """Stacked linears have unequal scales; a second load uses the same memory."""
    loaded = Loaded(make)
    w = loaded.load_all()
    apply = getattr(loaded.owner, "apply_weights", None) or loaded.owner.apply
    loaded.owner.process_weights_after_loading(loaded.layer)
    x = _x(5, 64)
    assert error(apply(loaded.layer, x), x.double() @ w.T.double()).rms < 1e-3
    rows = getattr(loaded.layer, loaded.weight.rows)
    where = rows.data_ptr()
    for shard in range(2):
        loaded.load(loaded.weight.tensor, shard, torch.ones(1 if loaded.weight.divides else ()))
    loaded.owner.process_weights_after_loading(loaded.layer)
    assert getattr(loaded.layer, loaded.weight.rows).data_ptr() == where
    assert (rows == 1).all()
    parts = (w[:32] / 0.25, w[32:] / 0.5)
    assert error(apply(loaded.layer, x), x.double() @ torch.cat(parts).T.double()).rms < 1e-3


forward_mlp = hook_of(nvfp4_fused_activation.PATCH, "around", "forward")


@both
def test_the_mlp_activates_inside_its_matmul(make) -> None:
    """Compare with linear and activation; the activation has no launch of its own."""
    loaded = Loaded(make, rows=(32, 32))
    w = loaded.load_all()
    loaded.owner.process_weights_after_loading(loaded.layer)
    mlp = SimpleNamespace(gate_up_proj=loaded.layer, down_proj=lambda x: (x, None))
    x = _x(3, 64)
    gate, up = (x.double() @ w.T.double()).chunk(2, dim=-1)
    want = torch.nn.functional.gelu(gate, approximate="tanh") * up
    got = forward_mlp(None, mlp, x)
    assert error(got, want).rms < 1e-3


def test_experts_through_sglangs_dispatch(device) -> None:
    """Pass experts what SGLang's MoE methods take, with its name of the activation."""
    x, ids, weights, *tensors = _experts(3, device)
    layer = SimpleNamespace(gemma4_fused=True, gemma4_humming=None)
    w13, w2 = _modelopt_layers.W13, _modelopt_layers.W2
    names = [getattr(w, part) for w in (w13, w2) for part in ("packed", "block", "rows")]
    for name, tensor in zip(names, tensors, strict=True):
        setattr(layer, name, tensor)
    routing = SimpleNamespace(topk_ids=ids, topk_weights=weights)
    given = SimpleNamespace(hidden_states=x, topk_output=routing)
    got = _layers.apply_experts(layer, w13, w2, "gelu", given).hidden_states
    want = nvfp4_experts_ref(x.double(), ids, weights, *tensors, "gelu_tanh")
    assert error(got, want).rms < 1e-3


def _largest(run: Callable[[], Any]) -> int:
    """Return the number of elements of the largest floating-point tensor allocated."""
    sizes = []

    def note(op: str, tensor: torch.Tensor) -> None:
        sizes.append(tensor.numel() * tensor.is_floating_point())

    with Allocations(note, our_operators()):
        run()
    return max(sizes)


def test_weights_are_never_copied(device) -> None:
    """Expect PyTorch to allocate only results, smaller than any weight's unpacked rows."""
    ops = torch.ops.sglang_gemma4_ext
    weight, x = draw(256, 512).to(device), _x(3, 512).to(device)
    # The fp32 parts of a split, at most eight, in tiles of at least eight tokens.
    assert 3 * 256 <= _largest(lambda: ops.nvfp4_linear(x, *weight, None, None)) <= 8 * 8 * 256
    for tokens in (3, 17):
        run = functools.partial(ops.nvfp4_experts, *_experts(tokens, device), "gelu_tanh")
        assert _largest(run) <= tokens * 2 * 64
    # The same check sees the reference's copy.
    assert _largest(lambda: nvfp4_experts_ref(*_experts(3, device), "gelu_tanh")) >= 64 * 64


def test_fp32_is_refused_only_by_the_fused_kernels_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setenv("SGLANG_PLATFORM", "")
    assert _layers.allow_fp32([torch.bfloat16]) == [torch.bfloat16]
    monkeypatch.setenv("SGLANG_PLATFORM", "gemma4_cpu")
    assert _layers.allow_fp32([torch.bfloat16]) == [torch.bfloat16, torch.float32]


def test_sglangs_own_reference_agrees(monkeypatch, device) -> None:
    """Use the weights and the reference of its Marlin tests; sgl_kernel needs CUDA to import."""
    if not torch.cuda.is_available():
        for name in ("sgl_kernel", "sgl_kernel.scalar_type"):
            stub = ModuleType(name)
            stub.__getattr__ = lambda attribute: object
            monkeypatch.setitem(sys.modules, name, stub)
    from sglang.test.test_marlin_utils import make_nvfp4_weight_and_ref

    torch.manual_seed(0)
    packed, block, scale, weight = make_nvfp4_weight_and_ref(96, 256, torch.float32, device=device)
    rows = scale.float().expand(96).contiguous()
    x = _x(7, 256).to(device)
    got = module.nvfp4_linear(x, packed, block, rows)
    assert error(got, (x.double() @ weight.double().T).cpu()).rms < 5e-4
