# SPDX-License-Identifier: Apache-2.0
"""Compare SGLang's own Triton kernels for Gemma 4 with transformers' modules.

They are the norms of query, key and value, the end of a layer, the choice of experts and the
soft-cap. Only a GPU runs them. On a CPU the model runs PyTorch instead.
"""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm, Gemma4TextRouter

from tests.kernels.oracle import error

EPS = 1e-6
# fp32 sums in another order; one rounding of the output to BF16 or FP16.
RMS = {torch.float32: 3e-7, torch.bfloat16: 2.3e-3, torch.float16: 2.9e-4}
WORST = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
by_dtype = pytest.mark.parametrize("dtype", RMS, ids=str)


class OnGpu(torch.Tensor):
    """Appear to SGLang's host functions as a tensor on a GPU."""

    is_cuda = True


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    """Compare a result with float64."""
    found = error(got.as_subclass(torch.Tensor), want)
    assert found.rms <= RMS[got.dtype] and found.worst <= WORST[got.dtype], found


@pytest.fixture(autouse=True)
def _bf16(mended_bf16) -> None:
    pass


@pytest.fixture
def drawn(device):
    """drawn(*shape, dtype=..., scale=...): a seeded tensor, different at each call."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(device)

    return draw


def norm(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Compute transformers' norm of x in float64, also where it uses fp32."""
    made = Gemma4RMSNorm(x.shape[-1], EPS, with_scale=False)
    normed = made._norm(x.detach().cpu().double())
    return normed if weight is None else normed * weight.cpu().double()


# Query and key heads, head_dim: the tiny models', the 26B-A4B's two kinds of layers, E2B's.
HEADS = ((4, 2, 32), (16, 8, 256), (16, 2, 512), (8, 1, 256))


@by_dtype
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("tokens", [1, 3])
def test_norms_of_query_key_and_value(tokens, heads, dtype, drawn):
    """Run one program a head, in place, on slices of the joint projection."""
    _qkv(tokens, *heads, dtype, drawn, shared=False)


@pytest.mark.parametrize("shared", [False, True], ids=["own-keys", "shared-keys"])
def test_norms_of_many_tokens(shared, drawn):
    """Use more than 256 tokens, where one program takes all heads of a token."""
    _qkv(257, 4, 2, 32, torch.bfloat16, drawn, shared=shared)


def test_the_norm_of_a_query_whose_keys_are_shared(drawn):
    _qkv(3, 8, 1, 256, torch.bfloat16, drawn, shared=True)


def _qkv(tokens, query_heads, key_heads, dim, dtype, drawn, *, shared):
    from sglang.kernels.ops.layernorm.gemma4_fused_ops import gemma_qkv_rmsnorm

    sizes = [query_heads * dim, key_heads * dim, key_heads * dim]
    joint = drawn(tokens, sum(sizes), dtype=dtype, scale=3)
    q_weight, k_weight = drawn(dim, dtype=dtype), drawn(dim, dtype=dtype)
    before = [part.unflatten(-1, (-1, dim)) for part in joint.clone().split(sizes, dim=-1)]
    q, k, v = (part.as_subclass(OnGpu) for part in joint.split(sizes, dim=-1))
    given = (q, None, None) if shared else (q, k, v)
    weights = (q_weight, None if shared else k_weight)
    gemma_qkv_rmsnorm(*given, *weights, query_heads, key_heads, dim, EPS)
    near(q.unflatten(-1, (-1, dim)), norm(before[0], q_weight))
    if shared:
        assert torch.equal(joint[:, sizes[0] :], torch.cat(before[1:], 1).flatten(1))
    else:
        near(k.unflatten(-1, (-1, dim)), norm(before[1], k_weight))
        near(v.unflatten(-1, (-1, dim)), norm(before[2]))


@pytest.mark.last_bit_race
@by_dtype
@pytest.mark.parametrize("hidden", [84, 2816])
@pytest.mark.parametrize("tokens", [1, 3])
def test_the_end_of_a_dense_layer(tokens, hidden, dtype, drawn):
    """Compare the last norm, the residual and the layer's scalar with transformers' decoder
    layer.
    """
    from sglang.kernels.ops.layernorm.gemma4_fused_ops import gemma_rmsnorm_residual_scalar

    x, residual = drawn(tokens, hidden, dtype=dtype, scale=3), drawn(tokens, hidden, dtype=dtype)
    weight, scalar = drawn(hidden, dtype=dtype), drawn(1, dtype=dtype)
    got = gemma_rmsnorm_residual_scalar(x, weight, residual, scalar, EPS)
    near(got, (norm(x, weight) + residual.cpu().double()) * scalar.cpu().double())


@pytest.mark.last_bit_race
@by_dtype
@pytest.mark.parametrize("hidden", [84, 2816])
@pytest.mark.parametrize("tokens", [1, 3])
def test_the_end_of_a_layer_of_experts(tokens, hidden, dtype, drawn):
    """Compare the norms of MLP and experts, the norm of their sum, the residual and the scalar."""
    from sglang.kernels.ops.layernorm.gemma4_fused_ops import gemma_dual_rmsnorm_residual_scalar

    mlp, experts = (drawn(tokens, hidden, dtype=dtype, scale=3) for _ in range(2))
    residual, scalar = drawn(tokens, hidden, dtype=dtype), drawn(1, dtype=dtype)
    w1, w2, w3 = (drawn(hidden, dtype=dtype) for _ in range(3))
    got = gemma_dual_rmsnorm_residual_scalar(
        mlp, w1, experts, w2, w3, residual, scalar, EPS, EPS, EPS
    )
    both = norm(norm(mlp, w1) + norm(experts, w2), w3)
    near(got, (both + residual.cpu().double()) * scalar.cpu().double())


@pytest.fixture
def routed(drawn):
    """routed(logits, scale, top_k): transformers' weights and experts for given logits."""

    def choose(logits: torch.Tensor, scale: torch.Tensor, top_k: int):
        from transformers import Gemma4TextConfig

        experts = logits.shape[-1]
        config = Gemma4TextConfig(num_experts=experts, top_k_experts=top_k, hidden_size=experts)
        router = Gemma4TextRouter(config)
        router.norm = torch.nn.Identity()
        router.scale.data.fill_(experts**0.5)
        router.proj.weight.data = torch.eye(experts)
        router.per_expert_scale.data = scale.cpu().float()
        with torch.inference_mode():
            _, weights, ids = router(logits.cpu().float())
        return weights.double(), ids

    return choose


@by_dtype
@pytest.mark.parametrize("joint", [True, False], ids=["one-launch", "after-topk"])
@pytest.mark.parametrize(("experts", "top_k"), [(128, 8), (8, 2), (100, 6)])
@pytest.mark.parametrize("tokens", [1, 5])
def test_routing(tokens, experts, top_k, joint, dtype, drawn, routed):
    """Run both of SGLang's routing kernels: the choice, its softmax, the expert's scale."""
    from sglang.kernels.ops.moe import gemma4_routing

    # Distinct logits, so that every choice has one answer.
    ranks = torch.stack([torch.randperm(experts) for _ in range(tokens)])
    logits = (0.0625 * (ranks - experts // 2)).to(drawn(1).device, dtype)
    scale = drawn(experts, dtype=dtype)
    if joint:
        weights, ids = gemma4_routing.gemma4_fused_routing(logits, scale, top_k)
    else:
        weights, ids = gemma4_routing.gemma_routing_post_topk(*logits.topk(top_k), scale)
    expected, chosen = routed(logits, scale, top_k)
    assert torch.equal(ids.cpu().long(), chosen)
    near(weights, expected)


@pytest.mark.compiled
@pytest.mark.parametrize("columns", [1, 1000, 1025])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_soft_cap(columns, dtype, drawn):
    """Compute cap * tanh(x / cap) in fp32, written as fp32; for fp32 logits also in place."""
    from sglang.kernels.ops.activation.softcap import (
        softcap_inplace_logits,
        softcap_to_float32_logits,
    )

    logits = drawn(2, columns, dtype=dtype, scale=30)
    expected = 30 * torch.tanh(logits.cpu().double() / 30)
    out = torch.empty(2, columns, dtype=torch.float32, device=logits.device)
    near(softcap_to_float32_logits(logits, 30.0, out), expected)
    if dtype == torch.float32:
        near(softcap_inplace_logits(logits, 30.0), expected)
