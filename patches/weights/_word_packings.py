# SPDX-License-Identifier: Apache-2.0
"""Rearrange the tensors of GPTQ and AWQ while they load; kernels/int4_words.py has the layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sglang_gemma4_ext.checkpoint.stored import Layer
from sglang_gemma4_ext.kernels import int4_words
from sglang_gemma4_ext.patches.weights import _int4_layers as int4

# The largest unit of a row with one scale.
_UNIT = 128


class How:
    """Rearrange the tensors of one packing. one_less: zeros are stored minus one."""

    def __init__(self, stored: Layer, one_less: bool) -> None:
        self.by_row, self.one_less = stored.by_row, one_less

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def codes(self, words: torch.Tensor) -> torch.Tensor:
        return int4_words.codes_of_awq(words) if self.by_row else int4_words.codes_of_gptq(words)

    def scales(self, scales: torch.Tensor) -> torch.Tensor:
        return scales.T.contiguous()

    def zeros(self, words: torch.Tensor) -> torch.Tensor:
        if self.by_row:
            return int4_words.zeros_of_awq(words)
        return int4_words.zeros_of_gptq(words, self.one_less)


class Halves(How):
    """Rearrange INT8 of GPTQ's packing to INT4 of twice the in-features, in groups of `unit`."""

    def __init__(self, stored: Layer, one_less: bool, full_k: int, share: int) -> None:
        """full_k, share: in-features, whole and of one rank, which holds whole units."""
        super().__init__(stored, one_less)
        by_channel = stored.group == full_k
        self.unit = min(share & -share, _UNIT) if by_channel else stored.group
        self.copies = stored.group // self.unit

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        return int4_words.repeated(x, self.unit)

    def codes(self, words: torch.Tensor) -> torch.Tensor:
        return int4_words.halves_of_gptq8(words, self.unit)

    def scales(self, scales: torch.Tensor) -> torch.Tensor:
        return int4_words.scales_of_gptq8(scales.repeat_interleave(self.copies, 0))

    def zeros(self, words: torch.Tensor) -> torch.Tensor:
        return int4_words.zeros_of_gptq8(words.repeat_interleave(self.copies, 0), self.one_less)


def rearranged(
    loader: Callable[..., None], layer: Any, weights: tuple[int4.Weight, ...], how: How
) -> Callable[..., None]:
    """Wrap a weight loader: rearrange each tensor before it is checked and split over ranks."""

    def load(param: Any, loaded: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        for weight in weights:
            if param is getattr(layer, weight.packed):
                loaded = how.codes(loaded)
            elif param is getattr(layer, weight.scale):
                loaded = how.scales(loaded)
            elif param is getattr(layer, weight.zero, None):
                loaded = how.zeros(loaded)
        loader(param, loaded, *args, **kwargs)

    return load
