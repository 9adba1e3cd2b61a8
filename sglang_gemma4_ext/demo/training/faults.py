# SPDX-License-Identifier: Apache-2.0
"""Break the demo in three ways, to show what a server with such a fault would compute."""

from __future__ import annotations

from pathlib import Path

import torch

from sglang_gemma4_ext.demo.training import quantized

# Sliding layers look back ten tokens, from the answer to the question.
WRONG_WINDOW = 8


def wrong_window(folder: Path) -> torch.nn.Module:
    """Give sliding layers a sixth of their window."""
    model = quantized.load(folder)
    model.config.text_config.sliding_window = WRONG_WINDOW
    model.model.language_model.config.sliding_window = WRONG_WINDOW
    for layer in model.model.language_model.layers:
        if layer.self_attn.is_sliding:
            layer.self_attn.sliding_window = WRONG_WINDOW
    return model


def router_scale_ignored(folder: Path) -> torch.nn.Module:
    """Let routers ignore their learned scale and hidden_size**-0.5.

    Stock SGLang does so where its norm runs in plain PyTorch (the patch `router_scale`).
    """
    model = quantized.load(folder)
    for layer in model.model.language_model.layers:
        layer.router.scale.data.fill_(1.0)
        layer.router.scalar_root_size = 1.0
    return model


def nibbles_swapped(folder: Path) -> torch.nn.Module:
    """Read the two codes of each byte in the wrong order."""
    return quantized.load(folder, packed=lambda codes: (codes << 4) | (codes >> 4))


FAULTS = {
    "wrong_window": wrong_window,
    "router_scale_ignored": router_scale_ignored,
    "nibbles_swapped": nibbles_swapped,
}
