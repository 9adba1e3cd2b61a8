# SPDX-License-Identifier: Apache-2.0
"""Decode E2M1 codes with their E4M3 scales straight to BF16, exactly, by one multiplication.

The three magnitude bits of an E2M1, at bits 6 to 8 of a BF16, are its value times 2^-126; 0.5 is
a subnormal. The bits of an E4M3, at bits 4 to 10, are its value times 2^-120. Multiplied by 2^119
twice, a scale times 2^118 is normal. Code times scale is then exact, times 2^-8, as in
`_nvfp4_tile`: at most 6 significant bits, and BF16 has 8.

fma.rn.bf16x2 does not flush subnormals, by PTX's definition. `holds` tries it once a device, since
no GPU has run this code yet. Where it fails, kernels decode by FP16. The addend is -0, which keeps
the sign of a zero.
"""

from __future__ import annotations

import logging

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels.nvfp4_format import e2m1_values

logger = logging.getLogger(__name__)

# Four bytes with a scale each to 2 x 4 BF16. The results are in order, because Triton does not say
# which four bytes it passes. prmt swaps the middle bytes. Then the codes of two neighbours are in
# the same place of the two 16-bit lanes. ptxas multiplies instead of shifting to the left, on
# another pipe.
_TWO_CODES = """
{sign}
and.b32 u, u, 0x80008000;
{size}
and.b32 v, v, 0x01c001c0;
or.b32 u, u, v;
fma.rn.bf16x2 {to}, u, {scale}, z;
"""
_PAIRS = (
    ("shl.b32 u, t, 12;", "shl.b32 v, t, 6;", "$0", "$5"),
    ("shl.b32 u, t, 8;", "shl.b32 v, t, 2;", "$2", "$5"),
    ("shl.b32 u, t, 4;", "shr.b32 v, t, 2;", "$1", "$6"),
    ("mov.b32 u, t;", "shr.b32 v, t, 6;", "$3", "$6"),
)
CODES_PTX = tl.constexpr(
    "{\n.reg .b32 t, u, v, z;\nmov.b32 z, 0x80008000;\nprmt.b32 t, $4, 0, 0x3120;"
    + "".join(
        _TWO_CODES.format(sign=sign, size=size, to=to, scale=scale)
        for sign, size, to, scale in _PAIRS
    )
    + "}"
)
# Two scales. 0x7b00 is 2^119.
SCALES_PTX = tl.constexpr("""{
.reg .b32 t, u, z, m;
mov.b32 z, 0x80008000;
mov.b32 m, 0x7b007b00;
prmt.b32 t, $1, 0, 0x1404;
and.b32 u, t, 0x80008000;
shr.b32 t, t, 4;
and.b32 t, t, 0x07f007f0;
or.b32 u, u, t;
fma.rn.bf16x2 u, u, m, z;
fma.rn.bf16x2 $0, u, m, z;
}""")


@triton.jit
def decode_bf16(packed, e4m3, ROWS: tl.constexpr, BLOCKS: tl.constexpr):
    """Decode uint8 [ROWS, BLOCKS * 8] to bf16 of the even k and of the odd k, times 2^-8.

    e4m3: uint8 [ROWS, BLOCKS], the scales' bytes, without NaN
    """
    scale = tl.inline_asm_elementwise(
        SCALES_PTX, "=&r,r", [e4m3], dtype=tl.bfloat16, is_pure=True, pack=2
    )
    scale = scale[:, :, None].broadcast_to(ROWS, BLOCKS, 8)
    even, odd = tl.inline_asm_elementwise(
        CODES_PTX,
        "=&r,=&r,=&r,=&r,r,r,r",
        [packed.reshape(ROWS, BLOCKS, 8), scale],
        dtype=(tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=4,
    )
    return even.reshape(ROWS, BLOCKS * 8), odd.reshape(ROWS, BLOCKS * 8)


@triton.jit
def _decode_bf16_kernel(packed_ptr, scale_ptr, even_ptr, odd_ptr, ROWS: tl.constexpr):
    """Decode a block of 8 bytes in each of ROWS rows; even, odd: bf16 [ROWS, 8]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    at = row * 8 + tl.arange(0, 8)[None, :]
    even, odd = decode_bf16(tl.load(packed_ptr + at), tl.load(scale_ptr + row), ROWS, 1)
    tl.store(even_ptr + at, even)
    tl.store(odd_ptr + at, odd)


def is_exact(device: torch.device) -> bool:
    """Decode every code with every scale on a device, by one warp; compare with float64."""
    packed = torch.arange(0x10, 0x100, 0x22, dtype=torch.uint8).repeat(256, 1)
    scale = torch.arange(256, dtype=torch.uint8)
    even, odd = (torch.empty(256, 8, dtype=torch.bfloat16, device=device) for _ in range(2))
    _decode_bf16_kernel[(8,)](packed.to(device), scale.to(device), even, odd, ROWS=32, num_warps=1)
    got = torch.stack((even, odd), dim=-1).flatten(-2).cpu().double()
    want = e2m1_values(packed, torch.float64)
    want = want * scale.view(torch.float8_e4m3fn).double()[:, None] / 256
    real = (scale & 0x7F) != 0x7F
    same = (got == want) & (got.signbit() == want.signbit())
    return bool(same[real].all())


_tried: dict[torch.device, bool] = {}


def holds(device: torch.device) -> bool:
    """Return whether BF16 is decoded exactly on a device; the first call tries it, and waits.

    A capture of a CUDA graph cannot wait: without an earlier call it gets False.
    """
    if device.type != "cuda":
        return True
    if device not in _tried and not torch.cuda.is_current_stream_capturing():
        _tried[device] = is_exact(device)
        if not _tried[device]:
            logger.warning("NVFP4 kernels: %s flushes BF16 subnormals; decoding by FP16", device)
    return _tried.get(device, False)
