# SPDX-License-Identifier: Apache-2.0
"""Give each purpose of memory its colour, the same in every picture and terminal."""

from __future__ import annotations

from sglang_gemma4_ext.plan.answer import RESERVE

# They differ in lightness too.
COLOURS = {
    "CUDA context": "#5b6472",
    "weights: attention": "#1d4e89",
    "weights: mlp": "#2f75b5",
    "weights: experts": "#5fa3d6",
    "weights: embeddings": "#9cc9ea",
    "weights: ple": "#c9e2f5",
    "weights: other": "#7a5195",
    "weights: towers": "#8c6d46",
    "weights: draft": "#d1477a",
    "weights: swizzled scales": "#f2a3c3",
    "weights: padding of experts": "#f7cfe0",
    RESERVE + "activations": "#b35900",
    RESERVE + "CUDA graphs": "#e08214",
    RESERVE + "request table, attention buffers": "#fdb863",
    RESERVE + "unmodelled": "#fee0b6",
    "kv": "#2a9d60",
}
