# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's attention backend over its own E4M3 pool with the patch's functions.

The pool stores what it is given, with a layer's scales, and the backend passes the pool's buffers
on. The server tests do the same with a whole model, but take minutes.
"""

from __future__ import annotations

from types import MethodType, SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.kernels.paged_attention_ref import decode_attention_ref, extend_attention_ref
from sglang_gemma4_ext.patches.model.byte_kv_attention import PATCH
from tests.kernels import paged
from tests.kernels.oracle import error
from tests.kernels.paged import E4M3
from tests.patches.hooks import hook_of

HEADS, KV_HEADS, DIM = 4, 2, 64
K_SCALE, V_SCALE = 0.5, 2.0
FP32 = torch.float32

pytestmark = pytest.mark.interpreter


def refused(*_args, **_kwargs) -> None:
    pytest.fail("SGLang's own function was called")


@pytest.fixture
def backend():
    """backend(metadata): a TritonAttnBackend without a model, over a pool of 64 slots."""
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

    pool = MHATokenToKVPool(64, 1, E4M3, KV_HEADS, DIM, 1, "cpu", False)

    def make(**metadata) -> SimpleNamespace:
        off = dict.fromkeys(
            (
                *("is_draft_runner", "use_mla", "use_pdl", "enable_deterministic"),
                *("use_verify_shared_kv", "use_verify_splitkv", "enable_lean_attention"),
                "allow_bidirectional_attention_in_extend",
            ),
            False,
        )
        names = ("swa_attn_logits", "swa_out_cache_loc", "custom_mask", "mask_indptr")
        lean = ("lean_Mp", "lean_Lp", "lean_Op", "lean_locks", "uneven_batch")
        made = SimpleNamespace(
            **off,
            forward_metadata=SimpleNamespace(**dict.fromkeys((*names, *lean)) | metadata),
            token_to_kv_pool=pool,
            dcp_size=1,
            max_kv_splits=2,
            page_size=1,
            dllm_attention=None,
            decode_attention_fwd=refused,
            extend_attention_fwd=refused,
            _can_run_dense_fp8_chunked_mha=lambda *_: False,
        )
        hook_of(PATCH, "after", "__init__")(None, made)
        for name in ("_set_kv_buffer", "_forward_extend_kernel"):
            setattr(made, name, MethodType(getattr(TritonAttnBackend, name), made))
        made.decode = MethodType(TritonAttnBackend.forward_decode, made)
        made.extend = MethodType(TritonAttnBackend.forward_extend, made)
        return made

    return make


def layer() -> SimpleNamespace:
    return SimpleNamespace(
        layer_id=0,
        tp_q_head_num=HEADS,
        tp_k_head_num=KV_HEADS,
        qk_head_dim=DIM,
        v_head_dim=DIM,
        head_dim=DIM,
        k_scale=torch.tensor(K_SCALE),
        v_scale=torch.tensor(V_SCALE),
        k_scale_float=K_SCALE,
        v_scale_float=V_SCALE,
        scaling=1.0,
        logit_cap=0.0,
        logit_capping_method="tanh",
        sliding_window_size=-1,
        xai_temperature_len=-1,
        is_cross_attention=False,
        attn_type=None,
    )


def batch(slots: torch.Tensor, **options) -> SimpleNamespace:
    mode = SimpleNamespace(is_target_verify=lambda: False, is_dllm_extend=lambda: False)
    given = {"out_cache_loc": slots, "out_cache_loc_is_physical": True, "spec_info": None}
    given |= {"forward_mode": mode, "mha_one_shot": False, "attn_attend_prefix_cache": False}
    given |= {"batch_size": 1, "seq_lens_sum": 0, "positions": None}
    return SimpleNamespace(**given | options)


def stored(x: torch.Tensor, scale: float) -> torch.Tensor:
    return (x / scale).to(E4M3)


def test_a_prefill_and_a_decode(backend) -> None:
    """Prefill nine tokens over an empty cache, then three over those, then decode one."""
    slots = torch.randperm(63)[:13] + 1
    q = paged.queries(13, HEADS, DIM, FP32)
    k, v = (paged.queries(13, KV_HEADS, DIM, FP32, seed) * 4 for seed in (1, 2))
    caches = torch.zeros(64, KV_HEADS, DIM).to(E4M3), torch.zeros(64, KV_HEADS, DIM).to(E4M3)
    caches[0][slots], caches[1][slots] = stored(k, K_SCALE), stored(v, V_SCALE)
    scales = {"k_scale": K_SCALE, "v_scale": V_SCALE, "scale": 1.0}
    for start, stop in ((0, 9), (9, 12)):
        new = slice(start, stop)
        starts = torch.tensor([0, stop - start], dtype=torch.int32)
        cached = torch.tensor([0, start], dtype=torch.int32)
        run = backend(
            kv_indptr=cached,
            kv_indices=slots[:start],
            qo_indptr=starts,
            max_extend_len=stop - start,
        )
        given = batch(slots[new], extend_seq_lens_cpu=[stop - start])
        out = run.extend(q[new].flatten(1), k[new], v[new], layer(), given)
        want = extend_attention_ref(
            q[new], k[new], v[new], *caches, starts, cached, slots[:start], **scales
        )
        assert error(out.view(-1, HEADS, DIM), want).worst <= paged.WORST[FP32]
    run = backend(
        kv_indptr=torch.tensor([0, 13], dtype=torch.int32),
        kv_indices=slots,
        num_kv_splits=torch.tensor([2], dtype=torch.int32),
        attn_logits=torch.empty(1, HEADS, 2, DIM),
        attn_lse=torch.empty(1, HEADS, 2),
    )
    out = run.decode(q[12:].flatten(1), k[12:].clone(), v[12:].clone(), layer(), batch(slots[12:]))
    want = decode_attention_ref(
        q[12:], *caches, torch.tensor([0, 13], dtype=torch.int32), slots, **scales
    )
    assert error(out.view(-1, HEADS, DIM), want).worst <= paged.WORST[FP32]


def test_a_layer_that_reads_another_layers_keys(backend) -> None:
    """The backend reads the new keys of such a layer back from the pool, as E4M3."""
    slots = torch.randperm(63)[:6] + 1
    q = paged.queries(6, HEADS, DIM, FP32)
    k, v = (paged.queries(6, KV_HEADS, DIM, FP32, seed) * 4 for seed in (1, 2))
    empty, starts = torch.zeros(2, dtype=torch.int32), torch.tensor([0, 6], dtype=torch.int32)
    none = torch.zeros(0, dtype=torch.int64)
    run = backend(kv_indptr=empty, kv_indices=none, qo_indptr=starts, max_extend_len=6)
    given = batch(slots, extend_seq_lens_cpu=[6])
    run.extend(q.flatten(1), k, v, layer(), given)
    out = run.extend(q.flatten(1), None, None, layer(), given, save_kv_cache=False)
    new = stored(k, K_SCALE), stored(v, V_SCALE)
    want = extend_attention_ref(
        q, *new, *new, starts, empty, none, k_scale=K_SCALE, v_scale=V_SCALE, scale=1.0
    )
    assert error(out.view(-1, HEADS, DIM), want).worst <= paged.WORST[FP32]
