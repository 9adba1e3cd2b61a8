# SPDX-License-Identifier: Apache-2.0
"""Choose experts and their weights from router logits in one launch.

Gemma 4 takes a softmax over all experts, keeps the best K and renormalizes. That equals a softmax
over the K best logits. The per-expert scale is applied after it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels._routing import MAX_EXPERTS, choose_experts

LOGIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows of a program in Triton's interpreter, whose time grows with the number of programs.
_INTERPRETED_ROWS = 256


# One code for every number of tokens.
@triton.jit(do_not_specialize=["tokens"])
def _route_kernel(
    logits_ptr,
    expert_scale_ptr,
    weights_ptr,
    ids_ptr,
    tokens,
    stride_t,
    stride_e,
    E: tl.constexpr,
    K: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
    expert = tl.arange(0, BLOCK_E)[None, :]
    inside = (token < tokens) & (expert < E)
    at = logits_ptr + token * stride_t + expert * stride_e
    logits = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    weights, ids = choose_experts(logits, expert_scale_ptr, E, K, BLOCK_T, BLOCK_E, BLOCK_K)
    slot = tl.arange(0, BLOCK_K)[None, :]
    inside = (token < tokens) & (slot < K)
    tl.store(weights_ptr + token * K + slot, weights, mask=inside)
    tl.store(ids_ptr + token * K + slot, ids, mask=inside)


def route(
    logits: torch.Tensor, expert_scale: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the K best experts of each token, best first, and compute their weights.

    logits: fp32, bf16 or fp16 [T, E], E at most 1024, any strides
    expert_scale: fp32, bf16 or fp16 [E], contiguous; read when the kernel runs
    Returns weights fp32 [T, k] and ids int32 [T, k]; computed in fp32. Of equal logits, including
    +0 and -0, the lower id comes first; NaN comes before +inf. A row whose best logit is NaN, +inf
    or -inf has NaN weights and distinct ids in range.
    Raises ValueError on a dtype, shape or k that does not fit.
    """
    require(logits.dim() == 2, "logits must be [T, E], got %s", logits.shape)
    require(logits.dtype in LOGIT_DTYPES, "logits are fp32, bf16 or fp16, not %s", logits.dtype)
    tokens, experts = logits.shape
    check_choice(experts, k, expert_scale)
    weights = torch.empty((tokens, k), dtype=torch.float32, device=logits.device)
    ids = torch.empty((tokens, k), dtype=torch.int32, device=logits.device)
    rows = _INTERPRETED_ROWS if triton.knobs.runtime.interpret else 1
    if tokens:
        _route_kernel[(triton.cdiv(tokens, rows),)](
            logits,
            expert_scale,
            weights,
            ids,
            tokens,
            logits.stride(0),
            logits.stride(1),
            E=experts,
            K=k,
            BLOCK_T=rows,
            BLOCK_E=triton.next_power_of_2(experts),
            BLOCK_K=triton.next_power_of_2(k),
            num_warps=1 if experts <= 256 else 4,
        )
    return weights, ids


def route_ref(
    logits: torch.Tensor, expert_scale: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `route` in PyTorch, in fp32, or in fp64 if the logits are fp64."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # A stable sort orders equal logits by id; torch.topk does not.
    best, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    weights = torch.softmax(best[:, :k], dim=-1) * expert_scale[ids[:, :k]].to(logits.dtype)
    return weights, ids[:, :k].to(torch.int32)


def check_choice(experts: int, k: int, expert_scale: torch.Tensor) -> None:
    """Check E, k and the per-expert scale for both router kernels. Raises ValueError."""
    require(1 <= experts <= MAX_EXPERTS, "E must be 1 to %d, got %d", MAX_EXPERTS, experts)
    require(1 <= k <= experts, "k must be 1 to E = %d, got %d", experts, k)
    require(
        expert_scale.shape == (experts,) and expert_scale.is_contiguous(),
        "expert_scale must be [%d], contiguous, got %s",
        experts,
        expert_scale.shape,
    )
    require(
        expert_scale.dtype in LOGIT_DTYPES,
        "expert_scale is fp32, bf16 or fp16, not %s",
        expert_scale.dtype,
    )
