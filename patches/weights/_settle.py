# SPDX-License-Identifier: Apache-2.0
"""Choose who multiplies a 4-bit layer once its tensors are loaded and checked.

The reference and our kernels read the checkpoint's layout. Humming gets its own copy, and the
checkpoint's tensors are dropped. It takes all layers under --gemma4-weights humming. By default it
takes experts that Marlin refuses: it has run on GPUs, and our kernels were measured on none.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sglang_gemma4_ext.patches.weights import _dispatch as checkpoint
from sglang_gemma4_ext.patches.weights import _humming as humming
from sglang_gemma4_ext.patches.weights import _int4_layers, _layers

logger = logging.getLogger(__name__)

# Humming's names of a layer's weights.
LINEAR, STACKS = ("",), ("w13", "w2")


def nvfp4(layer: Any, *weights: _layers.Weight) -> None:
    """Settle a linear by its weight, or experts by w13 and w2."""
    stored = [
        humming.Stored(getattr(layer, w.packed), getattr(layer, w.block), getattr(layer, w.rows))
        for w in weights
    ]
    _settle(layer, stored, [n for w in weights for n in (w.packed, w.block, w.tensor, w.rows)])


def int4(layer: Any, *weights: _int4_layers.Weight) -> None:
    """Settle a linear by its weight, or experts by w13 and w2."""
    stored = [
        humming.Stored(
            getattr(layer, w.packed),
            getattr(layer, w.scale),
            zero=getattr(layer, w.zero, None),
        )
        for w in weights
    ]
    _settle(layer, stored, [n for w in weights for n in (w.packed, w.scale, w.zero)])


def _settle(layer: Any, stored: Sequence[humming.Stored], names: Iterable[str]) -> None:
    """Set `gemma4_humming` of a loaded layer: the repacked weights, or None.

    names: the layer's tensors that Humming replaces
    Raises ValueError if --gemma4-weights humming cannot be followed at all.
    """
    weights = dict(zip(STACKS if len(stored) == 2 else LINEAR, stored, strict=True))
    layer.gemma4_humming, here = None, _layers.here()
    if not checkpoint.serves_humming(here):
        return
    shape = _layers.shape_of(layer)
    if not checkpoint.prefers_humming(here, *shape):
        return
    lacks = (humming.lacking(weight, layer.params_dtype) for weight in stored)
    reason = next(filter(None, lacks), None)
    if reason is None:
        try:
            layer.gemma4_humming = humming.prepare(layer, weights, here.gpu.capability)
        # Whatever its compiler lacks: headers, a library, space on the disk.
        except Exception as error:
            if here.settings.weights == "humming":
                raise ValueError(
                    f"--gemma4-weights humming: Humming could not be prepared ({error}); leave the "
                    "flag out"
                ) from error
            reason = f"Humming could not be prepared ({error})"
    if reason is not None:
        _say_once("our kernels", reason, *shape)
        return
    for name in names:
        if hasattr(layer, name):
            delattr(layer, name)
    layer.gemma4_fused = False
    _say_once("Humming", "", *shape)


@functools.cache
def _say_once(who: str, why: str, kind: str, n: int, k: int, activation: str | None = None) -> None:
    text = f"{who} for {kind} of {n} x {k}" + (f": {why}" if why else "")
    if not why and activation is not None and activation not in checkpoint.MARLIN_ACTIVATIONS:
        text += (
            f": Marlin has no {activation}, and our kernels were not measured on this GPU "
            "(--gemma4-weights fused selects them)"
        )
    logger.info("4-bit weights: %s", text)
