# SPDX-License-Identifier: Apache-2.0
"""Check the FP8 scales of layers that share keys, with SGLang's attention layers and KV method."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.quantization.kv_cache import BaseKVCacheMethod
from sglang.srt.layers.radix_attention import RadixAttention

from sglang_gemma4_ext.patches.model.kv_scales_of_owner import PATCH
from tests.patches.hooks import hook_of


class Fp8Kv:
    """Stand for a quantization config that declares an FP8 KV cache."""

    def get_quant_method(self, layer, prefix):
        return BaseKVCacheMethod(self)


def attention(quantized: bool = True) -> RadixAttention:
    config = Fp8Kv() if quantized else None
    return RadixAttention(2, 64, 1.0, num_kv_heads=1, layer_id=0, quant_config=config)


def model(*attentions: RadixAttention, shared: int = 0) -> SimpleNamespace:
    """Describe a text model whose last `shared` layers read the first one's keys."""
    own = len(attentions) - shared
    layers = [
        SimpleNamespace(attn=each, is_kv_shared_layer=at >= own, kv_shared_layer_index=0)
        for at, each in enumerate(attentions)
    ]
    return SimpleNamespace(layers=[SimpleNamespace(self_attn=layer) for layer in layers])


def load(layers: list[RadixAttention], k_scale: float, v_scale: float) -> None:
    """Load the first layer's scales and process each layer, as SGLang's loaders do."""
    layers[0].k_scale.data.fill_(k_scale)
    layers[0].v_scale.data.fill_(v_scale)
    for layer in layers:
        if layer.quant_method is not None:
            layer.quant_method.process_weights_after_loading(layer)
            hook_of(PATCH, "after", "process_weights_after_loading")(
                None, layer.quant_method, layer
            )


def scales(layer: RadixAttention) -> tuple[float, float, float, float]:
    tensors = layer.k_scale.item(), layer.v_scale.item()
    return (layer.k_scale_float, layer.v_scale_float, *tensors)


@pytest.mark.parametrize("quantized", [True, False])
def test_shared_layers_use_the_owners_scales(quantized) -> None:
    """SGLang gives 1 to a layer for which the checkpoint has none; also after an update."""
    owner, other, reader = attention(), attention(), attention(quantized)
    hook_of(PATCH, "after", "__init__")(None, model(owner, other, reader, shared=1))
    load([owner, other, reader], 0.5, 2.0)
    assert scales(owner) == scales(reader) == (0.5, 2.0, 0.5, 2.0)
    assert scales(other) == (1.0, 1.0, 1.0, 1.0)
    load([owner, other, reader], 0.25, 4.0)
    assert scales(reader) == (0.25, 4.0, 0.25, 4.0)


def test_layers_without_scales_stay_at_one() -> None:
    owner, reader = attention(False), attention()
    hook_of(PATCH, "after", "__init__")(None, model(owner, reader, shared=1))
    assert scales(reader) == (1.0, 1.0, 1.0, 1.0)


def test_an_assistant_uses_the_targets_scales(monkeypatch) -> None:
    """Its layers read layers 1 and 0 of the target, whose weights are updated later."""
    from sglang.srt.models import gemma4_mtp

    target, draft = [attention(), attention()], [attention(False), attention(False)]
    load(target, 0.5, 2.0)
    monkeypatch.setattr(gemma4_mtp, "_resolve_target_text_model", lambda found: found)
    context = SimpleNamespace(get_physical_layer_id=lambda number: 1 - number)
    assistant = SimpleNamespace(model=model(*draft))
    lend = hook_of(PATCH, "after", "build_frozen_kv_mtp_context")
    for _ in range(2):
        lend(context, assistant, model(*target), None)
    assert scales(draft[1]) == (0.5, 2.0, 0.5, 2.0)
    assert scales(draft[0]) == (1.0, 1.0, 1.0, 1.0)
    load(target, 0.25, 4.0)
    assert scales(draft[1]) == (0.25, 4.0, 0.25, 4.0)
    assert len(target[0].gemma4_kv_readers) == 1


def test_a_stage_of_a_pipeline_may_lack_the_owner() -> None:
    reader = attention()
    found = model(attention(), reader, shared=1)
    found.layers[0] = torch.nn.Identity()
    hook_of(PATCH, "after", "__init__")(None, found)
    assert reader.quant_method is not None
