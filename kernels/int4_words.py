# SPDX-License-Identifier: Apache-2.0
"""Rearrange the words of GPTQ and AWQ to the INT4 layout of `int4_format`.

Both hold eight codes of four bits in an int32 and name in-features first.

    GPTQ   qweight [K/8, N]: a word holds eight neighbouring in-features, the first in its low bits
    AWQ    qweight [K, N/8]: a word holds eight neighbouring rows, in the order 0 2 4 6 1 3 5 7

Zero points are [G, N/8] in both, words of eight neighbouring rows: GPTQ's in their order, and in
its first format one less than they are; AWQ's in the order above. Scales are [G, N].

INT8 of GPTQ holds four codes in an int32. It becomes INT4 of twice the in-features:

    code - zero = 16 (high - zero_high) + (low - zero_low)

A row holds the high halves of a group of in-features, and then their low halves. The scale of the
high ones is 16 times that of the low ones. Activations repeat each group; see `repeated`.
"""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels.int4_format import SYMMETRIC_ZERO

# Nibble i of a word of AWQ holds the row 8 j + _AWQ_ORDER[i].
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_IN_ORDER = tuple(range(8))


def codes_of_gptq(qweight: torch.Tensor) -> torch.Tensor:
    """Rearrange GPTQ's int32 [K/8, N] to int32 [N, K/8], the lowest in-feature in the low bits."""
    _require_words(qweight)
    return qweight.T.contiguous()


def codes_of_awq(qweight: torch.Tensor) -> torch.Tensor:
    """Rearrange AWQ's int32 [K, N/8] to int32 [N, K/8], the lowest in-feature in the low bits."""
    rows = _nibbles(qweight, _AWQ_ORDER)
    require(len(rows) % 8 == 0, "K must be a multiple of 8, got %d", len(rows))
    return _packed(rows.T.contiguous())


def zeros_of_gptq(qzeros: torch.Tensor, one_less: bool) -> torch.Tensor:
    """Rearrange GPTQ's int32 [G, N/8] to int32 [N/8, G], eight rows a word in their order.

    one_less: whether the words hold zero - 1, as in all checkpoints but those of `gptq_v2`
    """
    zeros = _nibbles(qzeros, _IN_ORDER)
    return _packed((zeros + 1) & 15 if one_less else zeros).T.contiguous()


def zeros_of_awq(qzeros: torch.Tensor) -> torch.Tensor:
    """Rearrange AWQ's int32 [G, N/8] to int32 [N/8, G], eight rows a word in their order."""
    return _packed(_nibbles(qzeros, _AWQ_ORDER)).T.contiguous()


def halves_of_gptq8(qweight: torch.Tensor, group: int) -> torch.Tensor:
    """Rearrange GPTQ's int32 [K/4, N] of INT8 to int32 [N, 2K/8]. group: in-features, see above."""
    codes = _bytes_of(qweight.T.contiguous())
    require(codes.shape[1] % group == 0, "K = %d has no groups of %d", codes.shape[1], group)
    parts = codes.unflatten(1, (-1, group))
    return _packed(torch.stack((parts >> 4, parts & 15), 2).flatten(1))


def zeros_of_gptq8(qzeros: torch.Tensor, one_less: bool) -> torch.Tensor:
    """Rearrange GPTQ's int32 [G, N/4] of INT8 to int32 [N/8, 2G]; one_less: see zeros_of_gptq."""
    zeros = (_bytes_of(qzeros) + one_less) & 255
    return _packed(torch.stack((zeros >> 4, zeros & 15), 1).flatten(0, 1)).T.contiguous()


def scales_of_gptq8(scales: torch.Tensor) -> torch.Tensor:
    """Rearrange scales [G, N] of INT8 to [N, 2G], exactly: of high and of low halves."""
    return torch.stack((16 * scales, scales), 1).flatten(0, 1).T.contiguous()


def repeated(x: torch.Tensor, group: int) -> torch.Tensor:
    """Repeat each group of in-features: [.., K] to [.., 2K]."""
    parts = x.unflatten(-1, (-1, 1, group))
    return parts.expand(*parts.shape[:-2], 2, group).flatten(-3)


def all_symmetric(zeros: torch.Tensor) -> bool:
    """Tell whether every zero point of packed words is that of a symmetric format."""
    word = SYMMETRIC_ZERO * 0x11111111
    return bool((zeros == word - (1 << 32)).all())


def _require_words(words: torch.Tensor) -> None:
    fits = words.dtype == torch.int32 and words.dim() == 2
    require(fits, "packed words must be int32 [.., ..], got %s %s", words.dtype, words.shape)


def _nibbles(words: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Unpack int32 [A, B] to int32 [A, 8 B]; nibble i of a word is column order[i] of its eight."""
    _require_words(words)
    out = words.new_empty((*words.shape, 8))
    for nibble, column in enumerate(order):
        out[..., column] = (words >> (4 * nibble)) & 15
    return out.flatten(-2)


def _bytes_of(words: torch.Tensor) -> torch.Tensor:
    """Unpack int32 [A, B] to int32 [A, 4 B], 0 to 255, from the low bits."""
    _require_words(words)
    return torch.stack([(words >> shift) & 255 for shift in (0, 8, 16, 24)], -1).flatten(-2)


def _packed(values: torch.Tensor) -> torch.Tensor:
    """Pack int32 [A, 8 B], 0 to 15, to int32 [A, B], in their order from the low bits."""
    parts = values.unflatten(-1, (-1, 8))
    out = torch.zeros_like(parts[..., 0])
    for nibble in range(8):
        out |= parts[..., nibble] << (4 * nibble)
    return out
