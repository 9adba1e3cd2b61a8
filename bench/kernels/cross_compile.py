# SPDX-License-Identifier: Apache-2.0
"""Compile Triton kernels for absent GPUs, and count what their machine code contains.

Triton compiles without a GPU and ships ptxas and cuobjdump. A process with Triton's interpreter has
no compiler, so `compile_all` runs this module in a process of its own.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.kernels.steady_loop import INSTRUCTION, steady_loop

CAPABILITIES = (80, 86, 89, 90)
# Shared bytes of a block by capability: the opt-in maximum of CUDA's programming guide.
MAX_SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
# A branch: its address, and the address that it leads to.
BRANCH = r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?BRA(?:\.\w+)* .*?0x([0-9a-f]+)"
INSTRUCTION_BYTES = 16


@dataclass(frozen=True)
class Job:
    """Describe one kernel for one GPU.

    kernel: "module:name"
    signature: Triton's type of each argument that is not constant: "*bf16", "i32", "fp32"
    constants: the constexprs, and arguments fixed at 1 or None
    aligned: arguments known to be multiples of 16; pointers always are
    """

    kernel: str
    capability: int
    signature: dict[str, str]
    constants: dict[str, object]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class Compiled:
    """Hold machine code: registers a thread, local bytes a thread, shared bytes a block.

    opcodes: the count of each machine instruction, by its full name, "LDG.E.128"
    loop: machine instructions of the longest loop
    steady: the count of each instruction of the steady loop; steady_cycles: of a lone warp in it
    error: why there is no machine code, or None
    """

    registers: int = 0
    local_bytes: int = 0
    shared_bytes: int = 0
    ptx: str = field(default="", repr=False)
    opcodes: dict[str, int] = field(default_factory=dict, repr=False)
    loop: int = 0
    steady: dict[str, int] = field(default_factory=dict, repr=False)
    steady_cycles: int = 0
    error: str | None = None

    def count(self, pattern: str) -> int:
        """Count the matches of a regular expression in the PTX."""
        return len(re.findall(pattern, self.ptx))


def compile_all(jobs: Iterable[Job]) -> list[Compiled]:
    """Compile every job, in order, in a process without the interpreter.

    A kernel that Triton or ptxas refuses has an `error`; the others are still compiled.
    """
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.kernels.cross_compile"],
        input=json.dumps([asdict(job) for job in jobs]),
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    return [Compiled(**fields) for fields in json.loads(done.stdout.splitlines()[-1])]


def _compile(job: Job) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    kernel = pkgutil.resolve_name(job.kernel)
    signature = {name: job.signature.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in job.constants.items()},
        {
            (at,): [["tt.divisibility", 16]]
            for at, name in enumerate(kernel.arg_names)
            if name in job.aligned or signature[name].startswith("*")
        },
    )
    options = {"num_warps": job.num_warps, "num_stages": job.num_stages}
    try:
        built = triton.compile(source, GPUTarget("cuda", job.capability, 32), options)
    except (TritonError, RuntimeError) as error:  # a pass of the compiler that fails: RuntimeError
        return Compiled(error=f"{type(error).__name__}: {error}")
    used, code = _read(built.asm["cubin"])
    return Compiled(
        used["REG"],
        used["STACK"] + used["LOCAL"],
        built.metadata.shared,
        built.asm["ptx"],
        dict(Counter(name for _, name, *_ in INSTRUCTION.findall(code))),
        longest_loop(code),
        *steady_loop(code),
    )


def longest_loop(code: str) -> int:
    """Count the instructions from the target of a backward branch to the branch, at most."""
    branches = [(int(at, 16), int(to, 16)) for at, to in re.findall(BRANCH, code, re.MULTILINE)]
    # The last instruction of a kernel branches to itself.
    return max((1 + (at - to) // INSTRUCTION_BYTES for at, to in branches if to < at), default=0)


def _read(cubin: bytes) -> tuple[dict[str, int], str]:
    """Read resource usage and machine code with cuobjdump."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    return used, said


if __name__ == "__main__":
    jobs = [Job(**fields) for fields in json.load(sys.stdin)]
    print(json.dumps([asdict(_compile(job)) for job in jobs]))
