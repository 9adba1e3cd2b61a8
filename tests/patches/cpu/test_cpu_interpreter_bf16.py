# SPDX-License-Identifier: Apache-2.0
"""Compare BF16 in Triton's patched interpreter with PyTorch's BF16."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from sglang_gemma4_ext.patches.cpu import cpu_interpreter_bf16
from tests.patches.hooks import hook_of

hook = functools.partial(hook_of, cpu_interpreter_bf16.PATCH, "around")


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def _handle(tensor: torch.Tensor) -> TensorHandle:
    return TensorHandle(tensor.view(torch.int16).numpy().view(np.uint16), tl.bfloat16)


def _value(handle: TensorHandle) -> torch.Tensor:
    return torch.from_numpy(handle.data.view(np.int16)).view(torch.bfloat16)


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.sub])
def test_elementwise_operators_compute_values(op: Any):
    x, y = _draw(64), _draw(32, 2).flatten()
    given = (None, _handle(x), _handle(y), op)
    assert torch.equal(_value(hook("binary_op")(InterpreterBuilder.binary_op, *given)), op(x, y))
    assert not torch.equal(_value(InterpreterBuilder.binary_op(*given)), op(x, y))


def test_unary_operators_compute_values():
    x = _draw(64)
    found = hook("unary_op")(InterpreterBuilder.unary_op, None, _handle(x), np.sqrt)
    torch.testing.assert_close(_value(found), x.sqrt(), rtol=0, atol=0, equal_nan=True)


def test_dot_multiplies_values():
    a, b = _draw(16, 32), _draw(32, 16)
    sums = TensorHandle(np.zeros((16, 16), np.float32), tl.float32)
    dot = hook("create_dot")(
        InterpreterBuilder.create_dot, None, _handle(a), _handle(b), sums, None, 0
    )
    expected = (a.double() @ b.double()).float()
    torch.testing.assert_close(torch.from_numpy(dot.data), expected, rtol=1e-5, atol=1e-5)


def test_conversion_rounds_to_nearest_even():
    """Use 1.99999988, which carries out of its mantissa; other dtypes keep Triton's conversion."""
    convert = functools.partial(hook("_convert_float"), interpreter._convert_float)
    x = torch.tensor([1.99999988, 1.00390625, -3.0], dtype=torch.float32)
    bits = convert(x.numpy(), tl.float32, tl.bfloat16, None)
    assert torch.equal(_value(TensorHandle(np.asarray(bits), tl.bfloat16)), x.bfloat16())
    assert convert(x.numpy(), tl.float32, tl.float16, None).view(np.float16)[2] == -3
