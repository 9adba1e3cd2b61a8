# SPDX-License-Identifier: Apache-2.0
"""Measure stock and extension in turn: one server each, all workloads, then again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import ServerError
from bench.servers import EXTENSION, Server, Side, running
from bench.serving import client
from bench.serving.workloads import Workload


@dataclass(frozen=True)
class Setup:
    """Hold what both sides are started with.

    mtp: flags that add drafts; if given, every repeat runs without and with them
    extension_flags: for the extension alone, such as --gemma4-weights
    """

    flags: tuple[str, ...]
    tokenizer: str
    mtp: tuple[str, ...] = ()
    extension_flags: tuple[str, ...] = ()
    start_s: float = 1200
    workload_s: float = 3600
    env: Mapping[str, str] = field(default_factory=dict)


def measure(
    setup: Setup, sides: Sequence[Side], workloads: Sequence[Workload], repeats: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Make one row per repeat, side, drafts or not, and workload; odd repeats in reverse order.

    A server that does not start, or a workload that does not end, gives a row with `failed`.
    """
    for repeat in range(repeats):
        for drafts in (False, True) if setup.mtp else (False,):
            for side in sides if repeat % 2 == 0 else tuple(reversed(sides)):
                about = {"side": side.name, "mtp": drafts, "repeat": repeat}
                for row in _server_rows(setup, side, drafts, workloads, folder):
                    yield about | row


def _server_rows(
    setup: Setup, side: Side, drafts: bool, workloads: Sequence[Workload], folder: Path
) -> Iterator[dict[str, Any]]:
    flags = [*setup.flags, "--enable-metrics", *(setup.mtp if drafts else ())]
    if side is EXTENSION:
        flags += setup.extension_flags
    left = list(workloads)
    try:
        with running(side, flags, folder, start_s=setup.start_s, env=setup.env) as server:
            pools = server.pools()
            while left:
                yield _about(left[0]) | pools | _figures(server, setup, left.pop(0), folder)
    except ServerError as error:
        for workload in left:
            yield _about(workload) | {"failed": str(error)}


def _figures(server: Server, setup: Setup, workload: Workload, folder: Path) -> dict[str, Any]:
    out = folder / "client.jsonl"
    if server.process.poll() is not None:
        return {"failed": "the server had ended"}
    before, server.peak_mib = server.retractions(), server.memory_mib()
    try:
        found = client.run(server.url, setup.tokenizer, workload, out, setup.workload_s)
    except client.ClientError as error:
        return {"failed": str(error)}
    after = server.retractions()
    counted = None if before is None or after is None else after - before
    peak = {"peak_memory_mib": server.peak_mib, "memory": server.memory}
    return found | {"retractions": counted} | peak


def _about(workload: Workload) -> dict[str, Any]:
    return {
        "workload": workload.name,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "prompts": workload.prompts,
        "max_concurrency": workload.concurrency,
    }
