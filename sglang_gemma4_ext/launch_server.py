# SPDX-License-Identifier: Apache-2.0
"""Run SGLang's server for Gemma 4: `python -m sglang_gemma4_ext.launch_server`.

It takes all of SGLang's flags and our own `--gemma4-*`. The plugin makes all changes to SGLang, so
`sglang serve` gets the same patches. The launcher adds the checks before, the summary at the start
and the sentence at the end.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from dataclasses import replace
from typing import get_args

from sglang_gemma4_ext import PLUGIN, PREFIX, __version__, pipes, plugin, run_folder, shutdown
from sglang_gemma4_ext.address import check_address
from sglang_gemma4_ext.checkpoint.adapters import paths_of
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo
from sglang_gemma4_ext.checkpoint.server_inputs import Inputs, check_inputs
from sglang_gemma4_ext.launcher import fit, kv_dtype, on_cpu
from sglang_gemma4_ext.launcher.check_flags import StrictParser, check_flags, unknown_flag
from sglang_gemma4_ext.launcher.command_line import DRAFT_MODEL, MODEL, TENSOR_PARALLEL, CommandLine
from sglang_gemma4_ext.machine import detect_gpu, gpu_memory
from sglang_gemma4_ext.plan.question import parse_allowed
from sglang_gemma4_ext.quiet import quiet_warnings
from sglang_gemma4_ext.redaction import redact
from sglang_gemma4_ext.settings import (
    Attention,
    ChatParsers,
    CpuAttention,
    Head,
    Ple,
    Router,
    Settings,
    SettingsError,
    SwaPolicy,
    WeightKernels,
    environment,
    parse_names,
    plugin_allowed,
)

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", "30000"  # SGLang's own
BAD_INPUT = 2  # argparse's exit status


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of our own flags; all other arguments are SGLang's."""
    parser = StrictParser(
        prog="python -m sglang_gemma4_ext.launch_server",
        usage="%(prog)s --model-path MODEL [--gemma4-...] [any flag of SGLang]",
        description="Serve Gemma 4 with SGLang.",
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("sglang-gemma4-ext")
    group.add_argument("-h", "--help", action="store_true", help="show these flags and SGLang's")
    group.add_argument("--demo", action="store_true", help="serve the small bundled model")
    group.add_argument(
        "--gemma4-ext-disable",
        metavar="NAME[,NAME]",
        type=parse_names,
        default=frozenset(),
        help="leave out patches by name (python -m sglang_gemma4_ext.doctor lists them)",
    )
    group.add_argument(
        "--gemma4-weights",
        choices=get_args(WeightKernels),
        default=Settings.weights,
        help="kernels for NVFP4, INT4 and FP8 weights: our fused Triton kernels, SGLang's Humming "
        "or Marlin, or the exact dequantize-then-matmul reference; auto: Marlin for linears, "
        "Humming for 4-bit experts, fused where neither fits or where measured faster; without a "
        "GPU the reference (default: %(default)s)",
    )
    group.add_argument(  # the former name of --gemma4-weights
        "--gemma4-nvfp4",
        dest="gemma4_weights",
        choices=get_args(WeightKernels),
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "--gemma4-swa-policy",
        choices=get_args(SwaPolicy),
        default=Settings.swa_policy,
        help="split of KV memory between full and sliding layers: by need, 0.15 for mixtures of "
        "experts, or SGLang's; --swa-full-tokens-ratio takes precedence (default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-fit",
        choices=("auto", "off"),
        default="auto",
        help="choose reserve, context, chunk and requests to fit the GPU, as `plan` does, unless "
        "a flag sets the memory; off leaves them to SGLang (default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-allow",
        metavar="kv8,head8,ple-host",
        default="",
        help="lossy or slower choices that fitting may make for a longer context; kv8: KV in "
        "fp8_e4m3; head8: --gemma4-head int8; ple-host: --gemma4-ple host",
    )
    group.add_argument(
        "--gemma4-low-memory",
        action="store_true",
        help="put context before throughput on GPUs of 60 GiB and more too, and refuse to start "
        "if nothing fits",
    )
    group.add_argument(
        "--gemma4-router",
        choices=get_args(Router),
        default=Settings.router,
        help="kernels that route tokens to experts on a GPU: ours, SGLang's, or ours where "
        "measured faster (default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-attention",
        choices=get_args(Attention),
        default=Settings.attention,
        help="kernels for attention on a GPU: ours, SGLang's, or ours where KV is in fp8_e4m3 "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-ple",
        choices=get_args(Ple),
        default=Settings.ple,
        help="memory that holds the per-layer embeddings of E2B and E4B: host frees 4.4 and 5.3 "
        "GiB of the GPU, whose kernel reads a row for each token over the bus "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-head",
        choices=get_args(Head),
        default=Settings.head,
        help="hold the tied embedding and head as the checkpoint stores it, or in INT8 with a "
        "scale a row: lossy, half of its 1.4 GiB (26B-A4B) or 2.6 GiB (31B) "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-chat-parsers",
        choices=get_args(ChatParsers),
        default=Settings.chat_parsers,
        help="parse tool calls and thoughts where the chat template declares tools and no parser "
        "was named; off leaves them in the text (default: %(default)s)",
    )
    group.add_argument(
        "--gemma4-cpu-attention",
        choices=get_args(CpuAttention),
        default=Settings.cpu_attention,
        help="attention without a GPU: PyTorch, or SGLang's Triton kernels in Triton's "
        "interpreter, which is a hundred times slower (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the server until it ends; return the exit status, 2 for what the user can mend."""
    parser = build_parser()
    try:
        ours, theirs = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
        if ours.help:
            return _print_help(parser)
        line = _prepare(ours, _checked(theirs, parser))
    except ValueError as error:
        _complain(str(error))
        return BAD_INPUT
    return _serve(line.argv)


def _checked(theirs: list[str], parser: argparse.ArgumentParser) -> CommandLine:
    """Check SGLang's arguments and spell out abbreviated flags. Raises SettingsError."""
    names = [name for action in parser._actions for name in action.option_strings]
    for flag in theirs:
        if flag.startswith("--gemma4-"):
            raise SettingsError(unknown_flag(flag.partition("=")[0], names))
    line = CommandLine(theirs)
    return CommandLine(check_flags(line.argv, line.config, names))


def _prepare(ours: argparse.Namespace, line: CommandLine) -> CommandLine:
    """Determine the settings and SGLang's command line. Raises ValueError with one sentence.

    Checks without imports come first, because torch takes a second to import, SGLang ten.
    """
    if not plugin_allowed(PLUGIN):
        raise SettingsError(f"SGLANG_PLUGINS is set and leaves out {PLUGIN}; unset it or add it")
    if ours.demo:
        line.use_demo()
    target = _check_inputs(line)
    settings = Settings(
        disable=ours.gemma4_ext_disable,
        cpu_attention=ours.gemma4_cpu_attention,
        weights=ours.gemma4_weights,
        swa_policy=ours.gemma4_swa_policy,
        router=ours.gemma4_router,
        attention=ours.gemma4_attention,
        ple=ours.gemma4_ple,
        head=ours.gemma4_head,
        chat_parsers=ours.gemma4_chat_parsers,
    )
    plugin.check_names(settings)
    if _runs_on_cpu(line):
        settings = replace(settings, cpu=True)
        on_cpu.require_cpu_formats(line, target)
        line.use_cpu(settings.cpu_attention)
        quiet_warnings()
        if ours.gemma4_low_memory:
            raise SettingsError(
                "--gemma4-low-memory plans a GPU's memory and none was found: leave it out"
            )
    else:
        settings = _fit(ours, line, target, settings)
    settings.export(speculative=line.value(*DRAFT_MODEL) is not None, ranks=line.ranks)
    return line


def _fit(
    ours: argparse.Namespace, line: CommandLine, target: ModelInfo | None, settings: Settings
) -> Settings:
    """Fit KV dtype and memory to this GPU, and say what was chosen.

    Returns the settings with what was chosen. Raises ValueError.
    """
    if ours.gemma4_low_memory and ours.gemma4_fit == "off":
        raise SettingsError("--gemma4-low-memory fits the memory: leave out --gemma4-fit off")
    gpu, allowed = detect_gpu(), parse_allowed(ours.gemma4_allow)
    foreign = kv_dtype.sglangs_by(ours.gemma4_attention, kv_dtype.DETERMINISTIC in line.argv)
    if "kv8" in allowed and kv_dtype.is_unreadable(gpu, foreign):
        if foreign:
            raise SettingsError(
                f"--gemma4-allow kv8 with {foreign} needs compute capability 8.9: {gpu} has less"
            )
        raise SettingsError(f"--gemma4-allow kv8 needs compute capability 8.0: {gpu} has less")
    said = [kv_dtype.settle(line, gpu, target, ours.gemma4_attention)]
    if ours.gemma4_fit == "auto" and gpu.vendor == "nvidia":
        policy, asked = ours.gemma4_swa_policy, ours.gemma4_low_memory
        memory = gpu_memory()
        fitted = fit.apply(
            line, gpu, memory, target, policy, asked=asked, allowed=allowed,
            own_attention=not foreign, ple=settings.ple, head=settings.head,
        )  # fmt: skip
        said.append(fitted.said)
        settings = replace(settings, ple=fitted.ple, head=fitted.head)
    for sentence in filter(None, said):
        _complain(sentence)
    return settings


def _check_inputs(line: CommandLine) -> ModelInfo | None:
    """Check the checkpoints and the address. Raises ValueError with one sentence."""
    path, draft = line.value(*MODEL), line.value(*DRAFT_MODEL)
    if path is None:
        raise SettingsError("--model-path (or --demo) is needed")
    elsewhere = line.value("--tokenizer-path") or "--skip-tokenizer-init" in line.argv
    inputs = Inputs(
        path,
        draft,
        revision=line.value("--revision"),
        draft_revision=line.value("--speculative-draft-model-revision"),
        load_format=line.value("--load-format"),
        own_tokenizer=not elsewhere,
        adapters=tuple(paths_of(line.values("--lora-paths"))),
        embeddings=line.has("--is-embedding"),
    )
    target = check_inputs(inputs)
    if line.value("--node-rank") in (None, "0"):
        port = line.value("--port") or DEFAULT_PORT
        if port.isdecimal():
            check_address(line.value("--host") or DEFAULT_HOST, int(port))
    return target


def _runs_on_cpu(line: CommandLine) -> bool:
    """Tell whether to use the CPU reference. Raises SettingsError on an unavailable device."""
    gpu, device = detect_gpu(), line.value("--device")
    if gpu.vendor == "none":
        if device not in (None, "cpu"):
            raise SettingsError(
                f"--device {device}: PyTorch finds no such device; leave it out to serve from the "
                "CPU"
            )
        return True
    if device == "cpu":
        raise SettingsError(
            f"--device cpu: SGLang would still use the {gpu.name}; "
            "set CUDA_VISIBLE_DEVICES= to serve from the CPU"
        )
    import torch

    ranks, here = line.value(*TENSOR_PARALLEL) or "1", torch.cuda.device_count()
    alone = gpu.vendor == "nvidia" and line.value("--nnodes") in (None, "1")
    if alone and ranks.isdecimal() and int(ranks) > here:
        raise SettingsError(
            f"--tp-size {ranks} needs {ranks} GPUs and this machine has {here}: lower it"
        )
    return False


def _serve(argv: list[str]) -> int:
    """Run SGLang until it ends, remove what it leaves behind, and return the exit status."""
    status, sentence = 0, "stopped"
    run_folder.make_folder()
    flags = redact(shlex.join(argv), environment())
    said = f"sglang-gemma4-ext {__version__}: starting SGLang with {flags}"
    print(said, file=sys.stderr, flush=True)
    try:
        _run(argv)
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        status, sentence = _verdict(error)
    except Exception as error:
        logging.getLogger(__name__).exception("the server failed")
        status, sentence = 1, shutdown.verdict(shutdown.take() or shutdown.summarize(error))
    shutdown.end_children()
    run_folder.remove_folder()
    if sentence:
        _complain(sentence)
    return status


def _verdict(error: SystemExit) -> tuple[int, str]:
    """Return exit status and last sentence for an exit from within SGLang."""
    if error.code in (None, 0):
        return 0, "stopped"
    if error.code == BAD_INPUT:
        return BAD_INPUT, ""  # SGLang's parser has printed the reason
    if isinstance(error.code, int):
        return error.code, shutdown.verdict(shutdown.take() or "its log lines above say why")
    return 1, shutdown.summarize(error)


def _run(argv: list[str]) -> None:
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    plugin.require_bootstrap()
    server_args = prepare_server_args(argv)
    server_args.custom_sigquit_handler = shutdown.SigquitReport()
    server_args.resolve_once()
    run_server(server_args)


def _print_help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    print("\nFlags of SGLang:\n", flush=True)
    from sglang.srt.server_args import prepare_server_args

    prepare_server_args(["--help"])
    return 0


def _complain(sentence: str) -> None:
    print(f"{PREFIX}{sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    shutdown.watch_signals()
    raise SystemExit(pipes.run(main))
