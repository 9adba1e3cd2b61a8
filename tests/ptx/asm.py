# SPDX-License-Identifier: Apache-2.0
"""Run hand-written PTX on numpy arrays: in the emulator, or on a GPU for `gpu.run`."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .machine import Launch, Result, run
from .memory import Extent, GlobalMemory
from .parse import parse
from .translate import translate

REGISTERS = """.reg .pred %p<40>; .reg .b16 %h<40>; .reg .b32 %r<200>; .reg .b64 %d<40>;
"""
TARGET = 90
# Runs (text, arrays, grid, threads, shared) in place of the emulator.
elsewhere: Callable[..., None] | None = None


def module(body: str, count: int) -> str:
    """Write a module of one kernel around a body of PTX that takes `count` arrays."""
    names = [f"k_param_{i}" for i in range(count)]
    text = f".version 8.8\n.target sm_{TARGET}\n.address_size 64\n"
    text += ".extern .shared .align 16 .b8 global_smem[];\n"
    text += ".visible .entry k(" + ", ".join(f".param .u64 .ptr .global {n}" for n in names) + ")\n"
    text += "{\n" + REGISTERS + f".reg .b64 %a<{max(1, count)}>;\n"
    text += "".join(f"ld.param.b64 %a{i}, [{n}];\n" for i, n in enumerate(names))
    return text + body + "\nret;\n}\n"


def launch(
    body: str,
    *arrays: np.ndarray,
    threads: int = 32,
    grid: int = 1,
    shared: int = 0,
    written: tuple[int, ...] = (),
    **options,
) -> Result:
    """Run a body of PTX; array i is at %a<i> (b64). written: arrays that are not initialised."""
    text, result = module(body, len(arrays)), Result()
    if elsewhere is not None:
        elsewhere(text, arrays, grid, threads, shared)
        return result
    extents = []
    for i, array in enumerate(arrays):
        data = array.view(np.uint8).reshape(-1)
        extents.append(
            Extent(f"a{i}", data, np.ones(len(data), bool), np.full(len(data), i not in written))
        )
    memory = GlobalMemory(extents, result.report)
    program = translate(parse(text))
    names = program.kernel.parameters
    parameters = {n: np.uint64(memory.address(i, 0)) for i, n in enumerate(names)}
    run(Launch(program, (grid, 1, 1), threads, shared, parameters, memory, result), **options)
    memory.copy_back()
    result.undefined = program.undefined
    return result


def each(instruction: str, *inputs: np.ndarray, out: type = np.uint32) -> np.ndarray:
    """Run an instruction for each element: $0 is the result's register, $1, $2, ... the inputs'.

    All are b16, b32 or b64, by their dtypes.
    """
    count = len(inputs[0])
    size = -(-count // 32) * 32
    prefix = {2: "%h", 4: "%r", 8: "%d"}
    body = "mov.u32 %r100, %tid.x;\n"
    text = instruction
    padded = []
    for i, array in enumerate(inputs):
        width = array.dtype.itemsize
        padded.append(np.resize(array, size))
        body += f"mad.wide.u32 %d{20 + i}, %r100, {width}, %a{i};\n"
        body += f"ld.global.b{8 * width} {prefix[width]}{i + 1}, [%d{20 + i}];\n"
        text = text.replace(f"${i + 1}", f"{prefix[width]}{i + 1}")
    width = np.dtype(out).itemsize
    text = text.replace("$0", f"{prefix[width]}0")
    last = len(inputs)
    body += text + f"\nmad.wide.u32 %d{20 + last}, %r100, {width}, %a{last};\n"
    body += f"st.global.b{8 * width} [%d{20 + last}], {prefix[width]}0;"
    assert not re.search(r"\$\d", body)
    got = np.zeros(size, out)
    result = launch(body, *padded, got, threads=size)
    assert not result.findings, result.findings
    return got[:count]
