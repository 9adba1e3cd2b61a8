# SPDX-License-Identifier: Apache-2.0
"""Compare our reading of real tools' checkpoints with the tools' own dequantization."""

from __future__ import annotations

import hashlib
import logging

import pytest
import torch

from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.doctor import report
from tests.checkpoints import tool_fixtures

by_name = pytest.mark.parametrize("name", tool_fixtures.KINDS)
RECORDED = [name for name in tool_fixtures.KINDS if tool_fixtures.digests(name)]
OTHERS = [name for name in tool_fixtures.KINDS if name not in RECORDED]


@pytest.mark.parametrize("name", RECORDED)
def test_the_weights_are_those_that_the_tool_multiplies(name):
    packed, recorded = tool_fixtures.modules(name), tool_fixtures.digests(name)
    assert recorded.keys() == packed.keys()
    for module, leaves in packed.items():
        weight = tool_fixtures.dequantize(name, leaves).half().contiguous() + 0
        assert hashlib.sha256(weight.numpy().tobytes()).hexdigest() == recorded[module], module


@pytest.mark.parametrize("name", OTHERS)
def test_compressed_tensors_decompresses_to_the_same_weights(name):
    """Its compressor computes in the dtype of the scales, BF16; ours is exact before rounding."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    for module, leaves in tool_fixtures.modules(name).items():
        args = QuantizationArgs(
            num_bits=4, type="int", strategy="group", group_size=32,
            symmetric="weight_zero_point" not in leaves,
        )  # fmt: skip
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        theirs = PackedQuantizationCompressor.decompress(dict(leaves), scheme)["weight"]
        ours = tool_fixtures.dequantize(name, leaves)
        assert torch.equal(ours.to(theirs.dtype), theirs), module


@by_name
def test_preflight_and_doctor_know_the_formats(name, tmp_path, caplog):
    path = tool_fixtures.copy(name, tmp_path / name)
    with caplog.at_level(logging.WARNING, "sglang_gemma4_ext"):
        model = check_checkpoint(str(path))
    assert [r.message for r in caplog.records if "gemma4" in r.name] == []
    formats = report([], Context(model=model))["formats"]
    said = {kind: set(counts) for kind, counts in formats.items() if kind != "embeddings"}
    assert said == EXPECTED[name]


_INT4, _INT8, _PLAIN = {"INT4 (group 32)"}, {"INT8 (group 32)"}, {"BF16"}
EXPECTED = {
    "llmcompressor_gptq_moe": {
        "attention": _INT4, "mlp": _INT4, "experts": _INT4, "router": _PLAIN},
    "llmcompressor_awq_dense": {"attention": _INT4, "mlp": _INT4},
    "autoround_mixed_moe": {
        "attention": _INT8, "mlp": _INT8, "experts": _INT4, "router": _PLAIN},
    "autoround_awq_dense": {"attention": _INT4, "mlp": _INT4},
    "gptqmodel_moe": {
        "attention": _INT4, "mlp": _INT4, "experts": _PLAIN, "router": _PLAIN},
}  # fmt: skip
