# SPDX-License-Identifier: Apache-2.0
"""Draw INT4 weights, packed by compressed-tensors, with their exact values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32


class Int4(NamedTuple):
    """packed uint8 [.., N, K/2], scale [.., N, G], zero int32 [.., N/8, G] or None."""

    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None

    @property
    def exact(self) -> torch.Tensor:
        """float64 [.., N, K], nibble by nibble: it shares no code with the kernels."""
        codes = torch.stack([self.packed % 16, self.packed // 16], dim=-1).flatten(-2).double()
        values = codes.unflatten(-1, (self.scale.shape[-1], -1))
        zero = torch.full_like(self.scale, 8, dtype=torch.float64)
        if self.zero is not None:
            words = self.zero.long() % 2**32
            nibbles = [words // 16**i % 16 for i in range(8)]
            zero = torch.stack(nibbles, dim=-2).flatten(-3, -2).double()
        return ((values - zero[..., None]) * self.scale.double()[..., None]).flatten(-2)

    def to(self, device: str) -> Int4:
        return Int4(*(None if tensor is None else tensor.to(device) for tensor in self))

    def of(self, expert: int) -> Int4:
        return Int4(*(None if tensor is None else tensor[expert] for tensor in self))


def draw_int4(
    *shape: int, group: int | None = 32, zeros: bool = True, dtype=torch.bfloat16, seed: int = 0
) -> Int4:
    """Draw every code and zero point; scales of both signs, whose sizes differ a hundredfold.

    shape: [.., N, K]. group: None for one scale a row
    """
    *rows, k = shape
    g = torch.Generator().manual_seed(seed)
    groups = k // (group or k)
    codes = torch.randint(-8, 8, shape, generator=g, dtype=torch.int8)
    packed = pack_to_int32(codes, 4).contiguous().view(torch.uint8)
    size = 10 ** (torch.rand(*rows, groups, generator=g) * 2 - 4)
    scale = (size * (torch.rand(*rows, groups, generator=g) - 0.1).sign()).to(dtype)
    zero = None
    if zeros:
        points = torch.randint(-8, 8, (*rows, groups), generator=g, dtype=torch.int8)
        zero = pack_to_int32(points, 4, packed_dim=0).contiguous()
    return Int4(packed, scale, zero)
