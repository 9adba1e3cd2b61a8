# SPDX-License-Identifier: Apache-2.0
"""Say whether another plugin of SGLang may have added a flag or a choice to SGLang's parser.

Plugins run when SGLang is imported. Before that, their source files tell which words they know.
"""

from __future__ import annotations

import functools
import re
from importlib.metadata import Distribution, entry_points
from pathlib import Path

from sglang_gemma4_ext import PLUGIN
from sglang_gemma4_ext.settings import CPU_PLATFORM, plugin_allowed


def may_add_flag(flag: str) -> bool:
    """Tell whether a plugin's source has a string that begins with this flag."""
    return re.search(rf"""["']{re.escape(flag)}""", _sources()) is not None


def may_add_choice(value: str) -> bool:
    """Tell whether a plugin's source has this string."""
    return re.search(rf"""(["']){re.escape(value)}\1""", _sources()) is not None


@functools.cache
def _sources() -> str:
    """Read the Python files of every other plugin and platform that SGLang would load."""
    points = [
        point
        for point in entry_points(group="sglang.srt.plugins")
        if point.name != PLUGIN and plugin_allowed(point.name)
    ]
    points += [p for p in entry_points(group="sglang.srt.platforms") if p.name != CPU_PLATFORM]
    owners = {point.dist.name: point.dist for point in points if point.dist is not None}
    return "\n".join(_source(owner) for owner in owners.values())


def _source(owner: Distribution) -> str:
    paths = [Path(str(owner.locate_file(file))) for file in owner.files or ()]
    found = [path for path in paths if path.suffix == ".py" and path.is_file()]
    return "\n".join(path.read_text(errors="replace") for path in found)
