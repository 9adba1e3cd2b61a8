# SPDX-License-Identifier: Apache-2.0
"""End a turn at `<turn|>` and `<|tool_response>` even without a generation_config.json.

Fine-tuning tools often save a checkpoint without that file. The chat template then ends each turn
with a token at which the server does not stop.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from sglang_gemma4_ext import PREFIX
from sglang_gemma4_ext.registry import Hook, Patch

logger = logging.getLogger(__name__)

SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"


def missing_ends(tokenizer: Any, stops: set[int] | None) -> dict[str, int]:
    """Return the tokens that end a turn, by the tokenizer and its template, less the known stops.

    These are the tokenizer's eot_token, and `<|tool_response>` where the template writes it. A
    template from --chat-template is not known here.
    """
    template = getattr(tokenizer, "chat_template", None)
    template = template if isinstance(template, str) else None
    ends = [getattr(tokenizer, "eot_token", None) or "<turn|>"]
    if "<|tool_response>" in (template or getattr(tokenizer, "str_token", None) or ""):
        ends.append("<|tool_response>")
    vocab = tokenizer.get_vocab()
    return {e: vocab[e] for e in ends if e in vocab and vocab[e] not in (stops or ())}


def _add(result: None, self: Any) -> None:
    """AFTER init_tokenizer: the scheduler gives each request its model's stop tokens later."""
    from sglang.srt.runtime_context import get_parallel

    config = self.model_config
    if self.tokenizer is None:
        return
    added = missing_ends(self.tokenizer, config.hf_eos_token_id)
    if not added:
        return
    config.hf_eos_token_id = {*(config.hf_eos_token_id or ()), *added.values()}
    if get_parallel().tp_rank == 0:
        logger.info(
            "%sgeneration_config.json does not name the end of a turn; requests "
            "also stop at %s, as the chat template does",
            PREFIX,
            " and ".join(f"{token} ({index})" for token, index in added.items()),
        )


def _retired() -> bool:
    from sglang.srt.configs.model_config import ModelConfig

    return "eot_token" in inspect.getsource(inspect.unwrap(ModelConfig._get_hf_eos_token_id))


PATCH = Patch(
    name="end_of_turn",
    theme="chat",
    summary="Requests stop where the chat template ends a turn, without generation_config.json too",
    why=(
        "SGLang reads stop tokens only from config.json and generation_config.json; a fine-tune "
        "without the latter continues past <turn|> to max_tokens"
    ),
    upstream="unreported",
    retire_when="ModelConfig._get_hf_eos_token_id reads the tokenizer's eot_token",
    retired=_retired,
    hooks=(Hook(f"{SCHEDULER}.init_tokenizer", "60eb2f65355c", "after", _add),),
    required=False,
)
