# SPDX-License-Identifier: Apache-2.0
"""Fuzz a checkpoint's JSON and headers: preflight passes or raises one sentence."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_gemma4_ext.checkpoint.assistant_fit import check_fit
from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_header
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.checkpoint.quantization import describe
from tests.unit.test_preflight import (
    COMPRESSED_TENSORS,
    CT_CONFIG,
    MODELOPT,
    MODELOPT_CONFIG,
    TEXT,
    write_config,
    write_weights,
)

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
LAYER = {"head_dim": 8, "num_key_value_heads": 1}
CONFIG = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "text_config": {**TEXT, "per_layer_config": {"full_attention": LAYER}},
    "quantization_config": {**MODELOPT_CONFIG, "quantized_layers": {"a": {"quant_algo": "NVFP4"}}},
}
DRAFT = {"architectures": ["Gemma4AssistantForCausalLM"], "text_config": CONFIG["text_config"]}
INDEX = {"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}
HEADER = {
    name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, 4]}
    for name, (dtype, shape) in {**MODELOPT, **COMPRESSED_TENSORS}.items()
}


def places(value: object, path: tuple = ()) -> list[tuple]:
    """List the path to every value within a JSON value, the value itself first."""
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@st.composite
def damaged(draw, whole: dict) -> object:
    """Replace one or two values anywhere within `whole`."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(places(whole)[1:]))
        target = value
        try:
            for key in path:
                target = target[key]
            target[last] = draw(JSON)
        except (TypeError, KeyError, IndexError):
            continue  # the first change removed the place of the second
    return value if draw(st.integers(0, 9)) else draw(JSON)


@contextlib.contextmanager
def one_sentence_at_most():
    """Accept at most one refusal of one sentence; any other exception is a failure."""
    refusal = None
    try:
        yield
    except CheckpointError as error:
        refusal = str(error)
    assert refusal is None or (refusal.strip() and "\n" not in refusal)


def look(folder: Path) -> None:
    """Check the folder as the launcher and its start-up summary do."""
    with one_sentence_at_most():
        info = check_checkpoint(str(folder))
        if info is not None and info.is_gemma4:
            describe(info)


def whole(folder: Path) -> Path:
    write_config(folder, MODELOPT_CONFIG)
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder / "model.safetensors", MODELOPT)
    return folder


@settings(max_examples=150)
@given(config=damaged(CONFIG) | damaged({**CONFIG, "quantization_config": CT_CONFIG}))
def test_any_config(config):
    with tempfile.TemporaryDirectory() as name:
        folder = whole(Path(name))
        (folder / "config.json").write_text(json.dumps(config))
        look(folder)


@settings(max_examples=100)
@given(quantization=damaged({"quantization": CONFIG["quantization_config"]}), index=damaged(INDEX))
def test_any_quantization_file_and_index(quantization, index):
    with tempfile.TemporaryDirectory() as name:
        folder = whole(Path(name))
        (folder / "hf_quant_config.json").write_text(json.dumps(quantization))
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        look(folder)


@settings(max_examples=150)
@given(header=damaged(HEADER), tail=st.integers(0, 64))
def test_any_header(header, tail):
    with tempfile.TemporaryDirectory() as name:
        folder = whole(Path(name))
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + bytes(tail)
        (folder / "model.safetensors").write_bytes(content)
        look(folder)


@settings(max_examples=100)
@given(content=st.binary(max_size=64), file=st.sampled_from(["config.json", "model.safetensors"]))
def test_any_bytes(content, file):
    with tempfile.TemporaryDirectory() as name:
        folder = whole(Path(name))
        (folder / file).write_bytes(content)
        look(folder)


@settings(max_examples=100)
@given(target=damaged(CONFIG), draft=damaged(DRAFT))
def test_any_pair_of_configs(target, draft):
    with tempfile.TemporaryDirectory() as name, one_sentence_at_most():
        infos = []
        for side, config in (("target", target), ("draft", draft)):
            folder = Path(name) / side
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            infos.append(check_checkpoint(str(folder), weights=False, tokenizer=False, flag=side))
        check_fit(*infos)


@pytest.mark.parametrize("nesting", [b"[" * 100_000, b'{"a":' * 100_000], ids=["list", "object"])
def test_json_nested_beyond_what_python_parses(tmp_path, nesting):
    folder = whole(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(len(nesting).to_bytes(8, "little") + nesting)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_header(file)
    (folder / "config.json").write_bytes(nesting)
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        check_checkpoint(str(folder))


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path):
    """Bound the header's length: another file type's first bytes may state any length."""
    file = tmp_path / "model.safetensors"
    with file.open("wb") as stream:
        stream.write((2**40).to_bytes(8, "little"))
        stream.truncate(2**41)  # a sparse file, too large for any memory
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_header(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": "x"}, 'config.json has text_config "x" where an object is expected'),
        ({"text_config": {"layer_types": 3}}, "has layer_types 3 where a list is expected"),
        ({"text_config": {"layer_types": [[]]}}, "where a list of strings is expected"),
        ({"text_config": {"num_kv_shared_layers": "2"}}, 'has num_kv_shared_layers "2" where a wh'),
        ({"quantization_config": [1]}, "has quantization_config [1] where an object is expected"),
        (
            {"quantization_config": {**CT_CONFIG, "config_groups": {"g\n": 3}}},
            "has config_groups.g  3 where an object is expected",
        ),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path, change, words):
    folder = whole(tmp_path)
    write_config(folder, **change)
    with pytest.raises(CheckpointError) as refused:
        check_checkpoint(str(folder))
    assert words in str(refused.value) and "\n" not in str(refused.value)
