# SPDX-License-Identifier: Apache-2.0
"""Parse the tool calls and thoughts of a Gemma 4 chat without a flag.

SGLang leaves both as markup in the text unless --tool-call-parser and --reasoning-parser are given.
Here each parser that is not given becomes `gemma4` where the chat template declares tools.
"""

from __future__ import annotations

import inspect
from typing import Any

from sglang_gemma4_ext.chat.parsers import SWITCH, default_parser
from sglang_gemma4_ext.chat.template_files import read_template
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import Hook, Patch, Source
from sglang_gemma4_ext.settings import Settings

# Runs once the model's path is final; platforms set their defaults there.
DEFAULTS = "sglang.srt.arg_groups.platform_hook.handle_platform_defaults"
DETECTION = "sglang.srt.parser.template_detection"
FLAGS = ("tool_call_parser", "reasoning_parser")


def _choose(server_args: Any) -> None:
    """BEFORE handle_platform_defaults: choose each parser that the user left out."""
    from sglang.srt.arg_groups.overrides import declare_resolution, resolving_view

    setting = Settings.from_env().chat_parsers
    cfg = resolving_view(server_args)
    missing = [flag for flag in FLAGS if getattr(cfg, flag) is None]
    if not missing or setting == "off":
        return
    path = cfg.tokenizer_path or cfg.model_path
    parser, _ = default_parser(read_template(path, cfg.revision, cfg.chat_template), setting)
    if parser:
        declare_resolution(
            server_args, "gemma4_ext.parsers_by_default", **dict.fromkeys(missing, parser)
        )


def _stands_down(ctx: Context) -> str | None:
    return f"by {SWITCH}" if ctx.settings.chat_parsers == "off" else None


def _retired() -> bool:
    from sglang.srt.parser import template_detection

    source = inspect.getsource(inspect.unwrap(template_detection._architecture_parser_defaults))
    return "Gemma4" in source


PATCH = Patch(
    name="parsers_by_default",
    theme="chat",
    summary="Tool calls and thoughts are parsed without a flag (--gemma4-chat-parsers)",
    why="SGLang parses neither unless two flags are given; a client's tools then never run, and "
    "their calls and the thoughts arrive as markup in the text",
    upstream="unreported",
    retire_when="SGLang's parser defaults of an architecture name Gemma 4",
    retired=_retired,
    stands_down=_stands_down,
    hooks=(Hook(DEFAULTS, "e3b7d43576cd", "before", _choose),),
    relies_on=(Source(f"{DETECTION}._architecture_parser_defaults", "369df0ad2203"),),
)
