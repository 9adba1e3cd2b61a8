# SPDX-License-Identifier: Apache-2.0
"""Check that digests lists upstream changes and records the reviewed ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sglang_gemma4_ext
from sglang_gemma4_ext.digests import rewrite
from sglang_gemma4_ext.patches.model import router_scale
from sglang_gemma4_ext.registry import Hook, Patch, digest_of
from tests.serving.harness import environment

FUSE = "sglang.srt.models.gemma4_causal.Gemma4Router.fuse_scale"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the package; one target then has another digest, another one a wrong name."""
    package = shutil.copytree(
        Path(sglang_gemma4_ext.__file__).parent, tmp_path / "sglang_gemma4_ext"
    )
    recorded = router_scale.PATCH.hooks[0].digest
    for name, old, new in (
        ("router_scale", recorded, "0" * 12),
        ("cpu_softcap", "}._softcap_logits", "}._renamed"),
    ):
        (file,) = (package / "patches").glob(f"*/{name}.py")
        assert file.read_text().count(old) == 1
        file.write_text(file.read_text().replace(old, new))
    return tmp_path


def digests(folder: Path, *flags: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "sglang_gemma4_ext.digests", *flags],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_changed_target_is_recorded_and_a_missing_one_is_not(copy):
    def text(name: str) -> str:
        (file,) = (copy / "sglang_gemma4_ext" / "patches").glob(f"*/{name}.py")
        return file.read_text()

    before = text("router_scale"), text("cpu_softcap")
    status, listed = digests(copy)
    assert status == 1 and len(listed.splitlines()) == 2
    assert f"router_scale: {FUSE} {'0' * 12} -> " in listed
    assert "cpu_softcap: sglang.kernels.ops.activation.softcap._renamed" in listed
    assert digests(copy, "--write", "text_only")[0] == 1
    assert (text("router_scale"), text("cpu_softcap")) == before
    status, listed = digests(copy, "--write")
    assert status == 1 and "cpu_softcap is not recorded: mend or delete" in listed
    original = Path(sglang_gemma4_ext.__file__).parent / "patches" / "model" / "router_scale.py"
    assert text("router_scale") == original.read_text()
    assert text("cpu_softcap") == before[1]
    status, listed = digests(copy)
    assert status == 1 and "router_scale" not in listed


def test_a_recorded_digest_leaves_lines_that_ruff_accepts(tmp_path):
    """Record a digest in a line that had room for none."""
    target = "json.decoder.JSONDecoder.raw_decode"
    line = f'HOOKS = (Hook("{target}", "", "before", a_function_indeed),)'
    module = tmp_path / "module.py"
    module.write_text(line.replace("indeed", "indeed" + "d" * (100 - len(line))) + "\n")
    assert len(module.read_text()) == 101
    patch = Patch("x", "x", "x", "x", "x", "x", lambda: False, (Hook(target, "", "before", print),))
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert rewrite(module, patch) == 1
    assert f'"{digest_of(target)}"' in module.read_text()
    check = ("-m", "ruff", "format", "--check", str(module))
    assert subprocess.run([sys.executable, *check], capture_output=True).returncode == 0
