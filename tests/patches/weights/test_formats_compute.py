# SPDX-License-Identifier: Apache-2.0
"""Load checkpoints of each format with SGLang's own runner, and compare it with transformers.

It is the runner of the server, without HTTP and scheduler. Prompt and new tokens cross the window
of 32. tests/serving/test_parity.py has some of the same checkpoints on the whole server.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import fp8, int4_words, tool_fixtures
from tests.checkpoints.published import PUBLISHED, Published
from tests.checkpoints.published_writer import write
from tests.serving.harness import environment
from tests.serving.parity import FP32_TOLERANCE, Reference, prompt_ids

PROMPT, NEW = 30, 6
Write = Callable[[Path, Path], Path]


def words(**options: Any) -> Write:
    return functools.partial(int4_words.quantize_checkpoint, **options)


def of_tool(name: str) -> Write:
    return lambda _, out: tool_fixtures.copy(name, out)


def published(one: Published) -> Write:
    return lambda _, out: write(one, out)


# Name -> kind of model, what writes the checkpoint, ranks.
CASES: dict[str, tuple[str, Write, int]] = {
    "modelopt-mixed-moe": ("moe", functools.partial(fp8.modelopt, mixed=True), 1),
    "modelopt-mixed-dense-2-ranks": ("dense", functools.partial(fp8.modelopt, mixed=True), 2),
    "modelopt-mixed-without-nvfp4": ("moe", fp8.modelopt_without_nvfp4, 1),
    "modelopt-fp8-moe": ("moe", fp8.modelopt, 1),
    "fp8-blocks-moe": ("moe", fp8.blocks, 1),
    "fp8-tensors-e2b": ("e2b", functools.partial(fp8.blocks, scales="tensor"), 1),
    "ct-fp8-dynamic-moe-2-ranks": ("moe", fp8.compressed_tensors, 2),
    "ct-fp8-static-unified": (
        "unified",
        functools.partial(fp8.compressed_tensors, scheme="FP8"),
        1,
    ),
    "ct-fp8-block-moe": ("moe", functools.partial(fp8.compressed_tensors, scheme="FP8_BLOCK"), 1),
    "gptq-moe": ("moe", words(tool="gptq"), 1),
    "gptq-moe-2-ranks": ("moe", words(tool="gptq", symmetric=False), 2),
    "gptq-channel-dense": ("dense", words(tool="gptq", group=-1), 1),
    "gptq-v2-e2b": ("e2b", words(tool="gptq", symmetric=False, version=2), 1),
    "autoround-e2b": ("e2b", words(tool="gptq", auto_round=True, per_layer=True), 1),
    "awq-moe": ("moe", words(tool="awq", symmetric=False), 1),
    "awq-unified-128-2-ranks": ("unified", words(tool="awq", group=64, symmetric=False), 2),
    "autoround-gptq-moe": ("moe", words(tool="gptq", auto_round=True), 1),
    "autoround-awq-dense": (
        "dense",
        words(tool="awq", auto_round=True, symmetric=False),
        1,
    ),
    "gptq-int8-dense-2-ranks": ("dense", words(tool="gptq", bits=8, symmetric=False), 2),
    "gptq-int8-channel-dense": ("dense", words(tool="gptq", bits=8, group=-1), 1),
    **{name: (kind, of_tool(name), 1) for name, kind in tool_fixtures.KINDS.items()},
    **{one.short: (one.kind, published(one), 1) for one in PUBLISHED},
}


@pytest.fixture(scope="module")
def computed(request, checkpoint, tmp_path_factory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Write and load those of this run; a process that imports SGLang is shared."""
    folder = tmp_path_factory.mktemp("formats")
    chosen = [item.callspec.params.get("name") for item in request.session.items
              if item.fspath == request.fspath and hasattr(item, "callspec")]  # fmt: skip
    names = [name for name in CASES if name in chosen]
    paths = {name: CASES[name][1](checkpoint(CASES[name][0]), folder / name) for name in names}
    cases = [
        {"path": str(path), "prompt": prompt_ids(PROMPT), "new": NEW, "ranks": CASES[name][2]}
        for name, path in paths.items()
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.probes.what_loads", json.dumps(cases)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=Path(__file__).resolve().parents[3],
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"error"')]
    found = [json.loads(line) for line in lines]
    return {name: (paths[name], one) for name, one in zip(names, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_runner_equals_transformers_on_the_dequantized_weights(name, computed) -> None:
    path, found = computed[name]
    assert found["error"] == ""
    assert found["logged"] == []
    tokens = found["tokens"]
    reference = Reference(path.with_name(path.name + "_dq"))
    table = reference.log_probs(prompt_ids(PROMPT), tokens)[PROMPT - 1 : -1]
    got = torch.tensor(found["log_probs"])
    said = table.isfinite()  # the server, not its runner, suppresses the 12B's markers
    assert (got - table)[said].abs().max().item() <= FP32_TOLERANCE
    assert table.argmax(-1).tolist() == tokens
