# SPDX-License-Identifier: Apache-2.0
"""Test bench.gpu at toy size: time limits, resuming, failed steps and every real step."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import torch

from bench.gpu import __main__ as queue
from bench.gpu import carry, checkpoints, prefill_graphs, small_card, steps
from bench.servers import context_gib
from sglang_gemma4_ext.checkpoint.model_family import read_model_info
from sglang_gemma4_ext.plan.geometry import BUILT_IN, from_config

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def step(name: str, program: str, budget_s: int = 60, **more) -> steps.Step:
    return steps.Step(
        name, budget_s, "", lambda out, toy: [[sys.executable, "-c", program]], **more
    )


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """run(steps, *arguments): the state file afterwards, and the printed lines."""

    def run(chosen: tuple[steps.Step, ...], *arguments: str) -> tuple[dict, list[str]]:
        monkeypatch.setattr(queue, "STEPS", chosen)
        monkeypatch.setattr(queue, "gpu", lambda query: ["a GPU"])
        queue.main(["--out", str(tmp_path / "out"), *arguments])
        found = json.loads((tmp_path / "out" / "state.json").read_text())
        return found, capsys.readouterr().out.splitlines()

    return run


def append(file: Path) -> str:
    return f"open({str(file)!r}, 'a').write('x')"


def test_all_budgets_fit_the_total_and_the_limit_of_one_call() -> None:
    assert steps.whole_s() <= steps.LIMIT_S
    assert max(s.budget_s for s in steps.STEPS) < 540
    names = [s.name for s in steps.STEPS]
    assert len(set(names)) == len(names)
    for number, s in enumerate(steps.STEPS):
        assert s.after is None or s.after in names[:number]


def test_a_finished_step_runs_again_only_on_request(run, tmp_path: Path) -> None:
    file = tmp_path / "count"
    chosen = (step("one", append(file)), step("bad", "raise SystemExit(3)"))
    found, printed = run(chosen)
    assert (found["one"]["status"], found["bad"]["status"]) == (queue.DONE, queue.FAILED)
    assert found["bad"]["exit_status"] == 3
    assert {"machine", "versions", "commit", "date", "command", "commands"} <= found["one"].keys()
    assert printed[-2].startswith("| one | done |") and printed[-1].startswith("| bad | failed |")
    run(chosen)
    assert file.read_text() == "x"
    run(chosen, "--again", "--only", "one")
    assert file.read_text() == "xx"


def test_a_late_step_is_stopped_and_a_step_that_does_not_fit_is_not_started(run, tmp_path) -> None:
    slow = step("slow", "import time; time.sleep(60)", budget_s=1)
    found, printed = run((slow, step("long", "", 600), step("short", "", 30)), "--for-s", "100")
    assert found["slow"]["status"] == queue.LATE and found["slow"]["seconds"] < 30
    assert "long" not in found and found["short"]["status"] == queue.DONE
    assert printed[-2] == "| long | not yet | - | 600 | long.log |"


def test_a_late_step_leaves_no_process_behind(run, tmp_path, monkeypatch) -> None:
    """Use a step that ignores SIGINT and has a child in another session, as servers do."""
    monkeypatch.setattr(queue, "GRACE_S", 1)
    file = tmp_path / "pid"
    program = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"open({str(file)!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    )
    found, _ = run((step("deaf", program, budget_s=2),))
    assert found["deaf"]["status"] == queue.LATE and found["deaf"]["seconds"] < 30
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(file.read_text())).wait(10)


def test_later_steps_wait_for_a_background_step(run, tmp_path: Path) -> None:
    file = tmp_path / "built"
    build = step("build", f"import time; time.sleep(2); {append(file)}", background=True)
    beside = step("beside", f"import os; raise SystemExit(os.path.exists({str(file)!r}))")
    after = step("after", f"open({str(file)!r})", after="build")
    found, _ = run((build, beside, after))
    assert {found[name]["status"] for name in ("build", "beside", "after")} == {queue.DONE}


def test_results_are_copied_without_checkpoints(run, tmp_path: Path) -> None:
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    run((step("one", "print('said')"),), "--copy-to", str(tmp_path / "back"))
    assert (tmp_path / "back" / "one.log").read_text() == "said\n"
    assert not (tmp_path / "back" / "checkpoints").exists()


@no_gpu
def test_without_a_gpu_it_states_its_requirements(capsys, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        queue.main(["--out", str(tmp_path)])
    assert "needs an NVIDIA GPU; without one: --toy" in capsys.readouterr().err


@no_gpu
@pytest.mark.parametrize(
    "names",
    [
        ("router",),
        pytest.param(tuple(s.name for s in steps.STEPS), marks=pytest.mark.slow),
    ],
    ids=["one", "all"],
)
@pytest.mark.timeout(7200)
def test_every_step_runs_at_toy_size(names, tmp_path: Path) -> None:
    """Accept a failed comparison if only stock SGLang failed: it has no CPU path for these."""
    only = [part for name in names for part in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--toy", "--out", tmp_path, *only],
        capture_output=True, text=True, check=False, cwd=queue.ROOT,
    )  # fmt: skip
    state = json.loads((tmp_path / "state.json").read_text())
    assert state.keys() == set(names), done.stdout + done.stderr
    for name, found in state.items():
        if name.startswith(("serving", "nvfp4_serving")):
            continue
        assert found["status"] == queue.DONE, (tmp_path / f"{name}.log").read_text()[-3000:]
    for file in tmp_path.glob("serving_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert rows and all(row["smoke"] for row in rows)
        assert all("failed" not in row for row in rows if row["side"] == "extension"), rows


@pytest.mark.parametrize("name", ["12B", "26B-A4B"])
@pytest.mark.parametrize("weights", checkpoints.WEIGHTS)
def test_dummy_folders_have_the_released_shape(name, weights, tmp_path: Path) -> None:
    folder = checkpoints.write(name, weights, tmp_path / name)
    found, want = from_config(read_model_info(str(folder))), BUILT_IN[name]
    for field in ("hidden", "layer_types", "kv_heads", "global_kv_heads", "experts", "vocab"):
        assert getattr(found, field) == getattr(want, field)
    config = json.loads((folder / "config.json").read_text())
    assert ("quantization_config" in config) == (weights == "nvfp4")
    assert (folder / "tokenizer.json").is_file() and config["vision_config"]["hidden_size"] == 1152


def test_the_memory_limit_of_the_24_gib_card_converts_to_the_same_bytes() -> None:
    """0.8 of 23.5 GiB, without the context's 0.5, is 18.8 GiB: 0.19686 of 95.5 GiB."""
    plan = {"memory_bytes": 24 << 30, "parts_bytes": {"CUDA context": 1 << 29},
            "flags": ["--mem-fraction-static 0.8", "--a 1"]}  # fmt: skip
    flags = small_card.flags_here(plan, 96 << 30)
    assert flags == ["--mem-fraction-static", "0.1969", "--a", "1"]


def test_the_memory_limit_is_one_of_pytorchs_allocator() -> None:
    """A 24 GiB card less 0.5 GiB of context is 0.24479 of 96 GiB; PyTorch accepts the setting."""
    plan = {"memory_bytes": 24 << 30, "parts_bytes": {"CUDA context": 1 << 29}}
    name, setting = small_card.limit_here(plan, 96 << 30).split("=")
    assert (name, setting) == ("PYTORCH_CUDA_ALLOC_CONF", "per_process_memory_fraction:0.2447")
    torch._C._accelerator_setAllocatorSettings(setting)
    with pytest.raises(ValueError, match="Unrecognized key"):
        torch._C._accelerator_setAllocatorSettings(setting.replace("fraction", "share"))
    found = small_card.plan()
    assert {"memory_bytes", "parts_bytes", "flags"} <= found.keys()
    lines = small_card.planned_gib(found)
    assert all(size > 0 for line, size in lines.items() if line != "allowance")
    assert sum(lines.values()) == pytest.approx(found["memory_bytes"] / 2**30, abs=0.01)
    torch._C._accelerator_setAllocatorSettings("per_process_memory_fraction:1.0")


CONDITIONS = {
    "machine": "m", "versions": {"torch": "2.11"}, "python": "3.12", "commit": "c",
    "date": "2026-01-01", "command": "x",
}  # fmt: skip


@pytest.mark.parametrize(("peak", "status"), [(24_000, 0), (25_000, 1)])
def test_using_more_than_the_planned_memory_is_a_failure(
    peak, status, tmp_path, monkeypatch, capsys
) -> None:
    """Fail a comparison that measured `peak` where its plan allows 24 GiB."""
    parts = {"CUDA context": 1 << 29, "weights: mlp": 3 << 30, "weights: attention": 1 << 30,
             "reserve: CUDA graphs": 1 << 28, "reserve: activations": 1 << 30,
             "reserve: unmodelled": 1 << 29, "kv": 5 << 30}  # fmt: skip
    plan = {"memory_bytes": 24 << 30, "parts_bytes": parts,
            "flags": ["--mem-fraction-static 0.8"]}  # fmt: skip
    asked: list[str] = []
    made = {"weights": 4.1, "kv": 4.9, "graphs": 0.3, "context": 0.5}

    def run(command, **_):
        asked.extend(map(str, command))
        row = {"workload": "summarization", "peak_memory_mib": peak, "made_gib": made}
        row |= CONDITIONS
        (tmp_path / "small_card.jsonl").write_text(json.dumps(row) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(small_card, "plan", lambda: plan)
    monkeypatch.setattr(small_card, "gpu", lambda query: [str(96 << 10)])
    monkeypatch.setattr(small_card.checkpoints, "write", lambda *_: tmp_path)
    monkeypatch.setattr(small_card.subprocess, "run", run)
    assert small_card.main(["--out", str(tmp_path)]) == status
    said = capsys.readouterr().out
    assert f"summarization: {peak} of 24576 MiB" in said
    assert "weights: 4.0 GiB planned, 4.1 made" in said and "kv: 5.0 GiB planned, 4.9 made" in said
    written = json.loads((tmp_path / "small_card.jsonl").read_text())
    lines = {"weights": 4.0, "kv": 5.0, "graphs": 0.25, "context": 0.5, "rest": 1.0}
    assert written["planned_gib"] == lines | {"allowance": 0.5}
    assert written["made_gib"]["rest"] == pytest.approx(peak / 1024 - 9.8)
    assert asked[asked.index("--env") + 1] == small_card.limit_here(plan, 96 << 30)
    assert asked[asked.index("--mem-fraction-static") + 1] == "0.1969"


def test_the_context_is_what_a_server_took_before_its_weights() -> None:
    log = "[12:00:00] Load weight begin. avail mem=22.95 GB\n"
    assert context_gib(log, ["24564"], 100) == pytest.approx(24464 / 1024 - 22.95, abs=0.01)
    assert context_gib("", ["24564"], 100) is None is context_gib(log, None, None)


@pytest.mark.slow
def test_our_wheel_is_written_to_the_folder_asked_for(tmp_path: Path, monkeypatch) -> None:
    """Accept a relative path, as in the README. The wheel holds the plugin's entry point."""
    monkeypatch.chdir(tmp_path)
    carry.own_wheel(Path(".kit"))
    (wheel,) = (tmp_path / ".kit").glob("sglang_gemma4_ext-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as file:
        (points,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert b"[sglang.srt.plugins]" in file.read(points)
        assert "sglang_gemma4_ext/patches/series.py" in file.namelist()


def test_the_offline_script_installs_once_and_runs_the_queue(tmp_path: Path) -> None:
    """Run it in a copy of the tree without links, with a wheel of one module."""
    tree, site = tmp_path / "tree", tmp_path / "gemma4_ext_site"
    for name in ("bench", "kernels", "patches", "sglang_gemma4_ext"):
        lost = shutil.ignore_patterns("kernels", "patches") if "_" in name else None
        shutil.copytree(queue.ROOT / name, tree / name, ignore=lost)
    (tree / ".kit").mkdir()
    with zipfile.ZipFile(tree / ".kit" / "carried-1-py3-none-any.whl", "w") as file:
        file.writestr("carried.py", "")
        file.writestr(
            "carried-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1\n"
        )
        file.writestr("carried-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr("carried-1.dist-info/RECORD", "carried.py,,\n")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = {"PATH": path, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = ["bash", tree / "bench" / "gpu" / "offline.sh", "--list"]
    for _ in range(2):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == [
            step.name for step in steps.STEPS
        ]
        assert (site / "carried.py").is_file()
        shutil.rmtree(tree / ".kit", ignore_errors=True)
    assert (tree / "sglang_gemma4_ext" / "kernels" / "nvfp4_format.py").is_file()


def test_what_is_carried_is_pinned_and_trimmed(tmp_path: Path) -> None:
    wanted = carry.requirements()
    assert "sglang==0.5.23" in wanted and all("==" in line for line in wanted)
    wheel = tmp_path / "sglang-1-py3-none-any.whl"
    names = ("sglang/srt/a.py", "sglang/test/b.py", "sglang-1.dist-info/RECORD")
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            file.writestr(name, "sglang/srt/a.py,,\nsglang/test/b.py,,\n")
    carry.trim(wheel, carry.DROPPED["sglang"])
    with zipfile.ZipFile(wheel) as file:
        assert file.namelist() == [names[0], names[2]]
        assert file.read(names[2]).decode() == "sglang/srt/a.py,,\n"


@pytest.fixture
def two_servers(monkeypatch):
    """Stand in for both servers: transformers, with `off` added to what graphs answer."""

    class Stub:
        def __init__(self, command: list[str], log: Path):
            path = command[command.index("--model-path") + 1]
            self.graphs = log.stem.endswith("_graphs")
            name = prefill_graphs.KINDS["dense"]
            make = getattr(prefill_graphs.transformers, name).from_pretrained
            self.model = make(path, dtype=torch.float32, attn_implementation="eager")

        def generate(self, ids, new, *, logprobs_from=0):
            tokens = [7] * new
            found = prefill_graphs.expected(self.model, ids, tokens) + 1e-3
            if self.graphs:
                found += Stub.off
            rows = [[value] for value in found.tolist()]
            inputs = [[None], *rows[: len(ids) - 1]] if logprobs_from == 0 else []
            meta = {"input_token_logprobs": inputs, "output_token_logprobs": rows[len(ids) - 1 :]}
            return {"output_ids": tokens, "meta_info": meta}

    @contextlib.contextmanager
    def started(command, log, **given):
        yield Stub(command, log)

    monkeypatch.setattr(prefill_graphs, "started", started)
    monkeypatch.setattr(prefill_graphs, "wait_until_ready", lambda *args: None)
    return Stub


@pytest.mark.parametrize(("off", "status"), [(0.0, 0), (0.01, 1), (float("nan"), 1)])
def test_prefill_graphs_that_are_further_off_fail(two_servers, tmp_path, capsys, off, status):
    two_servers.off = off
    assert prefill_graphs.main(["--out", str(tmp_path), "--toy"]) == status
    (row,) = map(json.loads, (tmp_path / "prefill_graphs.jsonl").read_text().splitlines())
    assert row["kind"] == "dense" and row["eager_rms"] == pytest.approx(1e-3, rel=0.01)
    assert ("DIFFERENT" in capsys.readouterr().out) is bool(status)
