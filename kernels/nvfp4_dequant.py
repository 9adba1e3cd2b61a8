# SPDX-License-Identifier: Apache-2.0
"""NVFP4 weights to BF16, FP16 or FP32, equal to `nvfp4_format.dequantize` bit for bit.

For what must have plain weights (a reference, a conversion); the matmuls decode in registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._nvfp4_tile import decode
from sglang_gemma4_ext.kernels.nvfp4_format import BLOCK

# Rows written at a time by `dequant_chunks`: more are a vocabulary, whose copy would not fit.
CHUNK_ROWS = 65_536
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _dequant_kernel(
    packed_ptr,
    scale_ptr,
    tensor_scale_ptr,
    out_ptr,
    blocks,
    PER_ROW: tl.constexpr,
    E4M3: tl.constexpr,
    BLOCKS: tl.constexpr,
    PLAIN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    byte = tl.arange(0, 8)
    first = row * blocks + block
    packed = tl.load(packed_ptr + first[:, None] * 8 + byte[None, :], mask=inside[:, None], other=0)
    scale = tl.load(scale_ptr + first, mask=inside, other=0)
    if E4M3:
        bits = scale.to(tl.uint16)
        half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        nan = float("nan")
        scale = half.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
        scale = tl.where((bits & 0x7F) == 0x7F, nan, scale)
    tensor_scale = tl.load(tensor_scale_ptr + (row if PER_ROW else 0))
    even, odd = decode(packed, PLAIN)
    # In this order, so that the two roundings are the reference's.
    even = even.to(tl.float32) * 16384.0 * scale[:, None] * tensor_scale
    odd = odd.to(tl.float32) * 16384.0 * scale[:, None] * tensor_scale
    out = tl.join(even, odd).reshape(BLOCKS, 16).to(out_ptr.dtype.element_ty)
    element = tl.arange(0, 16)
    tl.store(out_ptr + first[:, None] * 16 + element[None, :], out, mask=inside[:, None])


def dequant(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weights that the three tensors stand for, as `nvfp4_format.dequantize`.

    packed: uint8 [N, K/2] or [E, N, K/2], two codes per byte, low nibble first; contiguous
    block_scale: float8_e4m3fn or float32 [.., N, K/16], contiguous; NaN scales give NaN weights
    tensor_scale: float32 scalar, [N, 1] or [E, N, 1]; multiplies
    out: `dtype` [.., N, K], contiguous, or None to allocate it
    Returns `dtype` [.., N, K], one of bf16, fp16, fp32; computed in fp32, then rounded once.
    Raises ValueError on a dtype, shape or stride that does not fit.
    """
    k = 2 * packed.shape[-1]
    if out is None:
        out = torch.empty((*packed.shape[:-1], k), dtype=dtype, device=packed.device)
    _check(packed, block_scale, tensor_scale, dtype, out)
    per_row = tensor_scale.numel() != 1
    rows = packed.numel() // max(packed.shape[-1], 1)
    e4m3 = block_scale.dtype == torch.float8_e4m3fn
    interpreted = triton.knobs.runtime.interpret
    # One row a program; the interpreter pays by the program, so few of them there.
    blocks = triton.next_power_of_2(k // BLOCK) if interpreted else 64
    if rows and k:
        _dequant_kernel[(rows, triton.cdiv(k // BLOCK, blocks))](
            packed,
            block_scale.view(torch.uint8) if e4m3 else block_scale,
            tensor_scale.contiguous(),
            out,
            k // BLOCK,
            PER_ROW=per_row,
            E4M3=e4m3,
            BLOCKS=blocks,
            PLAIN=interpreted,
        )
    return out


def dequant_chunks(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
    rows: int = CHUNK_ROWS,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """`dequant` of a [N, K/2] weight, `rows` rows at a time into one buffer.

    Yields (rows, weights [rows, K]); the weights are valid until the next are asked for, so that
    the memory is that of one chunk whatever N is.
    """
    total = packed.shape[0]
    shape = (min(rows, total), 2 * packed.shape[1])
    buffer = torch.empty(shape, dtype=dtype, device=packed.device)
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        scale = tensor_scale if tensor_scale.numel() == 1 else tensor_scale[part]
        yield (
            part,
            dequant(packed[part], block_scale[part], scale, dtype, buffer[: part.stop - start]),
        )


def _check(
    packed: torch.Tensor,
    block_scale: torch.Tensor,
    tensor_scale: torch.Tensor,
    dtype: torch.dtype,
    out: torch.Tensor,
) -> None:
    k = 2 * packed.shape[-1]
    _require(packed.dtype == torch.uint8, f"packed must be uint8, got {packed.dtype}")
    _require(packed.dim() in (2, 3), f"packed must be 2-D or 3-D, got {packed.shape=}")
    _require(k % BLOCK == 0, f"K must be a multiple of 16, got {k}")
    _require(dtype in DTYPES, f"out is bf16, fp16 or fp32, not {dtype}")
    _require(
        block_scale.dtype in (torch.float8_e4m3fn, torch.float32),
        f"block_scale must be float8_e4m3fn or float32, got {block_scale.dtype}",
    )
    expected = (*packed.shape[:-1], k // BLOCK)
    _require(
        block_scale.shape == expected,
        f"block_scale must be {expected}, got {tuple(block_scale.shape)}",
    )
    per_row = tensor_scale.numel() != 1
    _require(
        tensor_scale.dtype == torch.float32
        and (not per_row or tensor_scale.shape == (*packed.shape[:-1], 1)),
        f"tensor_scale must be float32, a scalar or {(*packed.shape[:-1], 1)}, "
        f"got {tensor_scale.dtype} {tuple(tensor_scale.shape)}",
    )
    _require(
        out.shape == (*packed.shape[:-1], k) and out.dtype == dtype,
        f"out must be {dtype} {(*packed.shape[:-1], k)}, got {out.dtype} {tuple(out.shape)}",
    )
    for name, tensor in {"packed": packed, "block_scale": block_scale, "out": out}.items():
        _require(tensor.is_contiguous(), f"{name} must be contiguous")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
