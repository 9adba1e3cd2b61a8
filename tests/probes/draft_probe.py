# SPDX-License-Identifier: Apache-2.0
"""Record and steer MTP drafts and shuffle slots, as a test's plugin of SGLang.

A random assistant is never right, so a draft's logits are steered to a known continuation, wrong on
purpose at some positions. Fresh allocators hand out equal slots of both pools, which would hide a
backend that confuses them. Therefore the sliding pool's free slots are shuffled.

`installed` installs it for one server. A JSON file controls it and is read at every draft:
    known: token lists, prompt and continuation; none means that nothing is steered
    wrong_every: positions divisible by it are drafted wrong; with top-k > 1 the right token is
        drafted too, second
    record: a folder for one file per draft forward
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.probes.plugins import environment_with

ORDERS = "DRAFT_PROBE_ORDERS"
SHUFFLE = "DRAFT_PROBE_SHUFFLE"
FLASH_ATTENTION = "DRAFT_PROBE_FLASH_ATTENTION"
WORKER = "sglang.srt.speculative.frozen_kv_mtp_worker_v2.FrozenKVMTPDraftWorker"
ASSISTANT = "sglang.srt.models.gemma4_mtp.Gemma4AssistantForCausalLM"
SWA_ALLOCATOR = "sglang.srt.mem_cache.allocator.swa.SWATokenToKVPoolAllocator"

# Softmax of these among 512 zeros puts the wrong token before the right one, and both first.
RIGHT_LOGIT, WRONG_LOGIT = 9.0, 9.5


@dataclass
class Draft:
    """Hold the current draft: for each request its known tokens and how many are cached."""

    orders: dict[str, Any] = field(default_factory=dict)
    known: list[list[int]] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    step: int = 0


_draft = Draft()
_count = itertools.count()


@contextlib.contextmanager
def installed(folder: Path, *, shuffle: bool = False, flash_attention: bool = False) -> Iterator:
    """Yield (environment, order): for `serve`, and order(**orders) to be called at any time."""
    orders = folder / "orders.json"
    env = {**environment_with(folder, __name__), ORDERS: str(orders)}
    env |= {SHUFFLE: "1"} if shuffle else {}
    env |= {FLASH_ATTENTION: "1"} if flash_attention else {}

    def order(**content: Any) -> None:
        fresh = orders.with_suffix(".new")
        fresh.write_text(json.dumps(content))
        fresh.replace(orders)

    order()
    yield env, order


def activate() -> None:
    """Be the entry point `sglang.srt.plugins`."""
    if ORDERS not in os.environ:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"{WORKER}.draft", _begin, HookType.BEFORE)
    HookRegistry.register(f"{ASSISTANT}.forward", _forward, HookType.AROUND)
    if SHUFFLE in os.environ:
        HookRegistry.register(f"{SWA_ALLOCATOR}.clear", _shuffle, HookType.AFTER)
    if FLASH_ATTENTION in os.environ:
        from tests.probes.flash_attention_on_torch import install

        install()


def _begin(self: Any, batch: Any) -> None:
    global _draft
    orders = json.loads(Path(os.environ[ORDERS]).read_text())
    cached = [] if batch.forward_mode.is_idle() else batch.seq_lens.tolist()
    known = [_known(orders, list(req.origin_input_ids)) for req in batch.reqs]
    _draft = Draft(orders, known[: len(cached)], cached)


def _known(orders: dict[str, Any], prompt: list[int]) -> list[int]:
    candidates = (tokens for tokens in orders.get("known", ()) if tokens[: len(prompt)] == prompt)
    return next(candidates, [])


def _forward(
    original: Callable[..., Any], self: Any, ids: Any, positions: Any, batch: Any, *a, **k
):
    prev_hidden = batch.spec_info.hidden_states.clone()
    asked_at = positions.tolist()
    out = original(self, ids, positions, batch, *a, **k)
    if _draft.orders.get("record"):
        _record(ids, asked_at, prev_hidden, out)
    if _draft.orders.get("known"):
        _steer(out.next_token_logits)
    _draft.step += 1
    return out


def _record(ids: Any, asked_at: list[int], prev_hidden: Any, out: Any) -> None:
    import torch

    content = {
        "cached": _draft.cached,
        "known": _draft.known,
        "step": _draft.step,
        "ids": ids.clone(),
        "positions": asked_at,
        "prev_hidden": prev_hidden,
        "logits": out.next_token_logits.clone(),
    }
    torch.save(content, Path(_draft.orders["record"]) / f"{next(_count):05d}.pt")


def _steer(logits: Any) -> None:
    """Steer logits, fp32 [requests * branches, vocabulary], in place."""
    branches = logits.shape[0] // max(1, len(_draft.cached))
    wrong_every = _draft.orders.get("wrong_every", 0)
    for row in range(branches * len(_draft.cached)):
        known, cached = _draft.known[row // branches], _draft.cached[row // branches]
        at = cached + 1 + _draft.step
        if at >= len(known):
            continue
        logits[row] = 0
        logits[row, known[at]] = RIGHT_LOGIT
        if wrong_every and at % wrong_every == 0:
            logits[row, (known[at] + 1) % logits.shape[1]] = WRONG_LOGIT


def _shuffle(result: None, self: Any) -> None:
    import torch

    free = self.swa_attn_allocator.free_pages
    order = torch.randperm(free.numel(), generator=torch.Generator().manual_seed(0))
    self.swa_attn_allocator.free_pages = free[order]
