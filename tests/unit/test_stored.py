# SPDX-License-Identifier: Apache-2.0
"""Tell how layers are stored from headers alone, by SGLang's names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sglang_gemma4_ext.checkpoint import stored
from sglang_gemma4_ext.checkpoint.files import CheckpointError, Tensor
from sglang_gemma4_ext.checkpoint.schemes import UNKNOWN, Quantization, Scheme
from sglang_gemma4_ext.checkpoint.stored import Layer, Layers, MixedPartsError
from sglang_gemma4_ext.checkpoint.stored_checks import check_stored

LAYER = "model.language_model.layers.3"


def linear(name: str, dtype: str = "BF16", shape=(256, 128), **leaves) -> dict[str, Tensor]:
    found = {f"{LAYER}.{name}.weight": Tensor(dtype, shape)}
    return found | {f"{LAYER}.{name}.{leaf}": Tensor("F32", size) for leaf, size in leaves.items()}


def words(name: str, by_row: bool = False, groups: int = 4) -> dict[str, Tensor]:
    shape = (128, 32) if by_row else (16, 256)
    leaves = {
        "qweight": Tensor("I32", shape),
        "scales": Tensor("F16", (groups, 256)),
        "qzeros": Tensor("I32", (groups, 32)),
    }
    return {f"{LAYER}.{name}.{leaf}": tensor for leaf, tensor in leaves.items()}


FP8 = {"dtype": "F8_E4M3"}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (linear("mlp.down_proj"), Layer("plain")),
        (linear("mlp.down_proj", **FP8, weight_scale=()), Layer("fp8", "weight_scale", "tensor")),
        (linear("mlp.down_proj", **FP8, weight_scale=(1,)), Layer("fp8", "weight_scale", "tensor")),
        (
            linear("mlp.down_proj", **FP8, weight_scale=(256, 1)),
            Layer("fp8", "weight_scale", "channel"),
        ),
        (
            linear("mlp.down_proj", **FP8, weight_scale=(256,), input_scale=()),
            Layer("fp8", "weight_scale", "channel"),
        ),
        (
            linear("mlp.down_proj", **FP8, weight_scale_inv=(2, 1)),
            Layer("fp8", "weight_scale_inv", "block"),
        ),
        (
            linear("mlp.down_proj", **FP8, weight_scale=(2, 1, 1, 1)),
            Layer("fp8", "weight_scale", "block"),
        ),
        (linear("mlp.down_proj", **FP8, weight_scale=(7, 7)), Layer("unknown")),
        (linear("mlp.down_proj", **FP8), Layer("unknown")),
        (
            linear("mlp.down_proj", "U8", (256, 64), weight_scale=(256, 8), weight_scale_2=()),
            Layer("nvfp4", "weight_scale"),
        ),
        (words("mlp.down_proj"), Layer("int4-words", "scales", "channel", True, False, 32)),
        (words("mlp.down_proj", True), Layer("int4-words", "scales", "channel", True, True, 32)),
        (words("mlp.down_proj", groups=5), Layer("unknown")),
        (
            words("mlp.down_proj") | {f"{LAYER}.mlp.down_proj.qzeros": Tensor("I32", (4, 64))},
            Layer("int8-words", "scales", "channel", True, False, 16),
        ),
        (
            words("mlp.down_proj") | {f"{LAYER}.mlp.down_proj.qzeros": Tensor("I32", (4, 65))},
            Layer("unknown"),
        ),
    ],
)
def test_one_linear(tensors, expected) -> None:
    layers = Layers(tensors)
    for prefix in ("language_model.", "model.language_model.", "model.", ""):
        assert layers.of(f"{prefix}layers.3.mlp.down_proj") == expected
    assert layers.of("language_model.layers.4.mlp.down_proj") is None
    assert layers.of("vision_tower.layers.3.mlp.down_proj") is None
    assert layers.of("lm_head") is None


def test_the_projection_outside_the_layers() -> None:
    name = "model.language_model.per_layer_model_projection"
    tensors = {
        f"{name}.weight": Tensor("F8_E4M3", (256, 128)),
        f"{name}.weight_scale": Tensor("F32", ()),
    }
    found = Layers(tensors).of("language_model.per_layer_model_projection")
    assert found == Layer("fp8", "weight_scale", "tensor")


def test_stacked_linears_lack_what_the_layer_lacks() -> None:
    """A K = V layer has no v_proj; one scale for a tensor suits blocks."""
    fp8 = linear("self_attn.q_proj", **FP8, weight_scale_inv=(2, 1))
    fp8 |= linear("self_attn.k_proj", "F8_E4M3", (64, 128), weight_scale_inv=(1, 1))
    found = Layers(fp8).of("language_model.layers.3.self_attn.qkv_proj")
    assert found == Layer("fp8", "weight_scale_inv", "block")


def test_scales_of_values_are_no_projection() -> None:
    """ModelOpt writes them for a K = V layer, too, under the name of the v_proj that it lacks."""
    tensors = linear("self_attn.q_proj", **FP8, weight_scale=())
    tensors |= linear("self_attn.k_proj", **FP8, weight_scale=(), k_scale=())
    tensors[f"{LAYER}.self_attn.v_proj.v_scale"] = Tensor("F32", ())
    assert Layers(tensors).of("layers.3.self_attn.qkv_proj") == Layer("fp8", "weight_scale")


def test_experts_are_found_under_both_names() -> None:
    each = {}
    for leaf in ("gate_proj", "up_proj", "down_proj"):
        each |= linear(f"experts.0.{leaf}", **FP8, weight_scale=())
    assert Layers(each).of("language_model.layers.3.moe.experts").stored == "fp8"
    plain = {f"{LAYER}.experts.{stack}": Tensor("BF16", (8, 64, 64))
             for stack in ("gate_up_proj", "down_proj")}  # fmt: skip
    assert Layers(plain).of("language_model.layers.3.moe.experts") == Layer("plain")


def test_parts_of_different_formats_are_refused() -> None:
    mixed = linear("mlp.gate_proj") | linear("mlp.up_proj", **FP8, weight_scale=())
    said = r"gate_up_proj: its parts .* \(mlp.gate_proj in plain, mlp.up_proj in fp8\)"
    with pytest.raises(MixedPartsError, match=said):
        Layers(mixed).of("language_model.layers.3.mlp.gate_up_proj")


def test_the_preflight_says_so_in_one_sentence() -> None:
    declared = Quantization("fp8", "fp8", Scheme("fp8", 8))
    with pytest.raises(CheckpointError, match=r"down_proj.weight has no weight_scale or .*_inv"):
        check_stored(linear("mlp.down_proj", **FP8), declared)
    check_stored(linear("mlp.down_proj", **FP8), Quantization("x", "x", UNKNOWN))
    check_stored(linear("mlp.down_proj", **FP8, weight_scale=()), declared)
    lacking = {f"{LAYER}.mlp.down_proj.qweight": Tensor("I32", (16, 256))}
    with pytest.raises(CheckpointError, match="qweight has no scales"):
        check_stored(lacking, Quantization("gptq", "gptq", Scheme("int", 4, 32)))


def test_an_unknown_part_is_passed_on() -> None:
    packed = {f"{LAYER}.mlp.up_proj.weight_packed": Tensor("I32", (256, 16))}
    found = Layers(linear("mlp.gate_proj") | packed).of("layers.3.mlp.gate_up_proj")
    assert found == Layer("unknown")


def test_a_hub_name_that_is_not_downloaded_is_read_over_http(monkeypatch) -> None:
    import huggingface_hub

    tensor = SimpleNamespace(dtype="BF16", shape=[256, 128])
    file = SimpleNamespace(tensors={f"{LAYER}.mlp.down_proj.weight": tensor})
    metadata = SimpleNamespace(files_metadata={"model.safetensors": file})
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda *a, **k: metadata)
    layers = stored.layers_of.__wrapped__("someone/not-here")
    assert layers.of("layers.3.mlp.down_proj") == Layer("plain")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", offline)
    assert stored.layers_of.__wrapped__("someone/not-here") is None
