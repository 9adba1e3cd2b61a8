# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's attention backend over its own E4M3 pools with the patch's functions.

A pool stores what it is given, with a layer's scales, and the backend passes the pool's buffers on.
Requests share prefixes, lose their slots and draft tokens, as in a server. The server tests do the
same with a whole model, but take minutes.
"""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.kernels.paged_attention_ref import decode_attention_ref, extend_attention_ref
from sglang_gemma4_ext.patches.model.kv_scales_of_owner import PATCH as OWNERS_SCALES
from tests.kernels import attention_backend as backend
from tests.kernels import paged
from tests.kernels.attention_backend import DIM, HEADS, KV_HEADS, SCALES, Request, counts, layer
from tests.kernels.oracle import error
from tests.kernels.paged import E4M3
from tests.patches.hooks import hook_of

FP32 = torch.float32
WORST = paged.WORST[FP32]
SLOTS = 64

pytestmark = pytest.mark.interpreter


@pytest.fixture
def pool():
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    return MHATokenToKVPool(SLOTS, 1, E4M3, KV_HEADS, DIM, 1, "cpu", False)


def tokens(count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Draw queries, keys and values [T, heads, D]."""
    q = paged.queries(count, HEADS, DIM, FP32, seed)
    return q, *(paged.queries(count, KV_HEADS, DIM, FP32, seed + n) * 4 for n in (1, 2))


def somewhere(count: int) -> torch.Tensor:
    return torch.randperm(SLOTS - 1)[:count] + 1


class Exact:
    """Attend in float64 over the bytes that a request's keys and values become."""

    def __init__(self, request: Request):
        self.request = request
        self.caches = [torch.zeros(SLOTS + 1, KV_HEADS, DIM).to(E4M3) for _ in range(2)]
        for cache, x, scale in zip(
            self.caches, (request.k, request.v), (backend.K_SCALE, backend.V_SCALE), strict=True
        ):
            cache[request.slots] = backend.stored(x, scale)

    def prefill(self, start: int, stop: int, **options) -> torch.Tensor:
        r, new = self.request, slice(start, stop)
        return extend_attention_ref(
            r.q[new], r.k[new], r.v[new], *self.caches, counts(stop - start), counts(start),
            r.slots[:start], **SCALES, **options,
        )  # fmt: skip

    def decode(self, position: int) -> torch.Tensor:
        r, one = self.request, slice(position, position + 1)
        indices = counts(position + 1), r.slots[: position + 1]
        return decode_attention_ref(r.q[one], *self.caches, *indices, **SCALES)


def test_a_prefill_in_chunks_and_a_decode(pool) -> None:
    """Prefill nine tokens over an empty cache, then three over those, then decode one."""
    request = Request(pool, tokens(13), somewhere(13))
    exact = Exact(request)
    for start, stop in ((0, 9), (9, 12)):
        got = request.prefill(start, stop)
        assert error(got, exact.prefill(start, stop)).worst <= WORST
    assert error(request.decode(12), exact.decode(12)).worst <= WORST


@pytest.mark.parametrize("own", [None, 1.0])
def test_a_layer_that_reads_another_layers_keys(pool, own) -> None:
    """The backend reads the new keys of such a layer back from the pool, as E4M3.

    own: scales of the reading layer, which are not those of the keys
    """
    owner, reader = layer(), layer(own, own)
    hook_of(OWNERS_SCALES, "after", "__init__")(None, backend.shares(owner, reader))
    request = Request(pool, tokens(6), somewhere(6))
    request.prefill(0, 6, owner)
    run = backend.make_backend(
        pool, kv_indptr=counts(0), kv_indices=request.slots[:0], qo_indptr=counts(6),
        max_extend_len=6,
    )  # fmt: skip
    given = backend.batch(request.slots, extend_seq_lens_cpu=[6])
    out = run.extend(request.q.flatten(1), None, None, reader, given, save_kv_cache=False)
    new = (
        backend.stored(request.k, backend.K_SCALE),
        backend.stored(request.v, backend.V_SCALE),
    )
    want = extend_attention_ref(
        request.q, *new, *new, counts(6), counts(0), request.slots[:0], **SCALES
    )
    assert error(out.view(-1, HEADS, DIM), want).worst <= WORST


def test_a_shared_prefix_is_read_by_both_requests(pool) -> None:
    """A radix hit: the second request reads the first one's bytes, and leaves them as they are."""
    slots = somewhere(20)
    first = Request(pool, tokens(12), slots[:12])
    first.prefill(0, 11)
    q, k, v = tokens(15, seed=7)
    mixed = (q, torch.cat([first.k[:8], k[8:]]), torch.cat([first.v[:8], v[8:]]))
    second = Request(pool, mixed, torch.cat([slots[:8], slots[12:19]]))
    exact = Exact(second)
    assert error(second.prefill(8, 14), exact.prefill(8, 14)).worst <= WORST
    assert error(second.decode(14), exact.decode(14)).worst <= WORST
    assert error(first.decode(11), Exact(first).decode(11)).worst <= WORST


def test_a_retracted_request_answers_the_same_later(pool) -> None:
    """Its slots go to another request; it is prefilled again wherever there is room."""
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator

    allocator = TokenToKVPoolAllocator(SLOTS, E4M3, "cpu", pool, need_sort=False)
    request = Request(pool, tokens(30), allocator.alloc(30))
    request.prefill(0, 29)
    before = request.decode(29)
    allocator.free(request.slots)
    other = Request(pool, tokens(50, seed=5), allocator.alloc(50))
    assert set(other.slots.tolist()) & set(request.slots.tolist())
    other.prefill(0, 50)
    allocator.free(other.slots)
    again = Request(pool, tokens(30), allocator.alloc(30).flip(0))
    assert not torch.equal(again.slots, request.slots)
    again.prefill(0, 29)
    assert torch.equal(again.decode(29), before)


def test_a_draft_tree_is_verified_and_its_accepted_tokens_move(pool) -> None:
    """Two tokens follow the ninth, and each has a child: only one path is accepted."""
    pool.use_native_move_kv_cache = True
    request = Request(pool, tokens(13), somewhere(13))
    request.prefill(0, 9)
    tree = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]]).bool()
    mask = torch.cat([torch.ones(4, 9).bool(), tree], 1)
    starts = torch.tensor([0, mask.numel()], dtype=torch.int64)
    got = request.prefill(9, 13, custom_mask=mask.flatten(), mask_indptr=starts)
    want = Exact(request).prefill(9, 13, masks=[mask])
    assert error(got, want).worst <= WORST
    # Tokens 10 and 12 are accepted; they move to the slots of 9 and 10.
    pool.move_kv_cache(request.slots[9:11].clone(), request.slots[[10, 12]].clone())
    path = [*range(9), 10, 12]
    kept = tuple(torch.cat([x[path], x[11:12]]) for x in (request.q, request.k, request.v))
    after = Request(pool, kept, torch.cat([request.slots[:11], somewhere_else(request.slots)]))
    assert error(after.decode(11), Exact(after).decode(11)).worst <= WORST


def somewhere_else(slots: torch.Tensor) -> torch.Tensor:
    """Return one slot that is not among `slots`."""
    return torch.tensor([next(n for n in range(1, SLOTS) if n not in slots.tolist())])


def test_an_assistant_drafts_over_the_targets_keys(pool) -> None:
    """Its layer has no scales and no keys of its own; each draft step reads the same cache."""
    from types import SimpleNamespace

    from sglang.srt.models import gemma4_mtp

    target, draft = layer(), layer(None, None)
    request = Request(pool, tokens(10), somewhere(10))
    request.prefill(0, 10, target)
    context = SimpleNamespace(get_physical_layer_id=lambda number: 0)
    model = SimpleNamespace(layers=[SimpleNamespace(self_attn=SimpleNamespace(attn=draft))])
    lend = hook_of(OWNERS_SCALES, "after", "build_frozen_kv_mtp_context")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gemma4_mtp, "_resolve_target_text_model", lambda found: found)
        lend(context, SimpleNamespace(model=model), backend.shares(target, draft), pool)
    held = [buffer.clone() for buffer in (*pool.k_buffer, *pool.v_buffer)]
    got = request.decode(9, draft, store=False)
    assert error(got, Exact(request).decode(9)).worst <= WORST
    assert all(map(torch.equal, held, (*pool.k_buffer, *pool.v_buffer)))


def test_the_shared_pool_holds_bytes_of_both_kinds_of_layers() -> None:
    """In SGLang's unified buffer a slot's row is one of many parts of a token's entry."""
    from sglang.srt.mem_cache.unified_memory_pool import (
        MHASubPoolSpec,
        UnifiedKVPool,
        UnifiedMHATokenToKVPool,
    )

    specs = [
        MHASubPoolSpec(
            name=name, layer_num=2, head_num=KV_HEADS, head_dim=DIM, v_head_dim=DIM,
            store_dtype=torch.uint8, kv_cache_dtype=E4M3, grow_direction=end,
        )
        for name, end in (("full", "down"), ("swa", "up"))
    ]  # fmt: skip
    total = 2 * (SLOTS + 2) * specs[0].entry_bytes()
    buffer = UnifiedKVPool(
        total_bytes=total, sub_pool_specs=specs, device="cpu", enable_memory_saver=False
    )
    for name in ("full", "swa"):
        part = UnifiedMHATokenToKVPool(unified_buffer=buffer, sub_pool_name=name, page_size=1)
        assert not part.get_key_buffer(1).is_contiguous()
        request = Request(part, tokens(12), somewhere(12))
        exact, at = Exact(request), layer(layer_id=1)
        assert error(request.prefill(0, 11, at), exact.prefill(0, 11)).worst <= WORST
        assert error(request.decode(11, at), exact.decode(11)).worst <= WORST
