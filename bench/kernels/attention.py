# SPDX-License-Identifier: Apache-2.0
"""Time decode and extend attention over BF16 and E4M3 caches, by our kernels and SGLang's.

    python -m bench.kernels.attention --out bench/results/attention_NAME.jsonl

The heads are the 26B-A4B's. A sliding layer attends at most 1,024 keys, so longer contexts have no
rows of their own at head_dim 256. `prefill` is a chunk of 2,048 tokens at the end of the context,
`verify` four tokens a request.

The E4M3 cache holds random bytes, and the BF16 cache the same values exactly. A row of ours that
differs from SGLang's over BF16 by more than BF16 noise has no time. SGLang's rows over E4M3 are not
held to that, because it rounds queries and softmax weights to E4M3; `apart` says how far they are.
A shape that does not fit the memory, or that Triton refuses, has the reason. --toy, on a CPU with
TRITON_INTERPRET=1, runs small sizes without times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton

from bench.conditions import kernel_conditions
from bench.kernels.command import arguments, parsed, written
from bench.kernels.timing import copies_for, measure
from sglang_gemma4_ext.kernels.decode_attention import decode_attention
from sglang_gemma4_ext.kernels.extend_attention import extend_attention

# Query heads and key heads by head dimension.
HEADS = {256: (16, 8), 512: (16, 2)}
WINDOW = 1024
BATCHES, CONTEXTS = (1, 8, 32), (1024, 8192, 32_768, 131_072)
CHUNK, DRAFT = 2048, 4
MAX_SPLITS = 16  # SGLang's --triton-attention-num-kv-splits
E4M3, BF16 = torch.float8_e4m3fn, torch.bfloat16
CACHES = {"e4m3": E4M3, "bf16": BF16}
# Largest difference over the largest magnitude: sums in another order, rounded to BF16.
LIMIT = 2e-2

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Describe a call: `new` tokens a request behind `cached` keys that it attends.

    context: of the request, of which a window may leave out the oldest keys
    """

    op: str
    head_dim: int
    batch: int
    context: int
    new: int
    cached: int
    query_heads: int
    key_heads: int
    window: int | None = None

    @property
    def cache_bytes(self) -> int:
        """Return the bytes of keys and values in the cache, at one byte a value."""
        return 2 * self.batch * self.cached * self.key_heads * self.head_dim


def shapes() -> list[Shape]:
    """List the shapes, decode first. Its one new token is in the cache already."""
    found = []
    for dim, (query_heads, key_heads) in sorted(HEADS.items(), reverse=True):
        window = WINDOW if dim == 256 else None
        heads = {"query_heads": query_heads, "key_heads": key_heads, "window": window}
        for context in CONTEXTS:
            if window is None or context <= window:
                for batch in BATCHES:
                    found.append(Shape("decode", dim, batch, context, 0, context, **heads))
                found.append(Shape("verify", dim, 8, context, DRAFT, context, **heads))
            chunk = min(CHUNK, context)
            cached = context - chunk
            if window is None or cached <= 3 * window:
                found.append(Shape("prefill", dim, 1, context, chunk, cached, **heads))
    return sorted(found, key=lambda shape: ("decode", "prefill", "verify").index(shape.op))


TOY = (
    Shape("decode", 64, 2, 70, 0, 70, 4, 2),
    Shape("verify", 64, 2, 40, 4, 40, 4, 2, 16),
    Shape("prefill", 64, 1, 60, 20, 40, 4, 2),
)


class Case:
    """Hold the tensors of a shape: pools in both dtypes, and slots for each cold copy."""

    def __init__(self, shape: Shape):
        self.shape = shape
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = BF16 if device == "cuda" else torch.float32
        self.copies = copies_for(max(1, shape.cache_bytes))
        keys = shape.batch * shape.cached
        slots = self.copies * keys + 1
        self.pools: dict[str, list[torch.Tensor]] = {name: [] for name in CACHES}
        for _ in range(2):
            size = (slots, shape.key_heads, shape.head_dim)
            # Magnitudes from 2^-6 to 1.875, either sign.
            bits = torch.randint(8, 64, size, dtype=torch.uint8, device=device)
            bits |= torch.randint(0, 2, size, dtype=torch.uint8, device=device) << 7
            self.pools["e4m3"].append(bits.view(E4M3))
            self.pools["bf16"].append(bits.view(E4M3).to(dtype))
        order = torch.randperm(slots - 1, device=device)
        self.slots = order.view(self.copies, keys) if keys else order[None]
        make = functools.partial(torch.randn, device=device, dtype=dtype)
        tokens = shape.batch * max(1, shape.new)
        self.q = make(tokens, shape.query_heads, shape.head_dim) * shape.head_dim**-0.5
        self.k, self.v = (make(tokens, shape.key_heads, shape.head_dim) for _ in range(2))
        count = torch.arange(shape.batch + 1, device=device, dtype=torch.int32)
        self.new_starts, self.cached_starts = count * shape.new, count * shape.cached
        self.splits = self._splits(device)
        parts = (shape.batch, shape.query_heads, MAX_SPLITS)
        self.out = torch.empty_like(self.q)
        self.scratch = (
            torch.empty(*parts, shape.head_dim, dtype=torch.float32, device=device),
            torch.empty(parts, dtype=torch.float32, device=device),
        )

    def _splits(self, device: str) -> torch.Tensor:
        """Divide keys as SGLang does for this GPU; in two on a CPU."""
        shape = self.shape
        splits = torch.full((shape.batch,), 2, dtype=torch.int32, device=device)
        if device == "cuda":
            from sglang.kernels.ops.attention.metadata import get_num_kv_splits_triton

            lengths = torch.full((shape.batch,), shape.cached, dtype=torch.int32, device=device)
            cores = torch.cuda.get_device_properties(0).multi_processor_count
            get_num_kv_splits_triton[(1,)](
                *(splits, lengths, shape.batch, 1, shape.query_heads, shape.key_heads),
                *(MAX_SPLITS, cores),
                MAX_NUM_SEQ=256,
            )
        return splits

    def calls(self, by: str, cache: str) -> list[Call]:
        """Make a call for each copy."""
        run = {"decode": self._decode}.get(self.shape.op, self._extend)
        return [functools.partial(run, by, self.pools[cache], slots) for slots in self.slots]

    def _decode(self, by: str, pools: list[torch.Tensor], slots: torch.Tensor) -> torch.Tensor:
        given = (self.cached_starts, slots)
        if by == "ours":
            return decode_attention(
                *(self.q, *pools, *given, self.splits, MAX_SPLITS),
                scale=1.0, out=self.out, scratch=self.scratch,
            )  # fmt: skip
        from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd

        decode_attention_fwd(
            self.q, *pools, self.out, *given, *self.scratch, self.splits, MAX_SPLITS, 1.0, 1.0, 1.0
        )
        return self.out

    def _extend(self, by: str, pools: list[torch.Tensor], slots: torch.Tensor) -> torch.Tensor:
        new = (self.q, self.k, self.v)
        starts = (self.new_starts, self.cached_starts, slots)
        window, count = self.shape.window, self.shape.new
        if by == "ours":
            return extend_attention(
                *(*new, *pools, *starts, count),
                scale=1.0, distance=window and window - 1, out=self.out,
            )  # fmt: skip
        from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

        extend_attention_fwd(
            *new, self.out, *pools, *starts, None, True, None, count, 1.0, 1.0, 1.0,
            sliding_window_size=window - 1 if window else -1,
        )  # fmt: skip
        return self.out


def rows(shape: Shape) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shape: both caches, ours and SGLang's, with their distance."""
    base = asdict(shape)
    try:
        case = Case(shape)
    except torch.OutOfMemoryError as error:
        yield base | {"passed_over": str(error).partition(".")[0]}
        return
    exact = case.calls("sglang", "bf16")[0]().clone()
    for cache in CACHES:
        for by in ("ours", "sglang"):
            row = base | {"by": by, "cache": cache}
            try:
                calls = case.calls(by, cache)
                got = calls[0]()
            except (triton.TritonError, RuntimeError) as error:
                yield row | {"passed_over": str(error).strip().rpartition("\n")[2][:200]}
                continue
            apart = ((got - exact).abs().max() / exact.abs().max()).item()
            row |= {"apart": apart, "splits": int(case.splits[0])}
            is_gated = by == "ours" or cache == "bf16"
            yield (
                row
                | ({"correct": apart <= LIMIT} if is_gated else {})
                | (_times(case, calls, cache) if apart <= LIMIT or not is_gated else {})
            )


def _times(case: Case, calls: list[Call], cache: str) -> dict[str, float]:
    time = measure(calls)
    if time is None:
        return {}
    read = case.shape.cache_bytes * CACHES[cache].itemsize
    return asdict(time) | {"cache_gb_s": read / time.median_us / 1000}


def main(argv: list[str] | None = None) -> int:
    parser = arguments(__doc__.splitlines()[0], table="not written by this bench")
    args = parsed(parser, argv)
    if args.write_table:
        parser.error("this bench writes no table: leave out --write-table")
    torch.manual_seed(0)
    made_under = kernel_conditions("bench.kernels.attention")
    chosen = TOY if args.toy else shapes()
    found = written((row | made_under for shape in chosen for row in rows(shape)), args.out)
    return 1 if any(row.get("correct") is False for row in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
