# SPDX-License-Identifier: Apache-2.0
"""Check on a larger GPU that the plan for a 24 GB card keeps peak memory below the card's.

The 12B's shape in NVFP4 is served with the planner's flags for a 24 GB card. Its memory fraction is
converted so that weights and KV take the same bytes here. A long prefill and a full decode batch
follow. In every process PyTorch's allocator refuses what the card would not have beside a CUDA
context.

Each row has lines of the plan beside what was measured: weights, KV, graphs, the CUDA context, and
the rest of the peak. The plan's rest is what it models; its allowance is for what it does not.

No setting limits what CUDA and its libraries allocate by themselves. The status is 1 if all of it
together exceeds the card. Without a GPU (--toy) the plan's flags are parsed and a small model is
served.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from bench.conditions import gpu, write
from bench.gpu import checkpoints

MODEL, CARD = "12B", "a10g"
MIB = 1 << 20


def plan() -> dict:
    """Return the planner's JSON for the card, as a user gets it."""
    asked = ["--model-path", MODEL, "--weights", "nvfp4", "--gpu", CARD, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sglang_gemma4_ext.plan", *asked],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def flags_here(found: dict, memory_bytes: int) -> list[str]:
    """Convert the plan's flags: --mem-fraction-static gives as many bytes of this GPU's memory.

    SGLang multiplies it by what is free before it loads weights: all but the CUDA context.
    """
    flags = [part for flag in found["flags"] for part in flag.split()]
    if "--mem-fraction-static" in flags:
        at = flags.index("--mem-fraction-static") + 1
        context = found["parts_bytes"]["CUDA context"]
        share = float(flags[at]) * (found["memory_bytes"] - context) / (memory_bytes - context)
        flags[at] = f"{share:.4f}"
    return flags


def planned_gib(found: dict) -> dict[str, float]:
    """Return the plan's lines by the names of `made_gib`, and the allowance."""
    parts = dict(found["parts_bytes"])
    lines = {
        "kv": parts.pop("kv"),
        "graphs": parts.pop("reserve: CUDA graphs", 0),
        "context": parts.pop("CUDA context"),
        "allowance": parts.pop("reserve: unmodelled", 0),
        "weights": sum(size for part, size in parts.items() if part.startswith("weights: ")),
    }
    lines["rest"] = sum(parts.values()) - lines["weights"]
    return {line: round(size / (1 << 30), 3) for line, size in lines.items()}


def with_rest(row: dict) -> dict:
    """Add to a row's `made_gib` the part of the peak that no other line has."""
    made = row.get("made_gib")
    if not made or None in made.values() or "peak_memory_mib" not in row:
        return row
    return row | {"made_gib": made | {"rest": row["peak_memory_mib"] / 1024 - sum(made.values())}}


def limit_here(found: dict, memory_bytes: int) -> str:
    """Return PyTorch's setting that makes allocations fail where the card's would."""
    card = found["memory_bytes"] - found["parts_bytes"]["CUDA context"]
    share = math.floor(card / memory_bytes * 10_000) / 10_000
    return f"PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:{share:.4f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--toy", action="store_true", help="a small model, no claim of memory")
    args = parser.parse_args(argv)
    found, here = plan(), gpu("memory.total")
    if here is None and not args.toy:
        parser.error("needs an NVIDIA GPU; without one: --toy")
    memory = int(here[0]) * MIB if here else found["memory_bytes"]
    flags = flags_here(found, memory) if here else []
    folder = checkpoints.write(MODEL, "nvfp4", args.out / "checkpoints" / "small-card", args.toy)
    rows_file = args.out / "small_card.jsonl"
    status = subprocess.run(
        [
            *(sys.executable, "-m", "bench.serving", "--out", rows_file, "--repeats", "1"),
            *("--sides", "extension", "--workload", "summarization", "--workload", "decode burst"),
            *(["--smoke"] if args.toy else ["--start-s", "200"]),
            *("--env", limit_here(found, memory)),
            *("--", "--model-path", folder, "--load-format", "dummy", *flags),
            *(["--attention-backend", "triton", "--sampling-backend", "pytorch"] if here else []),
        ],
        check=False,
    ).returncode
    rows = [with_rest(json.loads(line)) for line in rows_file.read_text().splitlines()]
    planned = {
        "planned_memory_bytes": found["memory_bytes"], "planned_flags": found["flags"],
        "planned_gib": planned_gib(found),
    }  # fmt: skip
    write((row | planned for row in rows), rows_file)
    most = found["memory_bytes"] // MIB
    for row in rows:
        print(f"{row['workload']}: {row.get('failed') or row['peak_memory_mib']} of {most} MiB")
    for line, size in planned["planned_gib"].items():
        made = next((row["made_gib"].get(line) for row in rows if "made_gib" in row), None)
        print(f"{line}: {size} GiB planned, {made} made")
    over = not args.toy and any(row.get("peak_memory_mib", 0) > most for row in rows)
    return 1 if over else status


if __name__ == "__main__":
    raise SystemExit(main())
