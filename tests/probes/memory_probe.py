# SPDX-License-Identifier: Apache-2.0
"""List the floating-point tensors that a scheduler makes after loading, as a test's plugin.

From the end of ModelRunner.load_model on, it writes one JSON line per finding to the file that
PROBE names. First come the elements of each packed weight, or of one of its experts. Then come each
allocation larger than all before it, and each NVFP4 operator that ran. Views of an operator's
inputs and allocations of the attention backend are left out.
"""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import torch

from tests.kernels.allocations import Allocations, our_operators

PROBE = "MEMORY_PROBE_FILE"
# Its buffers for decode are sized by multiprocessors; on a CPU it assumes many.
ATTENTION = "layers/attention/triton_backend.py"
RUNNER = "sglang.srt.model_executor.model_runner.ModelRunner"


def activate() -> None:
    """Be the entry point `sglang.srt.plugins`."""
    if PROBE in os.environ:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register(f"{RUNNER}.load_model", _watch, HookType.AFTER)


def _watch(result: None, runner: Any, *args: Any, **kwargs: Any) -> None:
    file = Path(os.environ[PROBE])

    def write(**finding: Any) -> None:
        with file.open("a") as lines:
            lines.write(json.dumps(finding) + "\n")

    for name, weight in runner.model.named_parameters():
        if weight.dtype == torch.uint8:
            rows, half = weight.shape[-2:]
            write(weight=name, elements=rows * 2 * half)
    largest = 0

    def note(op: str, tensor: torch.Tensor) -> None:
        nonlocal largest
        if tensor.is_floating_point() and tensor.numel() > largest:
            callers = [frame.filename for frame in traceback.extract_stack()]
            if any(name.endswith(ATTENTION) for name in callers):
                return
            largest = tensor.numel()
            write(op=op, elements=largest, shape=list(tensor.shape), dtype=str(tensor.dtype))

    def noted(name: str, run: Any) -> Any:
        seen = []

        def call(*args: Any, **kwargs: Any) -> Any:
            if not seen:
                seen.append(True)
                write(ran=name)
            return run(*args, **kwargs)

        return call

    opened = {name: noted(name, run) for name, run in our_operators().items()}
    Allocations(note, opened).__enter__()
