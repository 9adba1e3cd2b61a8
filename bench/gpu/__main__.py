# SPDX-License-Identifier: Apache-2.0
"""Run everything that needs a GPU, in one command that can be interrupted and called again.

    python -m bench.gpu --out DIR [--for-s 540] [--copy-to "$OUT"]     (README.md: what to carry)
    python -m bench.gpu --toy --out DIR                               (here, on a CPU)

Steps run in order of value, each within its own time limit. DIR/state.json records finished steps,
which are not run again. --for-s ends a call before a step that would not fit; it is for machines
lent by the ten minutes. The last output is a short table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.conditions import ROOT, conditions, gpu
from bench.gpu.steps import LIMIT_S, STEPS, Step

DONE, FAILED, LATE = "done", "failed", "out of time"
TOY_BUDGET_S = 240
GRACE_S = 20


class State:
    """Record the outcome of each step on disk after every change."""

    def __init__(self, file: Path):
        self.file = file
        self.steps: dict[str, dict[str, Any]] = (
            json.loads(file.read_text()) if file.is_file() else {}
        )

    def status(self, step: Step) -> str | None:
        return self.steps.get(step.name, {}).get("status")

    def put(self, step: Step, **found: Any) -> None:
        self.steps[step.name] = found
        self.file.write_text(json.dumps(self.steps, indent=1) + "\n")


class Runner:
    """Run steps; `background` holds the processes that run beside the others."""

    def __init__(self, out: Path, toy: bool, state: State):
        self.out, self.toy, self.state = out, toy, state
        self.background: dict[str, tuple[Step, subprocess.Popen[bytes], float]] = {}
        # Triton's interpreter replaces a GPU; servers choose by themselves.
        self.env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

    def run(self, step: Step) -> None:
        if step.after in self.background:
            self.wait(step.after)
        started, log = time.monotonic(), self.out / f"{step.name}.log"
        budget = TOY_BUDGET_S if self.toy else step.budget_s
        commands, status, code = step.commands(self.out, self.toy), DONE, 0
        if step.background:
            process = self._start(commands[0], log)
            self.background[step.name] = step, process, started + budget
            return
        log.unlink(missing_ok=True)
        for command in commands:
            code, late = self._finish(self._start(command, log), started + budget)
            if late or code:
                status = LATE if late else FAILED
                break
        self._put(step, status, code, started, commands)

    def wait(self, name: str) -> None:
        """Wait for a background step, at most for the rest of its time."""
        step, process, deadline = self.background.pop(name)
        code, late = self._finish(process, deadline)
        status = LATE if late else FAILED if code else DONE
        began = deadline - (TOY_BUDGET_S if self.toy else step.budget_s)
        self._put(step, status, code, began, step.commands(self.out, self.toy))

    def _put(
        self, step: Step, status: str, code: int | None, started: float, commands: list[list[str]]
    ) -> None:
        self.state.put(
            step,
            status=status, exit_status=code, seconds=round(time.monotonic() - started, 1),
            commands=[shlex.join(command) for command in commands],
            **conditions(shlex.join(["python", "-m", "bench.gpu", *sys.argv[1:]])),
        )  # fmt: skip

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        interpreted = self.toy and command[2].startswith(("pytest", "bench.kernels"))
        env = self.env | ({"TRITON_INTERPRET": "1"} if interpreted else {})
        with log.open("ab") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=env,
                start_new_session=True,
            )  # fmt: skip

    @staticmethod
    def _finish(process: subprocess.Popen[bytes], deadline: float) -> tuple[int | None, bool]:
        """Wait; return the exit status, and whether the time was over."""
        try:
            return process.wait(max(0.0, deadline - time.monotonic())), False
        except subprocess.TimeoutExpired:
            _end(process)
            return None, True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, so that a comparison stops its server; then kill what is left."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments. Exits with status 2 on bad ones, and without a GPU."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, help="folder of raw results and of the state")
    parser.add_argument("--for-s", type=float, default=LIMIT_S, help="(default: %(default)s)")
    parser.add_argument("--only", action="append", choices=names, help="these steps; repeatable")
    parser.add_argument("--again", action="store_true", help="also steps that are done or failed")
    parser.add_argument("--copy-to", type=Path, help="copy the results there before the end")
    parser.add_argument("--toy", action="store_true", help="every step at toy size, on a CPU")
    parser.add_argument("--list", action="store_true", help="print the steps and their seconds")
    args = parser.parse_args(argv)
    if not args.list and args.out is None:
        parser.error("--out DIR is needed")
    if not (args.list or args.toy) and gpu("name") is None:
        parser.error("needs an NVIDIA GPU; without one: --toy runs every step at toy size")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        for step in STEPS:
            beside = " (beside the others)" if step.background else ""
            print(f"{step.name:18}{step.budget_s:5} s  {step.learned}{beside}")
        return 0
    deadline = time.monotonic() + args.for_s
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    state = State(out / "state.json")
    runner = Runner(out, args.toy, state)
    chosen = [step for step in STEPS if args.only is None or step.name in args.only]
    for step in chosen:
        if state.status(step) is not None and not args.again:
            continue
        if not args.toy and not step.background and time.monotonic() + step.budget_s > deadline:
            continue  # A later, shorter step may fit.
        print(f"{step.name}: {step.learned}", flush=True)
        runner.run(step)
    for name in list(runner.background):
        runner.wait(name)
    if args.copy_to:
        leave = shutil.ignore_patterns("checkpoints")
        shutil.copytree(out, args.copy_to, dirs_exist_ok=True, ignore=leave)
    print(table(chosen, state))
    return 0 if all(state.status(step) == DONE for step in chosen) else 1


def table(steps: list[Step], state: State) -> str:
    """Draw a table of the steps and their outcomes."""
    lines = ["| step | state | seconds | of | log |", "| --- | --- | --- | --- | --- |"]
    for step in steps:
        found = state.steps.get(step.name, {})
        status, seconds = found.get("status", "not yet"), found.get("seconds", "-")
        lines.append(f"| {step.name} | {status} | {seconds} | {step.budget_s} | {step.name}.log |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
