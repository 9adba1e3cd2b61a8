# SPDX-License-Identifier: Apache-2.0
"""Which configuration a shape and a GPU get, and what `auto` needs to prefer our kernels."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.kernels.cross_compile import MAX_SHARED_BYTES
from sglang_gemma4_ext.context import Context, Gpu
from sglang_gemma4_ext.kernels import nvfp4_dispatch
from sglang_gemma4_ext.kernels.nvfp4_dispatch import CAPABILITIES, FOLDER, read, table_for
from sglang_gemma4_ext.model_family import ModelInfo
from sglang_gemma4_ext.patches import nvfp4_fused_activation
from sglang_gemma4_ext.patches._nvfp4_checkpoint import stands_down, uses_fused
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.serving.harness import environment

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / "bench" / "results" / "nvfp4_compiled.csv"
tables = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda p: p.stem)


def _entry(**changes: Any) -> dict[str, Any]:
    block = {"block_m": 8, "block_n": 32, "block_k": 64}
    return {"op": "linear", "max_m": 8, "n": 1024, "k": 1024, **block, **changes}


def _write(path: Path, *configs: dict[str, Any], prefer: str = "marlin", measured=None) -> Path:
    content = {"measured": measured, "prefer": prefer, "configs": configs}
    path.write_text(json.dumps(content))
    return path


@tables
def test_committed_tables_hold_every_op_in_blocks_that_triton_takes(path) -> None:
    table = read(path)
    assert {entry.op for entry in table.entries} == {
        "linear",
        "experts_up",
        "experts_down",
        "grouped",
    }
    for entry in table.entries:
        for size in (entry.config.block_m, entry.config.block_n, entry.config.block_k):
            assert math.log2(size).is_integer()
        assert entry.config.block_m >= 8
        assert entry.config.block_n >= 16
        assert entry.config.block_k % 32 == 0


def test_every_capability_has_a_table() -> None:
    for major, minor in CAPABILITIES:
        assert (FOLDER / f"sm_{major}{minor}.json").is_file()


def test_the_smallest_bound_on_m_then_the_nearest_shape(tmp_path) -> None:
    configs = [
        _entry(block_n=16),
        _entry(n=8192, block_n=32),
        _entry(n=8192, k=16384, block_n=64),
        _entry(max_m=64, block_n=128),
    ]
    table = read(_write(tmp_path / "t.json", *configs))
    for (m, n, k), block_n in {
        (1, 1000, 1000): 16,
        (8, 6000, 1000): 32,
        (8, 6000, 9000): 64,
        (9, 8192, 1024): 128,
        (5000, 8192, 1024): 128,
    }.items():
        assert table.choose("linear", m, n, k).block_n == block_n, (m, n, k)
    with pytest.raises(KeyError, match=r"t\.json has no configs for grouped"):
        table.choose("grouped", 1, 16, 16)


def test_a_device_has_its_own_table_else_that_of_its_capability_or_one_below(tmp_path) -> None:
    _write(tmp_path / "NVIDIA_H200.json", _entry())
    for major, minor in CAPABILITIES:
        _write(tmp_path / f"sm_{major}{minor}.json", _entry())
    for name, capability, found in (
        ("NVIDIA H200", (9, 0), "NVIDIA_H200"),
        ("NVIDIA H100", (9, 0), "sm_90"),
        ("Jetson Orin", (8, 7), "sm_86"),
        ("NVIDIA A100", (8, 0), "sm_80"),
    ):
        assert table_for(name, capability, tmp_path).name == found


def test_fused_is_not_preferred_without_a_measurement(tmp_path) -> None:
    with pytest.raises(ValueError, match="names no measurement"):
        read(_write(tmp_path / "t.json", _entry(), prefer="fused"))
    for path in FOLDER.glob("*.json"):
        table = read(path)
        assert table.measured is None or (ROOT / table.measured).exists(), path


def test_one_line_says_that_nothing_is_measured(monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10G")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    nvfp4_dispatch.table_of.cache_clear()
    with caplog.at_level(logging.INFO, logger=nvfp4_dispatch.logger.name):
        for _ in range(3):
            nvfp4_dispatch.table_of(torch.device("cuda", 7))
    nvfp4_dispatch.table_of.cache_clear()
    (line,) = caplog.messages
    assert line == "NVFP4 kernels: nothing measured on NVIDIA A10G, configs of sm_86"


A10G = Gpu("nvidia", "NVIDIA A10G", (8, 6))


def test_auto_follows_what_was_measured(monkeypatch, tmp_path) -> None:
    ctx = Context(Settings(), gpu=A10G)
    assert "not measured to be faster" in stands_down(ctx, "modelopt")
    assert not uses_fused(ctx)
    _write(tmp_path / "NVIDIA_A10G.json", _entry(), prefer="fused", measured="somewhere")
    monkeypatch.setattr(table_for, "__defaults__", (tmp_path,))
    assert stands_down(ctx, "modelopt") is None
    assert uses_fused(ctx)


def test_who_multiplies() -> None:
    for settings, fused in (
        (Settings(nvfp4="fused"), True),
        (Settings(nvfp4="dequant"), False),
        (Settings(cpu=True), False),
        (Settings(cpu=True, nvfp4="fused", cpu_attention="triton"), True),
    ):
        assert uses_fused(Context(settings, gpu=A10G)) is fused
    assert stands_down(Context(Settings(nvfp4="fused"), gpu=A10G), "modelopt") is None
    b200 = Gpu("nvidia", "NVIDIA B200", (10, 0))
    assert "8.0 to 9.x" in stands_down(Context(Settings(nvfp4="fused"), gpu=b200), "modelopt")


@pytest.mark.parametrize(
    ("nvfp4", "algorithm", "active"),
    [("fused", "NVFP4", True), ("fused", "FP8", False), ("auto", "NVFP4", False)],
)
def test_the_activation_is_fused_with_the_kernels_alone(nvfp4, algorithm, active) -> None:
    quantization = {"quant_method": "modelopt", "quant_algo": algorithm}
    config = {"quantization_config": quantization}
    model = ModelInfo("", "Gemma4ForConditionalGeneration", config)
    for settings in (
        Settings(nvfp4=nvfp4),
        Settings(nvfp4=nvfp4, cpu=True, cpu_attention="triton"),
    ):
        reason = nvfp4_fused_activation.PATCH.stands_down(Context(settings, model, A10G))
        assert (reason is None) is active


def test_fused_without_a_gpu_needs_the_interpreter() -> None:
    with pytest.raises(SettingsError, match="add --gemma4-cpu-attention triton"):
        Settings(cpu=True, nvfp4="fused")


def _rows() -> list[dict[str, str]]:
    return list(csv.DictReader(COMPILED.read_text().splitlines()[1:]))


def test_no_compiled_kernel_spills_or_exceeds_its_gpus_shared_memory() -> None:
    for row in _rows():
        assert row["stack"] == row["local"] == row["local_instructions"] == "0", row
        assert int(row["shared"]) <= MAX_SHARED_BYTES[int(row["sm"])], row
        assert int(row["registers"]) <= 255
        assert row["tensor_core"] or row["kernel"] == "_dequant_kernel", row


def test_weights_are_loaded_by_16_bytes() -> None:
    """But for wgmma tiles, whose weights Triton copies to shared memory by 8 (tokens above 16)."""
    for row in _rows():
        if row["kernel"] == "_dequant_kernel":
            continue
        if row["tensor_core"] == "HGMMA":
            assert int(row["block_m"]) > 8, row
            continue
        assert int(row["loads_16_byte"]) >= int(row["stages"]), row


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(("--every", "37"), id="some"),
        pytest.param((), id="all", marks=pytest.mark.slow),
    ],
)
def test_the_committed_table_is_of_this_code(part) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.kernels.compile_check", *part],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as committed" in done.stdout
