# SPDX-License-Identifier: Apache-2.0
"""Compute RMSNorm, scales, projection and choice of experts in one launch, for a decode's tokens.

    logits = sum_h(x * scale * proj) * rsqrt(mean(x^2) + eps) * H^-0.5

The norm's factor is constant over a row, so it multiplies the finished sum; each program computes
it beside its products. A token's experts are spread over programs, so that several multiprocessors
read the projection. The program that is last at the token's counter chooses, because all logits are
written by then. It resets the counter to zero for the next launch or replay of a graph.

Products, sums and logits are fp32, because rounding logits to BF16 changes the choice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_gemma4_ext.kernels._require import require
from sglang_gemma4_ext.kernels._routing import choose_experts
from sglang_gemma4_ext.kernels.router import LOGIT_DTYPES, check_choice, route_ref

# Experts of a program and in-features of a step: four 16-byte loads a thread at BF16.
TILE_E = 4
TILE_H = 1024
NUM_WARPS = 4


@triton.jit
def _route_one_launch_kernel(
    x_ptr,
    scale_ptr,
    proj_ptr,
    expert_scale_ptr,
    logits_ptr,
    weights_ptr,
    ids_ptr,
    arrivals_ptr,
    stride_x,
    eps,
    root,
    H: tl.constexpr,
    E: tl.constexpr,
    K: tl.constexpr,
    TILE_E: tl.constexpr,
    TILE_H: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    token = tl.program_id(1).to(tl.int64)
    expert = tl.program_id(0) * TILE_E + tl.arange(0, TILE_E)
    rows = proj_ptr + tl.minimum(expert, E - 1)[:, None] * H
    squares = tl.zeros([TILE_H], tl.float32)
    products = tl.zeros([TILE_E, TILE_H], tl.float32)
    for start in range(0, H, TILE_H):
        h = start + tl.arange(0, TILE_H)
        inside = h < H
        proj = tl.load(rows + h[None, :], mask=inside[None, :], other=0.0).to(tl.float32)
        x = tl.load(x_ptr + token * stride_x + h, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + h, mask=inside, other=0.0).to(tl.float32)
        squares += x * x
        products += proj * (x * scale)[None, :]
    norm = tl.rsqrt(tl.sum(squares) / H + eps) * root
    tl.store(logits_ptr + token * E + expert, tl.sum(products, axis=1) * norm, mask=expert < E)

    # The barrier orders every thread's logits before the atomic of the one thread.
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals_ptr + token, 1, sem="acq_rel", scope="gpu")
    if arrived == tl.num_programs(0) - 1:
        every = tl.arange(0, BLOCK_E)[None, :]
        # Other programs wrote these, so the load bypasses this multiprocessor's L1.
        at = logits_ptr + token * E + every
        logits = tl.load(at, mask=every < E, other=0.0, cache_modifier=".cg")
        weights, ids = choose_experts(logits, expert_scale_ptr, E, K, 1, BLOCK_E, BLOCK_K)
        slot = tl.arange(0, BLOCK_K)[None, :]
        tl.store(weights_ptr + token * K + slot, weights, mask=slot < K)
        tl.store(ids_ptr + token * K + slot, ids, mask=slot < K)
        tl.store(arrivals_ptr + token, 0)


def route_one_launch(
    x: torch.Tensor,
    scale: torch.Tensor,
    proj: torch.Tensor,
    expert_scale: torch.Tensor,
    k: int,
    eps: float,
    arrivals: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute router logits, the K best experts of each token, best first, and their weights.

    x: fp32, bf16 or fp16 [T, H], rows contiguous
    scale: fp32, bf16 or fp16 [H], contiguous; the learned scale of each dimension
    proj: fp32, bf16 or fp16 [E, H], contiguous, E at most 1024
    expert_scale: fp32, bf16 or fp16 [E], contiguous; all three are read when the kernel runs
    arrivals: int32 [at least T], zeros, and zeros again afterwards. Two launches that may run at
        the same time must not share it.
    Returns logits fp32 [T, E], weights fp32 [T, k], ids int32 [T, k]; the choice is `route`'s.
    Raises ValueError on a dtype, shape, stride or k that does not fit.
    """
    require(x.dim() == 2 and x.stride(1) == 1, "x must be rows [T, H], got %s", x.shape)
    tokens, hidden = x.shape
    require(
        proj.dim() == 2 and proj.shape[1] == hidden and proj.is_contiguous(),
        "proj must be [E, %d], contiguous, got %s",
        hidden,
        proj.shape,
    )
    require(
        scale.shape == (hidden,) and scale.is_contiguous(),
        "scale must be [%d], contiguous, got %s",
        hidden,
        scale.shape,
    )
    for name, tensor in (("x", x), ("scale", scale), ("proj", proj)):
        known = tensor.dtype in LOGIT_DTYPES
        require(known, "%s is fp32, bf16 or fp16, not %s", name, tensor.dtype)
    experts = proj.shape[0]
    check_choice(experts, k, expert_scale)
    require(
        arrivals.dtype == torch.int32 and arrivals.is_contiguous() and arrivals.numel() >= tokens,
        "arrivals must be int32 and hold %d tokens, got %s %s",
        tokens,
        arrivals.dtype,
        arrivals.shape,
    )
    logits = torch.empty((tokens, experts), dtype=torch.float32, device=x.device)
    weights = torch.empty((tokens, k), dtype=torch.float32, device=x.device)
    ids = torch.empty((tokens, k), dtype=torch.int32, device=x.device)
    if tokens:
        _route_one_launch_kernel[(triton.cdiv(experts, TILE_E), tokens)](
            x,
            scale,
            proj,
            expert_scale,
            logits,
            weights,
            ids,
            arrivals,
            x.stride(0),
            eps,
            hidden**-0.5,
            H=hidden,
            E=experts,
            K=k,
            TILE_E=TILE_E,
            TILE_H=TILE_H,
            BLOCK_E=triton.next_power_of_2(experts),
            BLOCK_K=triton.next_power_of_2(k),
            num_warps=NUM_WARPS,
        )
    return logits, weights, ids


def route_one_launch_ref(
    x: torch.Tensor,
    scale: torch.Tensor,
    proj: torch.Tensor,
    expert_scale: torch.Tensor,
    k: int,
    eps: float,
    arrivals: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `route_one_launch` in PyTorch, in fp32, or in fp64 if x is; `arrivals` is unused."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.to(dtype)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    logits = (normed * scale.to(dtype) * x.shape[1] ** -0.5) @ proj.to(dtype).T
    return logits, *route_ref(logits, expert_scale, k)
