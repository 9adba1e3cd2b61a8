# SPDX-License-Identifier: Apache-2.0
"""Look up how the layers of the model under construction are stored.

SGLang's quantization config is made once a model, target or draft. It carries the checkpoint that
it belongs to.
"""

from __future__ import annotations

from typing import Any

from sglang_gemma4_ext.checkpoint.stored import Layer, layers_of

WEIGHT_UTILS = "sglang.srt.model_loader.weight_utils"


def name_checkpoint(result: Any, model_config: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER get_quant_config, in each patch that calls `stored_layer`: note whose layers it is."""
    if result is not None:
        result.gemma4_checkpoint = (model_config.model_path, model_config.revision)


def stored_layer(config: Any, prefix: str) -> Layer | None:
    """Return how a layer is stored; None if the checkpoint cannot be read, or has no such layer."""
    checkpoint = getattr(config, "gemma4_checkpoint", None)
    layers = layers_of(*checkpoint) if checkpoint else None
    return layers.of(prefix) if layers else None


def is_ours(layer: Any) -> bool:
    """Tell whether a layer under construction is a linear or experts, as opposed to attention."""
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    return isinstance(layer, LinearBase | FusedMoE)


def plain_method(layer: Any) -> Any:
    """Return the method of a linear or of experts that are not quantized; None for the default."""
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

    return UnquantizedLinearMethod() if isinstance(layer, LinearBase) else None
