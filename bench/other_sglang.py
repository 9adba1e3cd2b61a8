# SPDX-License-Identifier: Apache-2.0
"""Test this package on another SGLang: python -m bench.other_sglang 0.5.22 --out FILE.json

It installs that SGLang and this package into an environment of its own, and runs doctor and
digests. Then it starts three servers on the bundled model without a GPU: by the launcher, by
SGLang's own module, and by the launcher with every broken patch disabled. It needs a registry and a
few minutes of two cores. It needs about 10 GB, and 11 GB more for the wheels if uv's cache is
empty.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.conditions import ROOT, conditions
from bench.processes import READY

START_SECONDS = 240
SERVED = {"SGLANG_PLATFORM": "gemma4_cpu"}
HOOKED = re.compile(r"Applied \d+ hook\(s\) to (\S+) \(from: plugin=gemma4_ext")
OURS = "sglang_gemma4_ext"


def install(version: str, overrides: list[str], home: Path) -> Path:
    """Install that SGLang and this package without its pin; return the interpreter."""
    uv = [sys.executable, "-m", "uv"]
    python = home / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, home], check=True)
    (home / "overrides").write_text("\n".join(overrides))
    add = [*uv, "pip", "install", "--quiet", "--python", python]
    given = ["--override", home / "overrides", f"sglang=={version}", "setuptools"]
    subprocess.run([*add, *given], check=True)
    source = home / "source"  # a build leaves its own folders there
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build"))
    subprocess.run([*add, "--no-deps", "--no-build-isolation", source], check=True)
    return python


def run(python: Path, *command: str, seconds: float = START_SECONDS) -> tuple[int, str]:
    """Run a command that ends by itself; return its exit status and output."""
    done = subprocess.run(
        [python, "-W", "ignore", *command], cwd=python.parent, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def serve(python: Path, *command: str, **extra: str) -> dict[str, Any]:
    """Start a server; return its status (None while it runs), last words, and what we hooked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(
            [python, "-W", "ignore", *command, "--port", port], cwd=python.parent,
            env=environment(**extra), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        text = ""
        while READY not in text and process.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
            text = Path(log.name).read_text(errors="replace")
        status = process.poll()
        if status is None:
            os.killpg(process.pid, signal.SIGKILL)
        text = Path(log.name).read_text(errors="replace")
    text = re.sub(r"https?://[^\s']+", "URL", text.replace(str(python.parents[1]), "ENV"))
    start = text.find(f"{OURS.replace('_', '-')}: ", text.find("starting SGLang") + 1)
    return {
        "command": shlex.join(command).replace(str(python.parents[1]), "ENV"),
        "status": status,
        "ready": READY in text,
        "hooked": sorted(set(HOOKED.findall(text))),
        "said": [] if READY in text else (text[start:] if start >= 0 else text).splitlines()[-30:],
    }


def environment(**extra: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("SGLANG_", "TRITON_", "PYTHON"))
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **extra}


def examine(python: Path) -> dict[str, Any]:
    """Return the record without its conditions."""
    _, model = run(python, "-c", f"import {OURS}.demo as d; print(d.model_path())")
    model = model.strip()
    status, said = run(python, "-m", f"{OURS}.doctor", "--json", "--model-path", model)
    doctor = json.loads(said)
    states = {patch["name"]: patch["state"] for patch in doctor["patches"]}
    broken = [name for name, state in states.items() if state == "broken"]
    launcher = ("-m", f"{OURS}.launch_server", "--demo", "--log-level", "debug")
    stock = ("-m", "sglang.launch_server", "--model-path", model, "--log-level", "debug")
    return {
        "packages": doctor["packages"],
        "made_for": doctor["verified_on_sglang"],
        "doctor_status": status,
        "states": states,
        "required": [patch["name"] for patch in doctor["patches"] if patch["required"]],
        "changed": {p["name"]: p["changed_upstream"] for p in doctor["patches"]},
        "digests": run(python, "-m", f"{OURS}.digests")[1].splitlines(),
        "launcher": serve(python, *launcher),
        "sglang": serve(python, *stock, **SERVED),
        "left_out": serve(python, *launcher, "--gemma4-ext-disable", ",".join(broken)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version")
    parser.add_argument("--override", action="append", default=[], metavar="NAME==VERSION")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--python", type=Path, help="of an environment made before")
    args = parser.parse_args()
    command = f"python -m bench.other_sglang {args.version}"
    command += "".join(f" --override {pin}" for pin in args.override)
    with tempfile.TemporaryDirectory() as home:
        python = args.python or install(args.version, args.override, Path(home))
        record = examine(python)
    record = {**conditions(f"{command} --out {args.out}"), **record}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for name in ("launcher", "sglang", "left_out"):
        print(name, record[name]["status"], record[name]["said"][:3], len(record[name]["hooked"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
