# SPDX-License-Identifier: Apache-2.0
"""Build SGLang's JIT kernels with a C++ library without std::bit_cast, such as gcc 10's.

At 0.5.23 `sgl_kernel/tensor.h` casts a pointer with it, and most JIT modules include that header.
The TP query-key norm, the NVLink transfers, the LoRA alignment and others add their own casts.
SGLang's files stay unchanged. Every build first includes `jit_bit_cast.h`, which defines the
function where the library's own feature-test macro says that it is missing.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from pathlib import Path

from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import nvcc_host_compiler

COMPILE = "sglang.kernels.jit.utils.compile"
HEADER = Path(__file__).with_suffix(".h").resolve()


def _with_header(flags: list[str]) -> list[str]:
    """AFTER base_cxx_flags and base_cuda_flags: words of a command in a ninja file."""
    return [*flags, "-include", shlex.quote(str(HEADER)).replace("$", "$$")]


@functools.cache
def lacks_bit_cast(compiler: str) -> bool:
    """Tell whether this compiler's C++20 library exists and has no std::bit_cast."""
    if shutil.which(compiler) is None:
        return False
    asked = subprocess.run(
        [compiler, "-x", "c++", "-std=c++20", "-E", "-P", "-"],
        input="#include <bit>\n#include <version>\n"
        "#ifdef __cpp_lib_bit_cast\nanswer: has\n#else\nanswer: lacks\n#endif\n",
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.returncode == 0 and "answer: lacks" in asked.stdout


def _stands_down(ctx: Context) -> str | None:
    if not ctx.gpu.is_target:
        return "for NVIDIA GPUs of compute capability 8.0 to 9.x"
    from sglang.kernels.jit.utils.compile.toolchain import host_compiler_path

    compilers = {host_compiler_path(), nvcc_host_compiler()}
    if any(lacks_bit_cast(compiler) for compiler in compilers):
        return None
    return "the C++ library here has std::bit_cast"


def _retired() -> bool:
    from sglang.kernels.jit.utils.compile.paths import KERNEL_PATH

    return "std::bit_cast" not in (KERNEL_PATH / "include/sgl_kernel/tensor.h").read_text()


PATCH = Patch(
    name="jit_bit_cast",
    theme="model",
    summary="JIT kernels build with a C++ library from before std::bit_cast (libstdc++ 10)",
    why="headers cast pointers with std::bit_cast, which libstdc++ has since gcc 11, and no flag "
    "adds to what the JIT compiles",
    upstream="unreported at 0.5.23; nine casts outside of other vendors' and Inkling's kernels",
    retire_when="sgl_kernel/tensor.h has no std::bit_cast",
    retired=_retired,
    hooks=(
        Hook(f"{COMPILE}.toolchain.base_cxx_flags", "138e01993ef6", "after", _with_header),
        Hook(f"{COMPILE}.toolchain.base_cuda_flags", "fa86418d9e26", "after", _with_header),
    ),
    relies_on=(Source(f"{COMPILE}.ninja.generate", "96a0444285f9"),),
    stands_down=_stands_down,
    required=False,
)
