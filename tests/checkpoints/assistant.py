# SPDX-License-Identifier: Apache-2.0
"""Build a tiny random MTP assistant for a tiny target; its drafts are noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.checkpoints.tiny import use_hub_config_form, values_of

# The assistant attends to the target's keys, so these are the target's sizes.
_OF_THE_TARGET = (
    "vocab_size",
    "num_key_value_heads",
    "num_global_key_value_heads",
    "head_dim",
    "global_head_dim",
    "attention_k_eq_v",
    "sliding_window",
    "rope_parameters",
    "max_position_embeddings",
)


def build_assistant(
    target: Path,
    out: Path,
    *,
    seed: int = 1,
    layer_types: tuple[str, ...] = ("sliding_attention", "sliding_attention", "full_attention"),
    backbone: int | None = None,
    **text: Any,
) -> Path:
    """Write a Gemma4AssistantForCausalLM for the checkpoint in `target` into `out`; return it.

    backbone: the target's hidden size in the assistant's config; None takes the target's.
    text: text-config fields that differ, to make one that does not fit
    """
    whole = json.loads((target / "config.json").read_text())
    theirs = whole.get("text_config", whole)
    config = {key: theirs[key] for key in _OF_THE_TARGET if key in theirs}
    config |= _full_layers(theirs)
    config |= {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": len(layer_types),
        "num_kv_shared_layers": len(layer_types),
        "layer_types": list(layer_types),
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
        "pad_token_id": 0,
        **text,
    }
    assistant_config = transformers.Gemma4AssistantConfig(
        text_config=config,
        backbone_hidden_size=backbone or theirs["hidden_size"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.Gemma4AssistantForCausalLM(assistant_config).to(torch.bfloat16)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            drawn = values_of(name, tensor, draw)
            if drawn is not None:
                tensor.copy_(drawn)
    model.save_pretrained(out)
    use_hub_config_form(out / "config.json")
    return out


def _full_layers(target: dict[str, Any]) -> dict[str, Any]:
    """Return the full layers' shape in the hub's form, from transformers 5.19's form."""
    layers = target.get("per_layer_config")
    if not layers:
        return {}
    full = next(iter(layers.values()))
    heads = full.get("num_key_value_heads")
    return {"global_head_dim": full["head_dim"], "num_global_key_value_heads": heads}
