# SPDX-License-Identifier: Apache-2.0
"""What a server answered, held against transformers on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tokenizer import prompt_ids as prompt_ids

# Largest difference of a log-probability in fp32. transformers itself moves by up to 8e-5 on these
# checkpoints when its arithmetic is reordered (sdpa for eager attention).
FP32_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """Differences of one answer from the reference.

    log_probs: |server - reference| of each prompt token but the first, then of each new token.
    greedy: whether each new token is the reference's own argmax, which by induction makes the
        whole continuation the reference's greedy one.
    """

    log_probs: torch.Tensor
    greedy: bool

    @property
    def worst(self) -> float:
        """The largest difference; a value that is not a number counts as infinite."""
        return self.log_probs.nan_to_num(nan=float("inf")).max().item()


class Reference:
    """A transformers model; log-probabilities of given tokens under teacher forcing."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype = torch.float32):
        (architecture,) = json.loads((checkpoint / "config.json").read_text())["architectures"]
        self.model = getattr(transformers, architecture).from_pretrained(
            checkpoint, dtype=dtype, attn_implementation="eager"
        )
        self.model.eval()
        # SGLang masks the 12B's end-of-image and end-of-audio markers out of what it generates,
        # as transformers' generate does by that model's generation_config.suppress_tokens.
        config, markers = self.model.config, ("eoi_token_id", "eoa_token_id", "eoa_token_index")
        unified = architecture.startswith("Gemma4Unified")
        self.suppressed = [getattr(config, m) for m in markers if unified and hasattr(config, m)]

    @torch.inference_mode()
    def log_probs(self, prompt: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """fp32 [len(prompt) + len(new), vocabulary]: the distribution after each token."""
        logits = self.model(torch.tensor([[*prompt, *new]])).logits[0].float()
        logits[len(prompt) - 1 :, self.suppressed] = -torch.inf
        return logits.log_softmax(-1)

    def expected(self, prompt: Sequence[int], new: Sequence[int]) -> torch.Tensor:
        """fp32: the log-probability of each token of prompt and continuation but the first."""
        return _of_next(self.log_probs(prompt, new), [*prompt, *new])

    def compare(self, prompt: Sequence[int], answer: dict[str, Any]) -> Comparison:
        """Hold an answer of /generate against the model, back to its first log-probability."""
        new = answer["output_ids"]
        tokens = [*prompt, *new]
        table = self.log_probs(prompt, new)
        served = served_log_probs(answer)
        choices = table[len(prompt) - 1 : -1].argmax(-1).tolist()
        return Comparison((_of_next(table, tokens)[-len(served) :] - served).abs(), choices == new)


def _of_next(table: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    return table[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]


def served_log_probs(answer: dict[str, Any]) -> torch.Tensor:
    """fp32: of the prompt tokens that have one, then of each new token; NaN where JSON has null."""
    meta = answer["meta_info"]
    entries = meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]
    return torch.tensor([float("nan") if value is None else value for value, *_ in entries])
