# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's extend attention with each tile of the table, its own tile and float64."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import pytest
import torch

from sglang_gemma4_ext.kernels.extend_tiles import Tile, read
from sglang_gemma4_ext.patches.model import extend_attention_tiles as patch
from tests.patches.hooks import hook_of

# Largest error over the largest magnitude. fp32: sums; BF16: rounded probabilities and output.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
# Two summation orders of the same numbers.
TILES_APART = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Call:
    """Describe a batch: new tokens and prefix per request; window counts the query's own key."""

    name: str
    extend: tuple[int, ...]
    prefix: tuple[int, ...]
    window: int | None = None
    tree: bool = False


# The six call shapes of the public report, scaled: batch, new tokens, prefix, window.
REPORTED = (
    Call("prefill long", (130,), (0,)),
    Call("prefill chat", (50,), (0,)),
    Call("verify chat", (4,) * 8, (40,) * 8, window=48),
    Call("verify summarization", (4,) * 8, (90,) * 8, window=48),
    Call("verify burst", (4,) * 8, (8,) * 8, window=48),
    Call("prefill multi", (40,) * 4, (0,) * 4),
)
OTHERS = (
    Call("ragged", (1, 37, 3, 64, 0, 17), (80, 0, 33, 5, 9, 64)),
    Call("ragged, window", (1, 37, 3, 64, 0, 17), (80, 0, 33, 5, 9, 64), window=32),
    Call("window edges", (33, 32, 31, 1), (31, 32, 33, 32), window=32),
    Call("tree", (4, 7, 5), (40, 3, 65), tree=True),
    Call("tree, many", (4,) * 8, (33,) * 8, tree=True),
)
TILES = tuple(dict.fromkeys(tile for row in read().values() for tile in row.tiles))


@pytest.fixture(autouse=True)
def _hooked(monkeypatch, mended_bf16) -> None:
    from sglang.kernels.ops.attention import extend_attention

    name = "_get_block_sizes_for_extend_attention"
    original = getattr(extend_attention, name)
    monkeypatch.setattr(
        extend_attention, name, functools.partial(hook_of(patch.PATCH, "around", name), original)
    )


class Batch:
    """Hold a call's tensors: two query heads per key head, pages shuffled over the pool."""

    def __init__(self, call: Call, dim: int, dtype: torch.dtype, device: str):
        g = torch.Generator().manual_seed(dim + sum(call.extend) + sum(call.prefix))
        new, old = sum(call.extend), sum(call.prefix)
        self.call = call
        self.q = torch.randn(new, 2, dim, generator=g).to(device, dtype)
        self.k = torch.randn(new, 1, dim, generator=g).to(device, dtype)
        self.v = torch.randn(new, 1, dim, generator=g).to(device, dtype)
        self.k_pool = torch.randn(old + 1, 1, dim, generator=g).to(device, dtype)
        self.v_pool = torch.randn(old + 1, 1, dim, generator=g).to(device, dtype)
        self.slots = torch.randperm(old + 1, generator=g)[:old].to(device)
        self.masks = [self._mask(t, p, g) for t, p in zip(call.extend, call.prefix, strict=True)]

    def _mask(self, tokens: int, prefix: int, g: torch.Generator) -> torch.Tensor:
        """Return bool [tokens, prefix + tokens]: which keys each query sees."""
        query = torch.arange(prefix, prefix + tokens)[:, None]
        key = torch.arange(prefix + tokens)[None]
        seen = key <= query
        if self.call.window is not None:
            seen &= key > query - self.call.window
        if self.call.tree:
            # In a draft tree a token sees itself and some of the new tokens before it.
            seen &= (torch.rand(seen.shape, generator=g) < 0.5) | (key == query) | (key < prefix)
        return seen

    def run(self) -> torch.Tensor:
        from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

        call, device = self.call, self.q.device
        tree = torch.cat([mask.flatten() for mask in self.masks]) if call.tree else None
        out = torch.full_like(self.q, torch.nan)
        extend_attention_fwd(
            self.q, self.k, self.v, out, self.k_pool, self.v_pool,
            starts(call.extend, torch.int32, device), starts(call.prefix, torch.int32, device),
            self.slots, None if tree is None else tree.to(device, torch.uint8), True,
            starts([mask.numel() for mask in self.masks], torch.int64, device),
            max(call.extend), 1.0, 1.0,
            sliding_window_size=-1 if call.window is None else call.window - 1,
        )  # fmt: skip
        return out

    def want(self) -> torch.Tensor:
        """Compute float64 [T, heads, dim] from the definition."""
        outs, at, slot = [], 0, 0
        for mask, new, old in zip(self.masks, self.call.extend, self.call.prefix, strict=True):
            slots = self.slots[slot : slot + old]
            keys = torch.cat([self.k_pool[slots], self.k[at : at + new]])[:, 0].double()
            values = torch.cat([self.v_pool[slots], self.v[at : at + new]])[:, 0].double()
            q = self.q[at : at + new].double()
            scores = torch.einsum("thd,ld->htl", q, keys) * q.shape[-1] ** -0.5
            scores = scores.masked_fill(~mask.to(q.device), -torch.inf)
            outs.append(torch.einsum("htl,ld->thd", scores.softmax(-1), values))
            at, slot = at + new, slot + old
        return torch.cat(outs)


def starts(lengths, dtype: torch.dtype, device) -> torch.Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(device, dtype)


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.isfinite().all()
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


def tiles_for(call: Call, dim: int, capability: str | None) -> list[Tile]:
    """List the table's tiles for a batch on this GPU; in the interpreter those of every GPU."""
    tiles = TILES if capability is None else read()[capability].tiles
    return [t for t in tiles if t.head_dim == dim and len(call.extend) >= t.min_requests]


def _cases():
    """List the cases: the default run has all in fp32 and one of each kind in BF16."""
    brief = {"prefill chat", "verify chat", "ragged, window", "tree"}
    for call, dim, dtype in itertools.product((*REPORTED, *OTHERS), (256, 512), TOLERANCE):
        slow = dtype == torch.bfloat16 and call.name not in brief
        marks = [pytest.mark.slow] if slow else []
        if dtype == torch.float32:
            marks.append(pytest.mark.interpreter)  # no GPU has room for a tile of 4-byte keys
        yield pytest.param(call, dim, dtype, marks=marks, id=f"{call.name}-{dim}-{dtype}")


@pytest.mark.parametrize(("call", "dim", "dtype"), _cases())
def test_every_tile_equals_sglangs_own_tile(call, dim, dtype, device, capability) -> None:
    batch = Batch(call, dim, dtype, device)
    want = batch.want()
    # SGLang picks its own tile by PyTorch's GPU, which an emulated GPU lacks.
    emulated = capability and not torch.cuda.is_available()
    stock = want if emulated else batch.run()
    tiles = tiles_for(call, dim, capability)
    assert tiles
    for tile in tiles:
        with patch.using(tile):
            got = batch.run()
        assert emulated or apart(got, stock) <= TILES_APART[dtype], tile
        assert apart(got, want) <= TOLERANCE[dtype], tile


@pytest.mark.parametrize("tile", TILES, ids=lambda t: f"{t.head_dim}-{t.block_m}x{t.block_n}")
def test_the_launch_has_the_tile_and_its_stages(tile, monkeypatch, device) -> None:
    """SGLang passes Triton its own tile and one stage; with the patch it passes ours."""
    from sglang.kernels.ops.attention import extend_attention

    seen = []

    class Recorded:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: seen.append(kwargs)

    monkeypatch.setattr(extend_attention, "_fwd_kernel", Recorded())
    batch = Batch(REPORTED[1], tile.head_dim, torch.float32, device)
    batch.run()
    with patch.using(tile):
        batch.run()
    batch.run()
    names = ("BLOCK_M", "BLOCK_N", "num_warps", "num_stages")
    stock, ours, after = (tuple(kwargs[name] for name in names) for kwargs in seen)
    assert ours == (tile.block_m, tile.block_n, tile.num_warps, tile.num_stages)
    assert stock == after
    assert stock[3] == 1


@pytest.mark.interpreter
def test_the_unified_kernel_takes_a_tile(device) -> None:
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd_unified

    call = Call("ragged, window", (20, 3), (40, 9), window=32)
    batch = Batch(call, 256, torch.float32, device)
    keys, values = (
        torch.cat([pool, new]) for pool, new in ((batch.k_pool, batch.k), (batch.v_pool, batch.v))
    )
    slots, at = [], 0
    olds = batch.slots.split(call.prefix)
    for old, new in zip(olds, call.extend, strict=True):
        slots += [old, torch.arange(at, at + new, device=device) + len(batch.k_pool)]
        at += new

    def run() -> torch.Tensor:
        out = torch.full_like(batch.q, torch.nan)
        lengths = [new + old for new, old in zip(call.extend, call.prefix, strict=True)]
        extend_attention_fwd_unified(
            batch.q, out, keys, values, 1.0, 1.0,
            starts(call.extend, torch.int32, device), starts(lengths, torch.int32, device),
            torch.cat(slots), torch.tensor(call.prefix, dtype=torch.int32, device=device),
            max(call.extend), sliding_window_size=call.window - 1,
        )  # fmt: skip
        return out

    stock = run()
    for tile in tiles_for(call, 256, None):
        with patch.using(tile):
            assert apart(run(), stock) <= TILES_APART[torch.float32]
    assert apart(stock, batch.want()) <= TOLERANCE[torch.float32]
