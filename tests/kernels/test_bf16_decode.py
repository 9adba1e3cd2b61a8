# SPDX-License-Identifier: Apache-2.0
"""Check the decoder of BF16 weights, its trial on a device, and what serves where it fails."""

from __future__ import annotations

import logging

import pytest
import torch

from sglang_gemma4_ext.kernels import _bf16_decode, _nvfp4_tile
from sglang_gemma4_ext.kernels.nvfp4_dispatch import Config
from sglang_gemma4_ext.kernels.nvfp4_linear import nvfp4_linear
from tests.kernels.oracle import draw, error

GPU = torch.device("cuda", 0)


@pytest.mark.compiled
def test_every_code_with_every_scale_is_exact(device) -> None:
    assert _bf16_decode.is_exact(torch.device(device))


@pytest.mark.compiled
@pytest.mark.parametrize("exact", [True, False])
def test_both_decoders_give_the_same_weights(exact, device, monkeypatch) -> None:
    """Where the trial fails, BF16 is decoded by FP16."""
    monkeypatch.setattr(_nvfp4_tile, "holds", lambda device: exact)
    weight, x = draw(40, 176), torch.eye(176, dtype=torch.bfloat16)[:16]
    got = nvfp4_linear(x.to(device), *weight.to(device), config=Config(16, 32, 64))
    assert error(got, weight.exact[:, :16].T).worst <= 2.0**-8


@pytest.fixture
def tried(monkeypatch) -> list[torch.device]:
    """Pretend that GPUs decode wrongly; note which were tried."""
    seen: list[torch.device] = []
    monkeypatch.setattr(_bf16_decode, "is_exact", seen.append)
    monkeypatch.setattr(_bf16_decode, "_tried", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return seen


def test_a_device_is_tried_once_and_a_failure_is_logged(tried, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger=_bf16_decode.logger.name):
        assert not any(_bf16_decode.holds(GPU) for _ in range(2))
    assert tried == [GPU]
    (line,) = caplog.messages
    assert line == "NVFP4 kernels: cuda:0 flushes BF16 subnormals; decoding by FP16"


def test_a_capture_waits_for_no_trial(tried, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not _bf16_decode.holds(GPU)
    assert not tried
