# SPDX-License-Identifier: Apache-2.0
"""Check how `--gemma4-low-memory` turns the plan into flags and keeps the user's flags."""

from __future__ import annotations

import pytest

from bench.checkpoints.shapes import write_config
from sglang_gemma4_ext import launch_server
from sglang_gemma4_ext.launcher import low_memory
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.plan.geometry import BUILT_IN, PlanError
from sglang_gemma4_ext.plan.sizes import GIB


@pytest.fixture
def line(tmp_path):
    """line(*flags): a command line for a 12B without weight files, so BF16 is assumed."""
    folder = write_config(BUILT_IN["12B"], tmp_path / "12B")
    return lambda *flags: CommandLine(["--model-path", str(folder), *flags])


def test_it_chooses_flags_and_prints_them(line):
    given = line()
    said = low_memory.apply(given, 32 * GIB, "auto")
    for flag in ("--mem-fraction-static", "--context-length", "--chunked-prefill-size",
                 "--max-running-requests"):  # fmt: skip
        assert f"{flag} {given.value(flag)}" in said
    assert float(given.value("--mem-fraction-static")) > 0.9


def test_the_users_flags_are_kept(line):
    flags = ("--context-length", "8192", "--max-running-requests", "3",
             "--chunked-prefill-size", "777")  # fmt: skip
    given = line(*flags)
    said = low_memory.apply(given, 32 * GIB, "auto")
    assert given.argv[: 2 + len(flags)] == line(*flags).argv
    assert not any(flag in said for flag in flags[::2])
    assert "--mem-fraction-static" in said


def test_a_plan_that_does_not_fit_names_one_that_does(line):
    with pytest.raises(
        PlanError, match=r"do not fit 16.0 GiB; the nearest that fits: the model's NVFP4"
    ):
        low_memory.apply(line(), 16 * GIB, "auto")


def test_it_excludes_the_other_way_to_choose(line):
    with pytest.raises(PlanError, match="give one of the two"):
        low_memory.apply(line("--mem-fraction-static", "0.9"), 32 * GIB, "auto")


def test_a_hub_name_is_refused_without_weights():
    with pytest.raises(PlanError, match="local --model-path"):
        low_memory.apply(CommandLine(["--model-path", "google/gemma-4-12B-it"]), 32 * GIB, "auto")


def test_the_launcher_passes_the_flags_on(monkeypatch, capsys, checkpoint):
    served = []
    monkeypatch.setattr(launch_server, "_runs_on_cpu", lambda line: False)
    monkeypatch.setattr(launch_server, "gpu_memory_bytes", lambda: 24 * GIB)
    monkeypatch.setattr(launch_server, "_serve", lambda argv: served.append(argv) or 0)
    monkeypatch.setattr("sglang_gemma4_ext.settings.Settings.export", lambda self, **options: None)
    argv = ["--model-path", str(checkpoint("dense")), "--gemma4-low-memory"]
    assert launch_server.main(argv) == 0
    assert "--mem-fraction-static" in served[0]
    assert "low memory: " in capsys.readouterr().err


def test_without_a_gpu_it_refuses(monkeypatch, capsys, checkpoint):
    monkeypatch.setattr(launch_server, "detect_gpu", lambda: Gpu("none"))
    argv = ["--model-path", str(checkpoint("dense")), "--gemma4-low-memory"]
    assert launch_server.main(argv) == 2
    assert "--gemma4-low-memory plans a GPU's memory" in capsys.readouterr().err
