# SPDX-License-Identifier: Apache-2.0
"""Call every kernel's host function through Triton's real JIT, at every size that is served.

    python -m tests.kernels.every_launch --sm 86 [--whole]

It runs in a process of its own, because a process with Triton's interpreter has no JIT. It prints
one JSON object: Triton's version, the launches of each kernel, each call that failed, and how many
times a kernel is compiled for all numbers of tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator

import torch
import triton

from bench.kernels.shapes import EXPERT_SHARDS, GATED_SHARDS, LINEAR_SHARDS, NAMED
from sglang_gemma4_ext.kernels import _bf16_decode, nvfp4_dispatch
from sglang_gemma4_ext.kernels.attention_tiles import ExtendTile
from sglang_gemma4_ext.kernels.decode_attention import decode_attention
from sglang_gemma4_ext.kernels.extend_attention import extend_attention
from sglang_gemma4_ext.kernels.fp8_experts import fp8_experts
from sglang_gemma4_ext.kernels.fp8_format import scales_a_row
from sglang_gemma4_ext.kernels.fp8_linear import fp8_linear
from sglang_gemma4_ext.kernels.host_rows import host_rows
from sglang_gemma4_ext.kernels.int4_experts import int4_experts
from sglang_gemma4_ext.kernels.int4_linear import int4_linear
from sglang_gemma4_ext.kernels.int8_head import HeadTile, int8_head
from sglang_gemma4_ext.kernels.nvfp4_dequant import DTYPES, dequant
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config, choose
from sglang_gemma4_ext.kernels.nvfp4_experts import nvfp4_experts
from sglang_gemma4_ext.kernels.nvfp4_grouped import nvfp4_grouped_experts, sort_slots
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from sglang_gemma4_ext.kernels.router import LOGIT_DTYPES, route
from sglang_gemma4_ext.kernels.router_one_launch import route_one_launch
from tests.ptx.stub_gpu import StubGpu

TOKENS = (1, 2, 8, 16, 17, 64, 512)
CPU = torch.device("cpu")
BF16 = torch.bfloat16
Call = tuple[str, Callable[[], object]]


def weight(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Allocate codes, block scales and row scales of [.., N, K]; nothing reads their values."""
    *rows, k = shape
    return (
        torch.empty(*rows, k // 2, dtype=torch.uint8),
        torch.empty(*rows, k // 16, dtype=torch.float8_e4m3fn),
        torch.empty(*rows),
    )


def int4(*shape: int, group: int = 32, zeros: bool = True) -> tuple[torch.Tensor | None, ...]:
    """Allocate codes, scales and zero points of [.., N, K]; group 0: a scale per row."""
    *rows, k = shape
    groups = k // (group or k)
    words = (*rows[:-1], rows[-1] // 8, groups)
    return (
        torch.empty(*rows, k // 2, dtype=torch.uint8),
        torch.empty(*rows, groups, dtype=torch.bfloat16),
        torch.empty(words, dtype=torch.int32) if zeros else None,
    )


def int4_calls(m: int, n: int, k: int, dtype: torch.dtype) -> Iterator[Call]:
    """Call an INT4 linear with every kind of scale, and its activation."""
    x = torch.empty(m, k, dtype=dtype)
    for group, zeros in itertools.product((32, 64, 0), (True, False)):
        packed = int4(n, k, group=group, zeros=zeros)
        name = f"int4 linear {m}x{n}x{k} {dtype} group {group} zeros={zeros}"
        yield name, lambda w=packed: int4_linear(x, *w)
    gated = int4(n, k), torch.empty(n, dtype=dtype)
    yield (
        f"int4 linear {m}x{n}x{k} {dtype} gelu",
        lambda: int4_linear(x, *gated[0], gated[1], activation="gelu_tanh"),
    )


def int4_routed(
    m: int, count: int, top_k: int, hidden: int, inner: int, dtype: torch.dtype, group: int = 32
) -> Iterator[Call]:
    """Call INT4 experts for a decode and grouped."""
    weights = int4(count, 2 * inner, hidden, group=group), int4(count, hidden, inner, group=group)
    x, chosen = torch.empty(m, hidden, dtype=dtype), torch.zeros(m, top_k, dtype=torch.int32)
    arguments = (x, chosen, torch.empty(m, top_k), *weights[0], *weights[1], "gelu_tanh")
    config = choose("grouped", CPU, m, 2 * inner, hidden)
    grouped = {"slots": sort_slots(chosen, config.block_m, count), "config": config}
    name = f"{m}x{count}x{top_k}x{hidden}x{inner} {dtype} group {group}"
    yield f"int4 experts {name}", lambda: int4_experts(*arguments)
    yield f"int4 grouped {name}", lambda: int4_experts(*arguments, **grouped)


def fp8(*shape: int, blocks: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate codes and scales of [.., N, K]. blocks: a scale for 128 in-features"""
    *rows, k = shape
    return torch.empty(shape, dtype=torch.uint8), torch.empty(*rows, scales_a_row(k, blocks))


def fp8_calls(m: int, n: int, k: int, dtype: torch.dtype) -> Iterator[Call]:
    """Call an FP8 linear with both kinds of scales, with bias, and with its activation."""
    x, bias = torch.empty(m, k, dtype=dtype), torch.empty(n, dtype=dtype)
    for blocks, activation in itertools.product((False, True), (None, "gelu_tanh")):
        weights = fp8(n, k, blocks=blocks)
        name = f"fp8 linear {m}x{n}x{k} {dtype} blocks={blocks} {activation}"
        yield name, lambda w=weights, a=activation: fp8_linear(x, *w, bias, activation=a)


def fp8_routed(
    m: int, count: int, top_k: int, hidden: int, inner: int, dtype: torch.dtype
) -> Iterator[Call]:
    """Call FP8 experts for a decode and grouped, with both kinds of scales."""
    x, chosen = torch.empty(m, hidden, dtype=dtype), torch.zeros(m, top_k, dtype=torch.int32)
    config = choose("grouped", CPU, m, 2 * inner, hidden)
    slots = sort_slots(chosen, config.block_m, count)
    for blocks, grouped in itertools.product((False, True), ({}, {"slots": slots})):
        w13 = fp8(count, 2 * inner, hidden, blocks=blocks)
        w2 = fp8(count, hidden, inner, blocks=blocks)
        arguments = (x, chosen, torch.empty(m, top_k), *w13, *w2, "gelu_tanh")
        options = {**grouped, "config": config} if grouped else {}
        name = f"{m}x{count}x{top_k}x{hidden}x{inner} {dtype} blocks={blocks} {bool(grouped)}"
        yield f"fp8 experts {name}", lambda a=arguments, o=options: fp8_experts(*a, **o)


def linears(n: int, k: int, m: int, dtype: torch.dtype, config: Config | None = None):
    """Call a linear plain, with bias, and with each activation if its rows are gate and up."""
    x, packed, bias = torch.empty(m, k, dtype=dtype), weight(n, k), torch.empty(n, dtype=dtype)
    gated = (None, "gelu_tanh", "silu") if config or (n, k) in GATED_SHARDS else (None,)
    for activation, b in itertools.product(gated if n % 2 == 0 else (None,), (None, bias)):
        name = f"linear {m}x{n}x{k} {dtype} bias={b is not None} {activation} {config or ''}"
        yield (
            name,
            lambda b=b, a=activation: nvfp4_linear(x, *packed, b, activation=a, config=config),
        )


def experts(
    m: int, count: int, top_k: int, hidden: int, inner: int, dtype: torch.dtype, ids: torch.dtype
) -> Iterator[Call]:
    """Call the experts kernels for a decode and the grouped ones."""
    w13, w2 = weight(count, 2 * inner, hidden), weight(count, hidden, inner)
    x, chosen = torch.empty(m, hidden, dtype=dtype), torch.zeros(m, top_k, dtype=ids)
    arguments = (x, chosen, torch.empty(m, top_k), *w13, *w2, "gelu_tanh")
    name = f"{m}x{count}x{top_k}x{hidden}x{inner} {dtype} {ids}"
    config = choose("grouped", CPU, m, 2 * inner, hidden)
    slots = sort_slots(chosen, config.block_m, count)
    grouped = {"slots": slots, "config": config}
    yield f"experts {name}", lambda: nvfp4_experts(*arguments)
    yield f"grouped {name}", lambda: nvfp4_grouped_experts(*arguments, **grouped)


def routers(m: int, count: int, top_k: int, hidden: int, dtype: torch.dtype) -> Iterator[Call]:
    logits, scale = torch.empty(m, count, dtype=dtype), torch.empty(count, dtype=dtype)
    x, norm = torch.empty(m, hidden, dtype=dtype), torch.empty(hidden, dtype=dtype)
    proj, arrivals = torch.empty(count, hidden, dtype=dtype), torch.zeros(m, dtype=torch.int32)
    name = f"{m}x{count}x{top_k}x{hidden} {dtype}"
    yield f"router {name}", lambda: route(logits, scale, top_k)
    yield f"router, transposed {name}", lambda: route(logits.T.contiguous().T, scale, top_k)
    yield (
        f"router in one launch {name}",
        lambda: route_one_launch(x, norm, proj, scale, top_k, 1e-6, arrivals),
    )


def attentions(
    new: int, heads: int, kv_heads: int, dim: int, cache: torch.dtype, masked: bool
) -> Iterator[Call]:
    """Call decode and extend attention: new tokens of two requests, with a window or without."""
    pool = torch.empty(9, kv_heads, dim, dtype=cache)
    starts, slots = torch.zeros(3, dtype=torch.int32), torch.empty(4, dtype=torch.int64)
    q = torch.empty(2 * new, heads, dim, dtype=torch.bfloat16)
    k = torch.empty(2 * new, kv_heads, dim, dtype=torch.bfloat16)
    mask: dict[str, object] = {"distance": 1023 if dim == 256 else None}
    if masked:
        mask |= {"mask": torch.empty(64, dtype=torch.uint8), "mask_cached": True}
        mask |= {"mask_indptr": torch.zeros(3, dtype=torch.int64), "mask_offsets": starts}
    name = f"{new}x{heads}x{kv_heads}x{dim} {cache} mask={masked}"
    paged = (pool, pool, starts)
    yield (
        f"decode attention {name}",
        lambda: decode_attention(q[:2], *paged, slots, starts, 8, scale=1.0),
    )
    yield (
        f"extend attention {name}",
        lambda: extend_attention(q, k, k, *paged, starts, slots, new, scale=1.0, **mask),
    )
    if cache == torch.float8_e4m3fn:
        given = (pool[:1].expand(2 * new, -1, -1),) * 2
        yield (
            f"extend attention of a layer without keys {name}",
            lambda: extend_attention(q, *given, *paged, starts, slots, new, scale=1.0, **mask),
        )


def dequants(n: int, k: int, dtype: torch.dtype) -> Iterator[Call]:
    packed, block, row = weight(n, k)
    for scale, block_scale in itertools.product((row[:1], row[:, None]), (block, block.float())):
        name = f"dequant {n}x{k} {dtype} {tuple(scale.shape)} {block_scale.dtype}"
        yield name, lambda s=scale, b=block_scale: dequant(packed, b, s, dtype)


def heads(vocabulary: int, hidden: int, m: int, dtype: torch.dtype) -> Iterator[Call]:
    codes = torch.empty(vocabulary, hidden, dtype=torch.int8)
    x, scale = torch.empty(m, hidden, dtype=dtype), torch.empty(vocabulary)
    for out in (None, torch.float32):
        name = f"int8 head {m}x{vocabulary}x{hidden} {dtype} to {out}"
        yield name, lambda out=out: int8_head(x, codes, scale, out)


def gathers(rows: int, width: int, tokens: int, dtype: torch.dtype) -> Iterator[Call]:
    table, ids = torch.empty(rows, width, dtype=dtype), torch.zeros(tokens, dtype=torch.int64)
    yield f"host rows {rows}x{width}x{tokens} {dtype}", lambda: host_rows(table, ids)


def calls(whole: bool) -> Iterator[Call]:
    """List every call; without `whole`: BF16, and shapes without tensor parallelism."""
    halves = (torch.bfloat16, torch.float16) if whole else (torch.bfloat16,)
    shapes = LINEAR_SHARDS if whole else tuple(dict.fromkeys(NAMED.values()))
    shards = EXPERT_SHARDS if whole else EXPERT_SHARDS[:1]
    for m, dtype in itertools.product(TOKENS, halves):
        for n, k in shapes:
            yield from linears(n, k, m, dtype)
        for (_, hidden), (_, inner) in shards:
            for ids in (torch.int32, torch.int64) if whole else (torch.int32,):
                yield from experts(m, 128, 8, hidden, inner, dtype, ids)
            yield from int4_routed(m, 128, 8, hidden, inner, dtype)
            if whole or m in (1, 64):
                yield from fp8_routed(m, 128, 8, hidden, inner, dtype)
        yield from int4_calls(m, 2816, 2112, dtype)
        if whole or m in (1, 64):
            yield from fp8_calls(m, 2816, 2112, dtype)
        yield from routers(m, 128, 8, 2816, dtype)
    yield from attentions(4, 4, 2, 32, torch.float8_e4m3fn, True)
    for dim, group in ((256, 2), (256, 4), (512, 8), (512, 16)) if whole else ():
        for new, cache in ((4, torch.float8_e4m3fn), (512, torch.float8_e4m3fn), (512, BF16)):
            yield from attentions(new, 16, 16 // group, dim, cache, new == 4)
    yield from ones(halves)
    for dtype, tokens in itertools.product(DTYPES if whole else halves, (1, 7, 512)):
        yield from gathers(9, 35 * 256, tokens, dtype)
        yield from gathers(9, 1, tokens, dtype)
    for dtype, m in itertools.product(halves, TOKENS if whole else (1, 17, 512)):
        yield from heads(1000, 2816, m, dtype)
        yield from heads(1, 1, m, dtype)
    yield "decoder of BF16 weights", lambda: _bf16_decode.is_exact(CPU)
    for dtype in DTYPES if whole else halves:
        yield from dequants(704, 2816, dtype)
    for dtype in LOGIT_DTYPES if whole else ():
        yield from routers(3, 1024, 16, 2816, dtype)


def ones(halves: tuple[torch.dtype, ...]) -> Iterator[Call]:
    """Call with arguments of 1, which the JIT makes constants."""
    for dtype, m, splits in itertools.product(halves, (1, 3), (1, 2)):
        for n, k in ((1, 16), (1, 256), (2, 16), (40, 32)):
            yield from linears(n, k, m, dtype, Config(8, 32, 64, splits))
    for dtype, m in itertools.product(halves, (1, 3)):
        for count, top_k in ((1, 1), (2, 1), (3, 2)):
            yield from experts(m, count, top_k, 16, 16, dtype, torch.int32)
            yield from int4_routed(m, count, top_k, 32, 32, dtype)
            yield from fp8_routed(m, count, top_k, 16, 16, dtype)
            yield from routers(m, count, top_k, 16, dtype)
    for dtype in halves:
        yield from routers(1, 1, 1, 1, dtype)
        yield from dequants(1, 16, dtype)


def codes_for_all_tokens(sm: int) -> Counter[str]:
    """Count how often each kernel is compiled for one configuration at all numbers of tokens."""
    config = Config(16, 32, 64, splits=2)
    w13, w2 = weight(4, 96, 64), weight(4, 64, 48)
    int4_w13, int4_w2 = int4(4, 128, 64), int4(4, 64, 64)
    pool = torch.empty(9, 1, 32, dtype=torch.float8_e4m3fn)
    starts, keys = torch.zeros(513, dtype=torch.int32), torch.empty(4, dtype=torch.int64)
    with StubGpu(sm) as gpu:
        for m in TOKENS:
            q = torch.empty(m, 2, 32, dtype=torch.bfloat16)
            decode_attention(q, pool, pool, starts, keys, starts, 8, scale=1.0)
            k, tile = q[:, :1].contiguous(), ExtendTile(32, True, False, None, 16, 16, 4, 1)
            paged = (pool, pool, starts[: m + 1], starts, keys, 1)
            extend_attention(q, k, k, *paged, scale=1.0, tile=tile)
            x, ids = torch.empty(m, 64, dtype=torch.bfloat16), torch.zeros(m, 2, dtype=torch.int32)
            nvfp4_linear(x, *weight(80, 64), config=config)
            arguments = (x, ids, torch.empty(m, 2), *w13, *w2, "silu")
            slots = sort_slots(ids, config.block_m, 4)
            nvfp4_grouped_experts(*arguments, slots=slots, config=config)
            nvfp4_experts(*arguments, up_config=config, down_config=config)
            int4_linear(x, *int4(80, 64), config=config)
            routing = (x, ids, torch.empty(m, 2))
            int4_experts(*routing, *int4_w13, *int4_w2, "silu", slots=slots, config=config)
            fp8_linear(x, *fp8(80, 64), config=config)
            experts8 = (*fp8(4, 128, 64), *fp8(4, 64, 64))
            fp8_experts(*routing, *experts8, "silu", slots=slots, config=config)
            int8_head(
                x,
                torch.empty(80, 64, dtype=torch.int8),
                torch.empty(80),
                tile=HeadTile(16, 32, 64, 4, 2),
            )
            route(torch.empty(m, 24), torch.empty(24), 3)
    return Counter(gpu.loaded)


def run(sm: int, whole: bool) -> dict[str, object]:
    """Make the calls; return what was launched and what failed."""
    nvfp4_dispatch.INTERPRETED = divmod(sm, 10)
    codes = codes_for_all_tokens(sm)  # before the JIT has codes for other sizes
    failures = {}
    with StubGpu(sm) as gpu:
        for name, call in calls(whole):
            try:
                call()
            except Exception as error:  # report this error and go on with the next call
                failures[name] = f"{type(error).__name__}: {str(error).strip()[-500:]}"
    launches = Counter(launch.kernel for launch in gpu.launches)
    return {
        "triton": triton.__version__,
        "launches": launches,
        "failures": failures,
        "codes": codes,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sm", type=int, required=True)
    parser.add_argument("--whole", action="store_true", help="every shard, dtype and kind of id")
    args = parser.parse_args()
    print(json.dumps(run(args.sm, args.whole)))
