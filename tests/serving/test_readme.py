# SPDX-License-Identifier: Apache-2.0
"""Run the README's own command lines."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.processes import Server, started, wait_until_ready
from tests.serving.harness import START_SECONDS, environment, free_port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# Lines of a start up to "Ready", where nothing went wrong. SGLang 0.5.23 alone prints over 80; its
# own command also warns at import of what a CPU lacks.
MOST_LINES = {"make": 30, "sglang": 45}

MAKE_SERVE = 'make serve FLAGS="--port 8000"'
SGLANG_SERVE = "SGLANG_PLATFORM=gemma4_cpu .venv/bin/sglang serve"
PLAN = "python -m sglang_gemma4_ext.plan"
LAUNCH = "python -m sglang_gemma4_ext.launch_server"
# Covered by the whole suite, by tests/serving/test_packaging.py, or by the line with FLAGS.
ELSEWHERE = ("make serve", "make test", "pip install .")


def commands() -> list[str]:
    """Return the command lines of the README's blocks, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(\w+=\S+ )?(make|python|pip|\S*sglang)\b", line)]


def the_command(start: str) -> str:
    (found,) = [line for line in commands() if line.startswith(start)]
    return found


def test_every_command_of_the_readme_is_run_by_a_test():
    known = (SGLANG_SERVE, PLAN, LAUNCH, *ELSEWHERE)
    assert [line for line in commands() if not line.startswith(known)] == []
    assert f"`{MAKE_SERVE}`" in README


def run(command: str) -> subprocess.CompletedProcess[str]:
    python = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    return subprocess.run(
        ["sh", "-c", python], cwd=ROOT, env=environment(), text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_the_plan_answers():
    done = run(the_command(PLAN))
    assert done.returncode == 0 and "\nYes: " in done.stdout, done.stdout


def test_the_gpu_command_has_only_flags_that_exist():
    done = run(the_command(LAUNCH))
    assert done.returncode == 2
    assert "is neither a local folder nor in the Hugging Face cache" in done.stdout


@contextmanager
def shell(command: str, port: str, log_dir: Path) -> Iterator[Server]:
    """Run a command line in the checkout, its port replaced or added, until the server is ready."""
    given = re.sub(r"--port \d+", f"--port {port}", command)
    if "--port" not in given:
        given += f" --port {port}"
    env = environment(CUDA_VISIBLE_DEVICES="")
    # `started` adds --port to its command: here to the shell's arguments, where it is ignored.
    with started(
        ("sh", "-c", given), log_dir / "server.log", port=port, env=env, cwd=ROOT
    ) as server:
        wait_until_ready(server, START_SECONDS, "Ready: ")
        yield server


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("start", [MAKE_SERVE, SGLANG_SERVE], ids=["make", "sglang"])
def test_the_demo_is_served_as_written(start: str, tmp_path: Path):
    """The start is short, ends with the summary and a request, and the request is answered."""
    command = start if start == MAKE_SERVE else the_command(start)
    with shell(command, str(free_port()), tmp_path) as server:
        assert server.logs("max_tokens")
        before, ready, after = server.log.partition("Ready: ")
        lines = [line for line in before.replace("\r", "\n").splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES["make" if start == MAKE_SERVE else "sglang"], before
        assert "Traceback" not in before and "Multiple AROUND hooks" not in before
        assert before.index("The server is fired up") < before.index("  patches    ")
        request = re.search(r"^  curl (?:.*\\\n)*.*$", ready + after, re.MULTILINE)[0]
        done = subprocess.run(["sh", "-c", request], capture_output=True, text=True, timeout=300)
        assert '"choices"' in done.stdout, done
