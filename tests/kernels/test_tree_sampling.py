# SPDX-License-Identifier: Apache-2.0
"""Compare tree sampling with the probabilities that it must reproduce."""

from __future__ import annotations

import torch

from sglang_gemma4_ext.kernels.tree_sampling import sample_tree, top_k_renorm, top_p_renorm

VOCAB = 5
# 0 - 1 - 3 and 0 - 2: the root's children hold tokens 1 and 2, the grandchild token 4.
NEXT_TOKEN, NEXT_SIBLING = [1, 3, -1, -1], [-1, 2, -1, -1]
CANDIDATES = [0, 1, 2, 4]


def run(probs: torch.Tensor, coins: torch.Tensor, final: torch.Tensor):
    """Sample from probs [B, 4, V]: predicts [B, 4], accept_index [B, 3], accepted [B]."""
    batch = probs.shape[0]
    row = torch.arange(batch)[:, None] * 4
    predicts = torch.zeros(batch * 4, dtype=torch.int32)
    accept_index = torch.full((batch, 3), -1, dtype=torch.int32)
    accepted = torch.full((batch,), -1, dtype=torch.int32)
    sample_tree(
        predicts=predicts,
        accept_index=accept_index,
        accept_token_num=accepted,
        candidates=torch.tensor([CANDIDATES] * batch),
        retrive_index=row + torch.arange(4),
        retrive_next_token=torch.tensor([NEXT_TOKEN] * batch),
        retrive_next_sibling=torch.tensor([NEXT_SIBLING] * batch),
        uniform_samples=coins,
        uniform_samples_for_final_sampling=final,
        target_probs=probs,
    )
    return predicts.view(batch, 4), accept_index, accepted


def certain(*tokens: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens), VOCAB).float()


def test_a_deterministic_target_is_followed_through_the_tree():
    coins, final = torch.rand(4, 4), torch.rand(4)
    probs = torch.stack(
        [certain(1, 4, 0, 3), certain(2, 4, 3, 0), certain(3, 0, 0, 0), certain(1, 2, 0, 0)]
    )
    predicts, index, accepted = run(probs, coins, final)
    assert accepted.tolist() == [2, 1, 0, 1]
    assert (index % 4).masked_fill(index < 0, -1).tolist() == [
        [0, 1, 3], [0, 2, -1], [0, -1, -1], [0, 1, -1],
    ]  # fmt: skip
    assert [predicts[b, n].tolist() for b, n in ((0, [0, 1, 3]), (1, [0, 2]), (2, [0]))] == [
        [1, 4, 3], [2, 3], [3],
    ]  # fmt: skip


def test_the_first_two_tokens_are_distributed_as_the_target():
    """Compare P(a) at the root and P(b | a) at its child: 20,000 draws, within five sigma."""
    draws = 20_000
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(4, VOCAB, generator=generator)
    one /= one.sum(-1, keepdim=True)
    coins = torch.rand(draws, 4, generator=generator)
    predicts, _, accepted = run(
        one.expand(draws, 4, VOCAB), coins, torch.rand(draws, generator=generator)
    )
    first = torch.bincount(predicts[:, 0], minlength=VOCAB) / draws
    assert (first - one[0]).abs().max() < 5 * (0.25 / draws) ** 0.5
    for token, node in ((1, 1), (2, 2)):
        taken = predicts[:, 0] == token
        assert ((accepted > 0) & taken).sum() == taken.sum()
        second = torch.bincount(predicts[taken, node], minlength=VOCAB) / taken.sum()
        assert (second - one[node]).abs().max() < 5 * (0.25 / taken.sum()) ** 0.5
    assert set(accepted[(predicts[:, 0] == 1)].tolist()) == {1, 2}


def test_top_k_and_top_p_by_hand():
    probs = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05], [0.05, 0.1, 0.15, 0.3, 0.4]])
    kept = top_k_renorm(probs, torch.tensor([2, 1 << 30]))
    torch.testing.assert_close(kept[0], torch.tensor([4 / 7, 3 / 7, 0, 0, 0]))
    torch.testing.assert_close(kept[1], probs[1])
    kept = top_p_renorm(probs, torch.tensor([0.65, 0.71]))
    torch.testing.assert_close(kept[0], torch.tensor([4 / 7, 3 / 7, 0, 0, 0]))
    torch.testing.assert_close(kept[1], torch.tensor([0, 0, 0.15, 0.3, 0.4]) / 0.85)
