# SPDX-License-Identifier: Apache-2.0
"""Test the package as users get it: a wheel in a clean environment, beside PyPI's `kernels`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.serving.harness import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True
    )
    # Uncommitted files belong to the package too.
    _copy_tree(ROOT, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(out), str(source)],
        check=True,
    )  # fmt: skip
    (built,) = out.glob("*.whl")
    return built


def _copy_tree(source: Path, target: Path) -> None:
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=source, check=True, capture_output=True,
    ).stdout.split(b"\0")  # fmt: skip
    for name in filter(None, map(bytes.decode, files)):
        original, copy = source / name, target / name
        if original.is_symlink() or not original.is_file():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(original.read_bytes())


def test_the_wheel_holds_patches_kernels_and_the_demo(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "sglang_gemma4_ext/patches/series.py" in names
    assert "sglang_gemma4_ext/kernels/nvfp4_format.py" in names
    assert "sglang_gemma4_ext/kernels/nvfp4_configs/sm_90.json" in names
    assert "sglang_gemma4_ext/demo/model/config.json" in names
    assert "sglang_gemma4_ext/demo/model/model.safetensors" in names
    assert "sglang_gemma4_ext/demo/assistant/model.safetensors" in names
    assert "sglang_gemma4_ext/demo/questions/questions_500.jsonl" in names
    assert "sglang_gemma4_ext/demo/questions/languages_500.jsonl" in names
    assert not [name for name in names if name.startswith(("kernels/", "patches/", "tests/"))]


def test_the_repository_does_not_shadow_the_kernels_package():
    """Check that PyPI's `kernels`, on which SGLang depends, is still importable."""
    found = subprocess.run(
        [sys.executable, "-c", "import kernels; print(kernels.__file__)"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "site-packages" in found


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(5400)
def test_sglang_serve_carries_the_plugin_from_the_wheel(wheel: Path, tmp_path: Path):
    """Install the locked packages and the wheel, and nothing from this checkout."""
    from tests.serving.harness import serve

    uv = [str(Path(sys.executable).with_name("uv"))]
    home = tmp_path / "venv"
    python = home / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    # Without bytecode the imports of one process took 155 s, and a server has three.
    install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    subprocess.run([*install, "--requirements", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    model = home / "lib"
    (model,) = model.glob("python*/site-packages/sglang_gemma4_ext/demo/model")
    with serve(
        "serve", "--model-path", str(model),
        log_dir=tmp_path / "run",
        executable=(str(home / "bin" / "sglang"),),
        env={"SGLANG_PLATFORM": "gemma4_cpu"},
    ) as server:  # fmt: skip
        answer = server.generate([2, 3, 40, 41], 8)
        assert len(answer["output_ids"]) == 8
        assert server.logs("  patches    summary_at_ready, ")
