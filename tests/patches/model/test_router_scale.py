# SPDX-License-Identifier: Apache-2.0
"""The router's learned scale in PyTorch's norm, against the definition."""

from __future__ import annotations

import inspect

import torch
from sglang.srt.layers.layernorm import Gemma4RMSNorm
from sglang.srt.models.gemma4_causal import Gemma4Router

from sglang_gemma4_ext.patches.model import router_scale
from tests.patches.hooks import hook_of

HIDDEN, EPS = 64, 1e-6


def test_the_scale_counts_in_the_native_norm():
    draw = torch.Generator().manual_seed(0)
    router = object.__new__(Gemma4Router)
    torch.nn.Module.__init__(router)
    router.norm = Gemma4RMSNorm(HIDDEN, eps=EPS, with_scale=False)
    router.scale = torch.nn.Parameter(torch.rand(HIDDEN, generator=draw) + 0.5)
    router.root_size = torch.tensor(HIDDEN**-0.5)
    x = torch.randn(3, HIDDEN, generator=draw)
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    inspect.unwrap(Gemma4Router.fuse_scale)(router)
    torch.testing.assert_close(router.norm.forward_native(x), normed)
    hook_of(router_scale.PATCH, "after", "fuse_scale")(None, router)
    expected = normed * router.scale.detach() * HIDDEN**-0.5
    torch.testing.assert_close(router.norm.forward_native(x), expected)
