# SPDX-License-Identifier: Apache-2.0
"""Check what preflight refuses by a checkpoint's own tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from tests.checkpoints import layouts


@pytest.mark.parametrize(
    ("leaf", "dtype", "served"),
    [
        ("weight", torch.bfloat16, True),
        ("weight", torch.uint8, False),
        ("weight_packed", torch.uint8, False),
        ("qweight", torch.int32, False),
    ],
)
def test_a_quantized_head_of_its_own_is_refused(leaf, dtype, served, checkpoint, tmp_path) -> None:
    """A tied checkpoint may hold one that nothing reads."""
    for tied in (False, True):
        path = (layouts.untied if not tied else layouts.redundant)(
            checkpoint("dense"), tmp_path / f"tied-{tied}"
        )
        tensors = load_file(path / "model.safetensors")
        weight = tensors.pop("lm_head.weight", torch.zeros(8, 8))
        tensors[f"lm_head.{leaf}"] = weight if dtype.is_floating_point else weight.char().to(dtype)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        if tied or served:
            assert check_checkpoint(str(path)) is not None
            continue
        with pytest.raises(CheckpointError, match=rf"quantized lm_head \(lm_head\.{leaf}\)"):
            check_checkpoint(str(path))
