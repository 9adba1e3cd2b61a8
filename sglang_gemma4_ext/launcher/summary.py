# SPDX-License-Identifier: Apache-2.0
"""Tell the user what runs: a summary, then the address and a request when ready."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sglang_gemma4_ext import __version__, shutdown
from sglang_gemma4_ext.chat.parsers import default_parser, describe
from sglang_gemma4_ext.chat.template_files import read_template
from sglang_gemma4_ext.checkpoint.model_family import (
    MULTIMODAL_ARCHITECTURES,
    read_model_info,
)
from sglang_gemma4_ext.checkpoint.quantization import describe as describe_quantization
from sglang_gemma4_ext.context import sglang_version
from sglang_gemma4_ext.launcher.memory_summary import describe_memory
from sglang_gemma4_ext.launcher.root_page import chat_page_command, describe_at_root
from sglang_gemma4_ext.machine import detect_gpu
from sglang_gemma4_ext.registry import Outcome, State
from sglang_gemma4_ext.settings import Settings

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def summarize(server_args: Any) -> str:
    """Summarize what runs where, and the reasons. `server_args` are resolved."""
    from sglang.srt.arg_groups.overrides import resolving_view

    from sglang_gemma4_ext import plugin

    cfg, settings = resolving_view(server_args), Settings.from_env()
    lines = [
        f"sglang-gemma4-ext {__version__} on SGLang {sglang_version()}",
        f"  model      {describe_model(cfg.model_path, cfg.revision, cfg.enable_multimodal)}",
        f"  device     {describe_device(settings, cfg)}",
        *_memory(cfg, settings),
        *_chat(server_args, cfg, settings),
        *describe_patches(plugin.outcomes()),
    ]
    return "\n".join(lines)


def describe_model(path: str, revision: str | None, multimodal: bool | None) -> str:
    """Describe a checkpoint in one line: class, experts, quantization and modalities."""
    model = read_model_info(path, revision)
    if model is None or not model.is_gemma4:
        return f"{path}: not a Gemma 4, served as plain SGLang would"
    kind = f"{model.text.get('num_experts')} experts" if model.is_moe else "dense"
    parts = [model.architecture, kind]
    if quantization := describe_quantization(model).label:
        parts.append(quantization)
    if model.architecture in MULTIMODAL_ARCHITECTURES:
        parts.append(
            "multimodal" if multimodal else "text-only (--enable-multimodal for images and audio)"
        )
    return f"{path}: {', '.join(parts)}"


def _memory(cfg: Any, settings: Settings) -> list[str]:
    model = read_model_info(cfg.model_path, cfg.revision)
    if model is None or not model.is_gemma4:
        return []
    first, *more = describe_memory(cfg, settings.cpu, _made_tokens())
    return [f"  memory     {first}", *(f"             {line}" for line in more)]


def _made_tokens() -> int | None:
    """Return the size of the KV pools as the schedulers reported it; None before that."""
    from sglang.srt.entrypoints import http_server

    state = getattr(http_server, "_global_state", None)
    return state.scheduler_info.get("max_total_num_tokens") if state else None


def _chat(server_args: Any, cfg: Any, settings: Settings) -> list[str]:
    model = read_model_info(cfg.model_path, cfg.revision)
    if model is None or not model.is_gemma4:
        return []
    return [f"  chat       {describe_chat(server_args, cfg, settings)}"]


def describe_chat(server_args: Any, cfg: Any, settings: Settings) -> str:
    """Say which parsers read the answers, and why. server_args: the user's; cfg: resolved."""
    path = cfg.tokenizer_path or cfg.model_path
    template = read_template(path, cfg.revision, cfg.chat_template)
    _, why = default_parser(template, settings.chat_parsers)
    calls, thoughts = (
        (getattr(cfg, flag), f"by --{flag.replace('_', '-')}")
        if getattr(server_args, flag)
        else (getattr(cfg, flag), why)
        for flag in ("tool_call_parser", "reasoning_parser")
    )
    return describe(calls, thoughts)


def describe_device(settings: Settings, cfg: Any) -> str:
    if settings.cpu:
        how = (
            "PyTorch" if settings.cpu_attention == "torch_native" else "Triton's interpreter (slow)"
        )
        return f"CPU, for no CUDA device was found{_hidden_gpu()}; attention in {how}"
    return f"{detect_gpu()}; attention {cfg.attention_backend}"


def _hidden_gpu() -> str:
    """Advise what to check where an NVIDIA driver is loaded but PyTorch sees no GPU."""
    if not NVIDIA_DRIVER.exists():
        return ""
    return (
        " (an NVIDIA driver is: see CUDA_VISIBLE_DEVICES, and "
        "python -c 'import torch; torch.cuda.init()' for the reason)"
    )


def describe_patches(outcomes: Iterable[Outcome]) -> list[str]:
    """List patches that are on, patches this model does not need, and the others with reasons."""
    outcomes = list(outcomes)
    names = {
        state: ", ".join(outcome.patch.name for outcome in outcomes if outcome.state is state)
        for state in State
    }
    lines = [f"  patches    {names[State.APPLIED] or 'none'}"]
    if names[State.STANDS_DOWN]:
        lines.append(f"  not needed {names[State.STANDS_DOWN]}")
    for outcome in outcomes:
        if outcome.state in (State.DISABLED, State.BROKEN):
            lines.append(f"  left out   {outcome.patch.name}: {'; '.join(outcome.reasons)}")
    return lines


def announce_when_ready(server_args: Any, *args: Any, **kwargs: Any):
    """Make http_server.launch_server call back once warm-up is over (BEFORE)."""
    theirs = kwargs.get("launch_callback")

    def ready() -> None:
        shutdown.started()
        said = f"{summarize(server_args)}\n{example_request(server_args)}"
        print(said, file=sys.stderr, flush=True)
        _describe_at_root(server_args.url())
        if theirs is not None:
            theirs()

    return (server_args, *args), {**kwargs, "launch_callback": ready}


def _describe_at_root(url: str) -> None:
    from sglang.srt.entrypoints.http_server import app

    describe_at_root(app, url)


def example_request(server_args: Any) -> str:
    """Return the server's address and a request to paste: a chat if there is a chat template."""
    from sglang.srt.arg_groups.overrides import resolving_view

    cfg = resolving_view(server_args)
    url = server_args.url()
    body: dict[str, Any] = {"model": cfg.served_model_name, "max_tokens": 64}
    if _has_chat_template(cfg):
        route = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": "Who are you?"}]
    else:
        route = "/v1/completions"
        body["prompt"] = "Once upon a time"
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if cfg.api_key else ""
    return (
        f"\nReady: {url}  (OpenAI API at {url}/v1). Try:\n"
        f"  curl {url}{route}{key} -H 'Content-Type: application/json' \\\n"
        f"    -d {shlex.quote(json.dumps(body))}\n"
        f"Chat page: {chat_page_command(url)}\n"
    )


def _has_chat_template(cfg: Any) -> bool:
    if cfg.chat_template:
        return True
    from sglang.srt.entrypoints.http_server import get_global_state

    return get_global_state().template_manager.jinja_template_content_format is not None and (
        getattr(get_global_state().tokenizer_manager.tokenizer, "chat_template", None) is not None
    )
