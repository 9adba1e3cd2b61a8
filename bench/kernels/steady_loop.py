# SPDX-License-Identifier: Apache-2.0
"""Count the instructions of a kernel's steady loop: the innermost loop with the tensor core's work.

A multiprocessor issues four instructions of warps a cycle, whatever they compute. Instructions of
all threads of a block divided by the weights of its tile are the issue slots per weight.

ptxas writes into each instruction how many cycles a warp waits before its next one. Their sum is
the time of an iteration of a lone warp whose data is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# A line of cuobjdump: address, optional predicate, name, operands; and the upper word of the code.
INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)\s*([^;]*);"
    r"\s+/\* 0x[0-9a-f]{16} \*/\s+/\* 0x([0-9a-f]{16}) \*/",
    re.MULTILINE,
)
# Pipes of a multiprocessor by the beginning of an instruction's name; the first match counts.
PIPES = {
    "tensor": r"HMMA|HGMMA|WARPGROUP",
    "half": r"HMUL2|HFMA2|HADD2|HSET",
    "convert": r"F2FP|I2FP",
    "memory": r"LDSM|LDS|STS|LDG|STG|LDC|ATOM|RED|UTMA|DEPBAR|LDL|STL",
    "fma": r"FMUL|FADD|FFMA|IMAD",
    "uniform": r"U|R2UR|S2UR",
    "control": r"BAR|BRA|BSYNC|BSSY|NOP|WARPSYNC|EXIT|SYNCS|YIELD|SHFL|FENCE|ERRBAR|MEMBAR|CCTL",
    "special": r"F2F|I2F|F2I|MUFU",
    "alu": r"",
}


class Loop(NamedTuple):
    """Hold the count of each instruction by its full name, and the cycles of a lone warp."""

    opcodes: dict[str, int]
    cycles: int


def steady_loop(listing: str) -> Loop:
    """Read the loop with the most tensor core instructions; of nested loops, the innermost.

    listing: the output of cuobjdump for one kernel; one without such a loop has an empty one
    """
    found = [
        (int(at, 16), name, operands, int(word, 16) >> 41 & 15)
        for at, name, operands, word in INSTRUCTION.findall(listing)
    ]
    best: tuple[int, int, list[tuple[str, int]]] = (0, 0, [])
    for at, name, operands, _ in found:
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        if target is None or int(target[1], 16) >= at:
            continue
        body = [(what, wait) for a, what, _, wait in found if int(target[1], 16) <= a <= at]
        multiplies = sum("MMA" in what for what, _ in body)
        if multiplies:
            best = max(best, (multiplies, -len(body), body))
    return Loop(dict(Counter(name for name, _ in best[2])), sum(wait for _, wait in best[2]))


def by_pipe(opcodes: Mapping[str, int]) -> Counter[str]:
    """Add up instructions by the pipe that executes them."""
    pipes: Counter[str] = Counter()
    for name, count in opcodes.items():
        pipes[next(pipe for pipe, names in PIPES.items() if re.match(names, name))] += count
    return pipes
