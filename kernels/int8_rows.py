# SPDX-License-Identifier: Apache-2.0
"""Define the INT8 format of an embedding and head: symmetric, one scale a row."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sglang_gemma4_ext.kernels.int8_head import check

MOST = 127
# Rows that are converted at once; 4,096 rows of 5,376 in fp32 are 84 MiB.
CHUNK = 4096


def quantize(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 codes [N, K] and fp32 scales [N] of rows [N, K]; a row of zeros has scale 1.

    The scale is the row's largest magnitude / 127, and codes are rounded to nearest even.
    Raises ValueError on a value that is not finite.
    """
    wide = rows.float()
    most = wide.abs().amax(1)
    if not bool(most.isfinite().all()):
        raise ValueError("an embedding has values that are not finite: export the checkpoint again")
    scale = torch.where(most > 0, most / MOST, 1.0)
    return (wide / scale[:, None]).round().to(torch.int8), scale


def chunks(rows: int) -> Iterator[slice]:
    """Yield slices of CHUNK rows."""
    for start in range(0, rows, CHUNK):
        yield slice(start, min(start + CHUNK, rows))


def dequantize(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return codes [.., K] times scale [..], each product rounded once to dtype."""
    return (codes.float() * scale[..., None]).to(dtype)


def int8_head_ref(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Compute what `int8_head` does, in fp32 and a chunk of rows at a time."""
    check(x, codes, scale)
    out = torch.empty(len(x), len(codes), dtype=out_dtype or x.dtype, device=x.device)
    wide = x.float()
    for part in chunks(len(codes)):
        out[:, part] = (wide @ codes[part].float().T * scale[part]).to(out.dtype)
    return out
