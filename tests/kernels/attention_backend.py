# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's Triton backend on one layer over a pool, with our functions and without a model."""

from __future__ import annotations

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_gemma4_ext.patches.model.byte_kv_attention import PATCH
from tests.kernels.paged import E4M3
from tests.patches.hooks import hook_of

HEADS, KV_HEADS, DIM = 4, 2, 64
K_SCALE, V_SCALE = 0.5, 2.0
SCALES = {"k_scale": K_SCALE, "v_scale": V_SCALE, "scale": 1.0}
SPLITS = 2


def refused(*_args, **_kwargs) -> None:
    pytest.fail("SGLang's own function was called")


def make_backend(pool: Any, **metadata: Any) -> SimpleNamespace:
    """Return a TritonAttnBackend without a model, whose own attention functions are refused."""
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

    off = dict.fromkeys(
        (
            *("is_draft_runner", "use_mla", "use_pdl", "enable_deterministic"),
            *("use_verify_shared_kv", "use_verify_splitkv", "enable_lean_attention"),
            "allow_bidirectional_attention_in_extend",
        ),
        False,
    )
    names = ("swa_attn_logits", "swa_out_cache_loc", "custom_mask", "mask_indptr")
    window = ("window_kv_indptr", "window_kv_indices", "window_kv_offsets")
    lean = ("lean_Mp", "lean_Lp", "lean_Op", "lean_locks", "uneven_batch")
    unset = dict.fromkeys((*names, *window, *lean))
    made = SimpleNamespace(
        **off,
        forward_metadata=SimpleNamespace(**unset | metadata),
        token_to_kv_pool=pool,
        dcp_size=1,
        max_kv_splits=SPLITS,
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


def layer(
    k_scale: float | None = K_SCALE, v_scale: float | None = V_SCALE, window: int = -1, **others
) -> SimpleNamespace:
    """Describe a RadixAttention; None stands for a layer without scales.

    window: SGLang's, one less than Gemma's; -1 for none
    """
    k, v = (None if scale is None else torch.tensor(scale) for scale in (k_scale, v_scale))
    given = {
        "layer_id": 0, "tp_q_head_num": HEADS, "tp_k_head_num": KV_HEADS, "qk_head_dim": DIM,
        "v_head_dim": DIM, "head_dim": DIM, "k_scale": k, "v_scale": v, "k_scale_float": k_scale,
        "v_scale_float": v_scale, "scaling": 1.0, "logit_cap": 0.0, "logit_capping_method": "tanh",
        "sliding_window_size": window, "xai_temperature_len": -1, "is_cross_attention": False,
        "attn_type": None,
    }  # fmt: skip
    return SimpleNamespace(**given | others)


def shares(owner: SimpleNamespace, reader: SimpleNamespace) -> SimpleNamespace:
    """Describe a model of two layers, where the second reads the first one's keys."""
    attentions = (
        SimpleNamespace(attn=owner, is_kv_shared_layer=False),
        SimpleNamespace(attn=reader, is_kv_shared_layer=True, kv_shared_layer_index=0),
    )
    return SimpleNamespace(layers=[SimpleNamespace(self_attn=each) for each in attentions])


def batch(slots: torch.Tensor, verify: bool = False, **options: Any) -> SimpleNamespace:
    mode = SimpleNamespace(is_target_verify=lambda: verify, is_dllm_extend=lambda: False)
    given = {"out_cache_loc": slots, "out_cache_loc_is_physical": True, "spec_info": None}
    given |= {"forward_mode": mode, "mha_one_shot": False, "attn_attend_prefix_cache": False}
    given |= {"batch_size": 1, "seq_lens_sum": 0, "positions": None}
    return SimpleNamespace(**given | options)


def stored(x: torch.Tensor, scale: float) -> torch.Tensor:
    return (x / scale).to(E4M3)


def counts(*numbers: int) -> torch.Tensor:
    return torch.tensor([0, *numbers]).cumsum(0).int()


class Request:
    """Hold one request's slots in a pool, and run the backend on its tokens.

    tokens: queries, keys and values [T, heads, D] of all its positions
    """

    def __init__(self, pool: Any, tokens: tuple[torch.Tensor, ...], slots: torch.Tensor):
        self.pool, self.slots = pool, slots
        self.q, self.k, self.v = tokens

    def prefill(self, start: int, stop: int, at: SimpleNamespace | None = None, **verify):
        """Run positions [start, stop) over those before; verify: custom_mask and mask_indptr."""
        at, new = at or layer(), slice(start, stop)
        run = make_backend(
            self.pool,
            kv_indptr=counts(start),
            kv_indices=self.slots[:start],
            qo_indptr=counts(stop - start),
            max_extend_len=stop - start,
            **verify,
        )
        given = batch(self.slots[new], bool(verify), extend_seq_lens_cpu=[stop - start])
        out = run.extend(self.q[new].flatten(1), self.k[new], self.v[new], at, given)
        return out.view(-1, HEADS, DIM)

    def decode(self, position: int, at: SimpleNamespace | None = None, store: bool = True):
        """Run one position over itself and those before. store: write its keys first."""
        at, one = at or layer(), slice(position, position + 1)
        run = make_backend(
            self.pool,
            kv_indptr=counts(position + 1),
            kv_indices=self.slots[: position + 1],
            num_kv_splits=torch.tensor([SPLITS], dtype=torch.int32),
            attn_logits=torch.empty(1, HEADS, SPLITS, DIM),
            attn_lse=torch.empty(1, HEADS, SPLITS),
        )
        new = (self.k[one].clone(), self.v[one].clone()) if store else (None, None)
        given = batch(self.slots[one])
        out = run.decode(self.q[one].flatten(1), *new, at, given, save_kv_cache=store)
        return out.view(-1, HEADS, DIM)
