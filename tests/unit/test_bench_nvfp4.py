# SPDX-License-Identifier: Apache-2.0
"""Run the NVFP4 benchmark at toy size: correctness before timing, tables and plots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nvidia
import pytest
import torch

from bench.kernels import nvfp4, nvfp4_table, providers, shapes
from bench.kernels.plot import plot
from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, read
from sglang_gemma4_ext.kernels.nvfp4_format import dequantize
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
    baselines = ("dequantize_then_matmul", "cublas_bf16")
    assert {(row["op"], row["provider"]) for row in rows} == {
        ("dequant", "fused"),
        ("dequant", "torch"),
        *((op, name) for op in ("linear", "gate_up", "experts") for name in ("fused", *baselines)),
    }
    for row in rows:
        assert row["correct"] and 0 < row["error_rms"] < 1e-2
        assert row["interpreted"] and row["gpu"] is None
        assert not {"median_us", "gb_s"} & row.keys()
    ElementTree.parse(out.with_suffix(".svg"))


def test_without_a_gpu_it_states_its_requirements() -> None:
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


def test_a_failing_provider_is_recorded_and_the_rest_runs() -> None:
    def make(weight):
        raise NotImplementedError("no kernel for it")

    weights = [providers.draw(32, 64, device="cpu")]
    packed, block, row = weights[0]
    x = torch.ones(2, 64)
    want = x @ dequantize(packed, block, row[:, None], torch.float32).T
    exact = {"torch": lambda weight: lambda x: want}
    calls = nvfp4._of({"humming": make, "broken": make, **exact}, weights, ())
    rows = list(nvfp4._rows({"op": "linear"}, calls, x, want, 1))
    assert [row["correct"] for row in rows] == [False, False, True]
    assert rows[0]["failed"] == "NotImplementedError: no kernel for it"
    with pytest.raises(NotImplementedError):
        list(nvfp4._rows({"op": "linear"}, nvfp4._of({"fused": make}, weights, ()), x, want, 1))


@pytest.mark.slow
@pytest.mark.parametrize("sm", [80, 86, 90])
@pytest.mark.parametrize("tokens", [1, 4096])
def test_humming_compiles_for_a_linear_of_the_26b(sm, tokens, tmp_path) -> None:
    """Compile Humming's kernels for one weight and its tuning; packing weights needs a GPU."""
    libraries = Path(nvidia.__path__[0]) / "cu13" / "lib"
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.compile_humming", *map(str, (sm, 4224, 2816, tokens))],
        env=environment(LD_LIBRARY_PATH=str(libraries), HUMMING_CACHE_DIR=str(tmp_path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["n"], found["k"]) == (4352, 2816)
    assert len(found["kernels"]) == 1


SHAPE = {"n": 8192, "k": 3840}


def _ratio(m: int, marlin: float, op: str = "linear", **shape: int) -> dict[str, Any]:
    times = {"times_of_fused": {"marlin": marlin, "cublas_bf16": 3.0}}
    return {"op": op, "m": m, "provider": "ratio", "capability": "sm_86", **SHAPE, **shape, **times}


@pytest.mark.parametrize(
    ("ratios", "wins"),
    [
        ({}, True),
        ({1: 0.99}, False),  # slower at the M of a decode
        ({8: 1.0, 4096: 0.9}, True),
        ({256: 0.89}, False),  # more than a tenth slower
        ({1: 1.02, 2: 1.02, 4: 1.02, 8: 1.02}, False),  # within the noise
        ({64: None}, False),  # not timed: its result was wrong, or it was left out
    ],
)
def test_a_shape_is_ours_if_faster_in_decode_and_not_slow_beyond(ratios, wins) -> None:
    times = dict.fromkeys(nvfp4_table.TOKENS, 1.2) | ratios
    rows = [_ratio(m, ratio) for m, ratio in times.items() if ratio is not None]
    assert nvfp4_table.faster(rows) == ({("linear", 8192, 3840)} if wins else set())


def test_a_gate_up_wins_with_its_activation_and_without() -> None:
    rows = [_ratio(m, 1.2) for m in nvfp4_table.TOKENS]
    gated = [_ratio(m, 0.5, op="gate_up") for m in nvfp4_table.TOKENS]
    assert nvfp4_table.faster(rows + gated) == set()
    experts = [{**row, "op": "experts"} for row in rows]
    assert nvfp4_table.faster(experts) == {("experts", 8192, 3840)}


def test_a_wrong_marlin_result_is_not_a_win() -> None:
    rows = [_ratio(m, 1.2) for m in nvfp4_table.TOKENS]
    del rows[3]["times_of_fused"]["marlin"]
    assert nvfp4_table.faster(rows) == set()


def test_the_table_of_a_gpu_is_its_capabilitys_and_what_was_faster(tmp_path: Path) -> None:
    for path in FOLDER.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    rows = [_ratio(m, 1.2) for m in nvfp4_table.TOKENS]
    first = nvfp4_table.write(rows, "results.jsonl", "NVIDIA A10G", tmp_path)
    assert first == tmp_path / "NVIDIA_A10G.json"
    other = [_ratio(m, 1.2, n=4096) for m in nvfp4_table.TOKENS]
    lost = [_ratio(m, 0.8) for m in nvfp4_table.TOKENS]
    nvfp4_table.write(other, "results.jsonl", "NVIDIA A10G", tmp_path)
    assert read(first).faster == {("linear", 8192, 3840), ("linear", 4096, 3840)}
    nvfp4_table.write(lost, "later.jsonl", "NVIDIA A10G", tmp_path)
    assert read(first).faster == {("linear", 4096, 3840)}
    assert read(first).measured == "later.jsonl"
    assert read(first).entries == read(FOLDER / "sm_86.json").entries


def test_a_plot_has_a_line_for_each_provider_with_times(tmp_path: Path) -> None:
    rows = [
        {"op": op, "shape": shape, "provider": provider, "m": m, "gb_s": 100.0 * m}
        for op in ("linear", "gate_up")
        for shape in shapes.NAMED
        for provider in ("fused", "marlin")
        for m in (1, 8, 64)
    ]
    rows.append({"op": "linear", "shape": "wrong", "provider": "fused", "m": 1, "correct": False})
    rows.append({"op": "dequant", "shape": "12B down", "provider": "fused", "m": 0, "gb_s": 9.0})
    plot(rows, tmp_path / "plot.svg")
    tree = ElementTree.parse(tmp_path / "plot.svg")
    lines = [node for node in tree.iter() if node.tag.endswith("polyline")]
    assert len(lines) == 2 * 2 * len(shapes.NAMED)
