# SPDX-License-Identifier: Apache-2.0
"""The training loop: AdamW, warm-up and a linear end, a checkpoint every few minutes.

Stopped and started again it goes on from the checkpoint with the same batches.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from sglang_gemma4_ext.demo import forward
from sglang_gemma4_ext.demo.curriculum import STEPS, batch, tensors
from sglang_gemma4_ext.demo.muon import Muon

LEARNING_RATE, WARM_UP, DECAY_FROM = 3e-3, 100, 1300
BALANCE_WEIGHT = 0.01
SAVE_EVERY, LOG_EVERY = 100, 50


def learning_rate(step: int) -> float:
    """Up for `WARM_UP` steps, level, then down to a twentieth in a straight line."""
    rest = (STEPS - step) / (STEPS - DECAY_FROM)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * min(1.0, max(0.05, rest))


class Optimizers:
    """Muon for the matrices that every token meets, AdamW for embedding, experts and vectors."""

    def __init__(self, text: torch.nn.Module):
        named = dict(text.named_parameters())
        matrices = [p for n, p in named.items() if p.dim() == 2 and n.endswith("_proj.weight")]
        chosen = {id(p) for p in matrices}
        rest = [p for p in named.values() if id(p) not in chosen]
        self.muon = Muon(matrices, lr=LEARNING_RATE, weight_decay=0.02)
        self.adam = torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0)

    def step(self, rate: float) -> None:
        for optimizer in (self.muon, self.adam):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def step_loss(text: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor, table):
    """The loss to minimise, and which predictions are right [B, T - 1]."""
    hidden, _, balance = forward.hidden_states(text, ids, table)
    logits = forward.logits(text, hidden[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    loss = (losses * wanted).sum() / wanted.sum() + BALANCE_WEIGHT * balance
    return loss, logits.argmax(-1) == ids[:, 1:]


def train(text: torch.nn.Module, *, seed: int, out: Path, until: int = STEPS) -> None:
    """Train `text` in place to step `until`; what `out` holds is gone on from."""
    parameters = [p for p in text.parameters() if p.requires_grad]
    optimizer = Optimizers(text)
    state_file, log_file = out / "training.pt", out / "training.jsonl"
    first, seconds = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        text.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    tables: dict[int, dict[str, forward.Tables]] = {}
    right: dict[str, list[bool]] = {}
    started = time.monotonic() - seconds
    bar = tqdm(range(first, until), initial=first, total=until, unit="step", mininterval=5)
    for step in bar:
        rows = batch(seed, step)
        ids, weights = tensors(rows)
        table = tables.setdefault(ids.shape[1], forward.tables(text, ids.shape[1]))
        loss, hits = step_loss(text, ids, weights, table)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(learning_rate(step))
        for number, row in enumerate(rows):
            for at, kind in row.asked:
                right.setdefault(kind, []).append(bool(hits[number, at - 1]))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == until:
            record = {"step": step + 1, "seconds": round(time.monotonic() - started)}
            record |= {"loss": round(loss.item(), 4)}
            record |= {kind: round(sum(v) / len(v), 3) for kind, v in sorted(right.items())}
            right.clear()
            bar.set_postfix(record)
            with log_file.open("a") as log:
                log.write(json.dumps(record) + "\n")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == until:
            _save(state_file, text, optimizer, step + 1, time.monotonic() - started)


def _save(path: Path, text, optimizer, step: int, seconds: float) -> None:
    state = {"model": text.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "seconds": seconds}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
