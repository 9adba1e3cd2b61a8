# SPDX-License-Identifier: Apache-2.0
"""`python -m sglang_gemma4_ext.launch_server`: SGLang's server, with Gemma 4 looked after.

Takes all of SGLang's flags and our own `--gemma4-*`. Everything that is done to SGLang is done by
the plugin, so `sglang serve` carries the same patches; the launcher adds the checks before, the
summary at the start and the sentence at the end.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import get_args

from sglang_gemma4_ext import __version__, failure
from sglang_gemma4_ext.settings import (
    CpuAttention,
    Nvfp4Backend,
    Settings,
    SettingsError,
    parse_names,
    plugin_allowed,
)

PLUGIN = "gemma4_ext"


def build_parser() -> argparse.ArgumentParser:
    """Our own flags; whatever else is on the command line is SGLang's."""
    parser = argparse.ArgumentParser(
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
        "--gemma4-nvfp4",
        choices=get_args(Nvfp4Backend),
        default=Settings.nvfp4,
        help="who multiplies NVFP4 weights: SGLang's Marlin kernels, the exact "
        "dequantize-then-matmul reference, or Marlin on a GPU and the reference without "
        "(default: %(default)s)",
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
    """Run the server until it ends. Returns the exit status; 2 for what the user can mend."""
    parser = build_parser()
    ours, theirs = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    unknown = [flag for flag in theirs if flag.startswith("--gemma4-")]
    if unknown:
        parser.error(f"no such flag: {unknown[0]} (see --help)")
    if ours.help:
        return _print_help(parser)
    try:
        argv = _prepare(ours, theirs)
    except (SettingsError, ValueError) as error:
        return _complain(str(error))
    return _serve(argv)


def _prepare(ours: argparse.Namespace, theirs: list[str]) -> list[str]:
    """Settle the settings and SGLang's command line. Raises ValueError with one sentence."""
    from sglang_gemma4_ext.command_line import CommandLine
    from sglang_gemma4_ext.context import detect_gpu
    from sglang_gemma4_ext.preflight import check_checkpoint

    if not plugin_allowed(PLUGIN):
        raise SettingsError(f"SGLANG_PLUGINS is set and leaves out {PLUGIN}; unset it or add it")
    line = CommandLine(theirs)
    if ours.demo:
        line.use_demo()
    path = line.model_path()
    if path is None:
        raise SettingsError("--model-path (or --demo) is needed")
    check_checkpoint(path, weights=line.value("--load-format") != "dummy")
    gpu = detect_gpu()
    on_cpu = gpu.vendor == "none" and line.value("--device") in (None, "cpu")
    settings = Settings(
        disable=ours.gemma4_ext_disable,
        cpu_attention=ours.gemma4_cpu_attention,
        nvfp4=ours.gemma4_nvfp4,
        cpu=on_cpu,
    )
    if on_cpu:
        line.use_cpu(settings.cpu_attention)
    settings.export()
    failure.prepare()
    return line.argv


def _serve(argv: list[str]) -> int:
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    from sglang_gemma4_ext import banner, plugin

    HookRegistry.register(
        "sglang.srt.entrypoints.http_server.launch_server",
        banner.announce_when_ready,
        HookType.BEFORE,
    )
    status = 0
    try:
        load_plugins()
        plugin.require_bootstrap()
        server_args = prepare_server_args(argv)
        server_args.custom_sigquit_handler = failure.SigquitReport()
        server_args.resolve_once()
        banner.summarize(server_args)
        run_server(server_args)
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            status = error.code or 0
        else:
            status = _complain(failure.summarize(error))
    except Exception as error:
        logging.getLogger(__name__).exception("the server failed")
        status = _complain(
            f"the server did not start: {failure.take() or failure.summarize(error)}"
        )
    finally:
        failure.take()
        kill_process_tree(_own_pid(), include_parent=False)
    return status


def _own_pid() -> int:
    import os

    return os.getpid()


def _print_help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    print("\nFlags of SGLang:\n", flush=True)
    from sglang.srt.server_args import prepare_server_args

    prepare_server_args(["--help"])
    return 0


def _complain(sentence: str) -> int:
    print(f"{failure.PREFIX}{sentence}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    print(f"sglang-gemma4-ext {__version__}", file=sys.stderr)
    raise SystemExit(main())
