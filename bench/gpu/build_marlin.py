# SPDX-License-Identifier: Apache-2.0
"""Compile SGLang's two Marlin modules in parallel, before a server would do it one by one.

Each is one translation unit of four minutes or more, so further cores do not shorten it.
"""

from __future__ import annotations

import argparse
import importlib
from concurrent.futures import ThreadPoolExecutor

MODULES = (
    ("sglang.kernels.ops.gemm.gptq_marlin", "_jit_gptq_marlin_module", ("bfloat16",)),
    (
        "sglang.kernels.ops.moe.moe_wna16_marlin",
        "_jit_moe_wna16_marlin_module",
        ("bfloat16", False, False),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="look the builders up, and no more")
    args = parser.parse_args()
    import torch

    def build(module: str, name: str, arguments: tuple) -> None:
        dtype, *rest = arguments
        getattr(importlib.import_module(module), name)(getattr(torch, dtype), *rest)

    if args.dry_run:
        for module, name, _ in MODULES:
            print(module, getattr(importlib.import_module(module), name))
        return
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(build, *entry) for entry in MODULES]:
            done.result()


if __name__ == "__main__":
    main()
