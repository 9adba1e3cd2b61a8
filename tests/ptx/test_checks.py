# SPDX-License-Identifier: Apache-2.0
"""Check that each finding is reported for its fault, and not for a correct twin."""

from __future__ import annotations

import numpy as np
import pytest

from .asm import launch
from .parse import parse
from .translate import translate

TID = "mov.u32 %r1, %tid.x; mov.b32 %r2, global_smem; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3;\n"
OUT = "mad.wide.u32 %d1, %r1, 4, %a0;\n"


def kinds(result) -> set[str]:
    return set(result.findings)


def words(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32)


# Global memory


@pytest.mark.parametrize(
    ("offset", "found"),
    [(0, set()), (4, {"out of bounds"}), (-4, {"out of bounds"}), (2, {"misaligned"})],
)
@pytest.mark.parametrize("access", ["ld.global.b32 %r9, [%d1+{}];", "st.global.b32 [%d1+{}], %r1;"])
def test_global_bounds_and_alignment(access, offset, found) -> None:
    result = launch(TID + OUT + access.format(offset), words(32))
    assert kinds(result) == found


@pytest.mark.parametrize("beyond", [512, 1024, 1 << 20, 1 << 40, -1024])
def test_an_access_beyond_one_array_never_reaches_another(beyond) -> None:
    text = TID + OUT + f"add.s64 %d2, %d1, {beyond}; ld.global.b32 %r9, [%d2];"
    assert kinds(launch(text, words(32), words(512))) == {"out of bounds"}
    assert kinds(launch(text.replace("%a0", "%a1"), words(512), words(32))) == {"out of bounds"}


def test_an_access_with_a_false_guard_is_not_made() -> None:
    text = "setp.lt.u32 %p1, %r1, 30; mov.b32 %r9, 5; @%p1 ld.global.b32 %r9, [%d1];"
    text += "@%p1 st.global.b32 [%d1], %r9;"
    data = words(30)
    assert not launch(TID + OUT + text, data).findings
    assert kinds(launch(TID + OUT + text.replace("30", "31"), data)) == {"out of bounds"}


def test_uninitialised_global_read() -> None:
    text = TID + OUT + "{} ld.global.b32 %r9, [%d1];"
    assert kinds(launch(text.format(""), words(32), written=(0,))) == {"uninitialised global read"}
    assert not launch(text.format("st.global.b32 [%d1], %r1;"), words(32), written=(0,)).findings


def test_register_read_before_it_is_written() -> None:
    head = ".entry k(.param .u64 n)\n{ .reg .pred %p<3>; .reg .b32 %r<9>;\n"
    maybe = (
        "setp.eq.s32 %p1, %r1, 0; @%p1 bra DONE; mov.b32 %r2, 3; DONE: add.s32 %r3, %r2, 1; ret; }"
    )
    found = translate(parse(head + "mov.u32 %r1, %tid.x;" + maybe)).undefined
    assert list(found) == ["%r2"]
    assert not translate(parse(head + "mov.u32 %r1, %tid.x; mov.b32 %r2, 0;" + maybe)).undefined
    guarded = "mov.u32 %r1, %tid.x; setp.eq.s32 %p1, %r1, 0; @%p1 mov.b32 %r2, 3;"
    guarded += "add.s32 %r3, %r2, 1; ret; }"
    assert list(translate(parse(head + guarded)).undefined) == ["%r2"]


# Shared memory

EXCHANGE = (
    TID
    + OUT
    + """st.shared.b32 [%r4], %r1;
{}
xor.b32 %r5, %r3, {};
add.s32 %r6, %r2, %r5;
ld.shared.b32 %r7, [%r6];
st.global.b32 [%d1], %r7;
"""
)


@pytest.mark.parametrize(
    ("barrier", "distance", "found"),
    [
        ("bar.sync 0;", 128, set()),
        ("", 128, {"race"}),
        ("bar.warp.sync -1;", 128, {"race"}),  # another warp's value
        ("bar.warp.sync -1;", 4, set()),
        ("", 4, {"race"}),  # within a warp
        ("", 0, set()),  # its own
    ],
)
def test_read_after_write(barrier, distance, found) -> None:
    out = words(64)
    result = launch(EXCHANGE.format(barrier, distance), out, threads=64, shared=256)
    assert kinds(result) == found
    assert (out == np.arange(64) ^ (distance // 4)).all()


@pytest.mark.parametrize(("barrier", "found"), [("bar.sync 0;", set()), ("", {"race"})])
def test_write_after_read(barrier, found) -> None:
    text = EXCHANGE.format("bar.sync 0;", 128) + barrier + "st.shared.b32 [%r4], %r7;"
    assert kinds(launch(text, words(64), threads=64, shared=256)) == found


def test_two_writers() -> None:
    text = TID + "st.shared.b32 [%r2], {};"
    assert kinds(launch(text.format("%r1"), words(1), shared=4)) == {"race"}
    assert kinds(launch(text.format("7"), words(1), shared=4)) == {"same value written twice"}


def test_writes_to_neighbouring_bytes_are_not_a_race() -> None:
    text = TID + "add.s32 %r5, %r2, %r1; cvt.u16.u32 %h1, %r1; st.shared.b8 [%r5], %h1;"
    assert not launch(text, words(1), shared=32).findings
    assert kinds(launch(text.replace("%r2, %r1;", "%r2, 3;"), words(1), shared=32)) == {"race"}


def test_shared_bounds_and_uninitialised() -> None:
    assert kinds(launch(TID + "st.shared.b32 [%r4], %r1;", words(1), shared=124)) == {
        "shared out of bounds or misaligned"
    }
    assert kinds(launch(TID + "ld.shared.b32 %r9, [%r4];", words(1), shared=128)) == {
        "uninitialised shared read"
    }


COPY = (
    TID
    + OUT
    + """
cp.async.ca.shared.global [%r4], [%d1], 4, {size};
cp.async.commit_group;
{wait}
{barrier}
xor.b32 %r5, %r3, {distance};
add.s32 %r6, %r2, %r5;
ld.shared.b32 %r7, [%r6];
mad.wide.u32 %d2, %r1, 4, %a1;
st.global.b32 [%d2], %r7;
"""
)
WAIT, BARRIER = "cp.async.wait_group 0;", "bar.sync 0;"


@pytest.mark.parametrize(
    ("wait", "barrier", "distance", "found"),
    [
        (WAIT, BARRIER, 128, set()),
        (WAIT, "", 128, {"race"}),
        ("", BARRIER, 0, {"read of a cp.async under way", "cp.async not waited for"}),
        ("cp.async.commit_group; cp.async.wait_group 1;", BARRIER, 0, set()),
        (
            "cp.async.wait_group 1;",
            BARRIER,
            0,
            {"read of a cp.async under way", "cp.async not waited for"},
        ),
        (WAIT, "", 0, set()),
    ],
)
def test_cp_async(wait, barrier, distance, found) -> None:
    out = words(64)
    text = COPY.format(wait=wait, barrier=barrier, distance=distance, size=4)
    result = launch(text, words(64) * 3, out, threads=64, shared=256)
    assert kinds(result) - {"race"} | (kinds(result) & found) == found
    if not found:
        assert (out == (np.arange(64) ^ distance // 4) * 3).all()


def test_cp_async_into_bytes_that_others_still_read() -> None:
    """Race a write with an earlier read, through an asynchronous copy, one barrier too few."""
    text = (
        COPY.format(wait=WAIT, barrier=BARRIER, distance=128, size=4)
        + "{}"
        + (
            "cp.async.ca.shared.global [%r4], [%d1], 4; cp.async.commit_group;"
            "cp.async.wait_group 0;"
        )
    )
    arrays = words(64), words(64)
    assert kinds(launch(text.format(""), *arrays, threads=64, shared=256)) == {"race"}
    assert not launch(text.format("bar.sync 0;"), *arrays, threads=64, shared=256).findings


def test_cp_async_fills_with_zeros_and_does_not_read_there() -> None:
    half = words(32) + 1
    out = words(64)
    text = COPY.format(wait=WAIT, barrier=BARRIER, distance=0, size="%r20")
    size = "setp.lt.u32 %p1, %r1, 32; selp.b32 %r20, 4, 0, %p1;\n"
    text = text.replace(OUT, OUT + size)
    assert not launch(text, half, out, threads=64, shared=256).findings
    assert (out == np.r_[half, np.zeros(32)]).all()
    result = launch(text.replace("4, 0, %p1", "4, 4, %p1"), half, out, threads=64, shared=256)
    assert kinds(result) == {"out of bounds"}


# Divergent threads

DIVERGED = (
    TID
    + OUT
    + """
mov.b32 %r10, 0; mov.b32 %r11, 0;
LOOP:
add.s32 %r11, %r11, %r10;
add.s32 %r10, %r10, 1;
setp.lt.u32 %p1, %r10, %r1;
@%p1 bra LOOP;
and.b32 %r12, %r1, 1; setp.eq.s32 %p2, %r12, 0;
@%p2 bra EVEN;
add.s32 %r11, %r11, 1000;
bra.uni JOIN;
EVEN: add.s32 %r11, %r11, 2000;
JOIN:
{}
st.global.b32 [%d1], %r11;
"""
)


@pytest.mark.parametrize("options", [{}, {"schedule": "random"}, {"batch": 1, "order": "reverse"}])
def test_divergent_loops_reconverge(options) -> None:
    out = words(64)
    text = DIVERGED.format("bar.warp.sync -1;")
    assert not launch(text, out, threads=64, **options).findings
    want = [sum(range(max(t, 1))) + (1000 if t % 2 else 2000) for t in range(64)]
    assert out.tolist() == want


def test_a_barrier_that_some_threads_never_reach() -> None:
    text = TID + "setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 0; bra.uni B; A: bar.sync 0; B:"
    assert kinds(launch(text, words(1), threads=64)) == {"threads at different barriers"}


def test_counts_of_issued_instructions() -> None:
    result = launch(TID + OUT + "ld.global.b32 %r9, [%d1]; add.s32 %r9, %r9, 1;", words(32), grid=1)
    assert result.issued["ld.global 4B"] == 32
    assert result.issued["branch"] == 32


# Communication between thread blocks

LAST = (
    TID
    + """
mov.u32 %r20, %ctaid.x;
mad.lo.s32 %r21, %r20, 32, %r1;
mad.wide.u32 %d1, %r21, 4, %a0;
st.global.b32 [%d1], %r21;
{barrier}
setp.eq.s32 %p1, %r1, 0;
mov.b32 %r22, 0;
@%p1 atom.global.gpu.{order}.add.u32 %r22, [%a1], 1;
@%p1 st.shared.b32 [%r2], %r22;
bar.sync 0;
ld.shared.b32 %r23, [%r2];
setp.ne.s32 %p2, %r23, 3;
@%p2 bra DONE;
mad.wide.u32 %d2, %r1, 16, %a0;
ld.global.v4.b32 {{%r30, %r31, %r32, %r33}}, [%d2];
add.s32 %r30, %r30, %r31;
add.s32 %r30, %r30, %r32;
add.s32 %r30, %r30, %r33;
mad.wide.u32 %d3, %r1, 4, %a2;
st.global.b32 [%d3], %r30;
DONE:
"""
)


@pytest.mark.parametrize(
    ("barrier", "order", "found"),
    [
        ("bar.sync 0;", "acq_rel", set()),
        ("", "acq_rel", {"global race"}),
        ("bar.sync 0;", "relaxed", {"global race"}),
        ("bar.sync 0;", "release", {"global race"}),
        ("bar.sync 0;", "acquire", {"global race"}),
        ("bar.sync 0; fence.acq_rel.gpu;", "acquire", set()),
        ("fence.acq_rel.gpu; bar.sync 0;", "acquire", {"global race"}),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"order": "reverse", "batch": 1}, {"schedule": "random", "seed": 3}]
)
def test_the_last_block_reads_what_the_others_wrote(barrier, order, found, options) -> None:
    parts, count, out = words(128), np.zeros(1, np.uint32), words(32)
    text = LAST.format(barrier=barrier, order=order)
    result = launch(text, parts, count, out, grid=4, shared=4, written=(0,), **options)
    assert kinds(result) == found
    if not found:
        assert (out == np.arange(128).reshape(32, 4).sum(1)).all()


def test_two_blocks_write_the_same_place() -> None:
    text = TID + OUT + "mov.u32 %r5, %ctaid.x; st.global.b32 [%d1], %r5;"
    assert kinds(launch(text, words(32), grid=2)) == {"global race"}


@pytest.mark.parametrize(
    ("release", "acquire", "found"),
    [
        ("red.release.gpu.global.add.u32 [%a1], 1;", "acquire", set()),
        ("red.release.gpu.global.add.u32 [%a1], 1;", "relaxed", {"global race"}),
        ("fence.acq_rel.gpu; @%p1 red.relaxed.gpu.global.add.u32 [%a1], 1;", "acquire", set()),
        (
            "fence.acq_rel.gpu; @%p1 st.global.cg.u32 [%a1], 1;",
            "acquire",
            {"lock released by an ordinary store"},
        ),
        ("st.global.cg.u32 [%a1], 1;", "acquire", {"global race"}),
    ],
)
def test_a_load_that_acquires_waits_for_another_block(release, acquire, found) -> None:
    """Block 1 spins until block 0 has released a lock, and reads what it wrote."""
    text = (
        TID
        + """
mov.u32 %r20, %ctaid.x;
mad.wide.u32 %d1, %r1, 4, %a0;
mad.wide.u32 %d2, %r1, 4, %a2;
setp.eq.s32 %p1, %r1, 0;
setp.ne.s32 %p2, %r20, 0;
@%p2 bra READ;
st.global.b32 [%d1], %r1;
bar.sync 0;
RELEASE
bra DONE;
READ:
@!%p1 bra AFTER;
SPIN:
ld.global.ACQUIRE.gpu.b32 %r22, [%a1];
setp.ne.s32 %p3, %r22, 1;
@%p3 bra SPIN;
AFTER:
bar.sync 0;
ld.global.b32 %r23, [%d1];
st.global.b32 [%d2], %r23;
DONE:
"""
    )
    first = "" if release.startswith("fence") else "@%p1 "
    text = text.replace("RELEASE", first + release).replace("ACQUIRE", acquire)
    options = {"grid": 2, "written": (), "batch": 2, "schedule": "random"}
    for seed in range(5):
        out = words(32)
        result = launch(text, words(32), np.zeros(1, np.uint32), out, **options, seed=seed)
        assert kinds(result) == found
        assert (out == np.arange(32)).all()
