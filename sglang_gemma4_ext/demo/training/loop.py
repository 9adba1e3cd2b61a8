# SPDX-License-Identifier: Apache-2.0
"""Train with AdamW and Muon, warm-up and linear decay, and a checkpoint every few minutes.

A restarted run continues from the checkpoint with the same batches.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from tqdm import tqdm

from sglang_gemma4_ext.demo.training import forward
from sglang_gemma4_ext.demo.training.curriculum import STEPS, batch, tensors
from sglang_gemma4_ext.demo.training.muon import Muon
from sglang_gemma4_ext.demo.training.row import Row

BALANCE_WEIGHT = 0.01
SAVE_EVERY, LOG_EVERY = 100, 50
MakeBatch = Callable[[int, int], list[Row]]  # of a seed and a step


@dataclass(frozen=True)
class Schedule:
    """Warm up for `warm_up` steps, stay level, then fall linearly to a twentieth of `peak`."""

    steps: int
    peak: float
    warm_up: int
    decay_from: int

    def rate(self, step: int) -> float:
        rest = (self.steps - step) / (self.steps - self.decay_from)
        return self.peak * min(1.0, (step + 1) / self.warm_up) * min(1.0, max(0.05, rest))


FIRST = Schedule(STEPS, peak=3e-3, warm_up=100, decay_from=1300)


class Optimizers:
    """Use Muon for matrices that every token meets, AdamW for all other parameters."""

    def __init__(self, text: torch.nn.Module):
        named = dict(text.named_parameters())
        matrices = [p for n, p in named.items() if p.dim() == 2 and n.endswith("_proj.weight")]
        chosen = {id(p) for p in matrices}
        rest = [p for p in named.values() if id(p) not in chosen]
        self.muon = Muon(matrices, lr=FIRST.peak, weight_decay=0.02)
        self.adam = torch.optim.AdamW(rest, lr=FIRST.peak, betas=(0.9, 0.98), weight_decay=0)

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
    """Return the loss to minimise, and which predictions are right, bool [B, T - 1]."""
    hidden, _, balance = forward.hidden_states(text, ids, table)
    logits = forward.logits(text, hidden[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    loss = (losses * wanted).sum() / wanted.sum() + BALANCE_WEIGHT * balance
    return loss, logits.argmax(-1) == ids[:, 1:]


class Log:
    """Record how often each kind of answer was right since the last record, in a file."""

    def __init__(self, path: Path, seconds: float):
        self.path, self.right = path, {}
        self.started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def count(self, rows: list[Row], hits: torch.Tensor) -> None:
        for number, row in enumerate(rows):
            for at, kind in row.asked:
                self.right.setdefault(kind, []).append(bool(hits[number, at - 1]))

    def write(self, step: int, loss: float) -> dict[str, float]:
        record = {"step": step, "seconds": round(self.seconds), "loss": round(loss, 4)}
        record |= {kind: round(mean(found), 3) for kind, found in sorted(self.right.items())}
        self.right.clear()
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        return record


def train(
    text: torch.nn.Module, *, seed: int, out: Path, until: int | None = None,
    schedule: Schedule = FIRST, make: MakeBatch = batch,
) -> None:  # fmt: skip
    """Train `text` in place on the batches of `make`, continuing from what `out` holds.

    until: the step to stop after; the schedule's last by default
    """
    until = schedule.steps if until is None else until
    optimizer, state_file = Optimizers(text), out / "training.pt"
    first, seconds = 0, 0.0
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        text.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    tables = cache(lambda length: forward.tables(text, length))
    log = Log(out / "training.jsonl", seconds)
    bar = tqdm(range(first, until), initial=first, total=until, unit="step", mininterval=5)
    for step in bar:
        rows = make(seed, step)
        ids, weights = tensors(rows)
        loss, hits = step_loss(text, ids, weights, tables(ids.shape[1]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        optimizer.step(schedule.rate(step))
        log.count(rows, hits)
        is_last = step + 1 == until
        if (step + 1) % LOG_EVERY == 0 or is_last:
            bar.set_postfix(log.write(step + 1, loss.item()))
        if (step + 1) % SAVE_EVERY == 0 or is_last:
            state = {"model": text.state_dict(), "optimizer": optimizer.state_dict()}
            save(state_file, {**state, "step": step + 1, "seconds": log.seconds})


def save(path: Path, state: dict) -> None:
    """Write the file whole or not at all, however the process ends."""
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
