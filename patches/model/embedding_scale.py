# SPDX-License-Identifier: Apache-2.0
"""Scale embeddings by the root of the hidden size in the model's dtype, as transformers does.

`Gemma4TextScaledWordEmbedding` of transformers casts its scale to the weight's dtype. SGLang
multiplies by the unrounded Python number. In BF16 the two differ by 0.24 % for the 31B, and by less
for the other models; in fp32 they are equal. All components of a token's embedding scale together,
so the residual stream starts from another mixture than the weights were trained for.

Three embeddings have such a scale: the target's, the per-layer one of E2B and E4B, and the target's
as an MTP assistant reads it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from sglang_gemma4_ext.registry import Hook, Patch, Source

MODELS = "sglang.srt.models"
ASSISTANT = f"{MODELS}.gemma4_mtp.Gemma4AssistantForCausalLM"


def _rounded(scale: float, weight: torch.Tensor) -> float:
    """Round a factor to the dtype of the weight that it multiplies.

    A table in INT8 (`embedding_tables`) says which dtype its rows are dequantized to.
    """
    dtype = getattr(weight, "gemma4_dtype", weight.dtype)
    return torch.tensor(scale, dtype=dtype).item()


def _round_of_model(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER Gemma4TextModel.__init__. A pipeline stage may have neither embedding."""
    for embedding in (self.embed_tokens, self.embed_tokens_per_layer):
        if hasattr(embedding, "embed_scale"):
            embedding.embed_scale = _rounded(embedding.embed_scale, embedding.weight)


def _round_of_assistant(result: None, self: Any, embed: torch.Tensor, head: torch.Tensor) -> None:
    """AFTER set_embed_and_head, which binds the target's embedding. embed: [vocabulary, hidden]."""
    self.target_embed_scale = _rounded(self.target_embed_scale, embed)


def _retired() -> bool:
    from sglang.srt.models.gemma4_causal import Gemma4TextScaledWordEmbedding

    return ".dtype" in inspect.getsource(inspect.unwrap(Gemma4TextScaledWordEmbedding.forward))


PATCH = Patch(
    name="embedding_scale",
    theme="model",
    summary="Embeddings of target and draft are scaled in the model's dtype, as in transformers",
    why="the scale is a Python number that no flag or config field sets; the reference rounds it "
    "to the weight's dtype",
    upstream="unreported",
    retire_when="Gemma4TextScaledWordEmbedding.forward casts its scale to the weight's dtype",
    retired=_retired,
    hooks=(
        Hook(
            f"{MODELS}.gemma4_causal.Gemma4TextModel.__init__",
            "d950552b736c",
            "after",
            _round_of_model,
        ),
        Hook(f"{ASSISTANT}.set_embed_and_head", "a393a40987d5", "after", _round_of_assistant),
    ),
    relies_on=(
        Source(f"{MODELS}.gemma3_causal.Gemma3TextScaledWordEmbedding.forward", "a37877da96e9"),
        Source(f"{ASSISTANT}.forward", "a4dc8b83f0c7"),
    ),
)
