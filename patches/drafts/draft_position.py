# SPDX-License-Identifier: Apache-2.0
"""Let an MTP draft query from the position of the token that it continues.

The assistant's queries stay at one position for a whole draft: that of the newest token. Its own
keys are not in the cache yet (transformers: SinglePositionMultiTokenCandidateGenerator). After L
cached keys at positions 0 to L - 1 this position is L. SGLang takes L - 1. `positions_from_zero`
corrects the keys' own positions.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

MODELS = "sglang.srt.models"
ASSISTANT = f"{MODELS}.gemma4_mtp.Gemma4AssistantForCausalLM"
UTILS = "sglang.srt.speculative.frozen_kv_mtp_utils"
WORKER = "sglang.srt.speculative.frozen_kv_mtp_worker_v2.FrozenKVMTPDraftWorker"


def _after_the_keys(result: None, self: Any, forward_batch: Any) -> None:
    """AFTER _set_positions, which writes the position of the last cached key, counted from zero."""
    forward_batch.positions.add_(1)


def _window_of_next(result: int, self: Any) -> int:
    """AFTER get_attention_sliding_window_size: the distance from the last cached key."""
    return result - 1


def _window_of_layers(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """AFTER bind_frozen_kv_context: the same, for the backends that ask the layer."""
    for layer in self.model.layers:
        attention = layer.self_attn.attn
        if attention.sliding_window_size is not None and attention.sliding_window_size > 0:
            attention.sliding_window_size = self.get_attention_sliding_window_size()


def _retired() -> bool:
    from sglang.srt.speculative import frozen_kv_mtp_utils as utils

    return "seq_lens - 1" not in inspect.getsource(inspect.unwrap(utils.set_frozen_kv_positions))


PATCH = Patch(
    name="draft_position",
    theme="drafts",
    summary="MTP drafts ask from the newest token's position and see the window that it sees",
    why="set_frozen_kv_positions takes the last cached key's position; no flag moves it",
    upstream="unreported",
    retire_when="set_frozen_kv_positions takes seq_lens",
    retired=_retired,
    hooks=(
        Hook(f"{WORKER}._set_positions", "9d253d8c922f", "after", _after_the_keys),
        Hook(
            f"{ASSISTANT}.get_attention_sliding_window_size",
            "0d109a3b5c59",
            "after",
            _window_of_next,
        ),
        Hook(f"{ASSISTANT}.bind_frozen_kv_context", "b2bf0737c71b", "after", _window_of_layers),
    ),
    relies_on=(
        Source(f"{UTILS}.set_frozen_kv_positions", "895d918567c1"),
        Source(f"{WORKER}.draft_forward", "cc9c7dd3d007"),
        Source("sglang.srt.models.gemma4_mtp.Gemma4AssistantForCausalLM.forward", "a4dc8b83f0c7"),
    ),
)
