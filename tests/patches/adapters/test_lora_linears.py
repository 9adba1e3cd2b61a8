# SPDX-License-Identifier: Apache-2.0
"""Load adapters of peft into SGLang's own records, and compare the weights that they add."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sglang_gemma4_ext.checkpoint.adapters import ATTENTION, WEIGHTS, shape_of
from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.patches.adapters import lora_linears as patch
from sglang_gemma4_ext.plan.geometry import from_config
from tests.checkpoints.adapters import adapted
from tests.patches.hooks import hook_of

TOWER = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight"


def _adapter(checkpoint, tmp_path, kind: str, extra: dict[str, torch.Tensor], **options: Any):
    """Return SGLang's LoRAAdapter, loaded through the hooks, and the peft model."""
    from sglang.srt.lora.lora import LoRAAdapter
    from sglang.srt.lora.lora_config import LoRAConfig

    model, path = adapted(checkpoint(kind), **options), tmp_path / "adapter"
    model.save_pretrained(path)
    config = LoRAConfig(str(path))
    patch._read_config(None, config)
    text = _config(checkpoint(kind))
    adapter = LoRAAdapter("mine", config, text, None, None)
    patch._scale(None, adapter)
    for name, weight in (load_file(path / WEIGHTS) | extra).items():
        adapter._process_weight(name, weight)
    hook_of(patch.PATCH, "before", "_normalize_weights")(adapter)
    adapter._normalize_weights()
    return adapter, model


def _config(path: Path) -> Any:
    """Return the text config as a server has it."""
    from sglang.srt.utils.hf_transformers_utils import get_config, get_hf_text_config

    config = get_hf_text_config(get_config(str(path), trust_remote_code=False))
    assert hasattr(config, "swa_head_dim")
    return config


def _delta(weights: dict[str, torch.Tensor], stack: str, sizes: list[int]) -> torch.Tensor | None:
    """Return what a stacked linear gains: each part's rows times that part's A."""
    a, b = (next((w for n, w in weights.items() if f"{stack}.lora_{s}" in n), None) for s in "AB")
    if a is None:
        return None
    parts = zip(a.chunk(len(sizes)), b.split(sizes), strict=True)
    return torch.cat([rows @ factor for factor, rows in parts])


@pytest.mark.parametrize("leaves", [ATTENTION, ("q_proj", "up_proj"), ("v_proj", "gate_proj")])
@pytest.mark.parametrize("kind", ["dense", "e2b", "moe"])
def test_stacked_linears_gain_what_peft_adds(kind, leaves, checkpoint, tmp_path) -> None:
    adapter, model = _adapter(checkpoint, tmp_path, kind, {}, leaves=leaves)
    geometry, found = patch.geometry_of(adapter.base_hf_config), 0
    modules = dict(model.named_modules())
    for index, layer in enumerate(adapter.layers):
        k_is_v = geometry.k_eq_v and geometry.is_full(index)
        for stack, parts in patch.STACKS.items():
            sizes = [shape_of(geometry, index, leaf)[0] for leaf in parts]
            got = _delta(layer.weights, stack, sizes)
            wanted = []
            for leaf, rows in zip(parts, sizes, strict=True):
                leaf = "k_proj" if leaf == "v_proj" and k_is_v else leaf
                names = [n for n in modules if n.endswith(f".{index}.self_attn.{leaf}")]
                names += [n for n in modules if n.endswith(f"layers.{index}.mlp.{leaf}")]
                names = [n for n in names if "tower" not in n and hasattr(modules[n], "lora_A")]
                delta = torch.zeros(rows, geometry.hidden)
                for name in names:
                    linear = modules[name]
                    b, a = linear.lora_B["default"].weight, linear.lora_A["default"].weight
                    delta = (b @ a).float().detach()
                wanted.append(delta)
            if got is None:
                assert not torch.cat(wanted).any()
                continue
            found += 1
            torch.testing.assert_close(got.float(), torch.cat(wanted), rtol=2e-2, atol=2e-2)
    assert found >= len(adapter.layers) // 2


def test_a_pattern_of_modules_becomes_their_names(checkpoint, tmp_path) -> None:
    """peft keeps a regular expression as it was given; SGLang refuses one."""
    adapter, _ = _adapter(checkpoint, tmp_path, "dense", {}, leaves=("q_proj", "down_proj"))
    assert isinstance(adapter.config.hf_config["target_modules"], str)
    assert adapter.config.target_modules == ["q_proj", "down_proj"]


def test_a_rank_stabilized_adapter_has_its_scale(checkpoint, tmp_path) -> None:
    adapter, _ = _adapter(checkpoint, tmp_path, "dense", {}, use_rslora=True, r=4)
    assert adapter.scaling == 16 / 2


def test_parts_of_towers_are_left_out_in_words(checkpoint, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        adapter, _ = _adapter(checkpoint, tmp_path, "dense", {TOWER: torch.ones(8, 64)})
    assert "1 tensors of a vision or audio tower are not applied" in caplog.text
    assert TOWER not in adapter.layers[0].weights


def test_other_tensors_are_refused_when_they_are_loaded(checkpoint, tmp_path) -> None:
    router = TOWER.replace("vision_tower.encoder", "language_model").replace(
        "self_attn.q_proj", "router.proj"
    )
    with pytest.raises(CheckpointError, match="which cannot be applied at run time"):
        _adapter(checkpoint, tmp_path, "dense", {router: torch.ones(8, 64)})


@pytest.mark.parametrize("kind", ["dense", "e2b", "moe", "unified"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_buffers_fit_the_linears_of_a_rank(kind, ranks, checkpoint) -> None:
    """Compare with the partition rules of SGLang's linears."""
    text = _config(checkpoint(kind))
    geometry = patch.geometry_of(text)
    stored = from_config(read_model_info(str(checkpoint(kind))))
    layers = range(geometry.layers)
    assert [geometry.heads_of(i) for i in layers] == [stored.heads_of(i) for i in layers]
    pool = SimpleNamespace(base_hf_config=text, attn_tp_size=ranks, tp_size=ranks)

    def local(module: str, layer: int, axis: str) -> int:
        hook = hook_of(patch.PATCH, "around", "_dense_local_dim")
        return hook(None, pool, module, None, layer, axis)

    for layer in range(geometry.layers):
        heads, kv_heads, dim = geometry.heads_of(layer)
        # QKVParallelLinear repeats a KV head where there are more ranks than KV heads.
        kv = 1 if ranks >= kv_heads else kv_heads // ranks
        assert local("qkv_proj", layer, "output") == (heads // ranks + 2 * kv) * dim
        assert local("o_proj", layer, "input") == heads // ranks * dim
        inner = geometry.layer_intermediate(layer)
        assert local("gate_up_proj", layer, "output") == 2 * inner // ranks
        assert local("down_proj", layer, "input") == inner // ranks
        whole = hook_of(patch.PATCH, "around", "get_hidden_dim")
        assert whole(None, "down_proj", text, None, layer) == (inner, geometry.hidden)
        assert whole(None, "qkv_proj", text, None, layer) == (
            geometry.hidden,
            (heads + 2 * kv_heads) * dim,
        )


def test_experts_and_towers_are_not_wrapped() -> None:
    manager = SimpleNamespace(base_model=SimpleNamespace())
    hook_of(patch.PATCH, "around", "init_lora_modules")(lambda given: None, manager)
    applies = manager.base_model.should_apply_lora
    assert applies("language_model.layers.3.self_attn.qkv_proj")
    assert applies("model.layers.12.mlp.down_proj")
    assert not applies("language_model.layers.3.moe.experts")
    assert not applies("vision_tower.encoder.layers.0.self_attn.qkv_proj")
    assert not hook_of(patch.PATCH, "around", "_has_moe_module")(None, manager.base_model)
    manager.target_modules = {"qkv_proj", "lm_head", "embed_tokens"}
    hook_of(patch.PATCH, "after", "init_lora_shapes")(None, manager)
    assert manager.target_modules == {"qkv_proj"}
