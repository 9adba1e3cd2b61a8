# SPDX-License-Identifier: Apache-2.0
"""Memory sizes: GPUs by name, and what people write, such as `24GiB`."""

from __future__ import annotations

import re

from sglang_gemma4_ext.plan.geometry import PlanError

MIB, GIB = 1 << 20, 1 << 30

# MiB as nvidia-smi reports them, which is less than the nominal size where ECC or firmware take
# their part.
GPUS_MIB = {
    "rtx3060": 12_288,
    "rtx3090": 24_576,
    "rtx4090": 24_564,
    "rtx5090": 32_607,
    "a10g": 23_028,
    "l4": 23_034,
    "l40s": 46_068,
    "a6000": 49_140,
    "a100-40gb": 40_960,
    "a100": 81_920,
    "h100": 81_559,
    "rtxpro6000": 97_887,
    "h200": 143_771,
    "b200": 183_359,
}
# Compute capability 10 and above.
BLACKWELL = frozenset({"rtx5090", "rtxpro6000", "b200"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|GB|MiB|MB)", re.IGNORECASE)
_UNITS = {"gib": GIB, "gb": 10**9, "mib": MIB, "mb": 10**6}


def known_gpu(name: str) -> str:
    """The key of GPUS_MIB that a name means. Raises PlanError."""
    key = re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia").removeprefix("geforce"))
    for known in GPUS_MIB:
        if key == known.replace("-", ""):
            return known
    raise PlanError(
        f"no GPU {name!r} is known (known: {', '.join(GPUS_MIB)}); give its memory with --memory"
    )


def gpu_memory(name: str) -> int:
    """Bytes of a GPU's memory by its name. Raises PlanError."""
    return GPUS_MIB[known_gpu(name)] * MIB


def parse_size(text: str) -> int:
    """Bytes of `24GiB`, `24GB` or `512MiB`. Raises PlanError on anything else, and on none."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size <= 0:
        raise PlanError(f"--memory must be an amount such as 24GiB or 24GB, not {text!r}")
    return size
