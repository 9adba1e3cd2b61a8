# SPDX-License-Identifier: Apache-2.0
"""Load INT4 layers through SGLang's own loaders; check exact results and refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _int4_layers as int4
from sglang_gemma4_ext.patches.weights import _layers
from sglang_gemma4_ext.patches.weights import int4_compressed_tensors as patch
from sglang_gemma4_ext.settings import Settings
from tests.kernels.int4_oracle import Int4, draw_int4

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"
ROWS, K = (32, 16), 64
RTX3090 = Gpu("nvidia", "RTX 3090", (8, 6))


def args(group: int | None = 32, **changes: Any) -> QuantizationArgs:
    strategy = "group" if group else "channel"
    given = {"num_bits": 4, "type": "int", "strategy": strategy, "group_size": group, **changes}
    return QuantizationArgs(**given)


class Linear:
    """Stand in for a stacked linear of SGLang's, with the parameters of our scheme."""

    def __init__(self, quantization: QuantizationArgs, ranks: int = 1, k: int = K) -> None:
        self.layer, self.scheme = torch.nn.Module(), patch._linear()(WHERE, quantization)
        self.scheme.create_weights(
            layer=self.layer,
            weight_loader=self._load,
            input_size=k,
            input_size_per_partition=k // ranks,
            output_partition_sizes=list(ROWS),
            output_size=sum(ROWS),
            params_dtype=torch.float32,
        )

    def _load(self, param: Any, loaded: torch.Tensor, shard: int) -> None:
        sizes = {"shard_offset": sum(ROWS[:shard]), "shard_size": ROWS[shard]}
        param.load_merged_column_weight(loaded, shard_id=shard, tp_rank=0, **sizes)

    def load(self, leaf: str, tensor: torch.Tensor, shard: int = 0) -> None:
        param = getattr(self.layer, f"weight_{leaf}")
        param.weight_loader(param, tensor, shard)

    def load_part(self, shard: int, weight: Int4, without: str = "") -> None:
        tensors = {"packed": weight.packed.view(torch.int32), "scale": weight.scale}
        if weight.zero is not None:
            tensors["zero_point"] = weight.zero
        for leaf, tensor in tensors.items():
            if leaf != without:
                self.load(leaf, tensor, shard)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group", [32, None])
def test_a_stacked_linear_is_exact(group, zeros) -> None:
    linear = Linear(args(group, symmetric=not zeros))
    parts = [draw_int4(rows, K, group=group, zeros=zeros, seed=rows) for rows in ROWS]
    for shard, part in enumerate(parts):
        linear.load_part(shard, part)
    linear.scheme.process_weights_after_loading(linear.layer)
    x = torch.randn(5, K, generator=torch.Generator().manual_seed(9))
    want = x.double() @ torch.cat([part.exact for part in parts]).T
    got = linear.scheme.apply_weights(linear.layer, x)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("which", ["packed", "scale", "zero_point"])
def test_a_tensor_that_was_not_loaded_is_named(which) -> None:
    linear = Linear(args(symmetric=False))
    for shard, rows in enumerate(ROWS):
        linear.load_part(shard, draw_int4(rows, K), without=which if shard else "")
    with pytest.raises(ValueError, match=f"{WHERE}: the checkpoint lacks weight_{which}"):
        linear.scheme.process_weights_after_loading(linear.layer)


def test_another_layout_is_refused() -> None:
    linear = Linear(args(symmetric=False))
    with pytest.raises(ValueError, match=rf"{WHERE}\.weight_packed: expected .*\[rows, 8\]"):
        linear.load("packed", torch.zeros(32, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"the checkpoint holds torch\.uint8"):
        linear.load("packed", torch.zeros(32, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the checkpoint holds NaN among"):
        linear.load("scale", torch.full((32, 2), torch.nan))


@pytest.mark.parametrize(
    ("quantization", "ranks", "k", "said"),
    [
        (args(actorder="group"), 1, 64, "activation reordering .actorder group. is not served"),
        (args(16), 1, 64, "one scale for 16 weights; INT4 is served with groups of 32, 64, 128"),
        (args(), 2, 96, "a rank's share has 48 in-features, .* the 32 .* smaller --tp-size"),
    ],
)
def test_formats_without_a_kernel_are_refused_by_the_layer(quantization, ranks, k, said) -> None:
    with pytest.raises(ValueError, match=f"{WHERE}: {said}"):
        Linear(quantization, ranks, k)


def test_static_activation_order_has_the_same_layout() -> None:
    assert Linear(args(actorder="static")).scheme.has_g_idx is False


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("group", "by_position"), [(32, False), (None, False), (32, True)])
def test_half_of_each_expert_loads_by_sglangs_own_loader(group, by_position, zeros) -> None:
    """Load the second of two ranks: the last rows of gate and up, the last in-features of down."""
    from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE

    hidden, inner = 64, 128
    layer = object.__new__(FusedMoE)
    torch.nn.Module.__init__(layer)
    scheme = patch._experts()(args(group, symmetric=not zeros))
    given = {"moe_tp_rank": 1, "moe_tp_size": 2, "use_triton_kernels": False, "scheme": scheme}
    given |= {"use_flashinfer_trtllm_moe": False, "use_padded_loading": False, "layer_name": WHERE}
    given |= {"quant_config": None, "quant_method": scheme, "use_presharded_weights": False}
    given |= {"_has_fused_shared": False, "moe_runner_config": SimpleNamespace(is_gated=True)}
    for name, value in given.items():
        object.__setattr__(layer, name, value)

    def load(param: Any, tensor: torch.Tensor, name: str, shard_id: str, expert_id: int) -> None:
        layer._weight_loader_impl(param, tensor, name, shard_id, expert_id)

    scheme.create_weights(
        layer,
        2,
        hidden,
        intermediate_size_per_partition=inner // 2,
        params_dtype=torch.bfloat16,
        moe_intermediate_size=inner,
        weight_loader=load,
    )
    gate, up = (draw_int4(2, inner, hidden, group=group, zeros=zeros, seed=s) for s in (0, 1))
    down = draw_int4(2, hidden, inner, group=group, zeros=zeros, seed=2)
    for stack, shard_id, weight in (("w13", "w1", gate), ("w13", "w3", up), ("w2", "w2", down)):
        for expert in range(2):
            part = weight.of(expert)
            tensors = {"packed": part.packed.view(torch.int32), "scale": part.scale}
            tensors |= {"zero_point": part.zero} if zeros else {}
            for leaf, tensor in tensors.items():
                name = f"{stack}_weight_{leaf}"
                param = getattr(layer, name)
                if by_position:  # as SGLang's loader does for stacked experts
                    param.weight_loader(param, tensor, name, shard_id, expert)
                else:
                    param.weight_loader(param, tensor, name, shard_id=shard_id, expert_id=expert)
    scheme.process_weights_after_loading(layer)
    w13, w2 = (Int4(*int4._tensors(layer, weight)).exact for weight in (int4.W13, int4.W2))
    half = inner // 2
    assert torch.equal(w13, torch.cat((gate.exact[:, half:], up.exact[:, half:]), dim=1))
    assert torch.equal(w2, down.exact[:, :, half:])


def _model(**changes: Any) -> ModelInfo:
    weights = {"num_bits": 4, "type": "int", "group_size": 32}
    groups = {"g": {"targets": ["Linear"], "weights": weights}}
    section = {"quant_method": "compressed-tensors", "config_groups": groups, **changes}
    extra = {"quantization_config": section}
    return ModelInfo("", "Gemma4ForConditionalGeneration", extra)


def test_the_patch_applies_to_int4_of_compressed_tensors() -> None:
    stands_down = patch.PATCH.stands_down
    assert stands_down(Context(Settings(), _model(), RTX3090)) is None
    assert stands_down(Context(Settings(cpu=True), _model())) is None
    other = _model(quant_method="gptq", bits=4)
    assert "not an INT4 one" in stands_down(Context(Settings(), other, RTX3090))
    b200 = Gpu("nvidia", "B200", (10, 0))
    assert "compute capability 8.0 to 9.x" in stands_down(Context(Settings(), _model(), b200))


@pytest.mark.parametrize(
    ("shape", "ours"),
    [
        (("experts", 1408, 2816, "gelu"), True),
        (("experts", 1408, 2816, "silu"), False),
        (("linear", 2816, 2112), True),  # down of the 26B-A4B's dense MLP
        (("linear", 2816, 4096), False),
    ],
)
def test_on_a_gpu_marlin_serves_what_it_can(shape, ours, monkeypatch) -> None:
    monkeypatch.setattr(_layers, "here", lambda: Context(Settings(), _model(), RTX3090))
    monkeypatch.setattr(_layers, "shape_of", lambda layer: shape)
    assert int4.takes(SimpleNamespace(input_size=shape[2]), 32) is ours


def test_fused_serves_all_layers(monkeypatch) -> None:
    here = Context(Settings(weights="fused"), _model(), RTX3090)
    monkeypatch.setattr(_layers, "here", lambda: here)
    assert int4.takes(None, 32)
