# SPDX-License-Identifier: Apache-2.0
"""Draw NVFP4 weights with their exact values, and measure errors of kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch

# The values of E2M1's codes by the OCP Microscaling specification: a sign, two exponent bits, one
# mantissa bit.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Weight(NamedTuple):
    """Hold packed uint8 [.., N, K/2], block E4M3 [.., N, K/16] and row fp32 [.., N]."""

    packed: torch.Tensor
    block: torch.Tensor
    row: torch.Tensor

    @property
    def exact(self) -> torch.Tensor:
        """Compute float64 [.., N, K] from a separate table, without the kernels' code."""
        table = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=torch.float64)
        codes = torch.stack([self.packed & 15, self.packed >> 4], dim=-1).flatten(-2)
        values = table.to(codes.device)[codes.long()].unflatten(-1, (-1, 16))
        return (values * self.block.double().unsqueeze(-1)).flatten(-2) * self.row[..., None]

    def to(self, device: str) -> Weight:
        return Weight(*(tensor.to(device) for tensor in self))


def draw(*shape: int, seed: int = 0, parts: int = 0) -> Weight:
    """Draw every code, and block scales that include negative and subnormal ones.

    shape: [.., N, K]. parts: number of stacked linears, each with one tensor scale; 0: one per row
    """
    *rows, k = shape
    g = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (*rows, k // 2), generator=g, dtype=torch.uint8)
    block = (torch.randn(*rows, k // 16, generator=g) * 2).to(torch.float8_e4m3fn)
    if parts:
        scale = torch.rand(*rows[:-1], parts, generator=g) * 0.02 + 0.001
        row = scale.repeat_interleave(rows[-1] // parts, dim=-1)
    else:
        row = torch.rand(*rows, generator=g) * 0.02 + 0.001
    return Weight(packed, block, row)


class Error(NamedTuple):
    """Hold rms = RMS(error) / RMS(want) and worst = max(|error| / max(RMS(want), |want|))."""

    rms: float
    worst: float


def error(got: torch.Tensor, want: torch.Tensor) -> Error:
    """Measure the error against float64; a NaN counts as infinite."""
    difference = (got.detach().cpu().double() - want.cpu()).nan_to_num(nan=torch.inf).abs()
    size = want.cpu().square().mean().sqrt()
    worst = (difference / want.cpu().abs().clamp(min=size)).max()
    return Error((difference.square().mean().sqrt() / size).item(), worst.item())
