# SPDX-License-Identifier: Apache-2.0
"""The NVFP4 benchmark runs at toy size, checks before it times, and draws what it has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from bench.kernels import shapes
from bench.kernels.plot import plot
from tests.serving.harness import environment

ROOT = Path(__file__).resolve().parents[2]


def test_toy_size_in_the_interpreter(tmp_path: Path) -> None:
    out = tmp_path / "toy.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "bench.kernels.nvfp4", "--toy", "--out", out],
        env=environment(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES=""),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(row["op"], row["provider"]) for row in rows} == {
        ("linear", "fused"),
        ("linear", "dequantize_then_matmul"),
        ("linear", "cublas_bf16"),
        ("experts", "fused"),
    }
    for row in rows:
        assert row["correct"] and 0 < row["error_rms"] < 1e-2
        assert row["interpreted"] and row["gpu"] is None
        assert not {"median_us", "gb_s"} & row.keys()
    ElementTree.parse(out.with_suffix(".svg"))


def test_without_a_gpu_it_says_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.kernels.nvfp4"],
        env=environment(CUDA_VISIBLE_DEVICES=""),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "needs an NVIDIA GPU" in done.stderr


def test_a_plot_has_a_line_for_each_provider_with_times(tmp_path: Path) -> None:
    rows = [
        {"shape": shape, "provider": provider, "m": m, "gb_s": 100.0 * m}
        for shape in shapes.NAMED
        for provider in ("fused", "marlin")
        for m in (1, 8, 64)
    ]
    rows.append({"shape": "wrong", "provider": "fused", "m": 1, "correct": False})
    plot(rows, tmp_path / "plot.svg")
    tree = ElementTree.parse(tmp_path / "plot.svg")
    lines = [node for node in tree.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 2 * len(shapes.NAMED)
