# SPDX-License-Identifier: Apache-2.0
"""Compare single instructions with the PTX manual, computed in another way.

Each test runs in the emulator, and once more with its text assembled by ptxas. On a GPU
`pytest -m gpu tests/ptx/test_values.py` runs the same tests on hardware, bit by bit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from . import asm, gpu
from .asm import each, launch
from .toolkit import find

RNG = np.random.default_rng(0)
WORDS = np.r_[
    np.array([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x80, 0xFF00FF], np.uint32),
    RNG.integers(0, 2**32, 56, dtype=np.uint32),
]
OTHER = np.r_[WORDS[::-1][:8], RNG.integers(0, 2**32, 56, dtype=np.uint32)]


@pytest.fixture(
    autouse=True,
    params=[
        "emulator",
        pytest.param("ptxas", marks=pytest.mark.skipif(not find("ptxas"), reason="needs ptxas")),
        pytest.param("gpu", marks=pytest.mark.gpu),
    ],
)
def where(request, monkeypatch) -> str:
    """Choose where the instructions of a test run."""
    if request.param == "gpu":
        major, minor = torch.cuda.get_device_capability()
        monkeypatch.setattr(asm, "TARGET", 10 * major + minor)
        monkeypatch.setattr(asm, "elsewhere", gpu.run)
    if request.param == "ptxas":
        emulated = asm.module

        def assembled(body: str, count: int) -> str:
            text = emulated(body, count)
            gpu.assemble(text)
            return text

        monkeypatch.setattr(asm, "module", assembled)
    return request.param


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("add.s32 $0, $1, $2;", lambda a, b: a + b),
        ("sub.s32 $0, $1, $2;", lambda a, b: a - b),
        ("mul.lo.s32 $0, $1, $2;", lambda a, b: a * b),
        ("mul.hi.u32 $0, $1, $2;", lambda a, b: a * b >> 32),
        ("mul.hi.s32 $0, $1, $2;", lambda a, b: signed(a) * signed(b) >> 32),
        ("mad.lo.s32 $0, $1, $2, 7;", lambda a, b: a * b + 7),
        ("min.s32 $0, $1, $2;", lambda a, b: min(signed(a), signed(b))),
        ("max.u32 $0, $1, $2;", max),
        ("and.b32 $0, $1, $2;", lambda a, b: a & b),
        ("not.b32 $0, $1;", lambda a, b: ~a),
        ("neg.s32 $0, $1;", lambda a, b: -a),
        ("shl.b32 $0, $1, 5;", lambda a, b: a << 5),
        ("shr.s32 $0, $1, 31;", lambda a, b: signed(a) >> 31),
        ("shr.u32 $0, $1, 7;", lambda a, b: a >> 7),
        ("shl.b32 $0, $1, $2;", lambda a, b: a << b if b < 32 else 0),
        ("shr.s32 $0, $1, $2;", lambda a, b: signed(a) >> min(b, 31)),
        ("bfe.u32 $0, $1, 3, 5;", lambda a, b: a >> 3 & 31),
        ("bfe.s32 $0, $1, 2, 1;", lambda a, b: -(a >> 2 & 1)),
        ("bfe.u32 $0, $1, 4, 15;", lambda a, b: a >> 4 & 0x7FFF),
        ("bfe.s32 $0, $1, 28, 8;", lambda a, b: signed(a) >> 28),
        ("bfe.u32 $0, $1, 28, 8;", lambda a, b: a >> 28),
        ("bfi.b32 $0, $1, $2, 8, 4;", lambda a, b: (b & ~0xF00) | (a & 15) << 8),
        ("shf.l.wrap.b32 $0, $1, $2, 9;", lambda a, b: ((b << 32 | a) << 9) >> 32),
        ("shf.r.wrap.b32 $0, $1, $2, 9;", lambda a, b: (b << 32 | a) >> 9),
        ("lop3.b32 $0, $1, $2, 77, 0x96;", lambda a, b: a ^ b ^ 77),
        ("lop3.b32 $0, $1, $2, 77, 0xf8;", lambda a, b: a | (b & 77)),
        ("popc.b32 $0, $1;", lambda a, b: bin(a).count("1")),
        ("clz.b32 $0, $1;", lambda a, b: 32 - a.bit_length()),
        ("div.s32 $0, $1, 77;", lambda a, b: int(signed(a) / 77)),
        ("rem.s32 $0, $1, 77;", lambda a, b: int(math.fmod(signed(a), 77))),
        ("div.u32 $0, $1, 77;", lambda a, b: a // 77),
        ("setp.lt.s32 %p1, $1, $2; selp.b32 $0, 1, 0, %p1;", lambda a, b: signed(a) < signed(b)),
        ("setp.lt.u32 %p1, $1, $2; selp.b32 $0, 1, 0, %p1;", lambda a, b: a < b),
        ("setp.hi.u32 %p1, $1, $2; selp.b32 $0, 1, 0, %p1;", lambda a, b: a > b),
        (
            "{ .reg .b16 x, y; mov.b32 {x, y}, $1; mov.b32 $0, {y, x}; }",
            lambda a, b: a >> 16 | (a & 0xFFFF) << 16,
        ),
    ],
)
def test_integers(text, want) -> None:
    got = each(text, WORDS, OTHER)
    for a, b, g in zip(WORDS.tolist(), OTHER.tolist(), got.tolist(), strict=True):
        assert g == int(want(a, b)) % 2**32, (text, hex(a), hex(b))


@pytest.mark.parametrize(
    "selector", [0x1404, 0x3424, 0x7632, 0x5410, 0x7773, 0x7701, 0x8F3A, 0xBA98]
)
@pytest.mark.parametrize("constant", [True, False])
def test_prmt(selector, constant) -> None:
    text = f"prmt.b32 $0, $1, $2, {hex(selector)};"
    if not constant:
        text = f"mov.b32 %r50, {hex(selector)}; prmt.b32 $0, $1, $2, %r50;"
    got = each(text, WORDS, OTHER)
    for a, b, g in zip(WORDS.tolist(), OTHER.tolist(), got.tolist(), strict=True):
        pool = list(a.to_bytes(4, "little") + b.to_bytes(4, "little"))
        want = 0
        for i in range(4):
            nibble = selector >> 4 * i & 15
            byte = pool[nibble & 7]
            want |= (255 * (byte >> 7) if nibble & 8 else byte) << 8 * i
        assert g == want


@pytest.mark.parametrize(
    ("text", "out", "want"),
    [
        ("mul.wide.s32 $0, $1, $2;", np.uint64, lambda a, b: signed(a) * signed(b)),
        ("mul.wide.u32 $0, $1, $2;", np.uint64, lambda a, b: a * b),
        ("cvt.s64.s32 $0, $1;", np.uint64, lambda a, b: signed(a)),
        ("cvt.u64.u32 $0, $1;", np.uint64, lambda a, b: a),
        ("cvt.u16.u32 $0, $1;", np.uint16, lambda a, b: a),
        ("mad.wide.s32 $0, $1, -3, 5;", np.uint64, lambda a, b: signed(a) * -3 + 5),
        ("mov.b64 $0, {$1, $2};", np.uint64, lambda a, b: b << 32 | a),
    ],
)
def test_widths(text, out, want) -> None:
    got = each(text, WORDS, OTHER, out=out)
    bits = 8 * np.dtype(out).itemsize
    for a, b, g in zip(WORDS.tolist(), OTHER.tolist(), got.tolist(), strict=True):
        assert g == want(a, b) % 2**bits


def floats(count: int, seed: int) -> np.ndarray:
    """Draw float32 of every exponent, and the special values."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, count, dtype=np.uint32)
    near = (rng.normal(size=count) * 2.0 ** rng.integers(-3, 4, count)).astype(np.float32)
    special = np.array(
        [0, 0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF]
    )
    return np.r_[special.astype(np.uint32), bits, near.view(np.uint32)][:512]


def rounded(x: Fraction, mantissa: int, least: int) -> Fraction:
    """Round to nearest even with `mantissa` bits; the smallest subnormal is 2^least."""
    if x == 0:
        return x
    exponent = max(x.numerator.bit_length() - x.denominator.bit_length() - mantissa - 1, least)
    while abs(x) / Fraction(2) ** exponent >= 2**mantissa:
        exponent += 1
    scaled = x / Fraction(2) ** exponent
    return round(scaled) * Fraction(2) ** exponent  # Python rounds halves to even


def test_fma_f32_is_rounded_once() -> None:
    a, b, c = (floats(240, s) for s in (1, 2, 3))
    got = each("fma.rn.f32 $0, $1, $2, $3;", a, b, c).view(np.float32)
    checked = 0
    for x, y, z, g in zip(a.view("f4"), b.view("f4"), c.view("f4"), got, strict=True):
        if not np.isfinite([x, y, z, g]).all():
            continue
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert Fraction(float(g)) == rounded(exact, 24, -149), (x, y, z, g)
        checked += 1
    assert checked > 100


def test_packed_fma_is_rounded_once() -> None:
    rng = np.random.default_rng(5)
    a, b, c = (rng.normal(size=128).astype(np.float16).view(np.uint32) for _ in range(3))
    got = each("fma.rn.f16x2 $0, $1, $2, $3;", a, b, c).view(np.float16)
    for x, y, z, g in zip(*(v.view(np.float16) for v in (a, b, c)), got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert Fraction(float(g)) == rounded(exact, 11, -24)
    bf = [(v.view(np.float16).astype(np.float32).view(np.uint32) >> 16) for v in (a, b, c)]
    packed = [(v[::2] | v[1::2] << 16).astype(np.uint32) for v in bf]
    got = each("fma.rn.bf16x2 $0, $1, $2, $3;", *packed)
    halves = np.stack([got & 0xFFFF, got >> 16], 1).reshape(-1).astype(np.uint32) << 16
    for *xyz, g in zip(
        *((v << 16).astype(np.uint32).view(np.float32) for v in bf),
        halves.view(np.float32),
        strict=True,
    ):
        exact = Fraction(float(xyz[0])) * Fraction(float(xyz[1])) + Fraction(float(xyz[2]))
        assert Fraction(float(g)) == rounded(exact, 8, -133)


def test_a_packed_product_below_all_numbers_is_a_zero_of_its_sign() -> None:
    tiny, less = 0x0080, 0x0680  # 2^-126 and about 2^-114
    a = np.array([tiny | (0x8000 | tiny) << 16], np.uint32)
    b, c = np.array([less | less << 16], np.uint32), np.array([0x80008000], np.uint32)
    assert each("fma.rn.bf16x2 $0, $1, $2, $3;", a, b, c)[0] == 0x80000000


@pytest.mark.parametrize(
    ("kind", "mantissa", "least", "most"), [("bf16", 8, -133, 3.39e38), ("f16", 11, -24, 65504)]
)
def test_conversions_round_to_nearest_even(kind, mantissa, least, most) -> None:
    a, b = floats(240, 7), floats(240, 8)
    got = each(f"cvt.rn.{kind}x2.f32 $0, $1, $2;", a, b)
    back = each(f"cvt.f32.{kind} $0, $1;", (got & 0xFFFF).astype(np.uint16))
    high = each(f"cvt.f32.{kind} $0, $1;", (got >> 16).astype(np.uint16))
    for source, result in ((a, high), (b, back)):  # the first operand goes into the upper half
        for x, g in zip(source.view("f4"), result.view("f4"), strict=True):
            if np.isnan(x):
                assert np.isnan(g)
            elif abs(x) < most:
                assert Fraction(float(g)) == rounded(Fraction(float(x)), mantissa, least), x
                assert np.signbit(g) == np.signbit(x)


@pytest.mark.parametrize(
    ("compare", "want"),
    [
        ("lt", lambda a, b: a < b),
        ("le", lambda a, b: a <= b),
        ("eq", lambda a, b: a == b),
        ("ne", lambda a, b: a < b or a > b),
        ("neu", lambda a, b: a != b),
        ("ltu", lambda a, b: not a >= b),
        ("gtu", lambda a, b: not a <= b),
        ("equ", lambda a, b: not (a < b or a > b)),
        ("nan", lambda a, b: a != a or b != b),
        ("num", lambda a, b: a == a and b == b),
    ],
)
def test_float_comparisons_with_nan(compare, want) -> None:
    a, b = floats(240, 11), floats(240, 12)
    b[:60] = a[:60]
    got = each(f"setp.{compare}.f32 %p1, $1, $2; selp.b32 $0, 1, 0, %p1;", a, b)
    for x, y, g in zip(a.view("f4").tolist(), b.view("f4").tolist(), got.tolist(), strict=True):
        assert g == want(x, y), (compare, x, y)
    h = np.array([1.0, np.nan, 2.0, 0.0, -0.0, 3.0], np.float16)
    pairs, others = h.view(np.uint32), h[[0, 1, 0, 4, 3, 5]].view(np.uint32)
    got = each(
        f"setp.{compare}.f16x2 %p1|%p2, $1, $2; selp.b32 %r60, 1, 0, %p1; selp.b32 %r61, 2, 0, %p2;"
        " or.b32 $0, %r60, %r61;",
        pairs,
        others,
    )
    flat = [
        bool(want(x, y)) for x, y in zip(h.tolist(), h[[0, 1, 0, 4, 3, 5]].tolist(), strict=True)
    ]
    assert got.tolist() == [low + 2 * high for low, high in zip(flat[::2], flat[1::2], strict=True)]


def _shuffle(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """Follow the pseudocode of the manual for one lane."""
    clamp, mask = c & 31, c >> 8 & 31
    last, first = (lane & mask) | (clamp & ~mask & 31), lane & mask
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~mask & 31)}[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j if inside else lane), inside


@pytest.mark.parametrize(("mode", "b", "c"), [
    ("bfly", 16, 31), ("bfly", 1, 31), ("idx", 0, 31), ("idx", 5, 31), ("down", 3, 31),
    ("up", 2, 0),
    ("idx", 3, 0x181F), ("bfly", 8, 0x1C1F), ("down", 5, 0x181F), ("up", 1, 0x1800),
])  # fmt: skip
def test_shuffle(mode, b, c) -> None:
    got = each(
        f"shfl.sync.{mode}.b32 %r40|%p1, $1, {b}, {c}, -1; selp.b32 %r41, 1, 0, %p1;"
        " shl.b32 %r41, %r41, 16; or.b32 $0, %r40, %r41;",
        np.arange(64, dtype=np.uint32),
    )
    for lane, g in enumerate(got.tolist()):
        source, inside = _shuffle(mode, lane % 32, b, c)
        assert g == lane // 32 * 32 + source + (inside << 16)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_mma_follows_the_manuals_fragments(kind) -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(-8, 9, (2, 16, 16)).astype(np.float32)
    b = rng.integers(-8, 9, (2, 16, 8)).astype(np.float32)
    c = rng.integers(-8, 9, (2, 16, 8)).astype(np.float32)

    def bits(x) -> int:
        return (
            int(np.float16(x).view("u2")) if kind == "f16" else int(np.float32(x).view("u4") >> 16)
        )

    fragments = np.zeros((10, 64), np.uint32)
    for thread in range(64):
        w, lane = divmod(thread, 32)
        g, t = divmod(lane, 4)
        for i in range(8):  # the manual's rows and columns of a_i
            row = g if i % 4 < 2 else g + 8
            column = 2 * t + (i & 1) + (8 if i >= 4 else 0)
            fragments[i // 2, thread] |= bits(a[w, row, column]) << 16 * (i & 1)
        for i in range(4):
            row = 2 * t + (i & 1) + (8 if i >= 2 else 0)
            fragments[4 + i // 2, thread] |= bits(b[w, row, g]) << 16 * (i & 1)
        for i in range(4):
            fragments[6 + i, thread] = c[w, g + 8 * (i // 2), 2 * t + (i & 1)].view("u4")
    want = a @ b + c
    for i in range(4):
        got = _mma(kind, fragments, i)
        for thread in range(64):
            w, lane = divmod(thread, 32)
            g, t = divmod(lane, 4)
            assert got[thread] == want[w, g + 8 * (i // 2), 2 * t + (i & 1)]


def _mma(kind: str, fragments: np.ndarray, i: int) -> np.ndarray:
    out = np.zeros(64, np.uint32)
    body = (
        "mov.u32 %r100, %tid.x; mad.wide.u32 %d1, %r100, 4, %a0; mad.wide.u32 %d2, %r100, 4, %a1;\n"
    )
    body += "".join(f"ld.global.b32 %r{j + 1}, [%d1+{256 * j}];\n" for j in range(10))
    body += (
        f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{%r50, %r51, %r52, %r53}},"
        " {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7, %r8, %r9, %r10};\n"
        f"st.global.b32 [%d2], %r5{i};"
    )
    result = launch(body, np.ascontiguousarray(fragments), out, threads=64)
    assert not result.findings
    return out.view(np.float32)


# Relative errors that the PTX manual does not exceed.
APPROXIMATE = {
    "ex2.approx.f32": (np.exp2, 2.0**-22),
    "ex2.approx.ftz.f32": (np.exp2, 2.0**-22),
    "rcp.approx.f32": (lambda x: 1 / x, 2.0**-22),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 2.0**-22),
    "sqrt.approx.f32": (np.sqrt, 2.0**-22),
    "tanh.approx.f32": (np.tanh, 2.0**-11),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximations_are_within_the_manuals_error(name) -> None:
    """Their last bits differ between a GPU and the emulator, whose own are numpy's."""
    exact, bound = APPROXIMATE[name]
    x = np.linspace(0.01, 9, 480, dtype=np.float32)
    got = each(f"{name} $0, $1;", x.view(np.uint32)).view(np.float32)
    want = exact(x.astype(np.float64))
    assert (np.abs(got - want) <= bound * np.abs(want)).all()


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_and_stmatrix(trans, count, where) -> None:
    """Matrix i's element (r, c) holds 64 i + 8 r + c; thread 4 r + c / 2 gets two of row r."""
    if where == "gpu" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("stmatrix needs compute capability 9.0")
    out = np.zeros((count, 32), np.uint32)
    names = ", ".join(f"%r{50 + i}" for i in range(count))
    body = """
mov.u32 %r1, %tid.x;
shl.b32 %r2, %r1, 4;
mov.b32 %r3, global_smem;
add.s32 %r4, %r3, %r2;
shl.b32 %r5, %r1, 3;
"""
    for i in range(4):  # thread t fills row t: 8 values from 8 t on
        body += f"add.s32 %r6, %r5, {2 * i}; add.s32 %r7, %r5, {2 * i + 1}; shl.b32 %r7, %r7, 16;"
        body += f" or.b32 %r{20 + i}, %r6, %r7;\n"
    body += f"""st.shared.v4.b32 [%r4], {{%r20, %r21, %r22, %r23}};
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [%r4];
mad.wide.u32 %d1, %r1, 4, %a0;
"""
    body += "".join(f"st.global.b32 [%d1+{128 * i}], %r{50 + i};\n" for i in range(count))
    # The reverse: stmatrix in the same form must restore the rows.
    body += f"""bar.sync 0;
st.shared.v4.b32 [%r4], {{%r1, %r1, %r1, %r1}};
bar.sync 0;
stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r4], {{{names}}};
bar.sync 0;
ld.shared.v4.b32 {{%r60, %r61, %r62, %r63}}, [%r4];
mad.wide.u32 %d2, %r1, 16, %a1;
st.global.v4.b32 [%d2], {{%r60, %r61, %r62, %r63}};
"""
    rows = np.zeros((32, 8), np.uint16)
    result = launch(body, out, rows, shared=512)
    assert not result.findings, result.findings
    for i in range(count):
        for lane in range(32):
            r, c = divmod(lane, 4)
            pair = [out[i, lane] & 0xFFFF, out[i, lane] >> 16]
            if trans:
                assert pair == [64 * i + 8 * (2 * c) + r, 64 * i + 8 * (2 * c + 1) + r]
            else:
                assert pair == [64 * i + 8 * r + 2 * c, 64 * i + 8 * r + 2 * c + 1]
    assert (rows[: 8 * count].reshape(-1) == np.arange(64 * count)).all()


@pytest.mark.parametrize("bits", [None, 24, 27])
def test_sums_of_a_tensor_core_that_truncates(bits, monkeypatch) -> None:
    """Sum 1 and seven times 2^-25: truncated summands lose each, other sums keep them."""
    from . import tensor_core

    monkeypatch.setattr(tensor_core, "SUMMAND_BITS", bits)
    left, right = np.zeros((1, 16, 16)), np.zeros((1, 16, 8))
    left[0, 0, :8] = [1.0] + [2.0**-12] * 7
    right[0, :8, 0] = [1.0] + [2.0**-13] * 7
    total = tensor_core._add_products(left, right, np.zeros((1, 16, 8)))[0, 0, 0]
    assert np.float32(total) == np.float32(
        {None: 1 + 7 * 2.0**-25, 24: 1.0, 27: 1 + 2.0**-23}[bits]
    )
