# SPDX-License-Identifier: Apache-2.0
"""Check that bench.serving runs sglang.bench_serving as configured and reports each failure."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from sglang.benchmark import serving

from bench import servers
from bench.processes import ServerError, last_sentence
from bench.servers import EXTENSION, STOCK
from bench.serving import __main__ as command
from bench.serving import client, measure, plot, report
from bench.serving.workloads import FULL, SMOKE, Workload, chosen


def test_the_clients_parser_accepts_the_command(tmp_path: Path, monkeypatch) -> None:
    (workload,) = (w for w in FULL if w.name == "sweep 8")
    argv = client.command("http://127.0.0.1:1", "tok", workload, tmp_path / "out")
    assert argv[1:3] == ["-m", "sglang.bench_serving"]
    seen: list = []
    monkeypatch.setattr(serving, "run_benchmark", seen.append)
    monkeypatch.setattr(sys, "argv", argv[2:])
    serving.cli_main()
    args = vars(seen[0])
    expected = {
        "random_input_len": 1000, "random_output_len": 1000, "random_range_ratio": 1.0,
        "num_prompts": 16, "warmup_requests": 2, "seed": 1, "max_concurrency": 8,
        "dataset_name": "random-ids", "tokenize_prompt": True, "flush_cache": True,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


def test_the_workloads_of_the_comparison() -> None:
    by_name = {w.name: w for w in FULL}
    for name, length in (("chat", 1000), ("summarization", 8000)):
        w = by_name[name]
        assert (w.input_tokens, w.output_tokens, w.prompts, w.warmup) == (length, 1000, 80, 2)
        assert w.concurrency is None
    assert [w.concurrency for w in chosen(["sweep"], smoke=False)] == [1, 8, 32, 80]
    assert chosen(None, smoke=True) == SMOKE
    with pytest.raises(ValueError, match="no workload is named 'x'"):
        chosen(["x"], smoke=False)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Replace the servers and the client; `log` keeps the calls of both.

    A server starts unless told otherwise, and the client measures 10 tok/s.
    """
    log: list = []
    retracted = itertools.count(0, 3)  # The server counts retractions from its start.

    @contextlib.contextmanager
    def running(side, flags, folder, **_):
        log.append((side.name, tuple(flags)))
        if side is STOCK and "--broken" in flags:
            raise ServerError("OSError: no processor")
        yield SimpleNamespace(
            url="", pools=lambda: {"pool_full_tokens": 7}, retractions=retracted.__next__,
            peak_mib=9, memory="resident", memory_mib=lambda: 5,
            process=SimpleNamespace(poll=lambda: None),
        )  # fmt: skip

    def run(url, tokenizer, workload, out, most_s):
        if workload.name == "lost":
            raise client.ClientError("3 of 4 requests were answered")
        return {"output_throughput": 10.0}

    monkeypatch.setattr(measure, "running", running)
    monkeypatch.setattr(client, "run", run)
    return log


def test_sides_take_turns_with_the_same_flags(fake, tmp_path: Path) -> None:
    setup = measure.Setup(("--a",), "tok", mtp=("--m",), extension_flags=("--gemma4-x", "1"))
    rows = list(measure.measure(setup, (STOCK, EXTENSION), SMOKE[:1], 2, tmp_path))
    assert [(r["repeat"], r["mtp"], r["side"]) for r in rows] == [
        (0, False, "stock"), (0, False, "extension"), (0, True, "stock"), (0, True, "extension"),
        (1, False, "extension"), (1, False, "stock"), (1, True, "extension"), (1, True, "stock"),
    ]  # fmt: skip
    common = ("--a", "--enable-metrics")
    assert fake[:4] == [
        ("stock", common), ("extension", (*common, "--gemma4-x", "1")),
        ("stock", (*common, "--m")), ("extension", (*common, "--m", "--gemma4-x", "1")),
    ]  # fmt: skip
    assert rows[0]["output_throughput"] == 10 and rows[0]["pool_full_tokens"] == 7
    # Retractions of this workload alone, without those of earlier workloads on this server.
    assert [row["retractions"] for row in rows] == [3] * 8
    assert [row["peak_memory_mib"] for row in rows] == [5] * 8


def test_a_side_that_failed_is_in_rows_table_and_plot(fake, tmp_path: Path) -> None:
    setup = measure.Setup(("--broken",), "tok")
    workloads = (SMOKE[0], Workload("lost", 1, 1, 4))
    rows = list(measure.measure(setup, (STOCK, EXTENSION), workloads, 1, tmp_path))
    assert [row.get("failed") for row in rows] == [
        "OSError: no processor", "OSError: no processor", None, "3 of 4 requests were answered",
    ]  # fmt: skip
    text = report.table(rows)
    assert "| chat | off | stock | failed: OSError: no processor |" in text
    assert "| lost | off | extension | failed: 3 of 4 requests were answered |" in text
    plot.draw(rows, tmp_path / "plot.png", "title")
    image = Image.open(tmp_path / "plot.png").convert("RGB")
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert (0x1D, 0x4E, 0x89) in colours  # The extension has a bar,
    assert (0x8A, 0x94, 0xA6) not in colours  # stock has none.


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("write(completed=3)", "3 of 4 requests were answered"),
        ("write(completed=4); print('worse luck'); raise SystemExit(1)", "worse luck"),
        ("print('nothing done')", "nothing done"),
        ("import time; time.sleep(60)", "not done after 2 s"),
    ],
)
def test_a_client_that_did_not_finish(program, error, tmp_path, monkeypatch) -> None:
    out, workload = tmp_path / "out.jsonl", Workload("w", 1, 1, 4)
    write = f"import json\ndef write(**row): open({str(out)!r}, 'w').write(json.dumps(row))\n"
    monkeypatch.setattr(client, "command", lambda *_: [sys.executable, "-c", write + program])
    with pytest.raises(client.ClientError, match=error):
        client.run("", "", workload, out, most_s=2)
    good = write + "write(completed=4, output_throughput=7.0)"
    monkeypatch.setattr(client, "command", lambda *_: [sys.executable, "-c", good])
    assert client.run("", "", workload, out, most_s=60)["output_throughput"] == 7


@pytest.mark.parametrize(
    ("metrics", "count"),
    [
        ('sglang:num_retracted_requests_total{rank="0"} 2.0\n'
         'sglang:num_retracted_requests_total{rank="1"} 3.0\n', 5),
        ("sglang:num_running_reqs 1.0\n", 0),
        ("", None),
    ],
)  # fmt: skip
def test_retractions_are_read_from_the_servers_counter(
    metrics, count, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(servers.requests, "get", lambda *_, **__: SimpleNamespace(text=metrics))
    assert servers.Server("", tmp_path / "log", None).retractions() == count


def test_both_sides_start_from_the_same_environment(monkeypatch) -> None:
    for name in ("SGLANG_PLUGINS", "SGLANG_PLATFORM", "SGLANG_GEMMA4_EXT_WEIGHTS"):
        monkeypatch.setenv(name, "ours")
    ours, stock = servers.environment(EXTENSION), servers.environment(STOCK)
    assert stock == ours | {"SGLANG_PLUGINS": "none"}
    assert "ours" not in ours.values()


def test_the_last_error_line_is_the_reason() -> None:
    log = "Traceback\nOSError: Can't load it\nKilled\n"
    assert last_sentence(log) == "OSError: Can't load it"
    assert last_sentence(log + "sglang-gemma4-ext: did not start\n").endswith("did not start")
    assert last_sentence("") == "it said nothing"


def test_stock_runs_without_the_plugin() -> None:
    """In the environment of stock, SGLang's own loader finds no plugin."""
    program = (
        "import sys\nfrom sglang.srt.plugins import load_plugins, hook_registry\n"
        "load_plugins()\nprint('sglang_gemma4_ext.plugin' in sys.modules, "
        "len(hook_registry.HookRegistry._hooks))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, env=servers.environment(STOCK),
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False 0"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--out", "x"], "say what to serve"),
        (["--out", "x", "--workload", "y", "--", "--model-path", "m"], "no workload is named 'y'"),
        (["--out", "x", "--env", "y", "--", "--model-path", "m"], "--env takes NAME=VALUE"),
    ],
)
def test_bad_arguments(argv, sentence, capsys) -> None:
    with pytest.raises(SystemExit):
        command.main(argv)
    assert sentence in capsys.readouterr().err
