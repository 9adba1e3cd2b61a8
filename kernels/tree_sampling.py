# SPDX-License-Identifier: Apache-2.0
"""Verify draft trees by sampling, in plain PyTorch; SGLang has only GPU kernels for it."""

from __future__ import annotations

from typing import Any

import torch


def sample_tree(
    *,
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    uniform_samples: torch.Tensor,
    uniform_samples_for_final_sampling: torch.Tensor,
    target_probs: torch.Tensor,
    **unused: Any,
) -> None:
    """Draw a token at each node from the root on, and continue at the child that has it.

    The result has the target's distribution for every draft: drafted tokens decide how many tokens
    are drawn, not which. The arguments and their names are those of SGLang's
    tree_speculative_sampling_target_only, with acceptance thresholds of one.

    B requests, T tokens a tree, the root first; V tokens in the vocabulary:
    predicts: int32 [B * T], filled at the accepted tokens with the token after each
    accept_index: int32 [B, depth], filled with their indices into [B * T], -1 beyond
    accept_token_num: int32 [B], filled with how many of them were drafted
    candidates: int64 [B, T]; retrive_index: int64 [B, T], each token's index into [B * T]
    retrive_next_token, retrive_next_sibling: int64 [B, T], within the tree, -1 for none
    uniform_samples: fp32 [B, T] in [0, 1), and for a node without children
        uniform_samples_for_final_sampling: fp32 [B]
    target_probs: fp32 [B, T, V]
    """
    for request in range(candidates.shape[0]):
        node, depth = 0, 0
        while True:
            index = int(retrive_index[request, node])
            accept_index[request, depth] = index
            child = int(retrive_next_token[request, node])
            last = child < 0 or depth + 1 >= accept_index.shape[1]
            coin = uniform_samples_for_final_sampling[request]
            if not last:
                coin = uniform_samples[request, node]
            drawn = _draw(target_probs[request, node], coin)
            predicts[index] = drawn
            while child >= 0 and int(candidates[request, child]) != drawn:
                child = int(retrive_next_sibling[request, child])
            if last or child < 0:
                break
            node, depth = child, depth + 1
        accept_token_num[request] = depth


def _draw(probs: torch.Tensor, coin: torch.Tensor) -> int:
    """Return the token at which the cumulated fp32 [V] probabilities exceed `coin` of their sum."""
    cumulated = probs.double().cumsum(0)
    token = int(torch.searchsorted(cumulated, coin.double() * cumulated[-1], right=True))
    return min(token, probs.numel() - 1)


def top_k_renorm(probs: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Keep each row's `top_k` most probable tokens, with all that tie with the last one.

    probs: fp32 [rows, V]; top_k: int [rows], one or more. Returns fp32 [rows, V], each of sum 1.
    """
    ranked = probs.sort(-1, descending=True).values
    least = ranked.gather(1, (top_k.long().clamp(max=probs.shape[1]) - 1)[:, None])
    return _normalized(probs.where(probs >= least, 0.0))


def top_p_renorm(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep each row's most probable tokens until they hold `top_p`, including the last one.

    probs: fp32 [rows, V]; top_p: fp32 [rows]. Returns fp32 [rows, V], each of sum 1.
    """
    ranked, order = probs.sort(-1, descending=True)
    before = ranked.cumsum(-1) - ranked
    kept = ranked.where(before < top_p[:, None], 0.0)
    return _normalized(torch.zeros_like(probs).scatter(1, order, kept))


def _normalized(probs: torch.Tensor) -> torch.Tensor:
    return probs / probs.sum(-1, keepdim=True)
