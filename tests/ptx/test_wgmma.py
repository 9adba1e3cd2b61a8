# SPDX-License-Identifier: Apache-2.0
"""Compare wgmma with its right operand in swizzled shared memory with a plain product."""

from __future__ import annotations

import numpy as np
import pytest

from .asm import REGISTERS, launch
from .parse import parse
from .translate import translate

MODES = {128: 1, 64: 2, 32: 3}


def _text(swizzle: int, step: int, fence: str, wait: str, n: int = 16, leading: int = 16) -> str:
    """Write the kernel: a1 [4, 128] words are a's registers, a0 shared memory's bytes in order.

    leading: the descriptor's, in bytes; more than 16 for a right operand with N contiguous
    """
    descriptor = MODES[swizzle] << 62 | (8 * swizzle >> 4) << 32 | (leading >> 4) << 16
    transposed = int(leading > 16)
    text = """
mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; shl.b32 %r3, %r1, 4; add.s32 %r4, %r2, %r3;
mad.wide.u32 %d1, %r1, 16, %a0;
ld.global.v4.b32 {%r5, %r6, %r7, %r8}, [%d1];
st.shared.v4.b32 [%r4], {%r5, %r6, %r7, %r8};
mad.wide.u32 %d2, %r1, 4, %a1;
"""
    text += "".join(f"ld.global.b32 %r{10 + i}, [%d2+{512 * i}];\n" for i in range(4))
    registers = ", ".join(f"%r{20 + i}" for i in range(n // 2))
    text += "".join(f"mov.b32 %r{20 + i}, 0;\n" for i in range(n // 2))
    text += f"""{fence}
bar.sync 0;
add.s32 %r40, %r2, {step};
bfe.u32 %r41, %r40, 4, 14;
cvt.u64.u32 %d3, %r41;
or.b64 %d4, %d3, {descriptor - 2**64 if descriptor >> 63 else descriptor};
setp.eq.s32 %p1, %r1, -1;
mov.pred %p2, 0;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16
    {{{registers}}}, {{%r10, %r11, %r12, %r13}}, %d4, %p2, 1, 1, {transposed};
wgmma.commit_group.sync.aligned;
{wait}
mad.wide.u32 %d5, %r1, 4, %a2;
"""
    stores = (f"st.global.b32 [%d5+{512 * i}], %r{20 + i};\n" for i in range(n // 2))
    return text + "".join(stores)


def _inputs(swizzle: int, step: int):
    rng = np.random.default_rng(swizzle + step)
    a = rng.integers(-8, 9, (64, 16)).astype(np.float16)
    wide = rng.integers(-8, 9, (16, swizzle // 2)).astype(np.float16)  # [n, k]: rows of one swizzle
    memory = np.zeros(16 * swizzle // 2, np.float16)
    for n in range(16):
        for chunk in range(swizzle // 16):  # 16 bytes go where the address's upper bits say
            at = n * swizzle + 16 * chunk
            at ^= (at >> 7 & (swizzle // 16 - 1)) << 4
            memory[at // 2 : at // 2 + 8] = wide[n, 8 * chunk : 8 * chunk + 8]
    bytes_ = np.zeros(2048, np.uint8)
    bytes_[: memory.nbytes] = memory.view(np.uint8)
    return a, wide[:, step // 2 : step // 2 + 16], bytes_, _registers(a)


def _registers(a):
    """Return uint32 [4, 128]: the registers of each thread that hold a [64, 16]."""
    registers = np.zeros((4, 128), np.uint32)
    for thread in range(128):
        w, lane = divmod(thread, 32)
        g, t = divmod(lane, 4)
        for i in range(4):
            row, column = 16 * w + g + 8 * (i % 2), 2 * t + 8 * (i // 2)
            registers[i, thread] = a[row, column : column + 2].view(np.uint32)[0]
    return registers


def _result(out):
    """Return float32 [64, N] that the threads' registers [N / 2, 128] hold."""
    result = np.zeros((64, 2 * len(out)), np.float32)
    for thread in range(128):
        w, lane = divmod(thread, 32)
        g, t = divmod(lane, 4)
        for i in range(len(out)):
            column, row = 8 * (i // 4) + 2 * t + i % 2, 16 * w + g + 8 * (i // 2 % 2)
            result[row, column] = out[i, thread]
    return result


@pytest.mark.parametrize("keep", ["0", "1"])
def test_the_first_product_may_be_a_constant_choice(keep) -> None:
    a, b, memory, registers = _inputs(64, 0)
    out = np.zeros((8, 128), np.float32)
    text = _text(64, 0, FENCE, WAIT).replace("%p2, 1, 1, 0;", f"{keep}, 1, 1, 0;")
    text = text.replace("mov.b32 %r20, 0;", "mov.b32 %r20, 0f42C80000;")
    assert not launch(text, memory, registers, out, threads=128, shared=2048).findings
    assert out[0, 0] == a[0].astype(float) @ b[0].astype(float) + (100 if keep == "1" else 0)
    text = text.replace("mov.b32 %r20, 0f42C80000;", "")
    found = launch(text, memory, registers, out, threads=128, shared=2048)
    assert bool(found.undefined) == (keep == "1")


FENCE, WAIT = "fence.proxy.async.shared::cta;", "wgmma.wait_group.sync.aligned 0;"


@pytest.mark.parametrize(
    ("swizzle", "step"), [(128, 0), (128, 32), (128, 96), (64, 0), (64, 32), (32, 0)]
)
def test_product(swizzle, step) -> None:
    a, b, memory, registers = _inputs(swizzle, step)
    out = np.zeros((8, 128), np.float32)
    result = launch(
        _text(swizzle, step, FENCE, WAIT), memory, registers, out, threads=128, shared=2048
    )
    assert not result.findings, result.findings
    assert (_result(out) == a.astype(np.float32) @ b.astype(np.float32).T).all()


@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("swizzle", sorted(MODES))
def test_product_with_n_contiguous(swizzle, n) -> None:
    """Values are stored so: a row of the swizzle has columns, and 16 rows are K.

    Columns beyond a row of the swizzle follow after all rows of K, `leading` bytes later.
    """
    rng = np.random.default_rng(swizzle + n)
    a, b = (rng.integers(-8, 9, shape).astype(np.float16) for shape in ((64, 16), (16, 64)))
    memory = np.zeros(1024, np.float16)
    for k in range(16):
        for column in range(0, 64, 8):
            part, rest = divmod(2 * column, swizzle)
            at = part * 16 * swizzle + k * swizzle + rest
            at ^= (at >> 7 & (swizzle // 16 - 1)) << 4
            memory[at // 2 : at // 2 + 8] = b[k, column : column + 8]
    out = np.zeros((n // 2, 128), np.float32)
    text = _text(swizzle, 0, FENCE, WAIT, n, leading=16 * swizzle)
    arrays = memory.view(np.uint8), _registers(a), out
    result = launch(text, *arrays, threads=128, shared=2048)
    assert not result.findings, result.findings
    assert (_result(out) == a.astype(np.float32) @ b[:, :n].astype(np.float32)).all()


def test_product_with_both_operands_in_shared_memory() -> None:
    """The left one has 64 rows of 32 bytes, and the right one 16 behind it."""
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-8, 9, (rows, 16)).astype(np.float16) for rows in (64, 16))
    memory = np.zeros(2048, np.float16)
    for row, values in enumerate(np.concatenate([a, b])):
        for chunk in range(2):
            at = 32 * row + 16 * chunk
            at ^= (at >> 7 & 1) << 4
            memory[at // 2 : at // 2 + 8] = values[8 * chunk : 8 * chunk + 8]
    second = """add.s32 %r42, %r4, 2048; ld.global.v4.b32 {%r43, %r44, %r45, %r46}, [%d1+2048];
st.shared.v4.b32 [%r42], {%r43, %r44, %r45, %r46};
"""
    left = """bfe.u32 %r47, %r2, 4, 14; cvt.u64.u32 %d6, %r47;
sub.s64 %d7, %d4, %d3; or.b64 %d6, %d6, %d7;
wgmma.fence.sync.aligned;"""
    text = _text(32, 2048, second + FENCE, WAIT).replace("wgmma.fence.sync.aligned;", left)
    text = text.replace("{%r10, %r11, %r12, %r13}", "%d6").replace("1, 1, 0;", "1, 1, 0, 0;")
    out = np.zeros((8, 128), np.float32)
    arrays = memory.view(np.uint8), _registers(a), out
    result = launch(text, *arrays, threads=128, shared=4096)
    assert not result.findings, result.findings
    assert (_result(out) == a.astype(np.float32) @ b.astype(np.float32).T).all()
    unfenced = launch(text.replace(FENCE, ""), *arrays, threads=128, shared=4096).findings
    assert set(unfenced) == {"wgmma reads what no fence.proxy.async made visible"}


def test_a_missing_fence_or_wait_is_found() -> None:
    _, _, memory, registers = _inputs(64, 0)
    out = np.zeros((8, 128), np.float32)
    arrays = memory, registers, out
    found = launch(_text(64, 0, "", WAIT), *arrays, threads=128, shared=2048).findings
    assert set(found) == {"wgmma reads what no fence.proxy.async made visible"}
    again = "{}\nst.shared.v4.b32 [%r4], {%r5, %r6, %r7, %r8};"
    for wait, kind in ((WAIT + "bar.sync 0;", set()), ("bar.sync 0;", {"race"}), (WAIT, {"race"})):
        text = _text(64, 0, FENCE, again.replace("{}", wait, 1) + WAIT)
        assert set(launch(text, *arrays, threads=128, shared=2048).findings) == kind, wait


def test_an_access_to_a_wgmmas_registers_is_found() -> None:
    def misused(text: str) -> set[str]:
        return {why.split(" ", 1)[1] for why in translate(parse(head + text + "\nret; }")).misused}

    head = ".extern .shared .align 16 .b8 global_smem[];\n.entry k(.param .u64 a0)\n{"
    head += REGISTERS + ".reg .b64 %a<3>;\n"
    text = _text(64, 0, FENCE, WAIT)
    fence = "wgmma.fence.sync.aligned;"
    assert misused(text) == set()
    assert misused(text.replace(WAIT, "add.s32 %r20, %r20, 1;" + WAIT)) == {"under way"}
    assert misused(text.replace(WAIT, "")) == {"under way", "never waited for"}
    # Another block begins behind a barrier.
    assert misused(text.replace(WAIT, "bar.sync 0;" + WAIT)) == set()
    touched = "bar.sync 0; add.s32 %r20, %r20, 1;" + WAIT
    assert misused(text.replace(WAIT, touched)) == {"under way"}
    assert misused(text.replace(fence, "")) == {"not fenced"}
    assert misused(text.replace(fence, fence + "mov.b32 %r21, 0;")) == {"not fenced"}
