# SPDX-License-Identifier: Apache-2.0
"""Check that the emulator refuses what it does not know by name, and never guesses."""

from __future__ import annotations

import pytest

from .asm import REGISTERS
from .parse import PtxError, parse
from .translate import translate

HEAD = ".entry k(.param .u64 a0)\n{" + REGISTERS


@pytest.mark.parametrize(
    "text",
    [
        # instructions
        "dp4a.u32.u32 %r1, %r2, %r3, %r4;",
        "call.uni f, (%r1);",
        "griddepcontrol.wait;",
        "trap;",
        "mapa.u64 %d1, %d2, 0;",
        "activemask.b32 %r1;",
        # modes
        "add.rz.f32 %r1, %r2, %r3;",
        "add.sat.s32 %r1, %r2, %r3;",
        "add.cc.u32 %r1, %r2, %r3;",
        "mad.lo.cc.u32 %r1, %r2, %r3, %r4;",
        "mad.rm.f32 %r1, %r2, %r3, %r4;",
        "mul.hi.u64 %d1, %d2, %d3;",
        "mul24.lo.u32 %r1, %r2, %r3;",
        "fma.rn.relu.bf16x2 %r1, %r2, %r3, %r4;",
        "cvt.rn.relu.bf16x2.f32 %r1, %r2, %r3;",
        "cvt.rz.f16.f32 %h1, %r1;",
        "cvt.rzi.ftz.s32.f32 %r1, %r2;",
        "cvt.sat.u8.u32 %h1, %r1;",
        "setp.lt.ftz.f32 %p1, %r1, %r2;",
        "prmt.b32.f4e %r1, %r2, %r3, %r4;",
        "shf.x.wrap.b32 %r1, %r2, %r3, 4;",
        # types
        "cvt.rn.satfinite.e4m3x2.f32 %h1, %r1, %r2;",
        "cvt.rna.tf32.f32 %r1, %r2;",
        "add.u16x2 %r1, %r2, %r3;",
        "min.bf16x2 %r1, %r2, %r3;",
        "ex2.approx.f16 %h1, %h2;",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7}, {%r1, %r2, %r3, %r4};",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
        "{%r1, %r2}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r1, %r2};",
        # memory
        "ld.local.b32 %r1, [%d1];",
        "ld.b32 %r1, [%d1];",
        "ld.acquire.sys.global.b32 %r1, [%d1];",
        "ld.volatile.global.b32 %r1, [%d1];",
        "st.release.gpu.global.b32 [%d1], %r1;",
        "st.shared::cluster.b32 [%r1], %r2;",
        "atom.shared.add.u32 %r1, [%r2], 1;",
        "atom.global.cta.add.u32 %r1, [%d2], 1;",
        "atom.global.gpu.add.f16x2 %r1, [%d2], %r3;",
        "atom.global.gpu.inc.u32 %r1, [%d2], 1;",
        "cp.async.bulk.shared.global [%r1], [%d1], 16;",
        "cp.async.mbarrier.arrive.shared.b64 [%r1];",
        # warps and blocks
        "shfl.down.b32 %r1, %r2, 1, 31;",
        "vote.sync.uni.pred %p1, %p2, -1;",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%r3];",
        "bar.sync 1;",
        "bar.sync 0, 64;",
        "bar.red.popc.u32 %r1, 0, %p1;",
        "bar.arrive 0, 64;",
        "fence.proxy.tensormap::generic.acquire.gpu [%d1], 128;",
        "wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.u8 {%r1, %r2, %r3, %r4}, %d1, %d2, 1;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 "
        "{%r1, %r2, %r3, %r4}, %d1, %d2, %p1, 1, 1, 1, 0;",
    ],
)
def test_unknown_text_is_refused(text) -> None:
    with pytest.raises(PtxError):
        translate(parse(HEAD + text + "\nret; }"))


@pytest.mark.parametrize("text", ["not ptx", ".entry k() { } .entry l() { }", HEAD + "%%; }"])
def test_unreadable_text_is_refused(text) -> None:
    with pytest.raises(PtxError):
        parse(text)
