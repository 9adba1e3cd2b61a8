# SPDX-License-Identifier: Apache-2.0
"""Compare what a server drafted with transformers' assistant on the same tokens and keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tiny import WINDOW
from tests.serving.parity import Reference

# Keys and hidden states differ by fp32 rounding through the target, then through the assistant.
LOGITS_TOLERANCE = 2e-4


class DraftReference:
    """Hold transformers' target and assistant."""

    def __init__(self, target: Reference, assistant: Path):
        self.target = target.model
        self.assistant = transformers.Gemma4AssistantForCausalLM.from_pretrained(
            assistant, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self._runs: dict[tuple[int, ...], Any] = {}

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], new: int) -> list[int]:
        """Return the prompt and `new` tokens after it, ignoring eos."""
        ids = torch.tensor([list(prompt)])
        config = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
        mask = torch.ones_like(ids)
        whole = self.target.generate(ids, attention_mask=mask, eos_token_id=None, **config)
        return whole[0].tolist()

    @torch.inference_mode()
    def penalized(
        self, prompt: Sequence[int], new: int, *, frequency: float, presence: float
    ) -> list[int]:
        """Return the prompt and `new` greedy tokens under OpenAI's two penalties of new tokens."""
        tokens = list(prompt)
        while len(tokens) < len(prompt) + new:
            logits = self.target(torch.tensor([tokens])).logits[0, -1].float()
            counts = torch.bincount(
                torch.tensor(tokens[len(prompt) :]).long(), minlength=len(logits)
            )
            logits -= frequency * counts + presence * (counts > 0)
            tokens.append(int(logits.argmax()))
        return tokens

    @torch.inference_mode()
    def allowed(self, prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> list[int]:
        """Return the prompt and the greedy path through `choices`, all of one length."""
        tokens, left = list(prompt), [list(choice) for choice in choices]
        for index in range(len(left[0])):
            logits = self.target(torch.tensor([tokens])).logits[0, -1]
            best = max((choice[index] for choice in left), key=lambda token: logits[token].item())
            tokens.append(best)
            left = [choice for choice in left if choice[index] == best]
        return tokens

    @torch.inference_mode()
    def log_probs(self, tokens: Sequence[int], start: int) -> torch.Tensor:
        """Return the log-probability of each token from `start` on, fp32."""
        table = self.target(torch.tensor([list(tokens)])).logits[0, start - 1 : -1].float()
        return table.log_softmax(-1).gather(1, torch.tensor(tokens[start:])[:, None])[:, 0]

    @torch.inference_mode()
    def worst(self, folder: Path) -> float:
        """Return max |logits - transformers'| over all recorded draft forwards; infinite if none.

        The first forward of each draft also compares its hidden state, relative to the largest
        component.
        """
        differences = [
            self._difference(record, row, step_zero=record["step"] == 0)
            for record in map(torch.load, sorted(folder.glob("*.pt")))
            for row in range(len(record["ids"]))
            if record["known"] and all(record["known"])
        ]
        return max(differences, default=float("inf"))

    def _difference(self, record: dict[str, Any], row: int, *, step_zero: bool) -> float:
        request = row * len(record["cached"]) // len(record["ids"])
        known, cached = record["known"][request], record["cached"][request]
        ids, prev_hidden = record["ids"][row], record["prev_hidden"][row]
        hidden, keys_values = self._run(known)
        expected = hidden[cached - 1]
        off = ((expected - prev_hidden).abs().max() / expected.abs().max()).item()
        embedded = self.target.get_input_embeddings()(ids[None, None])
        logits = self.assistant(
            inputs_embeds=torch.cat([embedded, prev_hidden[None, None]], -1),
            # As SinglePositionMultiTokenCandidateGenerator does: the hidden state of
            # the newest token.
            position_ids=torch.tensor([[cached]]),
            shared_kv_states=_seen(keys_values, cached),
        ).logits[0, 0]
        # Later steps start from the assistant's own hidden state, which this reference does
        # not compute.
        return max(off if step_zero else 0.0, (logits - record["logits"][row]).abs().max().item())

    def _run(self, known: list[int]) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, ...]]]:
        """Return the target's last hidden states [tokens, H], and keys and values by layer type."""
        if tuple(known) not in self._runs:
            out = self.target(
                torch.tensor([known]),
                output_hidden_states=True,
                return_shared_kv_states=True,
                use_cache=False,
            )
            self._runs[tuple(known)] = (out.hidden_states[-1][0], out.shared_kv_states)
        return self._runs[tuple(known)]


def _seen(
    keys_values: dict[str, tuple[torch.Tensor, ...]], cached: int
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Select the cached keys that a token at position `cached` sees; window - 1 in sliding layers.

    transformers' own mask passes up to two more, which its cache still holds. How many depends on
    how many tokens its last forward verified.
    """
    spans = {"full_attention": slice(0, cached)}
    spans["sliding_attention"] = slice(max(0, cached - WINDOW + 1), cached)
    return {kind: tuple(t[:, :, spans[kind]] for t in pair) for kind, pair in keys_values.items()}
