# SPDX-License-Identifier: Apache-2.0
"""Count the tokens of all thoughts of a turn in usage.reasoning_tokens.

Where thinking is on, SGLang counts from the first token to the first `<channel|>`. An answer
without a thought, or a call, then counts as reasoning. A second thought is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sglang_gemma4_ext.registry import Hook, Patch, Source

RESULTS = (
    "sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"
)
PARSER = "sglang.srt.parser.reasoning_parser"
OPENER = f"{PARSER}.BaseReasoningFormatDetector.get_self_opened_think_start_token_ids"


def _opener(original: Any, self: Any, tokenizer: Any) -> list[int] | None:
    """AROUND get_self_opened_think_start_token_ids: Gemma 4 opens its thoughts itself."""
    from sglang.srt.parser.reasoning_parser import Gemma4Detector

    if isinstance(self, Gemma4Detector):
        return tokenizer.encode(self.think_start_token, add_special_tokens=False)
    return original(self, tokenizer)


def _count(original: Any, self: Any, req: Any, next_token_id: int | list[int]) -> None:
    """AROUND _maybe_update_reasoning_tokens, called with each step's new tokens."""
    opens, closes = self.model_config.self_opened_think_start_ids, self.model_config.think_end_ids
    if not opens or not closes or len(opens) > 1 or len(closes) > 1:
        return original(self, req, next_token_id)
    tokens = next_token_id if isinstance(next_token_id, list) else [next_token_id]
    thinks = getattr(req, "_gemma4_thinks", None)
    if thinks is None:
        thinks = ends_in_thought(req.origin_input_ids, opens[0], closes[0])
    counted, req._gemma4_thinks = thought_tokens(tokens, thinks, opens[0], closes[0])
    req.reasoning_tokens += counted


def ends_in_thought(prompt: Iterable[int], opens: int, closes: int) -> bool:
    """Tell whether a prompt leaves a thought open."""
    return next((t == opens for t in reversed(list(prompt)) if t in (opens, closes)), False)


def thought_tokens(
    tokens: Iterable[int], thinks: bool, opens: int, closes: int
) -> tuple[int, bool]:
    """Return how many of a turn's tokens are thought, with its markers, and if one is open."""
    counted = 0
    for token in tokens:
        thinks = thinks or token == opens
        counted += thinks
        thinks = thinks and token != closes
    return counted, thinks


def _retired() -> bool:
    from sglang.srt.parser.reasoning_parser import Gemma4Detector

    return "get_self_opened_think_start_token_ids" in vars(Gemma4Detector)


PATCH = Patch(
    name="thought_usage",
    theme="chat",
    summary="usage.reasoning_tokens counts thoughts, not what comes without or after one",
    why="SGLang counts all tokens before a thought's end, and Gemma 4 may answer without one",
    upstream="unreported",
    retire_when="SGLang's Gemma4Detector overrides get_self_opened_think_start_token_ids",
    retired=_retired,
    hooks=(
        Hook(OPENER, "986331d4f181", "around", _opener),
        Hook(f"{RESULTS}._maybe_update_reasoning_tokens", "8ddb48fd1208", "around", _count),
    ),
    relies_on=(Source("sglang.srt.managers.scheduler.Scheduler.init_tokenizer", "60eb2f65355c"),),
    required=False,
)
