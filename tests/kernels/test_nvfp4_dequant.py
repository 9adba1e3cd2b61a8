# SPDX-License-Identifier: Apache-2.0
"""Compare the dequant kernel with its reference, and its inline assembly with plain code."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sglang_gemma4_ext.kernels import nvfp4_dequant
from sglang_gemma4_ext.kernels._nvfp4_tile import DECODE_PTX
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize, e2m1_values
from tests.kernels.oracle import draw
from tests.kernels.poison import poison_allocations

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch, mended_bf16) -> None:
    poison_allocations(monkeypatch)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View as bit patterns, so that -0 differs from 0; all NaNs are equal."""
    view = tensor.cpu().view(torch.int32 if tensor.element_size() == 4 else torch.int16)
    return torch.where(tensor.cpu().isnan(), -1, view)


@pytest.mark.parametrize("e4m3", [True, False], ids=["e4m3", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_with_every_scale_is_bit_exact(dtype, e4m3, device) -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    packed = (codes[0::2] | codes[1::2] << 4).repeat(256, 1)
    block = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)[:, None]
    block = block if e4m3 else block.float() * 0.37
    scale = torch.tensor(0.0123)
    got = nvfp4_dequant.dequant(packed.to(device), block.to(device), scale.to(device), dtype)
    assert torch.equal(_bits(got), _bits(dequantize(packed, block, scale, dtype)))


@pytest.mark.parametrize("shape", [(7, 16), (3, 48), (2, 2816), (5, 704), (2, 3, 176)])
def test_shapes_and_scales_per_row(shape, device) -> None:
    weight = draw(*shape)
    row = weight.row.unsqueeze(-1)
    packed, block, _ = weight.to(device)
    got = nvfp4_dequant.dequant(packed, block, row.to(device), torch.float32)
    assert torch.equal(_bits(got), _bits(dequantize(weight.packed, weight.block, row, got.dtype)))


def test_zero_rows_give_zero_rows(device) -> None:
    packed, block, _ = draw(0, 32).to(device)
    got = nvfp4_dequant.dequant(packed, block, torch.ones((), device=device), torch.float16)
    assert got.shape == (0, 32)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"packed": torch.zeros(4, 20, dtype=torch.uint8)}, "K must be a multiple of 16"),
        ({"packed": torch.zeros(4, 16)}, "packed must be uint8"),
        ({"packed": torch.zeros(16, 4, dtype=torch.uint8).T}, "packed must be contiguous"),
        ({"block_scale": torch.ones(4, 2).half()}, "block_scale must be float8_e4m3fn"),
        ({"tensor_scale": torch.ones(3, 1)}, "tensor_scale must be float32"),
        ({"dtype": torch.float64}, "out is bf16, fp16 or fp32"),
    ],
)
def test_bad_input_is_refused(change, match) -> None:
    given = {
        "packed": torch.zeros(4, 16, dtype=torch.uint8),
        "block_scale": torch.ones(4, 2),
        "tensor_scale": torch.ones(()),
        "dtype": torch.float32,
    }
    with pytest.raises(ValueError, match=match):
        nvfp4_dequant.dequant(**{**given, **change})


def test_the_inline_assembly_decodes_every_pair_of_bytes() -> None:
    """Execute its PTX for every byte value at each of the four positions."""
    pairs = np.arange(1 << 16, dtype=np.uint32)
    for word in (pairs, pairs << 16, pairs | (np.roll(pairs, 77) << 16)):
        outputs = _execute(DECODE_PTX.value, word)
        packed = torch.from_numpy(word.view(np.uint8).reshape(-1, 4).copy())
        want = e2m1_values(packed, torch.float32)
        for parity, registers in ((0, outputs[:2]), (1, outputs[2:])):
            halves = np.stack(registers, axis=-1).view(np.float16).astype(np.float32)
            got = torch.from_numpy(halves) * 2.0**14
            assert torch.equal(_bits(got), _bits(want[:, parity::2].contiguous()))


def _execute(ptx: str, word: np.ndarray) -> list[np.ndarray]:
    """Execute the instructions of DECODE_PTX on uint32 lanes; $4 is the input."""
    registers = {"$4": word}
    operations = {
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "shl": lambda a, b: a << b,
        "shr": lambda a, b: a >> b,
        "prmt": _permuted,
    }
    for line in re.findall(r"^(\w+)\.b32 (.*);$", ptx, re.MULTILINE):
        name, (target, *operands) = line[0], re.split(", ", line[1])
        values = [registers[o] if o in registers else np.uint32(int(o, 0)) for o in operands]
        registers[target] = operations[name](*values).astype(np.uint32)
    return [registers[f"${i}"] for i in range(4)]


def _permuted(a: np.ndarray, b: np.uint32, selector: np.uint32) -> np.ndarray:
    both = a.astype(np.uint64) | (np.uint64(b) << np.uint64(32))
    picked = np.zeros_like(both)
    for i in range(4):
        source = (int(selector) >> (4 * i)) & 0x7
        picked |= ((both >> np.uint64(8 * source)) & np.uint64(0xFF)) << np.uint64(8 * i)
    return picked.astype(np.uint32)
