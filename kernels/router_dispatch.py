# SPDX-License-Identifier: Apache-2.0
"""Choose the router kernel by number of tokens and GPU; the data is `router_dispatch.json`.

A row belongs to a compute capability. `measured` is null or the path of the raw results of
`bench/kernels/router.py`; a row that prefers our kernels needs it. Without it, the bound on tokens
follows from traffic: each token reads the projection from L2, 0.7 MB in the 26B-A4B, and a GEMM
reads it once for all tokens.
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
    """Hold the choice of one GPU. measured: path of the raw results, or None. prefer: for `auto`.

    one_launch_max_tokens: the most tokens for which norm and projection are in the same launch
    """

    measured: str | None
    prefer: Literal["fused", "sglang"]
    one_launch_max_tokens: int


def read(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows by capability, "sm_86". Raises ValueError on an unmeasured preference."""
    rows = {name: Row(**fields) for name, fields in json.loads(path.read_text()).items()}
    for name, row in rows.items():
        if row.prefer == "fused" and not row.measured:
            raise ValueError(f"{path.name}: {name} prefers fused and names no measurement")
    return rows


@functools.cache
def row_of(capability: tuple[int, int]) -> Row | None:
    """Look up the row of a compute capability; None if there is none."""
    return read().get("sm_{}{}".format(*capability))
