# SPDX-License-Identifier: Apache-2.0
"""Check the rounding that bench.head_distance compares, and its committed rows."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from bench import head_distance

ROWS = Path(__file__).parents[2] / "bench" / "results" / "head_distance_cpu.jsonl"


def test_both_formats_keep_the_largest_of_a_row() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(16, 256, generator=draw)
    for fmt, worst in (("int8", 0.5 / 127), ("e4m3", 1 / 16)):
        off = (head_distance.rounded(rows, fmt) - rows).abs() / rows.abs().amax(1, keepdim=True)
        assert 0 < off.max() <= worst * 1.001
        largest = rows.abs().argmax(1, keepdim=True)
        kept = head_distance.rounded(rows, fmt).gather(1, largest)
        torch.testing.assert_close(kept, rows.gather(1, largest))


def test_the_model_is_as_before_afterwards() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(8, 16)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.table

        def forward(self, ids: torch.Tensor):
            hidden = self.table(ids)
            return type("Output", (), {"logits": hidden @ self.table.weight.T})()

    model = Model()
    before = model.table.weight.detach().clone()
    found = head_distance.rows("random", model, [[1, 2, 3]])
    assert [row["head"] for row in found] == list(head_distance.FORMATS)
    assert all(row["kl"] > 0 for row in found)
    assert torch.equal(model.table.weight, before)


def test_int8_is_the_better_use_of_a_byte_in_the_committed_rows() -> None:
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
    models = dict.fromkeys(row["model"] for row in rows)
    assert len(models) == 4 and len(rows) == 8
    for model in models:
        int8, e4m3 = (row for row in rows if row["model"] == model)
        assert (int8["head"], e4m3["head"]) == head_distance.FORMATS
        assert int8["kl"] < e4m3["kl"] / 4 and int8["log_prob_rms"] < e4m3["log_prob_rms"] / 2
    for before, after, _ in next(row for row in rows if "right" in row)["right"].values():
        assert before == after
    assert all({"machine", "versions", "commit", "date", "command"} <= row.keys() for row in rows)
