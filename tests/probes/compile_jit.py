# SPDX-License-Identifier: Apache-2.0
"""Compile one of SGLang's JIT modules for a GPU that is not present, as the server would.

    python -m tests.probes.compile_jit {tp_qknorm,all_reduce} CAPABILITY FOLDER {stock,patched}

It needs a process of its own, because hooks stay. It prints whether the patch is applied. It does
not link, which needs a toolkit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch


class _Done(Exception):
    """Signal that the object is compiled; nothing is to be loaded."""


def main(module: str, capability: int, folder: Path, patched: bool) -> int:
    from sglang.kernels.jit.utils.arch import override_jit_cuda_arch
    from sglang.kernels.jit.utils.compile import ninja
    from sglang.kernels.ops.communication import all_reduce

    from sglang_gemma4_ext.context import Context
    from sglang_gemma4_ext.machine import Gpu
    from sglang_gemma4_ext.patches.model.jit_bit_cast import PATCH
    from sglang_gemma4_ext.registry import apply

    major, minor = divmod(capability, 10)
    if patched:
        ctx = Context(gpu=Gpu("nvidia", "NVIDIA", (major, minor)), sglang="0.5.23")
        print(*(outcome.state.value for outcome in apply([PATCH], ctx)))

    def compile_only(*, spec, build_dir, build_file):
        build_dir = folder
        build_dir.mkdir(parents=True, exist_ok=True)
        for unit in spec.translation_units():
            (build_dir / unit.filename).write_text(unit.source)
        (build_dir / "build.ninja").write_text(build_file)
        done = subprocess.run(["ninja", "cuda_0.o"], cwd=build_dir, check=False)
        raise _Done(done.returncode)

    ninja.build = compile_only
    make = {
        "tp_qknorm": lambda: all_reduce.get_fused_parallel_qknorm_module(
            torch.bfloat16, 2, 2048, 512
        ),
        "all_reduce": lambda: all_reduce.get_all_reduce_module(torch.bfloat16, 2),
    }[module]
    try:
        with override_jit_cuda_arch(major, minor, suffix="a" if major == 9 else None):
            make()
    except _Done as done:
        return done.args[0]
    raise RuntimeError("SGLang built nothing")


if __name__ == "__main__":
    raise SystemExit(
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "patched")
    )
