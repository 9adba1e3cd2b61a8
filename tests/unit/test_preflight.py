# SPDX-License-Identifier: Apache-2.0
"""Check every kind of wrong checkpoint or address on headers written by hand."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from sglang_gemma4_ext.address import check_address
from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_header, read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.checkpoint.quantization import describe

N, K = 32, 64
LINEAR = "model.language_model.layers.0.mlp.up_proj"
MODELOPT = {
    f"{LINEAR}.weight": ("U8", (N, K // 2)),
    f"{LINEAR}.weight_scale": ("F8_E4M3", (N, K // 16)),
    f"{LINEAR}.weight_scale_2": ("F32", ()),
}
COMPRESSED_TENSORS = {
    f"{LINEAR}.weight_packed": ("U8", (N, K // 2)),
    f"{LINEAR}.weight_scale": ("F8_E4M3", (N, K // 16)),
    f"{LINEAR}.weight_global_scale": ("F32", (1,)),
}
NVFP4_WEIGHTS = {"num_bits": 4, "group_size": 16}
MODELOPT_CONFIG = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "config_groups": {"group_0": {"weights": NVFP4_WEIGHTS}},
}
CT_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "nvfp4-pack-quantized",
    "config_groups": {"group_0": {"weights": NVFP4_WEIGHTS}},
}
FORMATS = pytest.mark.parametrize(
    ("config", "tensors"),
    [(MODELOPT_CONFIG, MODELOPT), (CT_CONFIG, COMPRESSED_TENSORS)],
    ids=["modelopt", "compressed-tensors"],
)
BYTES = {"U8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "I32": 4}


def write_weights(file: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return file


@pytest.fixture
def folder(tmp_path) -> Path:
    """Write a complete checkpoint in BF16."""
    write_config(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}\n")
    write_weights(tmp_path / "model.safetensors", {f"{LINEAR}.weight": ("BF16", (N, K))})
    return tmp_path


def write_config(folder: Path, quantization: dict | None = None, **changes) -> None:
    config = {"architectures": ["Gemma4ForConditionalGeneration"], **changes}
    if quantization:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder: Path | str, **options) -> str:
    with pytest.raises(CheckpointError) as refused:
        check_checkpoint(str(folder), **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_whole_checkpoint_passes(folder):
    assert check_checkpoint(str(folder)).is_gemma4


@FORMATS
def test_a_whole_nvfp4_checkpoint_passes(folder, config, tensors):
    write_config(folder, config)
    write_weights(folder / "model.safetensors", tensors)
    assert check_checkpoint(str(folder)).is_gemma4


def test_a_name_without_a_local_folder_is_left_to_sglang():
    for path in ("s3://bucket/model", "/models/gemma.gguf"):  # hub names: test_hub.py
        assert check_checkpoint(path) is None


def test_a_missing_path_is_refused(tmp_path):
    assert (
        refusal(tmp_path / "nope")
        == f"--model-path {tmp_path}/nope does not exist: correct the path"
    )
    assert refusal("~/gemma").startswith("--model-path ~/gemma")
    flag = "--speculative-draft-model-path"
    assert refusal(tmp_path / "nope", flag=flag).startswith(flag)


def test_a_file_in_place_of_a_folder_is_refused(folder):
    assert "is a file: give the folder" in refusal(folder / "model.safetensors")


def test_a_folder_without_a_checkpoint_or_with_bad_json_is_refused(folder):
    (folder / "config.json").write_text("{'architectures': ")
    assert "config.json is not valid JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json is not valid JSON" in refusal(folder)
    (folder / "config.json").unlink()
    assert "is not a checkpoint: it has no config.json" in refusal(folder)


def test_another_model_family_is_not_checked(folder):
    write_config(folder, architectures=["LlamaForCausalLM"])
    (folder / "model.safetensors").write_bytes(b"?")
    assert not check_checkpoint(str(folder)).is_gemma4


def test_a_draft_model_alone_is_refused(folder):
    write_config(folder, architectures=["Gemma4AssistantForCausalLM"])
    assert "--speculative-draft-model-path" in refusal(folder)
    flag = "--speculative-draft-model-path"
    assert check_checkpoint(str(folder), flag=flag, tokenizer=False).is_gemma4


def test_truncated_weights_are_refused(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length, words in (
        (0, "truncated within"),
        (20, "truncated within"),
        (-1, "its header pro"),
    ):
        file.write_bytes(whole[:length])
        assert words in refusal(folder)
    file.write_bytes(whole[:20])
    assert check_checkpoint(str(folder), weights=False).is_gemma4


@pytest.mark.parametrize("header", [b"{}}", b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}'])
def test_weights_of_another_file_type_are_refused(tmp_path, header):
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        read_header(file)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_refused(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refusal(folder)


def test_missing_shards_by_index_and_by_number(folder):
    (folder / "model.safetensors").unlink()
    assert "has no *.safetensors weights: download them again" in refusal(folder)
    write_weights(folder / "model-00002-of-00003.safetensors", {"a": ("BF16", (2,))})
    assert "lacks 2 of 3 weight files, model-00001-of-00003.safetensors first" in refusal(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00002-of-00003.safetensors", "b": "x"}}')
    assert "lacks 1 of 2 weight files, x first" in refusal(folder)
    index.write_text('{"weight_map": {"a": "model-00002-of-00003.safetensors"}}')
    assert set(read_headers(folder)) == {"a"}
    index.write_text("{}")
    assert "has no weight_map" in refusal(folder)


def test_a_missing_or_truncated_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {')
    assert "tokenizer.json is truncated or not JSON" in refusal(folder)
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refusal(folder) and "--tokenizer-path" in refusal(folder)
    assert check_checkpoint(str(folder), tokenizer=False).is_gemma4


@FORMATS
def test_a_missing_scale_is_named(folder, config, tensors):
    write_config(folder, config)
    for name in tensors:
        if "scale" in name:
            rest = {other: entry for other, entry in tensors.items() if other != name}
            write_weights(folder / "model.safetensors", rest)
            message = refusal(folder)
            assert f"{LINEAR}.weight" in message and f"has no {name.rpartition('.')[2]}:" in message


@FORMATS
@pytest.mark.parametrize("shape", [(N, K // 32), (128, K // 16), (1, N, K // 16)])
def test_scales_of_another_shape_are_refused(folder, config, tensors, shape):
    write_config(folder, config)
    scale = {f"{LINEAR}.weight_scale": ("F8_E4M3", shape)}
    write_weights(folder / "model.safetensors", {**tensors, **scale})
    assert f"shape {list(shape)} where [{N}, {K // 16}] is expected" in refusal(folder)


def test_group_size_32_is_refused_wherever_it_is_stated(folder):
    weights = {"num_bits": 4, "group_size": 32}
    groups = {"config_groups": {"group_0": {"weights": weights}}}
    mixed = {"layers.0": {"quant_algo": "NVFP4", "group_size": 32}}
    for config in (
        {**MODELOPT_CONFIG, **groups},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": mixed},
        {**CT_CONFIG, **groups},
    ):
        write_config(folder, config)
        assert "config.json declares NVFP4 with group size 32" in refusal(folder)
    write_config(folder)
    quantization = {"quantization": {"quant_algo": "W4A16_NVFP4", "group_size": 32}}
    (folder / "hf_quant_config.json").write_text(json.dumps(quantization))
    assert "hf_quant_config.json declares NVFP4 with group size 32" in refusal(folder)


SLIDING, FULL = "sliding_attention", "full_attention"
TEXT = {
    "layer_types": [SLIDING, SLIDING, SLIDING, FULL, SLIDING],
    "num_kv_shared_layers": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
}
LAYERS = "model.language_model.layers"


def layers(**changes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Build five layers with changed tensors by name; None leaves a tensor out."""
    tensors = {"model.language_model.embed_tokens.weight": ("BF16", (N, K))}
    for index, kind in enumerate(TEXT["layer_types"]):
        width = 2 * N if index == 4 else N
        shared, full = index == 4, kind == FULL
        attention = "qo" if shared else "qko" if full else "qkvo"
        for name in (
            *(f"self_attn.{leaf}" for leaf in attention),
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        ):
            tensors[f"{LAYERS}.{index}.{name}_proj.weight"] = ("BF16", (width, K))
    tensors.update({f"model.language_model.layers.{n}": entry for n, entry in changes.items()})
    return {name: entry for name, entry in tensors.items() if entry}


def test_a_layer_unlike_others_of_its_kind_is_refused(folder):
    write_config(folder, text_config=TEXT)
    file = folder / "model.safetensors"
    write_weights(file, layers())
    assert check_checkpoint(str(folder)).is_gemma4
    write_weights(file, layers(**{"1.mlp.up_proj.weight": None}))
    assert f"lacks 1 tensor that its config.json asks for ({LAYERS}.1.mlp.up" in refusal(folder)
    write_weights(file, layers(**{"1.mlp.up_proj.weight": ("BF16", (N - 1, K))}))
    assert f"layer 1 has mlp.up_proj.weight of shape {[N - 1, K]} where" in refusal(folder)
    write_config(folder, MODELOPT_CONFIG, text_config=TEXT)
    up = {k.replace(f"{LINEAR}.", "1.mlp.up_proj."): entry for k, entry in MODELOPT.items()}
    write_weights(file, layers(**up))
    assert check_checkpoint(str(folder)).is_gemma4


@pytest.mark.parametrize("tensors", [MODELOPT, COMPRESSED_TENSORS])
def test_undeclared_nvfp4_tensors_are_refused(folder, tensors):
    write_weights(folder / "model.safetensors", tensors)
    assert "that neither config.json nor hf_quant_config.json declares" in refusal(folder)


def test_other_packed_formats_are_not_mistaken_for_nvfp4(folder):
    write_config(folder, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    bnb = {f"{LINEAR}.weight": ("U8", (N * K // 2, 1)), f"{LINEAR}.weight.absmax": ("F32", (32,))}
    write_weights(folder / "model.safetensors", bnb)
    info = check_checkpoint(str(folder))
    assert not describe(info).declares("nvfp4")


INT4 = {
    f"{LAYERS}.0.mlp.up_proj.weight_packed": ("I32", (N, K // 8)),
    f"{LAYERS}.0.mlp.up_proj.weight_scale": ("BF16", (N, K // 32)),
}
INT8 = {
    f"{LAYERS}.0.mlp.up_proj.weight_packed": ("I32", (N, K // 4)),
    f"{LAYERS}.0.mlp.up_proj.weight_scale": ("BF16", (N, K // 32)),
}
AWQ = {
    f"{LAYERS}.0.mlp.{part}_proj.{leaf}": tensor
    for part in ("gate", "up")
    for leaf, tensor in (("qweight", ("I32", (K, N // 8))), ("scales", ("F16", (K // 32, N))))
}
BNB = {f"{LAYERS}.0.mlp.up_proj.weight": ("U8", (N * K // 2, 1))}


def integers(**weights) -> dict:
    given = {"num_bits": 4, "type": "int", "group_size": 32, **weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": given}},
    }


INT_CONFIG = integers()


@pytest.mark.parametrize(
    ("section", "packed"),
    [
        (INT_CONFIG, INT4),
        (integers(num_bits=8), INT8),
        (INT_CONFIG, INT8),
        ({**INT_CONFIG, "format": "nvfp4-pack-quantized"}, INT8),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, AWQ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, BNB),
        ({"quant_method": "from-next-year"}, {f"{LAYERS}.0.mlp.up_proj.codes": ("U8", (5,))}),
    ],
)
def test_a_packed_layer_beside_plain_ones_passes(folder, section, packed, caplog):
    write_config(folder, section, text_config={**TEXT, "hidden_size": K})
    tensors = {n: t for n, t in layers().items() if n != f"{LAYERS}.0.mlp.up_proj.weight"}
    write_weights(folder / "model.safetensors", tensors | packed)
    assert check_checkpoint(str(folder)).is_gemma4
    unknown = describe(read_model_info(str(folder))).default.format == "unknown"
    said = [line for line in caplog.messages if "1 layers are in a format that is not kn" in line]
    assert len(said) == unknown
    write_weights(folder / "model.safetensors", tensors)
    assert f"({LAYERS}.0.mlp.up_proj.weight)" in refusal(folder)


MOE = {**TEXT, "num_experts": 2, "moe_intermediate_size": 96}


@pytest.mark.parametrize(
    ("section", "text", "said"),
    [
        (integers(actorder="group"), TEXT, "actorder group.* actorder static or none"),
        (integers(group_size=48), TEXT, "group size 48; served are 32, 64, 128"),
        (integers(group_size=64), MOE, "group size 64, which does not divide their 96"),
        (integers(num_bits=8), MOE, "experts in 8-bit integers of compressed-tensors.*gelu"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, MOE, "8-bit integers of gptq"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
            TEXT,
            r"\(desc_act\), which is not served: quantize again with desc_act=False",
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 16}, TEXT, "group size 16; served are"),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "GEMV"},
            TEXT,
            "AWQ in the packing gemv; only gemm",
        ),
        (
            {**integers(), "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
            TEXT,
            "transforms of activations",
        ),
        (
            {**integers(), "sparsity_config": {"format": "sparse-24-bitmask"}},
            TEXT,
            r"sparse weights \(sparse-24-bitmask\)",
        ),
    ],
)
def test_what_nothing_serves_is_refused_by_what_config_json_says(folder, section, text, said):
    write_config(folder, section, text_config=text)
    assert re.search(said, refusal(folder, weights=False))


def test_experts_that_a_checkpoint_left_alone_may_have_neighbours_in_any_format(folder):
    section = {**integers(num_bits=8), "ignore": [r"re:.*\.experts\..*"]}
    write_config(folder, section, text_config=MOE)
    assert check_checkpoint(str(folder), weights=False).is_gemma4


def test_int4_experts_stacked_in_one_tensor_are_complete(folder):
    """The names of the 26B-A4B that is downloaded most."""
    write_config(folder, integers(), text_config=MOE)
    stacked = {
        "gate_up_proj_packed": ("I32", (2, 192, K // 8)),
        "gate_up_proj_scale": ("BF16", (2, 192, K // 32)),
        "down_proj_packed": ("I32", (2, K, 96 // 8)),
        "down_proj_scale": ("BF16", (2, K, 96 // 32)),
    }
    count = len(MOE["layer_types"])
    tensors = layers(**{f"{i}.router.proj.weight": ("BF16", (2, K)) for i in range(count)})
    for missing in (None, *stacked):
        experts = {
            f"{LAYERS}.{i}.experts.{leaf}": t
            for i in range(count)
            for leaf, t in stacked.items()
            if leaf != missing
        }
        write_weights(folder / "model.safetensors", tensors | experts)
        if missing is None:
            assert check_checkpoint(str(folder)).is_gemma4
        else:
            assert missing in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weight_scale": None}, "up_proj.weight_packed has no weight_scale"),
        ({"weight_zero_point": None}, "has no weight_zero_point: the checkpoint is incomplete"),
        ({"weight_scale": ("BF16", (N, 1))}, r"weight_scale of shape \[32, 1\] where \[32, 2\]"),
        ({"weight_zero_point": ("I32", (N, 2))}, r"shape \[32, 2\] where \[4, 2\] is expected"),
    ],
)
def test_int4_weights_need_scales_and_zero_points_of_their_shape(folder, changed, said):
    write_config(folder, integers(symmetric=False), text_config=TEXT)
    packed = {
        "weight_packed": ("I32", (N, K // 8)),
        "weight_scale": ("BF16", (N, K // 32)),
        "weight_zero_point": ("I32", (N // 8, K // 32)),
    }
    tensors = {n: t for n, t in layers().items() if n != f"{LAYERS}.0.mlp.up_proj.weight"}
    for given in (packed, packed | changed):
        found = {f"{LAYERS}.0.mlp.up_proj.{leaf}": t for leaf, t in given.items() if t}
        write_weights(folder / "model.safetensors", tensors | found)
        if given is packed:
            check_checkpoint(str(folder))
    assert re.search(said, refusal(folder))


def test_addresses():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(ValueError, match=f"port {port} .*in use.*--port"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    check_address("0.0.0.0", port)
    with pytest.raises(ValueError, match=r"--host no\.such\.host is not an address"):
        check_address("no.such.host", port)
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.1"):
        check_address("192.0.2.1", port)
    for number in (0, 70000):
        with pytest.raises(ValueError, match=f"--port {number} is not between"):
            check_address("127.0.0.1", number)


@pytest.mark.parametrize("name", ["image_token_id", "eoa_token_index", "pad_token_id"])
def test_token_ids_have_an_embedding(folder, name):
    text = {**TEXT, "vocab_size": 512}

    def write(token):
        inner = {"pad_token_id": token} if name == "pad_token_id" else {}
        outer = {} if inner else {name: token}
        write_config(folder, text_config={**text, **inner}, **outer)

    write_weights(folder / "model.safetensors", layers())
    write(511)
    assert check_checkpoint(str(folder)).is_gemma4
    write(512)
    assert f"has {name} 512, and the vocabulary has 512 tokens" in refusal(folder)
