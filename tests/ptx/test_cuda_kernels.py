# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's CUDA C++ kernels for Gemma 4, as nvcc's PTX, with transformers.

They are the rotary embedding, the gated activation, the KV store and the two tree operations of
speculative decoding. SGLang's host code, which picks grid and stride, does not run; the launches
below repeat it.
"""

from __future__ import annotations

import ctypes
import itertools
import random
from math import gcd

import pytest
import torch
from transformers import Gemma4TextConfig
from transformers.models.gemma4 import modeling_gemma4

from tests.kernels.oracle import error
from tests.ptx import arithmetic, toolkit
from tests.ptx.cuda_kernels import CudaKernel, compile_module
from tests.ptx.emulated_gpu import HARMLESS

pytestmark = pytest.mark.skipif(bool(toolkit.missing()), reason=f"needs {toolkit.missing()}")
SMS = [86, *(pytest.param(sm, marks=pytest.mark.slow) for sm in (80, 89, 90))]
ROUNDING = {"rms": 1.8e-3, "worst": 4e-3}  # one to BF16
p, i64, u32, i32, f32 = (
    ctypes.c_uint64, ctypes.c_int64, ctypes.c_uint32, ctypes.c_int32, ctypes.c_float
)  # fmt: skip


@pytest.fixture(scope="module", params=SMS, ids=lambda sm: f"sm_{sm}")
def sm(request) -> int:
    return request.param


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).bfloat16()


def clean(result) -> None:
    assert not {k: v for k, v in result.findings.items() if k not in HARMLESS}


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    found = error(got, want)
    assert found.rms <= ROUNDING["rms"] and found.worst <= ROUNDING["worst"], found


# Layer type, head_dim, query heads, key heads, of the 26B-A4B; and of E2B's sliding layers.
LAYERS = (
    ("sliding_attention", 256, 16, 8),
    ("full_attention", 512, 16, 2),
    ("sliding_attention", 256, 8, 1),
)

LONGEST = 1 << 13


def work_threads(dim: int) -> int:
    """Return FusedRopeKernel's kWorkThreads: threads of a head, a power of two."""
    each = gcd(8, dim)
    return 1 << (-(-dim // each) - 1).bit_length()


@pytest.fixture(scope="module")
def rope(sm) -> dict[str, str]:
    dims = sorted({dim for _, dim, *_ in LAYERS})
    types = "__nv_bfloat16, __nv_bfloat16, int64_t"
    return compile_module(
        "elementwise/rope.cuh",
        sm,
        "".join(
            f"template __global__ void sglang::fused_rope_kernel<true, {dim}, false, {types}, "
            f"{work_threads(dim)}>(const __grid_constant__ sglang::FusedRopeParams);\n"
            for dim in dims
        ),
    )


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_rotary_embedding(rope, layer, monkeypatch):
    """Use the table of angles that SGLang makes on a GPU, on slices of the projection."""
    from sglang.srt.layers.rotary_embedding import base, get_rope

    monkeypatch.setattr(base, "_is_cuda", True)

    kind, dim, heads, kv_heads = layer
    config = Gemma4TextConfig()
    theirs = modeling_gemma4.Gemma4TextRotaryEmbedding(config)
    parameters = config.rope_parameters[kind]
    ours = get_rope(
        dim,
        rotary_dim=dim,
        max_position=LONGEST,
        base=parameters["rope_theta"],
        rope_scaling={"rope_type": parameters["rope_type"]},
        partial_rotary_factor=parameters.get("partial_rotary_factor", 1.0),
        is_neox_style=True,
    )
    positions = torch.tensor([0, 1, 4095, LONGEST - 1])
    cache = ours.cos_sin_cache
    assert cache.dtype == torch.float32
    joint = drawn(len(positions), (heads + 2 * kv_heads) * dim)
    q, k = joint[:, : heads * dim], joint[:, heads * dim : (heads + kv_heads) * dim]
    q, k = q.unflatten(1, (-1, dim)), k.unflatten(1, (-1, dim))
    before = joint.clone()
    params = [
        (p, q), (p, (k, -heads * dim * 2)), (p, cache), (p, positions),
        (i64, q.stride(0) * 2), (i64, k.stride(0) * 2), (i64, dim * 2),
        (u32, heads), (u32, kv_heads), (u32, len(positions)),
    ]  # fmt: skip
    workers = 128 // work_threads(dim)
    works = (heads + kv_heads) * len(positions)
    kernel = CudaKernel(rope, f"Lb1ELl{dim}E")
    # Fewer thread blocks than heads, so that each takes several, as on a small GPU.
    clean(kernel.launch((min(7, -(-works // workers)), 1, 1), (128, 1, 1), params))
    cos, sin = (t.double() for t in theirs(torch.zeros(1), positions[None], kind))
    rotated = (heads + kv_heads) * dim
    expected = modeling_gemma4.apply_rotary_pos_emb(
        before[None, :, :rotated].unflatten(2, (-1, dim)).double(), cos, sin, unsqueeze_dim=2
    )[0]
    near(joint[:, :rotated].unflatten(1, (-1, dim)), expected)
    assert torch.equal(joint[:, rotated:], before[:, rotated:])


@pytest.fixture(scope="module")
def gelu_module(sm) -> dict[str, str]:
    return compile_module(
        "elementwise/activation.cuh",
        sm,
        "template __global__ void sglang::act_and_mul_kernel<__nv_bfloat16, "
        "sglang::ActivationKind::kGELUTanh, false, false>"
        "(const __grid_constant__ sglang::ActivationParams);",
        "--use_fast_math",
    )


@pytest.mark.parametrize("drift", [0, 1, -1])
@pytest.mark.parametrize(("tokens", "width"), [(1, 704), (3, 264)])
def test_gated_gelu(gelu_module, tokens, width, drift, monkeypatch):
    """Let tanh.approx in gelu_tanh(gate) * up drift both ways, as far as the PTX manual allows."""
    exact = arithmetic.SPECIAL_FUNCTIONS["tanh"]
    off = f"({exact}) * f4({1 + drift * 2**-11})"
    monkeypatch.setitem(arithmetic.SPECIAL_FUNCTIONS, "tanh", off)
    x = drawn(tokens, 2 * width, scale=3)
    out = torch.full((tokens, width), torch.nan, dtype=torch.bfloat16)
    params = [
        (p, x), (p, out), (u32, width), (u32, tokens), (p, None), (u32, 1), (f32, 0.0),
        (p, None), (p, None), (u32, 0),
    ]  # fmt: skip
    blocks = -(-tokens * width // 8 // 256)
    clean(CudaKernel(gelu_module, "act_and_mul").launch((blocks, 1, 1), (256, 1, 1), params))
    gate, up = x.double().chunk(2, dim=-1)
    expected = torch.nn.functional.gelu(gate, approximate="tanh") * up
    if drift:
        # 2**-11 of tanh's 1, halved, times x; and one rounding to BF16.
        bound = (1 + 2.0**-7) * (2.0**-12 * (gate * up).abs() + 2.0**-8 * expected.abs())
        assert ((out.double() - expected).abs() <= bound).all()
    else:
        near(out, expected)


# Heads times head_dim times two bytes: E2B's sliding layers, the 26B-A4B's full and sliding ones.
ROWS = (512, 2048, 4096)


def store_threads(row: int) -> int:
    """Apply _jit_kvcache_module's heuristic for keys and values of `row` bytes each."""
    threads, each = 32, row / 32
    while each % 8 == 0 and 2 * each >= 64:
        threads, each = 2 * threads, each / 2
    return threads


@pytest.fixture(scope="module")
def store(sm) -> dict[str, str]:
    return compile_module(
        "elementwise/kvcache.cuh",
        sm,
        "".join(
            f"template __global__ void sglang::store_kvcache_kernel<{row}, {row}, "
            f"{store_threads(row)}, false, int64_t>"
            "(const __grid_constant__ sglang::StoreKVCacheParams);\n"
            for row in ROWS
        ),
    )


def stored(store, row: int, slots: list[int], warps: int = 4):
    """Store at `slots`; return the pools, the keys and values, and the findings."""
    width, pool = row // 2, 9
    joint = drawn(len(slots), 3 * width)
    k, v = joint[:, width : 2 * width], joint[:, 2 * width :]
    pools = [torch.zeros(pool, width, dtype=torch.bfloat16) for _ in range(2)]
    where = torch.tensor(slots)
    params = [
        (p, k), (p, v), (p, pools[0]), (p, pools[1]), (p, where),
        (i64, k.stride(0) * 2), (i64, v.stride(0) * 2), (i64, row), (i64, row), (i64, 1),
        (u32, len(slots)), (i64, pool), (i64, 0),
    ]  # fmt: skip
    total = len(slots) * store_threads(row) // 32
    kernel = CudaKernel(store, f"ILl{row}E")
    return pools, (k, v), kernel.launch((-(-total // warps), 1, 1), (32, warps, 1), params)


@pytest.mark.parametrize("warps", [1, 8])
@pytest.mark.parametrize("row", ROWS)
def test_kv_store(store, row, warps):
    """Store rows of slices in their slots; slot 0, which pads graphs, stays unchanged."""
    pools, given, result = stored(store, row, [3, 0, 8, 1, 0], warps)
    clean(result)
    for pool, rows in zip(pools, given, strict=True):
        expected = torch.zeros_like(pool)
        expected[[3, 8, 1]] = rows[[0, 2, 3]]
        assert torch.equal(pool, expected)


@pytest.mark.parametrize("slot", [-1, 9])
def test_the_kv_store_asserts_its_slots(store, slot):
    *_, result = stored(store, 512, [3, slot])
    assert "assertion failed" in result.findings


@pytest.fixture(scope="module")
def tree(sm) -> dict[str, str]:
    return compile_module(
        "speculative/tree.cuh",
        sm,
        "template __global__ void sglang::speculative::VerifyTreeGreedy<int32_t, int64_t>"
        f"({', '.join(['int32_t*'] * 3 + ['int64_t*'] * 5 + ['uint32_t'] * 3)});",
    )


class Tree:
    """Draw a draft tree: `top_k` tokens a step for `depth` steps, then some of these.

    parents: of each selected token; the newest verified token counts as 0
    """

    def __init__(self, top_k: int, depth: int, tokens: int, seed: int):
        chance = random.Random(seed)
        # A step's candidates are children of `top_k` kept ones; SGLang numbers candidates through
        # and writes the numbers of the kept ones to parent_list, the root first.
        self.parent_list, frontier, total = [-1], [-1], 0
        above: dict[int, int] = {}
        for step in range(depth):
            made = []
            for parent in frontier:
                above |= dict.fromkeys(range(total, total + top_k), parent)
                made += range(total, total + top_k)
                total += top_k
            frontier = sorted(chance.sample(made, top_k))
            if step < depth - 1:
                self.parent_list += frontier
        chosen: list[int] = []
        while len(chosen) < tokens - 1:
            free = [c for c in above if c not in chosen and above[c] in (-1, *chosen)]
            chosen.append(chance.choice(free))
        self.selected = sorted(chosen)
        self.parents = [-1] + [
            0 if above[c] == -1 else 1 + self.selected.index(above[c]) for c in self.selected
        ]

    def ancestors(self, token: int) -> list[int]:
        """Return the token, then its parent, up to 0."""
        found = [token]
        while found[-1]:
            found.append(self.parents[found[-1]])
        return found

    def children(self, token: int) -> list[int]:
        return [i for i, parent in enumerate(self.parents) if parent == token and i]


TREES = ((3, 3, 8), (2, 2, 5), (1, 3, 4))


def built(tree_module, trees: list[Tree], lengths: list[int], top_k: int, depth: int):
    """Return SGLang's mask (FULL_MASK), positions and links of a batch, and the findings."""
    tokens, count = len(trees[0].parents), len(trees)
    mask = torch.zeros(sum(tokens * (n + tokens) for n in lengths), dtype=torch.bool)
    at = 0
    for n in lengths:  # the host fills in what precedes the tree
        mask[at : at + tokens * (n + tokens)].view(tokens, -1)[:, :n] = True
        at += tokens * (n + tokens)
    outputs = [torch.full((count, tokens), -1) for _ in range(4)]
    result = CudaKernel(tree_module, "build_tree_efficientEP").launch(
        (count, 1, 1), (tokens, 1, 1),
        torch.tensor([t.parent_list for t in trees]), torch.tensor([t.selected for t in trees]),
        torch.tensor(lengths), mask, *outputs, top_k, depth, tokens, 0,
    )  # fmt: skip
    return mask, outputs, result


@pytest.mark.parametrize("shape", TREES, ids=str)
def test_build_tree(tree, shape):
    """Let a token see the verified ones, its ancestors and itself, at the position of its depth."""
    top_k, depth, tokens = shape
    trees, lengths = [Tree(top_k, depth, tokens, seed) for seed in range(3)], [5, 0, 17]
    mask, (positions, index, child, sibling), result = built(tree, trees, lengths, top_k, depth)
    clean(result)
    at = 0
    for row, (drafted, n) in enumerate(zip(trees, lengths, strict=True)):
        seen = mask[at : at + tokens * (n + tokens)].view(tokens, n + tokens)
        at += seen.numel()
        assert seen[:, :n].all()
        for token in range(tokens):
            line = drafted.ancestors(token)
            assert seen[token, n:].nonzero().flatten().tolist() == sorted(line)
            assert positions[row, token] == n + len(line) - 1
            heirs = drafted.children(token)
            assert child[row, token] == (heirs[0] if heirs else -1)
            for one, other in itertools.pairwise([*heirs, -1]):
                assert sibling[row, one] == other
        assert index[row].tolist() == list(range(row * tokens, (row + 1) * tokens))


@pytest.mark.parametrize("shape", TREES, ids=str)
@pytest.mark.parametrize("vocabulary", [2, 3])
def test_verify_tree_greedy(tree, shape, vocabulary):
    """Accept the longest path on which each token is the target's choice after the one before."""
    top_k, depth, tokens = shape
    trees, lengths = [Tree(top_k, depth, tokens, seed) for seed in range(6)], [0] * 6
    _, (_, index, child, sibling), _ = built(tree, trees, lengths, top_k, depth)
    g = torch.Generator().manual_seed(tokens + vocabulary)
    drafted, target = (
        torch.randint(vocabulary, (len(trees), tokens), generator=g) for _ in range(2)
    )
    predicts = torch.full((len(trees) * tokens,), -1, dtype=torch.int32)
    accepted = torch.full((len(trees), depth + 1), -1, dtype=torch.int32)
    count = torch.full((len(trees),), -1, dtype=torch.int32)
    result = CudaKernel(tree, "VerifyTreeGreedy").launch(
        (len(trees), 1, 1), (1, 1, 1), predicts, accepted, count, drafted, index, child, sibling,
        target, len(trees), depth + 1, tokens,
    )  # fmt: skip
    clean(result)
    for row, one in enumerate(trees):
        path = [0]
        while len(path) <= depth:
            fitting = [
                c for c in one.children(path[-1]) if drafted[row, c] == target[row, path[-1]]
            ]
            if not fitting:
                break
            path.append(fitting[0])
        assert count[row] == len(path) - 1
        assert accepted[row].tolist() == [row * tokens + token for token in path] + [-1] * (
            depth + 1 - len(path)
        )
        for token in range(tokens):
            want = target[row, token].item() if token in path else -1
            assert predicts[row * tokens + token] == want
