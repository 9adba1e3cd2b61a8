# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's decode attention with float64, at Gemma 4's two head sizes.

The server tests run it in the interpreter at head sizes of 32 and 64. Here it also runs compiled.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.oracle import error

# fp32 sums over up to 512 in-features and 70 keys: ten times the RMS at worst. BF16 rounds the
# probabilities and the output, each once.
# Scores reach 30, which fp32 rounds to 2e-6; the exponential makes that a relative error.
RMS = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
WORST = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
# head_dim, query heads, key heads: the tiny models', and the 26B-A4B's kinds with fewer heads.
HEADS = ((32, 4, 2), (256, 4, 2), (512, 8, 1))


@pytest.fixture(autouse=True)
def _bf16(mended_bf16) -> None:
    pass


def _cases():
    for heads in HEADS:
        # A tile of 4-byte keys multiplies in TF32 where it is compiled.
        yield pytest.param(heads, torch.float32, marks=pytest.mark.interpreter, id=f"{heads}-fp32")
        yield pytest.param(heads, torch.bfloat16, id=f"{heads}-bf16")


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("heads", "dtype"), _cases())
def test_equals_float64(heads, dtype, splits, device):
    """Batch requests of one key, of a few and of over two blocks; keys lie all over the pool."""
    from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd

    dim, query_heads, key_heads = heads
    lengths = (1, 31, 70)
    g = torch.Generator().manual_seed(dim + splits)
    total = sum(lengths)
    q = (0.3 * torch.randn(len(lengths), query_heads, dim, generator=g)).to(device, dtype)
    k, v = (torch.randn(total + 5, key_heads, dim, generator=g).to(device, dtype) for _ in range(2))
    slots = torch.randperm(total + 5, generator=g)[:total].to(device)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    out = torch.full_like(q, torch.nan)
    partial = torch.empty(len(lengths), query_heads, splits, dim, device=device)
    sums = torch.empty(len(lengths), query_heads, splits, device=device)
    each = torch.full((len(lengths),), splits, dtype=torch.int32, device=device)
    decode_attention_fwd(
        q, k, v, out, starts, slots, partial, sums, each, splits, 1.0, 1.0, 1.0
    )  # fmt: skip
    expected = []
    for row, part in zip(q.cpu().double(), slots.cpu().split(lengths), strict=True):
        keys, values = (
            t.cpu()[part].double().repeat_interleave(query_heads // key_heads, 1) for t in (k, v)
        )
        weights = torch.einsum("hd,lhd->hl", row, keys).softmax(-1)
        expected.append(torch.einsum("hl,lhd->hd", weights, values))
    found = error(out, torch.stack(expected))
    assert found.rms <= RMS[dtype] and found.worst <= WORST[dtype], found
