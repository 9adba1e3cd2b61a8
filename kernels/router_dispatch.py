# SPDX-License-Identifier: Apache-2.0
"""Which router kernel for how many tokens on which GPU: data in `router_dispatch.json`.

A row is of a compute capability. `measured` is null or the path of the raw results that
`bench/kernels/router.py` wrote there; no row may prefer our kernels without it. Unmeasured, the
bound on tokens comes from counting: each token reads the projection once more from L2, 0.7 MB of
it in the 26B-A4B, where a GEMM reads it once for all.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Row:
    """measured: where the raw results are, or None. prefer: what `auto` means on this GPU.

    one_launch_max_tokens: up to how many tokens norm and projection are in the launch too.
    """

    measured: str | None
    prefer: Literal["fused", "sglang"]
    one_launch_max_tokens: int


def read(path: Path = TABLE) -> dict[str, Row]:
    """Rows by capability, "sm_86". Raises ValueError on a preference without a measurement."""
    rows = {name: Row(**fields) for name, fields in json.loads(path.read_text()).items()}
    for name, row in rows.items():
        if row.prefer == "fused" and not row.measured:
            raise ValueError(f"{path.name}: {name} prefers fused and names no measurement")
    return rows


@functools.cache
def row_of(capability: tuple[int, int]) -> Row | None:
    """The row of a compute capability, None where there is none."""
    return read().get("sm_{}{}".format(*capability))
