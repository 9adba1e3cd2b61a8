# SPDX-License-Identifier: Apache-2.0
"""Launch every kernel through Triton's real JIT, which makes constants of some arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.kernels.cross_compile import CAPABILITIES
from tests.kernels import every_launch

ROOT = Path(__file__).resolve().parents[2]
# The Triton of NVIDIA's containers of SGLang's generation, installed in a folder on the path.
OLDER_TRITON = "3.6.0"
KERNELS = {
    "_nvfp4_linear_kernel",
    "_experts_up_kernel",
    "_experts_down_kernel",
    "_grouped_kernel",
    "_sum_slots_kernel",
    "_packed_linear_kernel",
    "_packed_experts_kernel",
    "_route_kernel",
    "_route_one_launch_kernel",
    "_dequant_kernel",
    "_decode_bf16_kernel",
    "_host_rows_kernel",
    "_int8_head_kernel",
    "_decode_attention_kernel",
    "_merge_splits_kernel",
    "_extend_attention_kernel",
}


def _launch(sm: int, *options: str, **environment: str) -> dict:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run(
        [sys.executable, "-m", every_launch.__name__, "--sm", str(sm), *options],
        stdout=subprocess.PIPE,
        text=True,
        env=env | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _require_all(found: dict) -> None:
    assert not found["failures"]
    assert found["launches"].keys() == KERNELS
    # The grouped kernel is compiled twice: for gate and up, and for down.
    several = {"_route_one_launch_kernel", "_dequant_kernel", "_decode_bf16_kernel"}
    once = KERNELS - several - {"_host_rows_kernel"}
    assert found["codes"] == dict.fromkeys(once, 1) | {
        "_grouped_kernel": 2,
        # INT4 and FP8, of which experts are gate and up, or down.
        "_packed_linear_kernel": 2,
        "_packed_experts_kernel": 4,
    }


def test_every_kernel_is_listed() -> None:
    source = "".join(path.read_text() for path in (ROOT / "kernels").glob("*.py"))
    entries = {part.split("(")[0] for part in source.split("\ndef ") if "_kernel(" in part[:40]}
    assert {name for name in entries if name.endswith("_kernel")} == KERNELS


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's time is for its own launches")
@pytest.mark.parametrize("sm", [86, pytest.param(90, marks=pytest.mark.slow)])
def test_whole_models_launch(sm) -> None:
    _require_all(_launch(sm))


@pytest.mark.slow
@pytest.mark.parametrize("sm", CAPABILITIES)
def test_every_shard_and_dtype_launches(sm) -> None:
    _require_all(_launch(sm, "--whole"))


@pytest.fixture(scope="module")
def older_triton(tmp_path_factory) -> Path:
    """Install Triton 3.6.0 in a folder; this needs a package index or uv's cache of one."""
    folder = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        ["uv", "pip", "install", "--no-deps", "--target", folder, f"triton=={OLDER_TRITON}"],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"triton {OLDER_TRITON} could not be installed: {done.stderr}"
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sm", CAPABILITIES)
def test_whole_models_launch_with_an_older_triton(sm, older_triton, tmp_path) -> None:
    paths = f"{older_triton}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    found = _launch(sm, PYTHONPATH=paths, TRITON_CACHE_DIR=str(tmp_path))
    assert found["triton"] == OLDER_TRITON
    _require_all(found)
