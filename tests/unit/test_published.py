# SPDX-License-Identifier: Apache-2.0
"""Check the checkpoints that people download, at toy size: preflight, doctor and plan.

tests/patches/weights/test_formats_compute.py loads them and compares what they compute.
"""

from __future__ import annotations

import json
import logging
from math import prod
from pathlib import Path

import pytest

from sglang_gemma4_ext.checkpoint.files import read_headers
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.checkpoint.quantization import declares_fp8_kv, describe
from sglang_gemma4_ext.checkpoint.stored import layers_of
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.doctor import report
from sglang_gemma4_ext.plan import served
from tests.checkpoints.published import PUBLISHED, Published
from tests.checkpoints.published_writer import _expanded, write

by_name = pytest.mark.parametrize("published", PUBLISHED, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    written: dict[str, Path] = {}

    def get(published: Published) -> Path:
        if published.name not in written:
            path = tmp_path_factory.mktemp("published") / published.short
            written[published.name] = write(published, path)
        return written[published.name]

    return get


@by_name
def test_preflight_has_nothing_to_say(published, folder, caplog):
    with caplog.at_level(logging.WARNING, "sglang_gemma4_ext"):
        info = check_checkpoint(str(folder(published)))
    said = [record.message for record in caplog.records if "gemma4" in record.name]
    assert info.is_gemma4 and said == []


@by_name
def test_doctor_names_the_format_of_every_class(published, folder):
    model = check_checkpoint(str(folder(published)))
    assert report([], Context(model=model))["formats"] == published.formats
    assert declares_fp8_kv(model) == ("KV cache" in published.formats)


@by_name
def test_the_plan_counts_codes_and_scales(published, folder):
    """Experts weigh their codes and block scales; a copy of the tied table weighs nothing."""
    path = folder(published)
    held = served.read(str(path)).weights
    declared = {kind: set(names) for kind, names in published.formats.items() if kind != "KV cache"}
    assert {kind: set(names) for kind, names in held.formats.items()} == declared
    tensors = read_headers(path)
    experts = [name for name in tensors if ".experts." in name]
    stored = sum(_SIZE[tensors[name].dtype] * prod(tensors[name].shape) for name in experts)
    assert held.parts.get("experts", 0) == pytest.approx(stored, rel=0.01)
    table = tensors["model.language_model.embed_tokens.weight"]
    assert held.parts["embeddings"] == 2 * prod(table.shape)


_SIZE = {"BF16": 2, "F32": 4, "F16": 2, "U8": 1, "F8_E4M3": 1, "I32": 4, "I64": 8}


@by_name
def test_the_description_and_the_tensors_agree(published, folder):
    """Each linear is stored as its config declares it."""
    path = folder(published)
    quantization = describe(check_checkpoint(str(path)))
    layers = layers_of(str(path))
    kinds = {"int4-words": "int", "int8-words": "int"}
    for index in range(6):
        for module in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj"):
            stored = layers.of(f"model.language_model.layers.{index}.{module}").stored
            part = module.replace("qkv", "q").replace("gate_up", "up")
            declared = quantization.of(f"model.language_model.layers.{index}.{part}").format
            if quantization.tool == "compressed-tensors" and stored == "unknown":
                continue  # its packed leaves are read by SGLang's schemes
            assert kinds.get(stored, stored) == declared, (index, module)


def test_the_list_of_the_26b_has_the_size_of_the_public_file():
    """The hub lists hf_quant_config.json with 5.19 kB; the model has 30 layers."""
    one = next(one for one in PUBLISHED if one.name == "nvidia/Gemma-4-26B-A4B-NVFP4")
    quantization = _expanded(one.hf_quant_config, 30, [])
    content = json.dumps({"producer": one.producer, "quantization": quantization}, indent=4)
    assert round(len(content) / 1000, 2) == 5.19
