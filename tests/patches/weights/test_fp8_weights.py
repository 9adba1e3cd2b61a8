# SPDX-License-Identifier: Apache-2.0
"""Load FP8 layers through SGLang's own parameters; check exact results and refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _fp8_layers as fp8
from sglang_gemma4_ext.patches.weights import _layers, _stored
from sglang_gemma4_ext.patches.weights import fp8_weights as patch
from sglang_gemma4_ext.settings import Settings

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"
ROWS, K = (160, 160), 320
RTX3090, H100 = Gpu("nvidia", "RTX 3090", (8, 6)), Gpu("nvidia", "H100", (9, 0))
SCALE_SHAPES = {"tensor": (), "channel": (160, 1), "block": (2, 3)}


class Linear:
    """Stand in for a stacked linear of SGLang's, with the parameters of our method."""

    def __init__(self, strategy: str, ranks: int = 1, k: int = K) -> None:
        self.layer = torch.nn.Module()
        self.layer.output_sizes = list(ROWS)
        self.method = fp8._linear()(WHERE, Layer("fp8", "weight_scale", strategy))
        self.method.create_weights(
            self.layer,
            k // ranks,
            list(ROWS),
            k,
            sum(ROWS),
            torch.float32,
            weight_loader=self._load,
        )

    def _load(self, param: Any, loaded: torch.Tensor, shard: int) -> None:
        sizes = {"shard_offset": sum(ROWS[:shard]), "shard_size": ROWS[shard]}
        param.load_merged_column_weight(loaded, shard_id=shard, tp_rank=0, **sizes)

    def load(self, name: str, tensor: torch.Tensor, shard: int) -> None:
        param = getattr(self.layer, name)
        param.weight_loader(param, tensor, shard)


@pytest.mark.parametrize("strategy", SCALE_SHAPES)
def test_a_stacked_linear_is_exact(strategy) -> None:
    """Each part keeps its own scales, however they are shared."""
    linear, g, parts = Linear(strategy), torch.Generator().manual_seed(0), []
    for shard in (0, 1):
        codes = torch.randn(160, K, generator=g).to(torch.float8_e4m3fn)
        scale = torch.rand(SCALE_SHAPES[strategy], generator=g) + 0.1
        linear.load("weight", codes, shard)
        linear.load("weight_scale", scale, shard)
        wide = scale
        if strategy == "block":
            wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:160, :K]
        parts.append(codes.double() * wide.double())
    linear.method.process_weights_after_loading(linear.layer)
    x, bias = torch.randn(3, K, generator=g), torch.randn(320, generator=g)
    want = x.double() @ torch.cat(parts).T + bias.double()
    got = linear.method.apply(linear.layer, x, bias)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


def test_what_was_not_loaded_or_does_not_fit_is_named() -> None:
    linear = Linear("channel")
    linear.load("weight", torch.zeros(160, K).to(torch.float8_e4m3fn), 0)
    with pytest.raises(ValueError, match=f"{WHERE}: the checkpoint lacks weight_scale of finite"):
        linear.method.process_weights_after_loading(linear.layer)
    for shard in (0, 1):
        linear.load("weight_scale", torch.ones(160), shard)
    with pytest.raises(ValueError, match="lacks weight with as many rows as weight_scale"):
        linear.method.process_weights_after_loading(linear.layer)
    with pytest.raises(ValueError, match=r"expected torch.float8_e4m3fn \[rows, 320\]"):
        linear.load("weight", torch.zeros(160, K).bfloat16(), 0)
    with pytest.raises(ValueError, match="scales of shape"):
        linear.load("weight_scale", torch.ones(161), 0)


@pytest.mark.parametrize(
    ("strategy", "ranks", "k", "said"),
    [
        ("channel", 2, 336, "share has 168 in-features, no multiple of 16"),
        ("block", 2, 320, "share has 160 in-features, no multiple of the 128"),
    ],
)
def test_shards_that_cannot_be_served_are_refused(strategy, ranks, k, said) -> None:
    with pytest.raises(ValueError, match=f"{WHERE}: a rank's {said}"):
        Linear(strategy, ranks, k)


@pytest.mark.parametrize("strategy", SCALE_SHAPES)
def test_half_of_each_expert_loads_by_sglangs_own_loader(strategy) -> None:
    """Load the second of two ranks: the last rows of gate and up, the last in-features of down."""
    from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE

    hidden, inner = 128, 512
    layer = object.__new__(FusedMoE)
    torch.nn.Module.__init__(layer)
    method = fp8._experts()(WHERE, Layer("fp8", "weight_scale", strategy))
    given = {"moe_tp_rank": 1, "moe_tp_size": 2, "use_triton_kernels": False, "scheme": None}
    given |= {"use_flashinfer_trtllm_moe": False, "use_padded_loading": False, "layer_name": WHERE}
    given |= {"quant_config": None, "quant_method": method, "use_presharded_weights": False}
    given |= {"_has_fused_shared": False, "moe_runner_config": SimpleNamespace(is_gated=True)}
    for name, value in given.items():
        object.__setattr__(layer, name, value)

    def load(param: Any, tensor: torch.Tensor, name: str, shard_id: str, expert_id: int) -> None:
        layer._weight_loader_impl(param, tensor, name, shard_id, expert_id)

    method.create_weights(
        layer,
        2,
        hidden,
        intermediate_size_per_partition=inner // 2,
        params_dtype=torch.bfloat16,
        moe_intermediate_size=inner,
        weight_loader=load,
    )
    g, exact = torch.Generator().manual_seed(0), {}
    for stack, shard, rows, k in (
        ("w13", "w1", inner, hidden), ("w13", "w3", inner, hidden), ("w2", "w2", hidden, inner)
    ):  # fmt: skip
        shape = {"tensor": (), "channel": (rows, 1), "block": (rows // 128, k // 128)}[strategy]
        for expert in range(2):
            codes = torch.randn(rows, k, generator=g).to(torch.float8_e4m3fn)
            scale = torch.rand(shape, generator=g) + 0.1
            for leaf, tensor in (("weight", codes), ("weight_scale", scale)):
                param = getattr(layer, f"{stack}_{leaf}")
                param.weight_loader(
                    param, tensor, f"{stack}_{leaf}", shard_id=shard, expert_id=expert
                )
            wide = scale
            if strategy == "block":
                wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            exact[shard, expert] = codes.double() * wide.double()
    method.process_weights_after_loading(layer)
    from sglang_gemma4_ext.kernels.fp8_format import dequantize

    for expert in range(2):
        up = dequantize(layer.w13_weight[expert], layer.w13_weight_scale[expert], torch.float64)
        down = dequantize(layer.w2_weight[expert], layer.w2_weight_scale[expert], torch.float64)
        want = torch.cat([exact[shard, expert][inner // 2 :] for shard in ("w1", "w3")])
        torch.testing.assert_close(up, want, rtol=1e-6, atol=0)
        torch.testing.assert_close(down, exact["w2", expert][:, inner // 2 :], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("gpu", "weights", "kind", "shape", "marlin", "ours"),
    [
        (RTX3090, "auto", "experts", (1408, 2816), True, True),
        (RTX3090, "auto", "linear", (4096, 2816), True, False),
        (RTX3090, "auto", "linear", (4096, 2112), True, True),
        (RTX3090, "auto", "linear", (4096, 2816), False, True),
        (RTX3090, "fused", "linear", (4096, 2816), True, True),
        (H100, "auto", "experts", (1408, 2816), True, False),
        (H100, "fused", "experts", (1408, 2816), True, True),
    ],
)
def test_who_multiplies(gpu, weights, kind, shape, marlin, ours, monkeypatch) -> None:
    context = Context(Settings(weights=weights), None, gpu)
    monkeypatch.setattr(_layers, "here", lambda: context)
    monkeypatch.setattr(_layers, "shape_of", lambda layer: (kind, *shape))
    monkeypatch.setattr(fp8, "_fits_marlin", lambda layer, n, k: n % 64 == 0 and k % 128 == 0)
    assert fp8.takes(None, marlin) is ours


def test_each_config_gives_its_fp8_layers_to_us_and_keeps_the_others(monkeypatch) -> None:
    layers = {"a": Layer("fp8", "weight_scale", "tensor"), "b": Layer("plain"), "c": None}
    monkeypatch.setattr(patch, "is_ours", lambda layer: layer == "linear")
    monkeypatch.setattr(patch, "stored_layer", lambda config, prefix: layers[prefix])
    monkeypatch.setattr(patch, "plain_method", lambda layer: "plain")
    monkeypatch.setattr(fp8, "takes", lambda layer, marlin: True)
    monkeypatch.setattr(fp8, "method", lambda layer, where, stored: f"ours {where}")
    for hook in (patch._by_marlin, patch._without_marlin):
        found = [hook(lambda *args: "SGLang's", None, "linear", prefix) for prefix in layers]
        assert found == ["ours a", "plain", "SGLang's"]
        assert hook(lambda *args: "SGLang's", None, "attention", "a") == "SGLang's"
    assert patch._min_capability(lambda: 89) == 80
    # The 26B-A4B's experts have 704 rows, five blocks and a half.
    assert patch._any_rows(lambda runner: pytest.fail("SGLang refuses 704"), None) is None


def test_a_config_names_its_checkpoint(monkeypatch) -> None:
    config = SimpleNamespace()
    _stored.name_checkpoint(config, SimpleNamespace(model_path="/m", revision=None))
    _stored.name_checkpoint(None, SimpleNamespace(model_path="/m", revision=None))
    asked = []
    monkeypatch.setattr(_stored, "layers_of", lambda *a: asked.append(a))
    assert _stored.stored_layer(config, "x") is None
    assert asked == [("/m", None)]
    assert _stored.stored_layer(SimpleNamespace(), "x") is None


def test_it_is_for_fp8_checkpoints_where_sglang_lacks_kernels() -> None:
    def reason(gpu: Gpu = RTX3090, method: str = "fp8", **settings: Any) -> str | None:
        config = {"quantization_config": {"quant_method": method}} if method else {}
        model = ModelInfo("", "Gemma4ForConditionalGeneration", config)
        return patch.PATCH.stands_down(Context(Settings(**settings), model, gpu))

    assert reason() is None
    assert reason(cpu=True) is None
    assert reason(H100, weights="fused") is None
    assert "on the tensor cores" in reason(H100)
    assert "no FP8 layers" in reason(method="")
    assert "8.0 to 9.x" in reason(Gpu("nvidia", "B200", (10, 0)))
