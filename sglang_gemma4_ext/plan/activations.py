# SPDX-License-Identifier: Apache-2.0
"""Estimate the peak bytes that one forward step of a Gemma 4 holds beside weights and KV.

These are alive at once, in elements per token, counted along SGLang 0.5.23's gemma4_causal.py:

- always: residual, layer input and output; with per-layer embeddings (PLE) their whole stack;
- attention: stacked q, k, v; rotated q and k; the heads' output; o_proj's output;
- MLP: gate and up together, the activated gate (fused away on a GPU), the product, the output;
- experts: per chosen expert gate and up, or later the output, and their product; beside them the
  dense MLP's output, the router's and the experts' inputs with their norms' copies;
- before the first layer, PLE: table rows, projection, scaled and normed copies, some in fp32;
- logits: rows in the model's dtype and their slice, their fp32 copy, and one more for the
  soft-cap or softmax.

bench/activation_peaks.py traces the same layers of SGLang. SAFETY raises each estimate at least a
twentieth above its trace. test_activations.py holds it below half more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from sglang_gemma4_ext.plan.geometry import Geometry

SAFETY = 1.15
# SGLang computes the log-probabilities of a prompt this many tokens at a time.
LOGPROB_CHUNK = 2048
_FP32 = 4


@dataclass(frozen=True)
class Step:
    """Hold the tokens of one forward step: a prefill chunk, or a decode batch with its drafts."""

    chunk: int
    decode_batch: int
    draft_tokens: int = 1
    tp: int = 1
    dtype_bytes: int = 2


def activation_bytes(geometry: Geometry, step: Step, *, prompt_logprobs: bool = False) -> int:
    """Return a bound on one step's activations, with logits: the larger of prefill and decode."""
    decode = step.decode_batch * step.draft_tokens
    prefill_rows = min(step.chunk, LOGPROB_CHUNK) if prompt_logprobs else step.decode_batch
    return int(
        SAFETY
        * max(
            layers_bytes(geometry, step.chunk, step),
            hidden_bytes(geometry, step.chunk, step) + logits_bytes(geometry, prefill_rows, step),
            layers_bytes(geometry, decode, step),
            hidden_bytes(geometry, decode, step) + logits_bytes(geometry, decode, step),
        )
    )


def hidden_bytes(geometry: Geometry, tokens: int, step: Step) -> int:
    """Return the bytes of the last hidden states before and after the final norm."""
    return tokens * 2 * geometry.hidden * step.dtype_bytes


def layers_bytes(geometry: Geometry, tokens: int, step: Step) -> int:
    """Return the bytes of the widest layer with what lives throughout, or of the PLE stack."""
    ple = geometry.layers * geometry.ple
    widest = _widest_layer(geometry, step.tp)
    entry = geometry.hidden + 9 * ple
    through = 3 * geometry.hidden + ple
    return tokens * step.dtype_bytes * max(entry, through + widest)


def logits_bytes(geometry: Geometry, rows: int, step: Step) -> int:
    return rows * geometry.vocab * (2 * step.dtype_bytes // step.tp + 2 * _FP32)


@functools.cache
def _widest_layer(geometry: Geometry, tp: int) -> int:
    return max(_layer(geometry, layer, tp) for layer in range(geometry.layers))


def _layer(geometry: Geometry, layer: int, tp: int) -> int:
    """Return the elements per token of one layer's widest moment."""
    heads, kv_heads, dim = geometry.heads_of(layer)
    q, kv = heads * dim // tp, max(1, kv_heads // tp) * dim
    attention = (q + 2 * kv) + (q + kv) + q + geometry.hidden
    mlp = 4 * geometry.layer_intermediate(layer) // tp + geometry.hidden
    experts = 0
    if geometry.is_moe:
        wide = max(2 * geometry.expert_intermediate // tp, geometry.hidden)
        experts = geometry.top_k * (wide + geometry.expert_intermediate // tp)
        experts += 8 * geometry.hidden
    return max(attention, mlp, experts)
