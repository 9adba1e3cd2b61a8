# SPDX-License-Identifier: Apache-2.0
"""Parse memory sizes as people write them, such as `24GiB`."""

from __future__ import annotations

import re

from sglang_gemma4_ext.plan.geometry import PlanError

MIB, GIB = 1 << 20, 1 << 30

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|GB|MiB|MB|)", re.IGNORECASE)
_UNITS = {"gib": GIB, "gb": 10**9, "mib": MIB, "mb": 10**6, "": GIB}


def parse_size(text: str) -> int:
    """Return the bytes of `24GiB`, `24GB`, `512MiB`, or `24`, which is GiB. Raises PlanError."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size <= 0:
        raise PlanError(f"--memory must be an amount such as 24GiB or 24GB, not {text!r}")
    return size
