# SPDX-License-Identifier: Apache-2.0
"""Choose the parsers of a server's answers, and say why in the summary and doctor."""

from __future__ import annotations

from sglang_gemma4_ext.chat.template import OUTDATED, declares_tools, is_outdated

PARSER = "gemma4"
SWITCH = "--gemma4-chat-parsers off"


def default_parser(template: str | None, setting: str) -> tuple[str | None, str]:
    """Return the parser that a checkpoint gets where no flag names one, and the reason.

    template: the checkpoint's chat template. setting: --gemma4-chat-parsers, `auto` or `off`.
    """
    if setting == "off":
        return None, SWITCH
    if template is None:
        return None, "no chat template was found"
    if not declares_tools(template):
        return None, "the chat template declares no tools"
    return PARSER, f"the chat template declares tools; {SWITCH} turns it off"


def describe(calls: tuple[str | None, str], thoughts: tuple[str | None, str]) -> str:
    """Say who reads tool calls and who reads thoughts; each is a parser, or None, and a reason."""
    if calls == thoughts:
        return f"tool calls and thoughts {_read(*calls)}"
    return f"tool calls {_read(*calls)}, thoughts {_read(*thoughts)}"


def describe_checkpoint(template: str | None, setting: str) -> list[str]:
    """Say, without a server, what a checkpoint gets and what is wrong with its template."""
    chosen = default_parser(template, setting)
    lines = [describe(chosen, chosen)]
    if is_outdated(template):
        lines.append(OUTDATED)
    return lines


def _read(parser: str | None, why: str) -> str:
    return f"{f'parsed by {parser}' if parser else 'left in the text'} ({why})"
