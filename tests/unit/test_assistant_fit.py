# SPDX-License-Identifier: Apache-2.0
"""Check that an MTP assistant made for another target is refused in one sentence."""

from __future__ import annotations

import pytest

from sglang_gemma4_ext.checkpoint.assistant_fit import check_fit
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo, read_model_info
from tests.checkpoints.assistant import build_assistant
from tests.serving.harness import run_to_end


@pytest.mark.parametrize("kind", ["dense", "e2b", "causal", "unified"])
def test_an_assistant_made_for_its_target_fits(kind, checkpoint, tmp_path):
    target = checkpoint(kind)
    check_fit(read_model_info(str(target)), read_model_info(str(build_assistant(target, tmp_path))))


def info(**text: object) -> ModelInfo:
    """Describe a target, or an assistant if backbone_hidden_size is given."""
    whole: dict = {"text_config": text}
    architecture = "Gemma4ForConditionalGeneration"
    if "backbone_hidden_size" in text:
        whole["backbone_hidden_size"] = text.pop("backbone_hidden_size")
        architecture = "Gemma4AssistantForCausalLM"
    return ModelInfo("there", architecture, whole)


TARGET = {
    "hidden_size": 128,
    "vocab_size": 512,
    "sliding_window": 32,
    "head_dim": 32,
    "num_key_value_heads": 2,
    "global_head_dim": 64,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
}
ASSISTANT = {**TARGET, "hidden_size": 64, "backbone_hidden_size": 128}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"backbone_hidden_size": 256},
            "its backbone_hidden_size is 256 where the target's is 128",
        ),
        ({"vocab_size": 256}, "its vocab_size is 256 where the target's is 512"),
        ({"sliding_window": 16}, "its sliding_window is 16"),
        ({"num_key_value_heads": 1}, "its num_key_value_heads is 1"),
        ({"global_head_dim": 32}, r"its full layers' \(head_dim, KV heads\) is \(32, 1\)"),
        ({"layer_types": ["linear_attention"]}, "it reads a linear_attention layer"),
    ],
)
def test_each_mismatch_is_named_in_one_line(changes, words):
    check_fit(info(**TARGET), info(**ASSISTANT))
    with pytest.raises(CheckpointError, match=words) as refused:
        check_fit(info(**TARGET), info(**{**ASSISTANT, **changes}))
    assert "\n" not in str(refused.value)


def test_another_family_or_another_kind_of_draft_is_refused():
    llama = ModelInfo("llama", "LlamaForCausalLM", {"hidden_size": 128})
    with pytest.raises(CheckpointError, match="does not belong to llama: that is no Gemma 4"):
        check_fit(llama, info(**ASSISTANT))
    check_fit(info(**TARGET), ModelInfo("eagle", "LlamaForCausalLMEagle", {"hidden_size": 1}))


def test_a_layer_type_missing_from_the_last_two_layers_is_refused():
    """Refuse it: SGLang maps the assistant's layers to the target's last two layers."""
    early = {**TARGET, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    with pytest.raises(CheckpointError, match="reads a sliding_attention layer"):
        check_fit(info(**early), info(**ASSISTANT))


def test_the_launcher_refuses_before_sglang_is_imported(checkpoint, tmp_path):
    target = checkpoint("dense")
    draft = build_assistant(target, tmp_path / "draft", backbone=256)
    ended = run_to_end(
        *("--model-path", str(target), "--speculative-draft-model-path", str(draft)), timeout=180
    )
    assert ended.returncode == 2
    assert "its backbone_hidden_size is 256 where the target's is 128" in ended.stdout
    assert "starting SGLang" not in ended.stdout
