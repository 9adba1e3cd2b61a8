# SPDX-License-Identifier: Apache-2.0
"""Check from configurations alone whether an MTP assistant belongs to a target.

The assistant embeds tokens with the target's table, starts from its hidden state and reads its
keys. Therefore their shapes must be equal in both. SGLang checks the layer types.
"""

from __future__ import annotations

from typing import Any

from sglang_gemma4_ext.checkpoint.files import CheckpointError
from sglang_gemma4_ext.checkpoint.model_family import (
    DRAFT_ARCHITECTURES,
    TARGET_ARCHITECTURES,
    ModelInfo,
)

_SHARED = (
    "vocab_size",
    "sliding_window",
    "head_dim",
    "num_key_value_heads",
    "attention_k_eq_v",
    "rope_parameters",
)


def check_fit(target: ModelInfo, draft: ModelInfo) -> None:
    """Raise CheckpointError, in one sentence, if `draft` is an assistant of another model.

    Values that either side leaves out are not compared. Any other kind of draft passes.
    """
    if draft.architecture not in DRAFT_ARCHITECTURES:
        return
    if target.architecture not in TARGET_ARCHITECTURES:
        raise _misfit(target, draft, "that is no Gemma 4")
    for name, (theirs, ours) in _compared(target.text, draft).items():
        if theirs is not None and ours is not None and theirs != ours:
            raise _misfit(target, draft, f"its {name} is {ours} where the target's is {theirs}")
    last = set((target.text.get("layer_types") or [])[-2:])
    missing = sorted(set(draft.text.get("layer_types") or []) - last) if last else []
    if missing:
        raise _misfit(
            target, draft, f"it reads a {missing[0]} layer, and the target's last two have none"
        )


def _compared(target: dict[str, Any], draft: ModelInfo) -> dict[str, tuple[Any, Any]]:
    """Map each compared name to (the target's value, the assistant's)."""
    backbone = "backbone_hidden_size"
    pairs = {backbone: (target.get("hidden_size"), draft.config.get(backbone))}
    pairs |= {name: (target.get(name), draft.text.get(name)) for name in _SHARED}
    pairs["full layers' (head_dim, KV heads)"] = (_full(target), _full(draft.text))
    return pairs


def _full(text: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return the full layers' shape, in the hub's form or in that of transformers 5.19."""
    for layer in (text.get("per_layer_config") or {}).values():
        return layer.get("head_dim"), layer.get("num_key_value_heads")
    if "global_head_dim" not in text:
        return None
    return text["global_head_dim"], text.get("num_global_key_value_heads")


def _misfit(target: ModelInfo, draft: ModelInfo, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the MTP assistant {draft.path} does not belong to {target.path}: {reason}; name the "
        "assistant published for this model with --speculative-draft-model-path"
    )
