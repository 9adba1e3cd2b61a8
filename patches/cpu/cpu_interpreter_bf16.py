# SPDX-License-Identifier: Apache-2.0
"""Compute with BF16 values, not their bit patterns, in Triton's interpreter.

NumPy has no BF16, so the interpreter stores it as uint16. Its `create_dot` and its elementwise
operators then multiply and add those integers. Its conversion from fp32 truncates; where it rounds,
a carry out of the mantissa corrupts the exponent. This patch widens operands to fp32 for the
operation and rounds the result once, to nearest even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.cpu_reference.bf16_bits import bf16_to_fp32, fp32_to_bf16
from sglang_gemma4_ext.registry import Hook, Patch

INTERPRETER = "triton.runtime.interpreter"
BUILDER = f"{INTERPRETER}.InterpreterBuilder"


def _is_bf16(handle: Any) -> bool:
    import triton.language as tl

    return handle.dtype.scalar == tl.bfloat16


def _widen(handle: Any) -> Any:
    """Return a BF16 handle's values as fp32; leave other dtypes as they are."""
    if not _is_bf16(handle):
        return handle
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return TensorHandle(bf16_to_fp32(handle.data), tl.float32)


def _narrow(handle: Any) -> Any:
    """Round an fp32 result to BF16; leave a comparison's booleans as they are."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    data = handle.data if handle.data.dtype == np.bool_ else fp32_to_bf16(handle.data)
    return TensorHandle(data, tl.bfloat16)


def _convert(
    original: Callable[..., Any], data: Any, source: Any, target: Any, rounding: Any
) -> Any:
    import triton.language as tl

    if (source, target) == (tl.bfloat16, tl.float32):
        return bf16_to_fp32(data)
    if (source, target) == (tl.float32, tl.bfloat16):
        return fp32_to_bf16(data)
    return original(data, source, target, rounding)


def _dot(original: Callable[..., Any], self: Any, a: Any, b: Any, *args: Any) -> Any:
    return original(self, _widen(a), _widen(b), *args)


def _binary(original: Callable[..., Any], self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
    if not _is_bf16(lhs):
        return original(self, lhs, rhs, op)
    return _narrow(original(self, _widen(lhs), _widen(rhs), op))


def _unary(original: Callable[..., Any], self: Any, arg: Any, op: Any) -> Any:
    if not _is_bf16(arg):
        return original(self, arg, op)
    return _narrow(original(self, _widen(arg), op))


def _stands_down(ctx: Context) -> str | None:
    if ctx.settings.cpu and ctx.settings.cpu_attention == "triton":
        return None
    return "Triton's interpreter is not in use"


def _retired() -> bool:
    import inspect

    from triton.runtime.interpreter import InterpreterBuilder

    return "bfloat16" in inspect.getsource(inspect.unwrap(InterpreterBuilder.create_dot))


PATCH = Patch(
    name="cpu_interpreter_bf16",
    theme="cpu",
    summary="CPU reference: BF16 is right in Triton's interpreter",
    why="the interpreter's tl.dot and elementwise operators work on BF16 bit patterns as integers",
    upstream="unreported (triton 3.8.0)",
    retire_when="InterpreterBuilder.create_dot converts bfloat16 operands",
    retired=_retired,
    hooks=(
        Hook(f"{INTERPRETER}._convert_float", "b466f779f6e2", "around", _convert),
        Hook(f"{BUILDER}.create_dot", "7d5da68ca4b3", "around", _dot),
        Hook(f"{BUILDER}.binary_op", "df11eb49f20b", "around", _binary),
        Hook(f"{BUILDER}.unary_op", "fae9670ade6d", "around", _unary),
    ),
    stands_down=_stands_down,
)
