# SPDX-License-Identifier: Apache-2.0
"""Report what is patched here and whether it holds: `python -m sglang_gemma4_ext.doctor [--all]`.

The doctor applies the patches to its own process and verifies them, as a server does. It writes
nothing. Sources are compared even for patches that this machine does not need. Without --all the
text names only patches that need attention. The exit status is 1 when a server would not start.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_gemma4_ext import PLUGIN, PREFIX, VERIFIED_SGLANG, __version__, bundle, pipes
from sglang_gemma4_ext.chat.parsers import describe_checkpoint
from sglang_gemma4_ext.chat.template_files import read_template
from sglang_gemma4_ext.checkpoint.files import CheckpointError, read_headers
from sglang_gemma4_ext.checkpoint.hub import local_folder
from sglang_gemma4_ext.checkpoint.layer_formats import count_formats
from sglang_gemma4_ext.checkpoint.model_family import ModelInfo, read_model_info
from sglang_gemma4_ext.checkpoint.quantization import describe
from sglang_gemma4_ext.context import Context, sglang_version
from sglang_gemma4_ext.launcher.command_line import CommandLine
from sglang_gemma4_ext.launcher.fit import question_of
from sglang_gemma4_ext.machine import detect_gpu, gpu_memory
from sglang_gemma4_ext.plan import search
from sglang_gemma4_ext.plan.geometry import PlanError
from sglang_gemma4_ext.plan.report import to_json
from sglang_gemma4_ext.registry import Outcome, Patch, State, apply, changed_sources, decide
from sglang_gemma4_ext.settings import Settings, SettingsError, environment, plugin_allowed

PACKAGES = ("sglang", "sglang-kernel", "torch", "triton", "transformers", "compressed-tensors")
PLUGIN_GROUP = "sglang.srt.plugins"


def examine(patches: Sequence[Patch], ctx: Context) -> list[Outcome]:
    """Apply what can be applied to this process; return each patch's outcome, without raising."""
    decided = decide(patches, ctx)
    sound = [o.patch for o in decided if o.state is State.APPLIED]
    verified = {o.patch.name: o for o in apply(sound, ctx, strict=False)} if sound else {}
    return [verified.get(o.patch.name, o) for o in decided]


def report(outcomes: Sequence[Outcome], ctx: Context) -> dict[str, Any]:
    """Return everything the doctor knows, ready for JSON."""
    return {
        "sglang_gemma4_ext": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "verified_on_sglang": VERIFIED_SGLANG,
        "plugin_installed": _plugin_installed(),
        "plugin_allowed": plugin_allowed(PLUGIN),
        "gpu": str(ctx.gpu),
        "target_gpu": ctx.gpu.is_target,
        "model": ctx.model.path if ctx.model else None,
        "plan": _plan(ctx),
        "formats": _formats(ctx.model),
        "chat": _chat(ctx),
        "patches": [_patch_report(outcome) for outcome in outcomes],
        "starts": _plugin_installed() and not any(o.stops_server for o in outcomes),
    }


def _chat(ctx: Context) -> list[str]:
    """Say which parsers the checkpoint gets where no flag names one."""
    if ctx.model is None or not ctx.model.is_gemma4:
        return []
    return describe_checkpoint(read_template(ctx.model.path), ctx.settings.chat_parsers)


def _formats(model: ModelInfo | None) -> dict[str, dict[str, int]]:
    """Count weights by layer class and format; empty where no local headers can be read."""
    folder = local_folder(model.path) if model else None
    if model is None or folder is None:
        return {}
    quantization = describe(model)
    formats = count_formats(read_headers(folder), quantization)
    if quantization.kv_cache is not None:
        formats["KV cache"] = {quantization.kv_cache.format.upper(): 1}
    return formats


def _patch_report(outcome: Outcome) -> dict[str, Any]:
    patch = outcome.patch
    return {
        "name": patch.name,
        "theme": patch.theme,
        "state": outcome.state.value,
        "reasons": list(outcome.reasons),
        "changed_upstream": changed_sources(patch),
        "required": patch.required,
        "summary": patch.summary,
        "why": patch.why,
        "upstream": patch.upstream,
        "retire_when": patch.retire_when,
        "hooks": [hook.target for hook in patch.hooks],
        "relies_on": [source.target for source in patch.relies_on],
    }


def render(data: dict[str, Any], everything: bool = False) -> str:
    """Render the report for a terminal; `everything` adds each patch with its reasons."""
    packages = ", ".join(f"{name} {version}" for name, version in data["packages"].items())
    lines = [
        f"sglang-gemma4-ext {data['sglang_gemma4_ext']}, Python {data['python']}",
        f"packages  {packages}",
        f"GPU       {data['gpu']}{'' if data['target_gpu'] else ' (not a target GPU)'}",
        f"plugin    {_plugin_words(data)}",
        f"model     {data['model'] or 'none given (--model-path): for this machine alone'}",
        *_plan_words(data),
        *_format_lines(data["formats"]),
        *(f"{'' if i else 'chat':<10}{line}" for i, line in enumerate(data["chat"])),
        "",
    ]
    if data["packages"]["sglang"] != data["verified_on_sglang"]:
        lines.insert(2, f"          made for SGLang {data['verified_on_sglang']}: see below")
    states = Counter(patch["state"] for patch in data["patches"])
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    lines.append(f"patches   {counted} (--all lists them)")
    for patch in data["patches"]:
        unused = sorted(set(patch["changed_upstream"]) - set(patch["reasons"]))
        quiet = patch["state"] in (State.APPLIED.value, State.STANDS_DOWN.value) and not unused
        if quiet and not everything:
            continue
        lines.append(f"{patch['state']:<12} {patch['theme']}/{patch['name']}: {patch['summary']}")
        lines += [f"{'':<13}{reason}" for reason in patch["reasons"]]
        lines += [f"{'':<13}it would not hold: {reason}" for reason in unused]
        if everything:
            lines.append(f"{'':<13}why: {patch['why']}")
            lines.append(f"{'':<13}upstream: {patch['upstream']}; until {patch['retire_when']}")
    lines += ["", "A server starts here." if data["starts"] else "A server refuses to start here."]
    return "\n".join(lines)


def _format_lines(formats: dict[str, dict[str, int]]) -> list[str]:
    """Render one line for each class of layers."""
    return [
        f"{'formats' if row == 0 else '':<10}{kind:<11}"
        + ", ".join(f"{words} x {count}" for words, count in counted.items())
        for row, (kind, counted) in enumerate(formats.items())
    ]


def _plan(ctx: Context) -> dict[str, Any] | None:
    """Return the plan of the model on this machine's GPU; None without a model or an NVIDIA GPU."""
    if ctx.model is None or not ctx.model.is_gemma4 or ctx.gpu.vendor != "nvidia":
        return None
    try:
        settings = ctx.settings
        question = question_of(
            *(CommandLine([]), ctx.model.path, ctx.gpu, gpu_memory().free, settings.swa_policy),
            own_attention=settings.attention != "sglang",
        )
        return to_json(question, search.fit(question))
    except (PlanError, CheckpointError) as error:
        return {"fits": None, "reason": str(error)}


def _plan_words(data: dict[str, Any]) -> list[str]:
    plan = data["plan"]
    if plan is None:
        return []
    if not plan["fits"]:
        nearest = f"; the nearest that fits: {plan['nearest']}" if plan.get("nearest") else ""
        return [f"plan      {plan['reason']}{nearest}"]
    longest = f"{plan['longest_request_tokens']:,} tokens"
    flags = " ".join(plan["flags"])
    return [f"plan      {plan['reason']}; longest request {longest}", f"          {flags}"]


def _plugin_words(data: dict[str, Any]) -> str:
    if not data["plugin_installed"]:
        return "not installed: SGLang will not see it (pip install sglang-gemma4-ext)"
    return "installed" if data["plugin_allowed"] else "installed, but SGLANG_PLUGINS leaves it out"


def _plugin_installed() -> bool:
    points = importlib.metadata.entry_points(group=PLUGIN_GROUP)
    return any(point.name == PLUGIN for point in points)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_gemma4_ext.doctor", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--all", action="store_true", help="list every patch, with its reasons")
    parser.add_argument("--model-path", help="a checkpoint: which patches it gets")
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="write a bug report's bundle")
    parser.add_argument("--log", type=Path, help="a server's log, whose end goes into the bundle")
    args = parser.parse_args(argv)
    if args.log is not None and args.bundle is None:
        parser.error("--log belongs to --bundle FILE: give both")
    if not sglang_version():
        print(f"{PREFIX}SGLang is not installed here", file=sys.stderr)
        return 1
    try:
        settings = Settings.from_env()
        if detect_gpu().vendor == "none":
            # As the launcher chooses on this machine.
            settings = replace(settings, cpu=True)
    except SettingsError as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        return 1
    model = _read_model(parser, args.model_path)
    warnings.simplefilter("ignore")
    from sglang_gemma4_ext.patches.series import PATCHES

    ctx = Context(settings, model, detect_gpu(), sglang_version())
    try:
        data = report(examine(PATCHES, ctx), ctx)
    except CheckpointError as error:
        print(f"{PREFIX}{error}", file=sys.stderr)
        return 1
    print(json.dumps(data, indent=2) if args.json else render(data, args.all))
    if args.bundle is not None:
        try:
            bundle.write(args.bundle, data, args.log, environment())
        except OSError as error:
            print(f"{PREFIX}no bundle: {error}", file=sys.stderr)
            return 1
    return 0 if data["starts"] else 1


def _read_model(parser: argparse.ArgumentParser, path: str | None) -> ModelInfo | None:
    if path is None:
        return None
    model = read_model_info(path)
    if model is None:
        parser.error(f"{path} has no readable config.json")
    return model


if __name__ == "__main__":
    raise SystemExit(pipes.run(main))
