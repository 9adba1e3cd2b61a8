# SPDX-License-Identifier: Apache-2.0
"""List the steps that run on a GPU, in order of value, each with its time limit in seconds.

A step is a list of commands, run one after the other from the repository's root. It fails with the
first command that fails. A comparison fails if one side fails; its rows are kept. All steps
together stay under 28 minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.gpu import checkpoints

Command = list[str]
PTX_VALUES = "tests/ptx/test_values.py"
EXPERTS = "tests/patches/model/test_experts_tanh_gelu.py"
HUMMING = "tests/patches/weights/test_humming.py"


@dataclass(frozen=True)
class Step:
    """Describe a step; `commands(folder, toy)` makes what is run for an output folder.

    background: started at once and left running; `after` names such a step to wait for first
    """

    name: str
    budget_s: int
    learned: str
    commands: Callable[[Path, bool], list[Command]]
    background: bool = False
    after: str | None = None


def _python(module: str, *arguments: object) -> Command:
    return [sys.executable, "-m", module, *map(str, arguments)]


def _marlin(out: Path, toy: bool) -> list[Command]:
    return [_python("bench.gpu.build_marlin", *(["--dry-run"] if toy else []))]


def _tests(out: Path, toy: bool) -> list[Command]:
    chosen = ["tests/kernels/test_nvfp4_format.py"] if toy else ["tests/kernels", "-m", "not slow"]
    report = f"--junitxml={out / 'kernel_tests.xml'}"
    return [_python("pytest", "-q", "-p", "no:cacheprovider", *chosen, report)]


def _ptx(out: Path, toy: bool) -> list[Command]:
    """Run the instructions that the emulator was checked with, on hardware."""
    chosen = ["-m", "not gpu", "-k", "prmt"] if toy else ["-m", "gpu"]
    report = f"--junitxml={out / 'ptx_values.xml'}"
    return [_python("pytest", "-q", "-p", "no:cacheprovider", PTX_VALUES, *chosen, report)]


def _experts(out: Path, toy: bool) -> list[Command]:
    """Read which activation SGLang's runner launches for BF16 experts."""
    chosen = ["-m", "not gpu", "-k", "activations"] if toy else ["-m", "gpu"]
    report = f"--junitxml={out / 'experts.xml'}"
    return [_python("pytest", "-q", "-p", "no:cacheprovider", EXPERTS, *chosen, report)]


def _humming(out: Path, toy: bool) -> list[Command]:
    """Compare Humming, which multiplies 4-bit experts by default, with float64."""
    chosen = ["-m", "not gpu", "-k", "padding"] if toy else ["-m", "gpu"]
    report = f"--junitxml={out / 'humming.xml'}"
    return [_python("pytest", "-q", "-p", "no:cacheprovider", HUMMING, *chosen, report)]


def _prefill_graphs(out: Path, toy: bool) -> list[Command]:
    size = ["--toy"] if toy else ["--kind", "moe", "--kind", "e2b"]
    return [_python("bench.gpu.prefill_graphs", "--out", out, *size)]


def _bench(module: str, name: str) -> Callable[[Path, bool], list[Command]]:
    def commands(out: Path, toy: bool) -> list[Command]:
        return [_python(module, "--out", out / f"{name}.jsonl", *(["--toy"] if toy else []))]

    return commands


def _serving(
    model: str, weights: str, workloads: tuple[str, ...], ours: str = ""
) -> Callable[[Path, bool], list[Command]]:
    def commands(out: Path, toy: bool) -> list[Command]:
        name = f"serving_{model}_{weights}".lower().replace("-", "_")
        folder = checkpoints.write(model, weights, out / "checkpoints" / f"{model}-{weights}", toy)
        chosen = [part for workload in workloads for part in ("--workload", workload)]
        size = ["--smoke"] if toy else ["--start-s", "240", "--workload-s", "150"]
        flags = ["--model-path", folder, "--load-format", "dummy"]
        # Without a GPU the fused kernels run in the interpreter, too slowly for a server.
        flags_of_ours = "" if toy else ours
        # The packed wheels hold neither FlashInfer nor FA3.
        device = ["--dtype", "bfloat16"] if toy else ["--attention-backend", "triton",
                                                       "--sampling-backend", "pytorch"]  # fmt: skip
        return [
            _python(
                "bench.serving", "--out", out / f"{name}.jsonl", "--repeats", 1, *size, *chosen,
                "--logs", out / "logs", f"--extension-flags={flags_of_ours}", "--", *flags, *device,
            )
        ]  # fmt: skip

    return commands


def _peaks(out: Path, toy: bool) -> list[Command]:
    tokens = ["64"] if toy else ["1024", "4096"]
    models = ["12B"] if toy else ["12B", "26B-A4B", "31B"]
    file = out / "activation_peaks.jsonl"
    file.unlink(missing_ok=True)
    return [
        _python("bench.activation_peaks", "--model", model, "--tokens", *tokens, "--json", file)
        for model in models
    ]


def _small_card(out: Path, toy: bool) -> list[Command]:
    return [_python("bench.gpu.small_card", "--out", out, *(["--toy"] if toy else []))]


STEPS = (
    Step("marlin_build", 420, "SGLang's Marlin, compiled while others run", _marlin, True),
    Step("kernel_tests", 170, "whether the kernels are right when compiled", _tests),
    Step("ptx_values", 30, "whether the emulator's instructions are the hardware's", _ptx),
    Step("experts", 40, "whether BF16 experts apply tanh gelu", _experts),
    Step("humming", 90, "whether Humming's experts are right when compiled", _humming),
    Step(
        "prefill_graphs", 110, "log-probabilities with prefill graphs on and off",
        _prefill_graphs,
    ),
    Step(
        "serving_26b", 300, "stock against extension, 26B-A4B shape in BF16, dummy weights",
        _serving("26B-A4B", "bf16", ("chat", "decode burst")),
    ),
    Step("attention", 80, "decode and extend over BF16 and E4M3 KV, ours and SGLang's",
         _bench("bench.kernels.attention", "attention")),
    Step("router", 30, "up to how many tokens one launch wins",
         _bench("bench.kernels.router", "router")),
    Step("tiles", 50, "extend attention's tiles", _bench("bench.kernels.extend_tiles", "tiles")),
    Step(
        "nvfp4_kernels", 150, "fused kernels against Marlin, by shape and M",
        _bench("bench.kernels.nvfp4", "nvfp4"), after="marlin_build",
    ),
    Step(
        "nvfp4_serving", 250, "NVFP4 26B-A4B: --gemma4-weights fused; stock has no Marlin for gelu",
        _serving("26B-A4B", "nvfp4", ("decode burst",), "--gemma4-weights fused"),
        after="marlin_build",
    ),
    Step(
        "serving_12b", 210, "stock against extension, 12B shape in BF16, dummy weights",
        _serving("12B", "bf16", ("chat",)),
    ),
    Step("activation_peaks", 60, "measured peaks beside the planner's estimate", _peaks),
    Step(
        "small_card", 110, "whether the plan for 24 GB holds: peak memory of the 12B in NVFP4",
        _small_card, after="marlin_build",
    ),
)  # fmt: skip
LIMIT_S = 28 * 60


def whole_s() -> int:
    """Sum the time limits; a background step's time runs beside the others."""
    return sum(step.budget_s for step in STEPS if not step.background)
