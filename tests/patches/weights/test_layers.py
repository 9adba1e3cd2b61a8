# SPDX-License-Identifier: Apache-2.0
"""Load NVFP4 layers through SGLang's parameters; check exact results and refusals."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.kernels.nvfp4_format import dequantize
from sglang_gemma4_ext.patches.weights import (
    _layers,
    _modelopt_layers,
    nvfp4_compressed_tensors,
)
from sglang_gemma4_ext.settings import Settings

WHERE = "model.language_model.layers.0.mlp.gate_up_proj"


class Loaded:
    """Build a stacked linear as SGLang does: parts of `rows` rows, K in-features, method `make`."""

    def __init__(
        self, make: Any, rows: tuple[int, ...] = (32, 16), k: int = 64, ranks: int = 1
    ) -> None:
        self.layer = torch.nn.Module()
        self.layer.input_size = k
        self.rows, self.k, self.weight, self.create, self.owner = rows, k, *make()
        sizes = {"input_size_per_partition": k // ranks, "output_partition_sizes": list(rows)}
        whole = {"input_size": k, "output_size": sum(rows), "params_dtype": torch.float32}
        self.create(layer=self.layer, weight_loader=self._load, **sizes, **whole)

    def _load(self, param: Any, loaded: torch.Tensor, shard: int) -> None:
        offset, size = sum(self.rows[:shard]), self.rows[shard]
        param.load_merged_column_weight(
            loaded, shard_id=shard, shard_offset=offset, shard_size=size, tp_rank=0
        )

    def load(self, name: str, shard: int, tensor: torch.Tensor) -> None:
        param = getattr(self.layer, name)
        param.weight_loader(param, tensor, shard)

    def load_all(self, *, without: str = "") -> torch.Tensor:
        """Fill both parts, `without` left out of the second, and return the weight.

        The parts have unequal tensor scales.
        """
        parts = []
        for shard, rows in enumerate(self.rows):
            draw = torch.Generator().manual_seed(shard)
            packed = torch.randint(0, 256, (rows, self.k // 2), generator=draw, dtype=torch.uint8)
            block = (torch.rand(rows, self.k // 16, generator=draw) + 0.5).to(torch.float8_e4m3fn)
            scale = torch.tensor(0.25 * (shard + 1))
            given = torch.reciprocal(scale).reshape(1) if self.weight.divides else scale
            for name, tensor in zip(self.names, (packed, block, given), strict=True):
                if shard == 0 or name != without:
                    self.load(name, shard, tensor)
            parts.append(dequantize(packed, block, scale, torch.float32))
        return torch.cat(parts)

    @property
    def names(self) -> tuple[str, str, str]:
        return self.weight.packed, self.weight.block, self.weight.tensor


def _modelopt() -> tuple[Any, ...]:
    method = _modelopt_layers.linear_method()(
        SimpleNamespace(is_checkpoint_nvfp4_serialized=True, is_awq=False, group_size=16)
    )
    method.layer_name = WHERE
    return _modelopt_layers.LINEAR, method.create_weights, method


def _compressed_tensors() -> tuple[Any, ...]:
    scheme = nvfp4_compressed_tensors._linear()(WHERE, has_input_global_scale=True)
    return nvfp4_compressed_tensors.LINEAR, scheme.create_weights, scheme


both = pytest.mark.parametrize("make", [_modelopt, _compressed_tensors])


@both
def test_unequal_scales_of_stacked_linears_are_exact(make) -> None:
    loaded = Loaded(make)
    w = loaded.load_all()
    loaded.owner.process_weights_after_loading(loaded.layer)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(9))
    apply = getattr(loaded.owner, "apply_weights", None) or loaded.owner.apply
    torch.testing.assert_close(apply(loaded.layer, x), x @ w.T, rtol=1e-6, atol=1e-6)
    assert getattr(loaded.layer, loaded.weight.packed).shape == (48, 32)


@both
@pytest.mark.parametrize("which", range(3))
def test_a_tensor_that_was_not_loaded_is_named(make, which: int) -> None:
    loaded = Loaded(make)
    missing = loaded.names[which]
    loaded.load_all(without=missing)
    with pytest.raises(ValueError, match=f"{WHERE}: the checkpoint lacks {missing}"):
        loaded.owner.process_weights_after_loading(loaded.layer)


@both
def test_another_layout_is_refused(make) -> None:
    loaded = Loaded(make)
    packed, block, _ = loaded.names
    swizzled = torch.zeros(128, 8, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=rf"{WHERE}\.{block}: expected .*\[128, 8\].*swizzled"):
        loaded.load(block, 0, swizzled)
    with pytest.raises(ValueError, match=r"the checkpoint holds torch\.bfloat16"):
        loaded.load(packed, 0, torch.zeros(32, 64, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"the checkpoint holds torch\.uint8"):
        loaded.load(block, 0, torch.zeros(32, 4, dtype=torch.uint8))


@both
@pytest.mark.parametrize("nan", [0x7F, 0xFF])
def test_a_nan_among_the_block_scales_is_refused(make, nan: int) -> None:
    loaded = Loaded(make)
    scales = torch.ones(32, 4).to(torch.float8_e4m3fn)
    scales.view(torch.uint8)[31, 2] = nan
    with pytest.raises(ValueError, match=f"{loaded.weight.block}: the checkpoint holds NaN"):
        loaded.load(loaded.weight.block, 0, scales)


@pytest.mark.parametrize(
    ("nvfp4", "cpu", "graphs", "refused"),
    [
        ("dequant", False, True, True),
        ("dequant", False, False, False),
        ("dequant", True, True, False),
        ("fused", False, True, False),
    ],
)
def test_dequantized_experts_refuse_graphs_at_start(
    monkeypatch, nvfp4, cpu, graphs, refused
) -> None:
    from sglang.srt.model_executor import cuda_graph_config

    settings = Settings(weights=nvfp4, cpu=cpu)
    monkeypatch.setattr(_layers, "here", lambda: SimpleNamespace(settings=settings))
    monkeypatch.setattr(cuda_graph_config, "cuda_graph_fully_disabled", lambda: not graphs)
    layer = SimpleNamespace(moe_ep_size=1, layer_name=WHERE)
    refusal = pytest.raises(ValueError, match="--cuda-graph-backend-decode disabled")
    with refusal if refused else contextlib.nullcontext():
        _layers.require_runnable_experts(layer)


@both
def test_scales_padded_to_more_rows_are_refused(make) -> None:
    loaded = Loaded(make)
    loaded.load_all()
    block = loaded.weight.block
    loaded.load(block, 1, torch.ones(128, 4).to(torch.float8_e4m3fn))
    with pytest.raises(ValueError, match=f"as many rows as {block}"):
        loaded.owner.process_weights_after_loading(loaded.layer)


@both
def test_a_shard_that_ends_within_a_block_is_refused(make) -> None:
    with pytest.raises(
        ValueError, match=f"{WHERE}: a tensor-parallel shard has 24 in-features.*--tp-size"
    ):
        Loaded(make, k=48, ranks=2)


def test_in_features_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="40 in-features are not a multiple of 16"):
        Loaded(_compressed_tensors, k=40)


def test_loaders_recognize_methods_by_upstreams_names() -> None:
    from sglang.srt.layers.linear import WEIGHT_LOADER_V2_SUPPORTED

    assert _modelopt_layers.linear_method().__name__ in WEIGHT_LOADER_V2_SUPPORTED
    assert _modelopt_layers.moe_method().__name__ == "ModelOptNvFp4FusedMoEMethod"
    assert nvfp4_compressed_tensors._experts().__name__ == "CompressedTensorsW4A16Nvfp4MoE"
