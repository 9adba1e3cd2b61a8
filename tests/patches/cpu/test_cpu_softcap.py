# SPDX-License-Identifier: Apache-2.0
"""Compare the soft-cap that replaces SGLang's kernel without a GPU with float64."""

from __future__ import annotations

import pytest
import torch

from sglang_gemma4_ext.patches.cpu.cpu_softcap import _softcap_logits

CAP = 30.0


def _logits(dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-200, 200, 4 * 1001).reshape(4, 1001).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_place_it_equals_tanh_to_rounding(dtype):
    logits = _logits(dtype)
    exact = CAP * torch.tanh(logits.double() / CAP)
    assert _softcap_logits(logits, CAP) is logits
    torch.testing.assert_close(logits.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_with_an_output_the_logits_are_unchanged():
    logits, output = _logits(torch.bfloat16), torch.full((4, 1001), torch.nan)
    assert _softcap_logits(logits, CAP, output) is output
    assert torch.equal(logits, _logits(torch.bfloat16))
    torch.testing.assert_close(output, CAP * torch.tanh(logits.float() / CAP))


def test_without_a_cap_it_only_widens():
    logits, output = _logits(torch.bfloat16), torch.full((4, 1001), torch.nan)
    assert torch.equal(_softcap_logits(logits, None, output), logits.float())
