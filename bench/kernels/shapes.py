# SPDX-License-Identifier: Apache-2.0
"""The linears of Gemma 4 as the server stacks them, [N, K], and its experts."""

from __future__ import annotations

# name -> (N, K). 12B, 26B-A4B and 31B quantize all of these; each once where models share one.
NAMED = {
    "12B qkv sliding": (8192, 3840),
    "12B qkv full": (9216, 3840),
    "12B o sliding": (3840, 4096),
    "12B o full": (3840, 8192),
    "12B gate_up": (30720, 3840),
    "12B down": (3840, 15360),
    "26B-A4B qkv sliding": (8192, 2816),
    "26B-A4B qkv full": (10240, 2816),
    "26B-A4B o sliding": (2816, 4096),
    "26B-A4B o full": (2816, 8192),
    "26B-A4B gate_up": (4224, 2816),
    "26B-A4B down": (2816, 2112),
    "31B qkv sliding": (16384, 5376),
    "31B qkv full": (20480, 5376),
    "31B o sliding": (5376, 8192),
    "31B o full": (5376, 16384),
    "31B gate_up": (43008, 5376),
    "31B down": (5376, 21504),
}
LINEARS = tuple(NAMED.values())
GATED = tuple(shape for name, shape in NAMED.items() if name.endswith("gate_up"))
# (w13, w2) of one expert; 128 of them, 8 a token.
EXPERTS = (((1408, 2816), (2816, 704)),)
EXPERT_COUNT, TOP_K = 128, 8
