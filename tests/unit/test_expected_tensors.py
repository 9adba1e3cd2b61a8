# SPDX-License-Identifier: Apache-2.0
"""Compare the tensors that preflight expects with the names that transformers saves."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sglang_gemma4_ext.checkpoint.expected import Difference, compare
from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_headers
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.checkpoint.preflight import check_checkpoint
from sglang_gemma4_ext.checkpoint.quantization import describe
from tests.checkpoints.assistant import build_assistant
from tests.unit.test_preflight import write_weights

KINDS = ("dense", "moe", "unified", "e2b", "causal", "dense_with_towers")
LAYERS = "model.language_model.layers"


@pytest.fixture(params=(*KINDS, "assistant"))
def whole(request, checkpoint, tmp_path):
    """(the model, the names of its tensors), as transformers saved them."""
    if request.param == "assistant":
        path = build_assistant(checkpoint("dense"), tmp_path / "assistant")
    else:
        path = checkpoint(request.param)
    return read_model_info(str(path)), sorted(read_headers(path))


def test_exactly_the_saved_tensors_are_expected(whole) -> None:
    model, names = whole
    quantization = describe(model)
    assert compare(names, model, quantization).missing == ()
    assert compare(names, model, quantization).unknown == ()
    text = [name for name in names if "tower" not in name and "embed_vision" not in name]
    text = [name for name in text if "embed_audio" not in name]
    for name in text:
        rest = [other for other in names if other != name]
        assert compare(rest, model, quantization).missing == (name,)


@pytest.mark.parametrize("kind", ["dense", "causal", "unified"])
def test_a_base_model_saved_alone(kind, checkpoint, tmp_path) -> None:
    """transformers then writes no prefix."""
    path = checkpoint(kind)
    (architecture,) = json.loads((path / "config.json").read_text())["architectures"]
    model = getattr(transformers, architecture).from_pretrained(path, dtype=torch.float32)
    model.model.save_pretrained(tmp_path)
    names = sorted(read_headers(tmp_path))
    assert not any(name.startswith("model.") for name in names)
    info = read_model_info(str(path))
    assert compare(names, info, describe(info)) == Difference((), ())


PREFIXES = ("", "model.", "model.model.", "model.language_model.", "language_model.",
            "model.model.language_model.", "language_model.model.", "model.text_model.",
            "base_model.model.model.language_model.")  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["dense", "causal", "unified", "assistant"])
def test_a_prefix_passes_if_transformers_loads_it(kind, prefix, checkpoint, tmp_path) -> None:
    path = checkpoint("dense" if kind == "assistant" else kind)
    if kind == "assistant":
        path = build_assistant(path, tmp_path / "source")
    info = read_model_info(str(path))
    usual = "model." if kind in ("causal", "assistant") else "model.language_model."
    tensors = load_file(path / "model.safetensors")
    renamed = {
        (prefix + name.removeprefix(usual) if name.startswith(usual) else name): tensor
        for name, tensor in tensors.items()
    }
    out = tmp_path / "renamed"
    out.mkdir()
    save_file(renamed, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_bytes((path / "config.json").read_bytes())
    load = getattr(transformers, info.architecture).from_pretrained
    loaded = not load(out, output_loading_info=True)[1]["missing_keys"]
    # SGLang's text class takes the names of the multimodal one.
    loaded |= kind in ("causal", "assistant") and prefix == "model.language_model."
    assert (not compare(renamed, info, describe(info)).missing) is loaded


def test_experts_below_moe_pass(checkpoint) -> None:
    """The names of NVFP4 exports that follow vLLM's modules."""
    info = read_model_info(str(checkpoint("moe")))
    names = [
        name.replace(".experts.", ".moe.experts.").replace(".router.per", ".moe.per")
        for name in read_headers(checkpoint("moe"))
    ]
    assert compare(names, info, describe(info)) == Difference((), ())


LEFTOVERS = {
    "lm_head.weight": ("BF16", (512, 128)),
    f"{LAYERS}.0.self_attn.rotary_emb.inv_freq": ("F32", (16,)),
    "model.vision_tower.encoder.weight": ("BF16", (4, 4)),
    "optimizer.state.0.exp_avg": ("F32", (4,)),
}


def test_unused_tensors_pass_and_are_logged(checkpoint, tmp_path, caplog) -> None:
    folder = _rewritten(checkpoint("dense"), tmp_path, lambda tensors: tensors | LEFTOVERS)
    assert check_checkpoint(str(folder)).is_gemma4
    (line,) = caplog.messages
    assert "1 tensors that Gemma 4 has no place for, first optimizer.state.0.exp_avg" in line


def test_redundant_keys_and_values_of_shared_layers_pass(checkpoint, tmp_path, caplog) -> None:
    redundant = {
        f"{LAYERS}.7.self_attn.{leaf}.weight": ("BF16", (64, 128))
        for leaf in ("k_proj", "v_proj", "k_norm")
    }
    folder = _rewritten(checkpoint("e2b"), tmp_path, lambda tensors: tensors | redundant)
    assert check_checkpoint(str(folder)).is_gemma4 and not caplog.messages


def test_the_message_names_the_first_missing_and_the_first_unknown(checkpoint, tmp_path) -> None:
    def renamed(tensors):
        return {name.replace("model.language", "language", 1).replace(
            "language_model.", "language_model.model.", 1): entry
            for name, entry in tensors.items()}  # fmt: skip

    folder = _rewritten(checkpoint("dense"), tmp_path, renamed)
    with pytest.raises(CheckpointError) as refused:
        check_checkpoint(str(folder))
    message = str(refused.value)
    assert "(first model.language_model.embed_tokens.weight)" in message
    assert "holds 84 tensors with no place in the model" in message
    assert "(first language_model.model.embed_tokens.weight)" in message


def test_an_untied_head_is_expected_where_the_top_level_config_says_so(
    checkpoint, tmp_path
) -> None:
    folder = _rewritten(checkpoint("dense"), tmp_path, dict)
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor .*\(lm_head\.weight\)"):
        check_checkpoint(str(folder))


@pytest.mark.parametrize("lost", ["experts.down_proj", "experts.gate_up_proj"])
def test_experts_are_expected(lost, checkpoint) -> None:
    info = read_model_info(str(checkpoint("moe")))
    names = [n for n in read_headers(checkpoint("moe")) if not n.endswith(f"layers.3.{lost}")]
    found = compare(names, info, describe(info))
    assert found.missing == (f"{LAYERS}.3.{lost}",)


def test_one_missing_expert_is_reported(checkpoint) -> None:
    info = read_model_info(str(checkpoint("moe")))
    names = []
    for name in read_headers(checkpoint("moe")):
        path, _, leaf = name.rpartition(".")
        leaves = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
        if path.endswith("experts"):
            names += [f"{path}.{e}.{x}.weight" for e in range(8) for x in leaves[leaf]]
        else:
            names.append(name)
    assert compare(names, info, describe(info)).missing == ()
    names.remove(f"{LAYERS}.2.experts.7.up_proj.weight")
    assert compare(names, info, describe(info)).missing == (f"{LAYERS}.2.experts.7.up_proj.weight",)


def _rewritten(source, folder, change):
    """Write a checkpoint of headers alone: `source`'s tensors after `change`."""
    tensors = {name: (t.dtype, t.shape) for name, t in read_headers(source).items()}
    write_weights(folder / "model.safetensors", change(tensors))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder
