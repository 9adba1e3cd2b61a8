# SPDX-License-Identifier: Apache-2.0
"""Compare the sizes that SGLang loads on a CPU with those of the checkpoint."""

from __future__ import annotations

import copy

import pytest

from sglang_gemma4_ext.patches.cpu.cpu_unpadded_sizes import _as_it_is
from tests.checkpoints import fp8


@pytest.fixture(scope="module")
def fp8_blocks(checkpoint, tmp_path_factory):
    """Experts of 64 in-features in blocks of 128 x 128."""
    from sglang.srt.configs.model_config import ModelConfig

    path = fp8.blocks(checkpoint("moe"), tmp_path_factory.mktemp("fp8") / "blocks")
    return ModelConfig(str(path))


def _sizes(config) -> tuple[int, int]:
    text = config.hf_text_config
    return text.moe_intermediate_size, text.intermediate_size


def test_sglang_pads_experts_to_a_block(fp8_blocks) -> None:
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.update_config import adjust_config_with_unaligned_cpu_tp

    padded = adjust_config_with_unaligned_cpu_tp(copy.deepcopy(fp8_blocks), LoadConfig(), 1)
    assert _sizes(padded)[0] == 128


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ours_keeps_the_sizes_of_the_checkpoint(fp8_blocks, ranks) -> None:
    assert _sizes(_as_it_is(fp8_blocks, None, ranks)) == (64, 256)
