# SPDX-License-Identifier: Apache-2.0
"""Draw FP8 weights with their exact values."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Fp8(NamedTuple):
    """codes uint8 [.., N, K] of E4M3, scale fp32 [.., N, G]."""

    codes: torch.Tensor
    scale: torch.Tensor

    @property
    def exact(self) -> torch.Tensor:
        """float64 [.., N, K], decoded from the bits: it shares no code with the kernels."""
        code = self.codes.long()
        exponent, mantissa = code // 8 % 16, code % 8
        size = torch.where(
            exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        )
        values = torch.where(code >= 128, -size, size).double()
        rows = self.codes.shape[-2] // self.scale.shape[-2]
        group = self.codes.shape[-1] if self.scale.shape[-1] == 1 else 128
        scales = self.scale.double().repeat_interleave(rows, -2).repeat_interleave(group, -1)
        return values * scales[..., : self.codes.shape[-1]]

    def to(self, device: str) -> Fp8:
        return Fp8(self.codes.to(device), self.scale.to(device))

    def of(self, expert: int) -> Fp8:
        return Fp8(self.codes[expert], self.scale[expert])


def draw_fp8(*shape: int, blocks: bool = False, seed: int = 0) -> Fp8:
    """Draw every code but NaN; scales of both signs, whose sizes differ a hundredfold.

    shape: [.., N, K]. blocks: a scale for 128 in-features, else one a row
    """
    *rows, k = shape
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, shape, generator=g).to(torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0x38
    size = 10 ** (torch.rand(*rows, -(-k // 128) if blocks else 1, generator=g) * 2 - 4)
    sign = (torch.rand(size.shape, generator=g) - 0.1).sign()
    return Fp8(codes, size * sign)
