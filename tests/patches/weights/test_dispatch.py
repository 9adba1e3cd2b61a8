# SPDX-License-Identifier: Apache-2.0
"""Check each shape's configuration per GPU, and when `auto` takes our kernels."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.kernels.cross_compile import MAX_SHARED_BYTES
from bench.kernels.predict import LIMITS, Card, code_of
from bench.kernels.shapes import LINEAR_SHARDS
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.kernels import nvfp4_dispatch
from sglang_gemma4_ext.kernels.nvfp4_dispatch import (
    CAPABILITIES,
    FILL_WARPS,
    FOLDER,
    MAX_SPLITS,
    Config,
    most_splits,
    read,
    table_for,
)
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.weights import _layers
from sglang_gemma4_ext.patches.weights._dispatch import (
    MARLIN_ACTIVATIONS,
    leaves_fp8,
    prefers_humming,
    stands_down,
    takes,
    uses_fused,
)
from sglang_gemma4_ext.settings import Settings, SettingsError
from tests.serving.harness import environment

ROOT = Path(__file__).resolve().parents[3]
COMPILED = ROOT / "bench" / "results" / "nvfp4_compiled.csv"
WITHOUT_DOT = {"_dequant_kernel", "_sum_slots_kernel"}
tables = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda p: p.stem)


def _entry(**changes: Any) -> dict[str, Any]:
    block = {"block_m": 8, "block_n": 32, "block_k": 64}
    return {"op": "linear", "max_m": 8, "n": 1024, "k": 1024, **block, **changes}


def _write(path: Path, *configs: dict[str, Any], faster=(), measured=None) -> Path:
    content = {"measured": measured, "bytes_a_us": 9000, "faster": faster, "configs": configs}
    path.write_text(json.dumps(content))
    return path


@tables
def test_committed_tables_hold_every_op_with_valid_triton_blocks(path) -> None:
    table = read(path)
    assert {entry.op for entry in table.entries} == {
        "linear",
        "packed",
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


def test_the_smallest_bound_on_m_is_taken_then_the_nearest_shape(tmp_path) -> None:
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


@tables
@pytest.mark.parametrize("processors", [80, 82, 108, 132, 142])
def test_decodes_fill_each_multiprocessor_or_split_k_to_the_end(path, processors) -> None:
    """Check 7 warps on each of an A10G's, RTX 3090's, A100's, H100's and L40S's."""
    table = read(path)
    for (n, k), m in itertools.product(LINEAR_SHARDS, (1, 16, 32, 64)):
        config = table.choose("linear", m, n, k, processors)
        tiles = math.ceil(k / config.block_k)
        warps = math.ceil(n / config.block_n) * config.num_warps * config.splits
        a_part = math.ceil(tiles / config.splits)
        most = most_splits(config, k)
        assert math.ceil(tiles / a_part) == config.splits <= most, "an idle program"
        full = warps >= FILL_WARPS * processors
        assert full or a_part == 1 or math.ceil(tiles / (a_part - 1)) > most


def test_the_parts_of_a_split_are_at_most_twice_the_weights_bytes() -> None:
    for block_m in (8, 16, 32, 64):
        for n, k in LINEAR_SHARDS:
            splits = most_splits(Config(block_m, 32, 64), k)
            assert splits == 1 or splits * block_m * n * 8 <= 2 * n * k * 9 / 16
            assert splits == MAX_SPLITS or (splits + 1) * block_m * n * 8 > 2 * n * k * 9 / 16


def _filling(**changes: Any) -> dict[str, Any]:
    return _entry(**{"splits": "fill", "resident": 8, "num_warps": 2, **changes})


def test_of_splits_that_fill_the_one_that_is_done_first_is_taken(tmp_path) -> None:
    """Two parts are 336 blocks on 80 multiprocessors: one in five has a fifth block."""
    table = read(_write(tmp_path / "t.json", _filling(block_k=256)))
    splits = table.choose("linear", 1, 5376, 21504, 80).splits
    tiles = {s: math.ceil(168 * s / 80) * math.ceil(84 / s) for s in range(2, 9)}
    assert tiles[splits] <= 1.05 * min(tiles.values()) < tiles[2]


def test_a_second_wave_of_few_blocks_is_avoided(tmp_path) -> None:
    """With 5 resident blocks 6 parts are two waves on 80 multiprocessors, the second of one."""
    for resident, one_wave in ((8, False), (5, True)):
        path = _write(tmp_path / "t.json", _filling(resident=resident))
        splits = read(path).choose("linear", 1, 2560, 1152, 80).splits
        assert (splits <= 5) == one_wave, (resident, splits)


def test_k_is_split_only_where_it_gains(tmp_path) -> None:
    table = read(_write(tmp_path / "t.json", _filling()))
    splits = [table.choose("linear", 1, n, 1024, 100).splits for n in (64, 6400, 12800, 25600)]
    assert splits == [8, 4, 1, 1]
    assert read(_write(tmp_path / "u.json", _entry(splits=3))).choose("linear", 1, 1, 1).splits == 3


@pytest.mark.parametrize("sm", LIMITS)
def test_the_resident_blocks_are_those_of_the_compiled_code(sm) -> None:
    """Registers and shared memory limit them; codes of one tile differ by a few registers."""
    found: dict[tuple[str, ...], set[int]] = {}
    for row in _rows():
        if row["sm"] == str(sm) and row["split"] == "True" and row["dtype"] == "bf16":
            tile = tuple(row[f"block_{side}"] for side in "mnk")
            found.setdefault(tile, set()).add(code_of(Card(sm, 1, 1, 1), row).resident)
    entries = [e for e in read(FOLDER / f"sm_{sm}.json").entries if e.resident]
    assert entries
    for entry in entries:
        tile = tuple(str(getattr(entry.config, f"block_{side}")) for side in "mnk")
        assert entry.resident in found[tile], tile


def test_a_device_uses_its_own_table_or_that_of_the_next_lower_capability(tmp_path) -> None:
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


def test_without_a_measurement_no_shape_is_faster(tmp_path) -> None:
    with pytest.raises(ValueError, match="names no measurement"):
        read(_write(tmp_path / "t.json", _entry(), faster=[["linear", 8192, 3840]]))
    for path in FOLDER.glob("*.json"):
        table = read(path)
        assert table.measured is None or (ROOT / table.measured).exists(), path


def test_a_missing_measurement_is_logged_in_one_line(monkeypatch, caplog) -> None:
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


FASTER = [["experts", 1408, 2816], ["linear", 32, 24]]


@pytest.fixture
def measured(monkeypatch, tmp_path) -> Iterator[Context]:
    """Describe an A10G server whose table, written here, calls two shapes faster."""
    _write(tmp_path / "NVIDIA_A10G.json", _entry(), faster=FASTER, measured="somewhere.jsonl")
    monkeypatch.setattr(table_for, "__defaults__", (tmp_path,))
    ctx = Context(Settings(), gpu=A10G)
    monkeypatch.setattr(_layers.Context, "here", lambda settings: ctx)
    for cached in (_layers.here, _layers._say_once):
        cached.cache_clear()
    yield ctx
    _layers.here.cache_clear()


QUANTIZED = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
DENSE = ModelInfo("", "Gemma4ForConditionalGeneration", QUANTIZED)
MOE = ModelInfo("", DENSE.architecture, QUANTIZED | {"text_config": {"num_experts": 128}})


def test_auto_leaves_unmeasured_shapes_to_marlin() -> None:
    for gpu in (A10G, *(Gpu("nvidia", "", c) for c in CAPABILITIES)):
        ctx = Context(Settings(), DENSE, gpu)
        assert "not measured to be faster" in stands_down(ctx, "modelopt")
        assert not takes(ctx, "linear", 8192, 3840)


def test_auto_takes_exactly_the_faster_shapes(measured) -> None:
    assert stands_down(measured, "modelopt") is None
    assert takes(measured, "experts", 1408, 2816, "silu")
    for shape in (("linear", 1408, 2816), ("experts", 704, 2816, "silu"), ("linear", 32, 48)):
        assert not takes(measured, *shape)
        assert not takes(Context(Settings(weights="marlin"), gpu=A10G), *shape)
        assert takes(Context(Settings(weights="fused"), gpu=A10G), *shape)


@pytest.mark.parametrize("nvfp4", ["auto", "marlin"])
def test_experts_that_marlin_cannot_serve_are_ours(nvfp4) -> None:
    ctx = Context(Settings(weights=nvfp4), MOE, A10G)
    assert stands_down(ctx, "modelopt") is None
    assert uses_fused(ctx)
    assert takes(ctx, "experts", 1408, 2816, "gelu")
    assert not takes(ctx, "experts", 1408, 2816, "silu")
    assert not takes(ctx, "linear", 8192, 2816)


def test_sglangs_marlin_experts_have_no_gelu(monkeypatch) -> None:
    """Run its own runner up to the GPU call; once it takes gelu, experts may go to Marlin."""
    from sglang.srt.layers.moe.moe_runner import marlin
    from sglang.srt.layers.moe.moe_runner.base import MoeRunnerConfig
    from sglang.srt.layers.quantization import marlin_utils

    def workspace(*args: Any, **kwargs: Any) -> None:
        raise InterruptedError("its activation was let through")

    monkeypatch.setattr(marlin_utils, "marlin_make_workspace", workspace)
    given = SimpleNamespace(
        hidden_states=torch.ones(1, 16), topk_output=SimpleNamespace(topk_weights=None)
    )
    run = marlin.fused_experts_none_to_marlin
    with pytest.raises(AssertionError, match="Only gated SiLU/SiTU is supported, got gelu"):
        run(given, None, MoeRunnerConfig(activation="gelu", is_gated=True))
    for activation in MARLIN_ACTIVATIONS:
        with pytest.raises(InterruptedError):
            run(given, None, MoeRunnerConfig(activation=activation, is_gated=True))


def test_a_linear_is_dispatched_by_its_shard_shape(measured, monkeypatch, caplog) -> None:
    """Create SGLang's linears of 2 ranks, and check each when it asks for its method."""
    from sglang.srt.layers import linear
    from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

    group = SimpleNamespace(rank_in_group=0, world_size=2)
    monkeypatch.setattr(linear, "_resolve_linear_group", lambda name: group)
    asked = []

    class Config:
        def get_quant_method(self, layer, prefix):
            asked.append((type(layer).__name__, _layers.takes(layer)))
            return UnquantizedLinearMethod()

    caplog.set_level(logging.INFO, logger=_layers.logger.name)
    for make, sizes in (
        (linear.ReplicatedLinear, (24, 32)),
        (linear.RowParallelLinear, (48, 32)),
        (linear.RowParallelLinear, (24, 32)),
        (linear.MergedColumnParallelLinear, (24, [32, 32])),
        (linear.MergedColumnParallelLinear, (24, [16, 16])),
    ):
        make(*sizes, bias=False, quant_config=Config(), params_dtype=torch.float32)
    linear.QKVParallelLinear(24, 8, 4, 2, bias=False, quant_config=Config())
    assert asked == [
        ("ReplicatedLinear", True),
        ("RowParallelLinear", True),
        ("RowParallelLinear", False),
        ("MergedColumnParallelLinear", True),
        ("MergedColumnParallelLinear", False),
        ("QKVParallelLinear", True),
    ]
    assert caplog.messages == [
        "NVFP4: fused kernels for linear of 32 x 24: faster than Marlin in somewhere.jsonl"
    ]


@pytest.mark.parametrize(
    ("inner", "activation", "ours"),
    [(704, "silu", True), (352, "silu", False), (352, "gelu", True)],
)
def test_experts_are_dispatched_by_their_shard_shape(
    measured, caplog, inner, activation, ours
) -> None:
    from sglang.srt.layers.moe.fused_moe_triton import FusedMoE

    layer = FusedMoE.__new__(FusedMoE)
    torch.nn.Module.__init__(layer)
    layer.intermediate_size_per_partition, layer.hidden_size = inner, 2816
    layer.moe_runner_config = SimpleNamespace(activation=activation)
    caplog.set_level(logging.INFO, logger=_layers.logger.name)
    assert [_layers.takes(layer) for _ in range(2)] == [ours] * 2
    line = "NVFP4: fused kernels for experts of 1408 x 2816: faster than Marlin in somewhere.jsonl"
    assert caplog.messages == ([line] if inner == 704 else [])


def test_humming_takes_experts_by_default_and_all_where_it_is_asked_for(measured) -> None:
    experts, linear = ("experts", 704, 2816, "gelu"), ("linear", 704, 2816)
    for weights, of_experts, of_linears in (
        ("auto", True, False),
        ("humming", True, True),
        ("fused", False, False),
        ("marlin", False, False),
        ("dequant", False, False),
    ):
        ctx = Context(Settings(weights=weights), gpu=A10G)
        assert prefers_humming(ctx, *experts) is of_experts
        assert prefers_humming(ctx, *linear) is of_linears
    assert not prefers_humming(measured, "experts", 1408, 2816, "gelu")  # ours are faster
    assert not prefers_humming(measured, "experts", 704, 2816, "silu")  # Marlin's
    assert leaves_fp8(Context(Settings(weights="humming"), gpu=A10G))
    assert not leaves_fp8(Context(Settings(weights="fused"), gpu=A10G))


def test_humming_needs_a_gpu() -> None:
    with pytest.raises(SettingsError, match="humming needs a GPU"):
        Settings(cpu=True, weights="humming")


def test_fused_kernels_run_as_the_settings_say() -> None:
    for settings, fused in (
        (Settings(weights="fused"), True),
        (Settings(weights="dequant"), False),
        (Settings(cpu=True), False),
        (Settings(cpu=True, weights="fused", cpu_attention="triton"), True),
    ):
        assert uses_fused(Context(settings, gpu=A10G)) is fused
    assert stands_down(Context(Settings(weights="fused"), gpu=A10G), "modelopt") is None
    b200 = Gpu("nvidia", "NVIDIA B200", (10, 0))
    assert "8.0 to 9.x" in stands_down(Context(Settings(weights="fused"), gpu=b200), "modelopt")


def test_fused_without_a_gpu_needs_the_interpreter() -> None:
    with pytest.raises(SettingsError, match="add --gemma4-cpu-attention triton"):
        Settings(cpu=True, weights="fused")


def _rows() -> list[dict[str, str]]:
    return list(csv.DictReader(COMPILED.read_text().splitlines()[1:]))


def test_no_compiled_kernel_spills_or_exceeds_its_gpus_shared_memory() -> None:
    for row in _rows():
        assert row["local"] == "0", row
        assert int(row["shared"]) <= MAX_SHARED_BYTES[int(row["sm"])], row
        assert int(row["registers"]) <= 255
        assert bool(row["tensor_core"]) == (row["kernel"] not in WITHOUT_DOT), row


def test_every_nvfp4_kernel_is_compiled() -> None:
    matmuls = {"_nvfp4_linear_kernel", "_experts_up_kernel", "_experts_down_kernel"}
    assert {row["kernel"] for row in _rows()} == WITHOUT_DOT | matmuls | {"_grouped_kernel"}


def test_operands_are_loaded_by_16_bytes() -> None:
    """Check weights and activations of every stage.

    Weights load by 8 bytes only where K is an odd multiple of 16. Of Gemma 4's shapes, these are
    the TP 4 shards of the 26B-A4B's 704 and 2112.
    """
    by_eight = set()
    for row in _rows():
        if row["kernel"] in WITHOUT_DOT:
            continue
        width = min(16, int(row["bytes_align"]))
        weights, activations = _bytes_a_thread(row)
        wide = activations / 16 + (weights / 16 if width == 16 else 0)
        assert int(row["loads_16_byte"]) >= int(row["stages"]) * wide, row
        if width == 8:
            assert int(row["loads_8_byte"]) >= int(row["stages"]) * weights / 8, row
            by_eight |= set(row["in_features"].split())
    assert by_eight == {"176", "528"}


def _bytes_a_thread(row: dict[str, str]) -> tuple[float, float]:
    """Count the bytes of weights and of activations that a thread loads in a stage."""
    m, n, k = (int(row[f"block_{side}"]) for side in "mnk")
    threads = 32 * int(row["warps"])
    return n * k / 2 / threads, 2 * m * k / threads


def test_hoppers_order_of_k_is_only_where_the_table_says() -> None:
    """Elsewhere the order of K for Hopper's dots costs instructions."""
    for row in _rows():
        assert (row["tensor_core"] == "HGMMA") == (row["wgmma"] == "True"), row


def test_scales_are_copied_ahead() -> None:
    """Expect cp.async for every load of a steady loop, which copies 4 bytes or more.

    Where K / 16 is not a multiple of 4, rows of scales begin between. These K are shards.
    """
    waited = {k for row in _rows() if row["loop_loads"] not in ("", "0")
              for k in row["in_features"].split()}  # fmt: skip
    assert waited == {"176", "352", "528", "928", "1056"}


# The most instructions that a weight costs in the steady loop in BF16, by kernel and tokens of its
# tile: on sm_80 to sm_89, and on sm_90. Shards whose scales are waited for cost a little more.
SLOTS = {
    ("_nvfp4_linear_kernel", 8): (3.97, 3.96),
    ("_nvfp4_linear_kernel", 16): (4.19, 4.12),
    ("_nvfp4_linear_kernel", 32): (4.98, 4.28),
    ("_nvfp4_linear_kernel", 64): (6.19, 4.71),
    ("_nvfp4_linear_kernel", 128): (8.39, 4.75),
    ("_experts_up_kernel", 8): (3.73, 3.72),
    ("_experts_down_kernel", 8): (3.87, 3.88),
    ("_grouped_kernel", 16): (4.84, 4.62),
    ("_grouped_kernel", 32): (4.84, 5.05),
    ("_grouped_kernel", 64): (6.11, 6.03),
}
WAITED = 1.15


def test_a_weight_costs_no_more_instructions() -> None:
    found = set()
    for row in _rows():
        if row["dtype"] != "bf16" or row["kernel"] in WITHOUT_DOT:
            continue
        key = row["kernel"], int(row["block_m"])
        limit = SLOTS[key][row["sm"] == "90"] * (1 if row["loop_loads"] == "0" else WAITED)
        assert float(row["slots"]) <= limit, row
        found.add(key)
    assert found == SLOTS.keys()


def test_the_compiled_shapes_are_gemma4s_whole_and_split() -> None:
    """Compare K in the table with the models' sizes and their shards; none is missing."""
    whole = {2112, 2816, 3840, 4096, 5376, 8192, 15360, 16384, 21504}
    split = {512, 528, 928, 1024, 1056, 1920, 2048, 2688, 7680, 10752}
    experts = {704, 352, 176}
    for sm in MAX_SHARED_BYTES:
        rows = [row for row in _rows() if row["sm"] == str(sm)]
        found = {int(k) for row in rows for k in row["in_features"].split()}
        assert found == whole | split | experts


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(("--every", "61"), id="some"),
        pytest.param((), id="all", marks=pytest.mark.slow),
    ],
)
def test_the_committed_table_matches_the_code(part) -> None:
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
