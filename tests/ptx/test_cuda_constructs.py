# SPDX-License-Identifier: Apache-2.0
"""Run what nvcc emits and Triton does not: structures as parameters, blocks of two dimensions."""

from __future__ import annotations

import ctypes

import pytest
import torch

from .cuda_kernels import CudaKernel
from .parse import PtxError

HEAD = """.extern .func __assertfail (.param .b64 a);
.global .align 1 .b8 $str[3] = {105, 62, 0};
.visible .entry k(.param .align 8 .b8 k_param_0[24], .param .u32 k_param_1)
{
.reg .pred %p<4>; .reg .b32 %r<20>; .reg .f32 %f<8>; .reg .b64 %rd<20>;
ld.param.u64 %rd1, [k_param_0];
cvta.to.global.u64 %rd2, %rd1;
"""
STORE = """mov.u32 %r10, %tid.x; mov.u32 %r11, %tid.y; mov.u32 %r12, %ntid.x;
mad.lo.s32 %r13, %r11, %r12, %r10;
mul.wide.u32 %rd9, %r13, 4; add.s64 %rd10, %rd2, %rd9;
st.global.u32 [%rd10], %r1;
ret;
}
"""


def run(body: str, *, block: tuple[int, int, int] = (32, 1, 1), count: int = 96):
    """Return what each thread stored from %r1, -1 where none did, and what was found."""
    out = torch.full((count,), -1, dtype=torch.int32)
    fields = [(ctypes.c_uint64, out), (ctypes.c_uint32, 7), (ctypes.c_int32, -9)]
    kernel = CudaKernel({"k": HEAD + body + STORE}, "k")
    result = kernel.launch((1, 1, 1), block, [*fields, (ctypes.c_int64, 1 << 33)], 11)
    return out, result.findings


@pytest.mark.parametrize(
    ("load", "want"),
    [
        ("ld.param.u32 %r1, [k_param_0+8];", 7),
        ("ld.param.u32 %r1, [k_param_0+12];", -9),
        ("ld.param.v2.u32 {%r2, %r1}, [k_param_0+8];", -9),
        ("mov.b64 %rd4, k_param_0; add.s64 %rd5, %rd4, 16; ld.param.u32 %r1, [%rd5+-8];", 7),
        ("ld.param.u64 %rd4, [k_param_0+16]; shr.u64 %rd5, %rd4, 30; cvt.u32.u64 %r1, %rd5;", 8),
        ("ld.param.u32 %r1, [k_param_1];", 11),
        # %f4, as nvcc names registers.
        ("mov.f32 %f4, 0f40400000; cvt.rzi.s32.f32 %r1, %f4;", 3),
    ],
)
def test_parameters(load, want):
    out, findings = run(load)
    assert not findings
    assert out[:32].tolist() == [want] * 32


def test_beyond_the_parameters():
    with pytest.raises(IndexError, match="beyond the parameters"):
        run("mov.b64 %rd4, k_param_0; ld.param.u32 %r1, [%rd4+60];")


@pytest.mark.parametrize("block", [(32, 2, 1), (5, 3, 1), (1, 1, 1)])
def test_a_block_of_threads_has_its_shape(block):
    """Threads of a last warp beyond the block do not run."""
    out, findings = run(
        "mov.u32 %r2, %tid.y; shl.b32 %r1, %r2, 8; add.s32 %r1, %r1, 3;", block=block
    )
    assert not findings
    width, height, _ = block
    assert out.tolist() == [
        thread // width * 256 + 3 if thread < width * height else -1 for thread in range(96)
    ]


CALL = """mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, LIMIT; @%p1 bra $L_good;
mov.u64 %rd4, $str; cvta.global.u64 %rd5, %rd4;
{ .param .b64 param0; st.param.b64 [param0+0], %rd5;
call.uni NAME, ( param0 ); }
$L_good:
"""


@pytest.mark.parametrize(("limit", "found"), [(32, {}), (31, {"assertion failed"})])
def test_a_failed_assertion_is_a_finding(limit, found):
    _, findings = run(CALL.replace("LIMIT", str(limit)).replace("NAME", "__assertfail"))
    assert set(findings) == set(found)


def test_an_unknown_function_is_refused():
    with pytest.raises(PtxError, match="unknown function"):
        run(CALL.replace("LIMIT", "32").replace("NAME", "cudaMalloc"))
