# SPDX-License-Identifier: Apache-2.0
"""Check the router's learned scale: in PyTorch's norm, its rounding, after a weight update."""

from __future__ import annotations

import inspect

import pytest
import torch
from sglang.srt.layers.layernorm import Gemma4RMSNorm
from sglang.srt.models.gemma4_causal import Gemma4Router

from sglang_gemma4_ext.patches.model.router_scale import PATCH
from tests.patches.hooks import hook_of

# Not a power of four: its root is then not a BF16 number.
HIDDEN, EPS = 2816, 1e-6


@pytest.fixture
def router() -> Gemma4Router:
    """Build it in BF16 as SGLang does, without its projection."""
    made = object.__new__(Gemma4Router)
    torch.nn.Module.__init__(made)
    made.norm = Gemma4RMSNorm(HIDDEN, eps=EPS, with_scale=False).bfloat16()
    made.scale = torch.nn.Parameter(torch.ones(HIDDEN, dtype=torch.bfloat16))
    made.root_size = torch.tensor(HIDDEN**-0.5, dtype=torch.bfloat16)
    made._scale_fused = False
    hook_of(PATCH, "after", "__init__")(None, made)
    return made


@pytest.fixture(autouse=True)
def patched(monkeypatch) -> None:
    stock = inspect.unwrap(Gemma4Router.fuse_scale)

    def fuse(self) -> None:
        hook_of(PATCH, "after", "fuse_scale")(stock(self), self)

    monkeypatch.setattr(Gemma4Router, "fuse_scale", fuse)


def drawn(seed: int) -> torch.Tensor:
    return torch.rand(HIDDEN, generator=torch.Generator().manual_seed(seed)) + 0.5


def rounded_once(scale: torch.Tensor) -> torch.Tensor:
    return (scale.bfloat16().double() * HIDDEN**-0.5).bfloat16()


def test_the_native_norm_applies_the_scale(router):
    router.float().scale.data = drawn(0)
    x = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(0))
    normed = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(router.norm.forward_native(x), normed)
    router.fuse_scale()
    expected = normed * router.scale.detach() * HIDDEN**-0.5
    torch.testing.assert_close(router.norm.forward_native(x), expected)


def test_the_fold_rounds_once(router):
    """SGLang rounds the constant first, which makes each weight of the 26B-A4B 0.24 % smaller."""
    router.scale.data = drawn(1).bfloat16()
    router.fuse_scale()
    assert torch.equal(router.norm.weight.data, rounded_once(router.scale.data))
    twice = router.scale.data * router.root_size
    assert not torch.equal(twice, rounded_once(router.scale.data))


def test_a_weight_update_is_folded_in_place(router):
    router.scale.weight_loader(router.scale, drawn(2))
    assert not router._scale_fused
    router.fuse_scale()
    captured = router.norm.weight.data
    router.scale.weight_loader(router.scale, drawn(3))
    assert torch.equal(captured, rounded_once(drawn(3)))
