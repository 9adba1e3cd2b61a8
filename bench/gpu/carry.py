# SPDX-License-Identifier: Apache-2.0
"""Pack what an offline GPU machine lacks into one folder: `python -m bench.gpu.carry .kit`.

The machine has x86-64 Linux with Python 3.12, torch 2.11 for CUDA 13, Triton 3.6, transformers and
nvcc. The folder gets SGLang and what it imports, pytest for the kernel tests, and our own wheel,
for its entry points. Versions are those of requirements.lock. Two wheels are rewritten without the
parts that are never loaded here, which reduces 490 MB to about 45 MB.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.conditions import ROOT

# Found by leaving out one at a time: without any of these, SGLang's server fails to import.
NEEDED = (
    "fastapi", "starlette", "opentelemetry-api", "annotated-types", "typing-inspection", "pydantic",
    "pydantic-core", "python-multipart", "uvicorn", "orjson", "pybase64", "msgspec", "pyzmq",
    "setproctitle", "dill", "distro", "sniffio", "openai", "loguru", "compressed-tensors", "gguf",
    "partial-json-parser", "jsonschema", "jsonschema-specifications", "referencing", "rpds-py",
    "soundfile", "cffi", "pycparser", "ipython", "traitlets", "xgrammar", "apache-tvm-ffi",
    "humming-kernels",
)  # fmt: skip
# For tests/kernels, and for sglang.bench_serving.
TESTS = (
    "pytest", "pluggy", "iniconfig", "pytest-timeout", "hypothesis", "sortedcontainers", "psutil",
    "aiohttp", "aiosignal", "frozenlist", "multidict", "yarl", "propcache", "aiohappyeyeballs",
)  # fmt: skip
# The newest sglang-kernel whose library loads with torch 2.11; the lock's needs a later torch.
KERNEL = "0.4.5"
LIMIT_BYTES = 64 << 20
# Diffusion, tests and Rust front ends; FA3, FlashMLA, InfLLM and Blackwell builds.
DROPPED = {
    "sglang": r"sglang/(multimodal_gen|test)/|sglang/srt/rust_extensions/_\w+\.cpython.*\.so$",
    "sglang-kernel": r"sgl_kernel/((flash|flashmla|infllm)_ops\.|(sm100|testing)/)",
}
MANYLINUX = ("manylinux2014", "manylinux1", *(f"manylinux_2_{n}" for n in range(5, 36)))


def locked() -> dict[str, str]:
    """Read names and versions from requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def requirements() -> list[str]:
    """List what is downloaded, with versions. Raises KeyError on a name that is not pinned."""
    pins = locked()
    names = ("sglang", *NEEDED, *TESTS)
    return [*(f"{name}=={pins[name]}" for name in names), f"sglang-kernel=={KERNEL}"]


def trim(wheel: Path, dropped: str) -> None:
    """Rewrite a wheel and its RECORD without the files that match."""
    with zipfile.ZipFile(wheel) as source:
        kept = [n for n in source.namelist() if not n.endswith("/") and not re.match(dropped, n)]
        record = next(name for name in kept if name.endswith(".dist-info/RECORD"))
        rows = csv.reader(io.StringIO(source.read(record).decode()))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(row for row in rows if row and row[0] in kept)
        smaller = wheel.with_suffix(".smaller")
        with zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target:
            for name in kept:
                target.writestr(name, text.getvalue() if name == record else source.read(name))
    smaller.replace(wheel)


def download(wanted: list[str], folder: Path, python: str) -> None:
    tags = [part for tag in MANYLINUX for part in ("--platform", f"{tag}_x86_64")]
    asked = [python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    asked += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]
    subprocess.run([*asked, *tags, "-d", folder, *wanted], check=True)


def own_wheel(out: Path) -> None:
    """Build our wheel by this interpreter, which has the build tools; it holds no compiled code.

    It is built from a copy of the tree, because setuptools would also pack an earlier `build`
    folder.
    """
    asked = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    left_out = shutil.ignore_patterns(".git", ".venv", ".kit", "build", "*.egg-info", "__pycache__")
    with tempfile.TemporaryDirectory() as folder:
        source = shutil.copytree(ROOT, Path(folder) / "tree", symlinks=True, ignore=left_out)
        subprocess.run([*asked, "-w", out.resolve(), source], check=True, cwd=folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder, which git should ignore")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with pip")
    args = parser.parse_args(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    download(requirements(), args.out, args.python)
    for name, dropped in DROPPED.items():
        (wheel,) = args.out.glob(f"{name.replace('-', '_')}-*.whl")
        trim(wheel, dropped)
    own_wheel(args.out)
    files = sorted(args.out.glob("*.whl"), key=lambda file: -file.stat().st_size)
    total = sum(file.stat().st_size for file in files)
    for file in files[:5]:
        print(f"{file.stat().st_size / (1 << 20):6.1f} MiB  {file.name}")
    print(f"{total / (1 << 20):6.1f} MiB  {len(files)} wheels")
    return 0 if total <= LIMIT_BYTES else 1


if __name__ == "__main__":
    raise SystemExit(main())
