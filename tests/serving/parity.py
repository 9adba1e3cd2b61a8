# SPDX-License-Identifier: Apache-2.0
"""Compare a server's answers with transformers on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tokenizer import prompt_ids as prompt_ids

# The largest difference of one log-probability in fp32, and the root mean square of an answer's.
# transformers' own fp32 is up to 6.1e-6 from its own float64 on most of these checkpoints, and the
# server rounds as often in another order. So the worst token cannot be held to 5e-6; the mean can.
FP32_TOLERANCE = 2e-5
FP32_RMS_TOLERANCE = 5e-6
# Below so many log-probabilities their root mean square says no more than the largest one.
FEW = 30


@dataclass(frozen=True)
class Comparison:
    """Hold the differences of one answer from the reference.

    log_probs: |server - reference| of each prompt token but the first, then of each new token.
    greedy: whether each new token is the reference's argmax. By induction the whole continuation is
        then the reference's greedy one.
    """

    log_probs: torch.Tensor
    greedy: bool

    @property
    def worst(self) -> float:
        """Return the largest difference; NaN counts as infinite."""
        return self.log_probs.nan_to_num(nan=float("inf")).max().item()

    @property
    def rms(self) -> float:
        """Return the root mean square of the differences; a NaN counts as infinite."""
        return self.log_probs.nan_to_num(nan=float("inf")).square().mean().sqrt().item()

    def require_fp32(self, label: object = "", slack: float = 1) -> None:
        """Raise AssertionError unless the answer is the reference's up to fp32 rounding.

        slack: factor of both tolerances
        """
        assert self.worst <= slack * FP32_TOLERANCE, (label, self.worst)
        if len(self.log_probs) >= FEW:
            assert self.rms <= slack * FP32_RMS_TOLERANCE, (label, self.rms)
        assert self.greedy, label


class Reference:
    """Compute log-probabilities of given tokens with a transformers model (teacher forcing)."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32):
        (architecture,) = json.loads((checkpoint / "config.json").read_text())["architectures"]
        self.model = getattr(transformers, architecture).from_pretrained(
            checkpoint, dtype=dtype, attn_implementation="eager"
        )
        self.model.eval()
        # SGLang masks the 12B's end-of-image and end-of-audio markers in its output. transformers'
        # generate does so by that model's generation_config.suppress_tokens.
        config, markers = self.model.config, ("eoi_token_id", "eoa_token_id", "eoa_token_index")
        unified = architecture.startswith("Gemma4Unified")
        self.suppressed = [getattr(config, m) for m in markers if unified and hasattr(config, m)]

    @torch.inference_mode()
    def log_probs(self, prompt: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """Return the distribution after each token: fp32 [len(prompt) + len(new), vocabulary]."""
        logits = self.model(torch.tensor([[*prompt, *new]])).logits[0].float()
        logits[len(prompt) - 1 :, self.suppressed] = -torch.inf
        return logits.log_softmax(-1)

    def expected(self, prompt: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """Return fp32 log-probabilities of all tokens but the first, prompt and continuation."""
        return _of_next(self.log_probs(prompt, new), [*prompt, *new])

    def compare(self, prompt: Sequence[int], answer: dict[str, Any]) -> Comparison:
        """Compare an answer of /generate with the model, from its first log-probability on."""
        new = answer["output_ids"]
        tokens = [*prompt, *new]
        table = self.log_probs(prompt, new)
        served = served_log_probs(answer)
        choices = table[len(prompt) - 1 : -1].argmax(-1).tolist()
        return Comparison((_of_next(table, tokens)[-len(served) :] - served).abs(), choices == new)


def _of_next(table: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    return table[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def served_log_probs(answer: dict[str, Any]) -> torch.Tensor:
    """Return fp32 log-probabilities: prompt tokens that have one, then new tokens; null is NaN."""
    meta = answer["meta_info"]
    entries = meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]
    return torch.tensor([float("nan") if value is None else value for value, *_ in entries])
