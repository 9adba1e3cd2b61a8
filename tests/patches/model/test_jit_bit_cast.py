# SPDX-License-Identifier: Apache-2.0
"""Build SGLang's JIT units with a C++ library without std::bit_cast: only the patch makes it work.

The library is this machine's, less the function that gcc 11 added to <bit> and <version>. gcc 10
itself is not in this system's packages; the message is its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.machine import Gpu
from sglang_gemma4_ext.patches.model.jit_bit_cast import HEADER, PATCH, _with_header, lacks_bit_cast

ROOT = Path(__file__).resolve().parents[3]
TOOLKIT = Path(next(iter(importlib.util.find_spec("nvidia").submodule_search_locations))) / "cu13"
MISSING = 'namespace "std" has no member "bit_cast"'

# A process asks g++ once and caches the answer; each test starts without it.
pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.usefixtures("_forgotten"),
]


@pytest.fixture
def _forgotten():
    lacks_bit_cast.cache_clear()
    yield
    lacks_bit_cast.cache_clear()


@pytest.fixture(scope="module")
def old_library(tmp_path_factory) -> Path:
    """Write a folder with <bit> and <version> that lack std::bit_cast, to be searched first."""
    folder = tmp_path_factory.mktemp("libstdc++")
    seen = subprocess.run(
        ["g++", "-x", "c++", "-std=c++20", "-E", "-"],
        input="#include <bit>\n#include <version>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("bit", "version"):
        path = Path(re.search(rf'^# 1 "(/.*/{name})"', seen, re.MULTILINE).group(1))
        text, count = re.subn(
            r"^#if .*__has_builtin\(__builtin_bit_cast\)", "#if 0", path.read_text(), flags=re.M
        )
        assert count == 1, f"{path} is not as it is known"
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def old(old_library, monkeypatch) -> None:
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", str(old_library))


ON_A_GPU = Context(gpu=Gpu("nvidia", "NVIDIA A10G", (8, 6)))


def test_the_patch_stands_down_where_the_library_has_it() -> None:
    assert not lacks_bit_cast("g++")
    assert "has std::bit_cast" in PATCH.stands_down(ON_A_GPU)


def test_the_patch_is_needed_where_the_library_lacks_it(old) -> None:
    assert lacks_bit_cast("g++")
    assert PATCH.stands_down(ON_A_GPU) is None
    assert PATCH.stands_down(Context(gpu=Gpu("none")))


def test_a_missing_compiler_is_not_reported_as_lacking_it() -> None:
    assert not lacks_bit_cast("no-such-compiler")


PROGRAM = """
#include <cstdint>
int main() {
  int there = 0;
  const void* __restrict__ at = &there;
  if (std::bit_cast<std::uint32_t>(1.0f) != 0x3f800000u) return 1;
  if (std::bit_cast<float>(std::uint32_t{0x80000000u}) != 0.0f) return 2;
  if (std::bit_cast<std::intptr_t>(at) != reinterpret_cast<std::intptr_t>(&there)) return 3;
  return 0;
}
"""


@pytest.mark.parametrize("library", ["new", "old"])
def test_the_header_casts_bits(library, request, tmp_path) -> None:
    if library == "old":
        request.getfixturevalue("old")
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror"]
    build = ["g++", *flags, "-x", "c++", "-", "-o", str(tmp_path / "program")]
    if library == "old":
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(build, input=f"#include <bit>\n{PROGRAM}", text=True, check=True)
    subprocess.run([*build, "-include", str(HEADER)], input=PROGRAM, text=True, check=True)
    assert subprocess.run([tmp_path / "program"], check=False).returncode == 0


def test_a_path_with_a_space_stays_one_argument(monkeypatch) -> None:
    monkeypatch.setattr("sglang_gemma4_ext.patches.model.jit_bit_cast.HEADER", Path("/a b/$c.h"))
    assert _with_header(["-fPIC"]) == ["-fPIC", "-include", "'/a b/$$c.h'"]


def built(module: str, capability: int, folder: Path, how: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "CUDA_HOME": str(TOOLKIT), "SGLANG_JIT_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "tests.probes.compile_jit", module, str(capability), folder, how],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "capability"),
    [
        pytest.param("tp_qknorm", 80, marks=pytest.mark.slow),
        pytest.param("tp_qknorm", 90, marks=pytest.mark.slow),
        pytest.param("all_reduce", 80, marks=pytest.mark.slow),
        pytest.param("all_reduce", 90, marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(not (TOOLKIT / "bin/nvcc").is_file(), reason="needs nvidia-cuda-nvcc")
def test_a_unit_of_sglang_builds_with_the_old_library_only_patched(
    module, capability, old, tmp_path
) -> None:
    stock = built(module, capability, tmp_path / "stock", "stock")
    assert stock.returncode != 0
    assert MISSING in stock.stdout
    patched = built(module, capability, tmp_path / "patched", "patched")
    assert patched.returncode == 0, patched.stdout + patched.stderr
    assert patched.stdout.startswith("applied")
    assert (tmp_path / "patched/cuda_0.o").stat().st_size > 10_000


def test_every_cast_of_sglang_is_known() -> None:
    """List all casts, so that a new one is reviewed; other vendors' kernels use builtins."""
    from sglang.kernels.jit.utils.compile.paths import KERNEL_PATH

    found = {}
    for path in KERNEL_PATH.rglob("*"):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp") and path.is_file():
            count = path.read_text().count("std::bit_cast<")
            if count:
                found[path.relative_to(KERNEL_PATH).as_posix()] = count
    assert found == {
        "include/sgl_kernel/tensor.h": 1,
        "include/sgl_kernel/deepseek_v4/kv_layout.cuh": 1,
        "csrc/distributed/tp_qknorm.cuh": 4,
        "csrc/distributed/nvlink_comm.cuh": 2,
        "csrc/lora/moe_lora_align_kernel.cu": 1,
        "csrc/inkling/inkling_all_reduce.cuh": 5,
        "csrc/inkling/inkling_ar_fused_decode.cuh": 4,
        "csrc/inkling/inkling_ar_scattered_sconv.cuh": 1,
        "csrc/inkling/inkling_rel_proj.cuh": 2,
        "csrc/inkling/inkling_row_scale.cuh": 1,
    }
