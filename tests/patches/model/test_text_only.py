# SPDX-License-Identifier: Apache-2.0
"""Test text-only serving: its default, the towers, their weights, and the refusal of media."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sglang_gemma4_ext.patches.model import text_only
from tests.patches.hooks import hook_of

before = functools.partial(hook_of, text_only.PATCH, "before")
MULTIMODAL = "Gemma4ForConditionalGeneration"


@pytest.fixture
def multimodal(monkeypatch):
    """multimodal(on): set what --enable-multimodal resolved to."""

    def settle(on: bool) -> None:
        mm = SimpleNamespace(enable_multimodal=on)
        monkeypatch.setattr("sglang.srt.runtime_context.get_mm", lambda: mm)

    return settle


@pytest.mark.parametrize(
    ("architecture", "given", "settled"),
    [
        (MULTIMODAL, None, False),
        (MULTIMODAL, True, True),
        ("Gemma4UnifiedForConditionalGeneration", None, False),
        ("Gemma4ForCausalLM", None, None),
        ("LlamaForCausalLM", None, None),
    ],
)
def test_an_unset_flag_means_text_only(architecture, given, settled, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    kwargs = {"model_path": str(tmp_path), "enable_multimodal": given}
    set_default = next(h.fn for h in text_only.PATCH.hooks if "ModelConfig" in h.target)
    changed = set_default(None, **kwargs)
    assert (changed[1] if changed else kwargs)["enable_multimodal"] is settled


@pytest.mark.parametrize("on", [False, True])
def test_towers_are_built_only_for_media(on, multimodal):
    from sglang.srt.models import gemma4_mm

    multimodal(on)
    built = []

    def original(self) -> None:
        for name in text_only.TOWERS:
            built.append(getattr(gemma4_mm, name) is towers[name])

    original.__module__ = gemma4_mm.__name__
    towers = {name: getattr(gemma4_mm, name) for name in text_only.TOWERS}
    around = next(
        h.fn for h in text_only.PATCH.hooks if h.target.endswith(f"mm.{MULTIMODAL}.__init__")
    )
    around(original, None)
    assert built == [on] * len(towers)
    assert towers == {name: getattr(gemma4_mm, name) for name in towers}


@pytest.mark.parametrize("on", [False, True])
def test_tower_weights_are_skipped(on, multimodal):
    multimodal(on)
    names = ["model.language_model.norm.weight", "model.vision_tower.std_bias"]
    weights = [(name, torch.ones(2)) for name in names]
    skip = next(h.fn for h in text_only.PATCH.hooks if h.target.endswith("load_weights"))
    changed = skip(None, weights)
    found = weights if changed is None else list(changed[0][1])
    assert [name for name, _ in found] == (names if on else names[:1])


@pytest.mark.parametrize("multimodal_server", [False, True])
@pytest.mark.parametrize("image", [None, "an image"])
def test_media_is_refused_by_a_text_server(multimodal_server, image):
    manager = SimpleNamespace(model_config=SimpleNamespace(is_multimodal=multimodal_server))
    request = SimpleNamespace(contains_mm_input=lambda: image is not None, image_data=image)
    check = before("_validate_one_request")
    if image is None or multimodal_server:
        assert check(manager, request) is None
        return
    with pytest.raises(ValueError, match="cannot take image input; restart it with --enable-mul"):
        check(manager, request)


def test_the_chat_apis_error_names_the_flag():
    name_flag = hook_of(text_only.PATCH, "after", "_validate_media_content")
    assert name_flag(None, None, None) is None
    assert "audio input; restart it" in name_flag("unsupported 'input_audio' content", None, None)


@pytest.mark.parametrize(
    ("architecture", "backend"),
    [
        ("Gemma4ForConditionalGeneration", "disabled"),
        ("Gemma4UnifiedForConditionalGeneration", "disabled"),
        ("Gemma4ForCausalLM", "breakable"),
    ],
)
def test_prefill_graphs_follow_sglangs_rules(architecture, backend, monkeypatch):
    from sglang.srt.arg_groups import cuda_graph_hook, overrides
    from sglang.srt.model_executor.cuda_graph_config import default_cuda_graph_config

    hf_config = SimpleNamespace(architectures=[architecture], model_type="gemma4")
    model = SimpleNamespace(
        hf_config=hf_config,
        is_multimodal=False,
        is_multimodal_breakable_cuda_graph_supported=False,
    )
    graphs = default_cuda_graph_config()
    graphs.prefill.backend = cuda_graph_hook.Backend.BREAKABLE
    arguments = SimpleNamespace(
        cuda_graph_config=graphs, attn_cp_size=1, dcp_size=1, enable_two_batch_overlap=False,
        moe_a2a_backend="none", enable_prefill_cp=False,
    )  # fmt: skip
    declared = []
    monkeypatch.setattr(overrides, "model_config_of", lambda args: model)
    monkeypatch.setattr(cuda_graph_hook, "model_config_of", lambda args: model)
    monkeypatch.setattr(cuda_graph_hook, "resolving_view", lambda args: args)
    monkeypatch.setattr(cuda_graph_hook, "resolved_view", lambda args: args)
    monkeypatch.setattr(
        cuda_graph_hook, "declare_resolution", lambda *args, **fields: declared.append(fields)
    )
    rules = cuda_graph_hook.disable_breakable_cudagraph_if_incompatible
    hook_of(text_only.PATCH, "around", rules.__name__)(rules, arguments)
    for fields in declared:
        graphs = fields["cuda_graph_config"]
    assert graphs.prefill.backend == backend
    assert model.is_multimodal is False
