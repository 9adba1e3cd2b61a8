# SPDX-License-Identifier: Apache-2.0
"""Derive from times which shapes `auto` serves with our kernels, and write the GPU's own table.

Marlin has another layout of the weights, so a layer uses one of the two at every M. Ours serve a
shape under three conditions. No M of a decode is slower, decodes are faster by more than noise, and
no larger M is slower by more than a tenth. A shape with an M or operation that was not timed on
both is left to Marlin.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from sglang_gemma4_ext.kernels.nvfp4_dispatch import FOLDER, Layer, file_of, table_for

TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
DECODE = 8
# Marlin's time over ours.
WORTH, LARGE_M = 1.03, 0.9


def faster(rows: list[dict[str, Any]]) -> set[tuple[Layer, int, int]]:
    """Return (layer, n, k) of the shapes that win in the rows of `bench.kernels.nvfp4`."""
    found: dict[tuple[Layer, int, int], dict[tuple[str, int], float]] = {}
    for row in rows:
        if row["op"] in ("linear", "gate_up", "experts"):
            layer: Layer = "experts" if row["op"] == "experts" else "linear"
            ratios = found.setdefault((layer, row["n"], row["k"]), {})
            ratio = row.get("times_of_fused", {}).get("marlin", 0.0)
            at = row["op"], row["m"]
            ratios[at] = max(ratio, ratios.get(at, 0.0))
    return {shape for shape, ratios in found.items() if _wins(ratios)}


def _wins(ratios: dict[tuple[str, int], float]) -> bool:
    decode = [ratio for (_, m), ratio in ratios.items() if m <= DECODE]
    rest = [ratio for (_, m), ratio in ratios.items() if m > DECODE]
    whole = {m for _, m in ratios} >= set(TOKENS)
    if not whole or min(decode) < 1 or min(rest) < LARGE_M:
        return False
    return geometric_mean(decode) >= WORTH


def write(rows: list[dict[str, Any]], measured: str, name: str, folder: Path = FOLDER) -> Path:
    """Write the file of the device `name`: its configurations, and the shapes that were faster.

    Shapes without rows in this run, such as those of another --tp, are kept.
    """
    capability = tuple(map(int, rows[0]["capability"].removeprefix("sm_")))
    table = table_for(name, capability, folder)
    content = json.loads((folder / f"{table.name}.json").read_text())
    layers = {"linear": "linear", "gate_up": "linear", "experts": "experts"}
    timed = {(layers[row["op"]], row["n"], row["k"]) for row in rows if row["op"] in layers}
    kept = sorted((set(table.faster) - timed) | faster(rows))
    lines = ",\n".join(f"  {json.dumps(config)}" for config in content["configs"])
    path = file_of(name, folder)
    path.write_text(
        f'{{"measured": {json.dumps(measured)}, "bytes_a_us": {table.bytes_a_us}, '
        f'"faster": {json.dumps(kept)}, "configs": [\n'
        f"{lines}\n]}}\n"
    )
    return path
