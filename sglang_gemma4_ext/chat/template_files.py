# SPDX-License-Identifier: Apache-2.0
"""Find the chat template that a checkpoint's server will use, before a tokenizer is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_template(
    path: str, revision: str | None = None, chat_template: str | None = None
) -> str | None:
    """Return the template's text; None without one, or for one built into SGLang.

    path: the folder or hub name of the tokenizer
    chat_template: the value of --chat-template, which takes precedence
    """
    if chat_template:
        return _text(Path(chat_template)) if Path(chat_template).is_file() else None
    if text := _text(_file(path, "chat_template.jinja", revision)):
        return text
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _named(_json(_file(path, name, revision)).get("chat_template"))
        if found is not None:
            return found
    return None


def _file(path: str, name: str, revision: str | None) -> Path | None:
    if Path(path).is_dir():
        return Path(path) / name
    from transformers.utils import cached_file

    found = cached_file(
        path,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _text(file: Path | None) -> str | None:
    try:
        return file.read_text(encoding="utf-8") if file is not None else None
    except (OSError, ValueError):
        return None


def _json(file: Path | None) -> dict[str, Any]:
    try:
        content = json.loads(_text(file) or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _named(template: Any) -> str | None:
    """Return a template, or the first of several named ones, as SGLang does."""
    if isinstance(template, list) and template and isinstance(template[0], dict):
        template = template[0].get("template")
    return template if isinstance(template, str) else None
