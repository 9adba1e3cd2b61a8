# SPDX-License-Identifier: Apache-2.0
"""Read shared keys and values with the FP8 scales of the layer that stored them.

E2B and E4B have layers that read an earlier layer's keys, and an MTP assistant reads the target's.
SGLang decodes such keys with the reading layer's own scales, which are 1 where the checkpoint has
none for it. The keys were divided by the scales of the layer that owns the cache.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

MODELS = "sglang.srt.models"
KV_METHOD = "sglang.srt.layers.quantization.kv_cache.BaseKVCacheMethod"
BACKEND = "sglang.srt.layers.attention.triton_backend.TritonAttnBackend"
# Attribute of an owner's RadixAttention: those that read its keys.
READERS = "gemma4_kv_readers"


def _lend(owner: Any, reader: Any) -> None:
    """Give `reader` the scales of `owner`, now and whenever the owner's are loaded.

    Both are RadixAttention. The reader's own scales are not processed after loading any more.
    """
    reader.quant_method = None
    readers = getattr(owner, READERS, [])
    if not any(known is reader for known in readers):
        setattr(owner, READERS, [*readers, reader])
    _copy(owner, reader)


def _copy(owner: Any, reader: Any) -> None:
    """Copy floats and tensors; SGLang takes 1 where a layer has no scale."""
    for scale in ("k_scale", "v_scale"):
        value = getattr(owner, f"{scale}_float")
        value = 1.0 if value is None else value
        setattr(reader, f"{scale}_float", value)
        stored, own = getattr(owner, scale), getattr(reader, scale)
        if own is not None:
            own.data.fill_(value)
        elif stored is not None:
            # Not a parameter of the reader: no checkpoint has a tensor for it.
            setattr(reader, scale, stored.detach())


def _lend_to_shared_layers(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER Gemma4TextModel.__init__. A pipeline stage has placeholders for others' layers."""
    for layer in self.layers:
        attention = getattr(layer, "self_attn", None)
        if attention is not None and attention.is_kv_shared_layer:
            owner = getattr(self.layers[attention.kv_shared_layer_index], "self_attn", None)
            if owner is not None:
                _lend(owner.attn, attention.attn)


def _lend_to_assistant(
    context: Any, self: Any, target_model: Any, target_token_to_kv_pool: Any
) -> None:
    """AFTER build_frozen_kv_mtp_context, which finds the target's layer for each of its own."""
    from sglang.srt.models import gemma4_mtp

    layers = gemma4_mtp._resolve_target_text_model(target_model).layers
    for number, layer in enumerate(self.model.layers):
        owner = layers[context.get_physical_layer_id(number)]
        _lend(owner.self_attn.attn, layer.self_attn.attn)


def _pass_on(result: None, self: Any, layer: Any) -> None:
    """AFTER process_weights_after_loading, at the start and after a weight update."""
    for reader in getattr(layer, READERS, []):
        _copy(layer, reader)


def _retired() -> bool:
    from sglang.srt.models import gemma4_causal, gemma4_mtp

    return any("k_scale" in inspect.getsource(module) for module in (gemma4_causal, gemma4_mtp))


PATCH = Patch(
    name="kv_scales_of_owner",
    theme="model",
    summary="Layers that read another layer's keys use that layer's FP8 scales",
    why="attention takes the reading layer's k_scale and v_scale, for which the checkpoint has no "
    "tensor; no flag or config field says whose scales apply",
    upstream="unreported",
    retire_when="Gemma 4's classes set the scales of layers that share keys",
    retired=_retired,
    hooks=(
        Hook(
            f"{MODELS}.gemma4_causal.Gemma4TextModel.__init__",
            "d950552b736c",
            "after",
            _lend_to_shared_layers,
        ),
        Hook(
            f"{MODELS}.gemma4_mtp.Gemma4AssistantForCausalLM.build_frozen_kv_mtp_context",
            "3fc1af9d0b98",
            "after",
            _lend_to_assistant,
        ),
        Hook(f"{KV_METHOD}.process_weights_after_loading", "339e3a9b7719", "after", _pass_on),
    ),
    relies_on=(
        Source(f"{BACKEND}.forward_decode", "d2e7c06f8356"),
        Source(f"{BACKEND}.forward_extend", "f6f5f46fc397"),
    ),
)
