# SPDX-License-Identifier: Apache-2.0
"""Run the text model's forward pass for training, on its own parameters.

A test asserts that it equals transformers'. On a CPU it is several times as fast: tokens are sorted
by expert once, and nothing is cached, padded or dispatched.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Tables(NamedTuple):
    """Hold, per layer type, cos and sin [1, T, 1, head_dim] and the visible keys, bool [T, T]."""

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor


def tables(text: torch.nn.Module, length: int) -> dict[str, Tables]:
    """Build the tables of positions 0 to length - 1."""
    at = torch.arange(length)
    back = at[:, None] - at[None]
    found = {}
    for kind in set(text.config.layer_types):
        cos, sin = text.rotary_emb(torch.zeros(1, length, 1), at[None], kind)
        mask = back >= 0
        if kind == "sliding_attention":
            mask = mask & (back < text.config.sliding_window)
        found[kind] = Tables(cos[:, :, None], sin[:, :, None], mask)
    return found


def _norm(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


def _rotate(x: torch.Tensor, table: Tables) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * table.cos + torch.cat((-second, first), -1) * table.sin


def _attention(layer, x: torch.Tensor, table: Tables):
    """Map x [B, T, H] to the same shape; also return keys and values [B, heads, T, head_dim]."""
    batch, length, _ = x.shape
    shape = (batch, length, -1, layer.head_dim)
    q = _rotate(_norm(layer.q_proj(x).view(shape), layer.q_norm.weight), table)
    raw = layer.k_proj(x).view(shape)
    v = _norm(raw if layer.v_proj is None else layer.v_proj(x).view(shape)).transpose(1, 2)
    k = _rotate(_norm(raw, layer.k_norm.weight), table).transpose(1, 2)
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2), k, v, attn_mask=table.mask, scale=1.0, enable_gqa=True
    )
    return layer.o_proj(y.transpose(1, 2).reshape(batch, length, -1)), (k, v)


def _experts(layer, x: torch.Tensor, top_k: int):
    """Map x [N, H] to the same shape; also return the balance loss (Switch Transformer, eq. 4)."""
    router, experts = layer.router, layer.experts
    logits = F.linear(_norm(x) * router.scale * router.scalar_root_size, router.proj.weight)
    shares = logits.softmax(-1)
    weights, chosen = shares.topk(top_k, -1)
    weights = weights / weights.sum(-1, keepdim=True) * router.per_expert_scale[chosen]
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=shares.shape[-1])
    rows = order // top_k
    inputs = _norm(x, layer.pre_feedforward_layernorm_2.weight)[rows]
    outputs = []
    for number, part in enumerate(inputs.split(counts.tolist())):
        gate, up = F.linear(part, experts.gate_up_proj[number]).chunk(2, -1)
        hidden = F.gelu(gate, approximate="tanh") * up
        outputs.append(F.linear(hidden, experts.down_proj[number]))
    y = torch.cat(outputs) * weights.flatten()[order, None]
    balance = (counts / counts.sum() * shares.mean(0)).sum() * shares.shape[-1]
    return torch.zeros_like(x).index_add(0, rows, y), balance


def _layer(layer, x: torch.Tensor, table: Tables, top_k: int):
    mixed, cache = _attention(layer.self_attn, _norm(x, layer.input_layernorm.weight), table)
    x = x + _norm(mixed, layer.post_attention_layernorm.weight)
    mlp, inner = layer.mlp, _norm(x, layer.pre_feedforward_layernorm.weight)
    inner = mlp.down_proj(F.gelu(mlp.gate_proj(inner), approximate="tanh") * mlp.up_proj(inner))
    sparse, balance = _experts(layer, x.flatten(0, 1), top_k)
    both = _norm(inner, layer.post_feedforward_layernorm_1.weight)
    both = both + _norm(sparse.view_as(x), layer.post_feedforward_layernorm_2.weight)
    return x + _norm(both, layer.post_feedforward_layernorm.weight), cache, balance


def hidden_states(text: torch.nn.Module, ids: torch.Tensor, table: dict[str, Tables]):
    """Map ids [B, T] to the normed last hidden states [B, T, H].

    Also returns keys and values of the last layer of each type, and the mean load-balancing loss.
    """
    config = text.config
    x = F.embedding(ids, text.embed_tokens.weight) * config.hidden_size**0.5
    total, caches = x.new_zeros(()), {}
    for kind, layer in zip(config.layer_types, text.layers, strict=True):
        x, caches[kind], balance = _layer(layer, x, table[kind], config.top_k_experts)
        total = total + balance
    return _norm(x, text.norm.weight), caches, total / len(config.layer_types)


def logits(text: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Compute soft-capped logits over the vocabulary from the tied embedding."""
    cap = text.config.final_logit_softcapping
    return cap * torch.tanh(F.linear(hidden, text.embed_tokens.weight) / cap)
