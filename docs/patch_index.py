# SPDX-License-Identifier: Apache-2.0
"""Generate docs/patches.md from the patch records: `python -m docs.patch_index --write`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from sglang_gemma4_ext.patches.series import PATCHES
from sglang_gemma4_ext.registry import Patch

ROOT = Path(__file__).resolve().parents[1]
INDEX = Path(__file__).with_name("patches.md")
HEAD = """# Patches

Each record below changes one behaviour of SGLang. This page is generated from the records by
`python -m docs.patch_index --write`; a test fails when the two differ.
`python -m sglang_gemma4_ext.doctor --all` prints the state of each patch on this machine.
`--gemma4-ext-disable NAME` leaves one out.
"""


def index(patches: Iterable[Patch] = PATCHES) -> str:
    """Render the page: one section a theme, patches in the order of the series."""
    by_theme: dict[str, list[Patch]] = {}
    for patch in patches:
        by_theme.setdefault(patch.theme, []).append(patch)
    sections = [_section(theme, members) for theme, members in sorted(by_theme.items())]
    return "\n".join([HEAD, *sections])


def _section(theme: str, patches: list[Patch]) -> str:
    return "\n".join([f"## {theme}\n", *(_entry(patch) for patch in patches)])


def _entry(patch: Patch) -> str:
    test = f"tests/patches/{patch.theme}/test_{patch.name}.py"
    hooks = ", ".join(f"`{hook.target.removeprefix('sglang.')}`" for hook in patch.hooks)
    return "\n".join(
        (
            f"### {patch.name}\n",
            f"{patch.summary}.\n",
            f"- Why: {patch.why}",
            f"- Upstream: {patch.upstream}",
            f"- Retired when: {patch.retire_when}",
            f"- If it does not hold: {'the server stops' if patch.required else 'it is skipped'}",
            f"- Hooks: {hooks}",
            f"- Code: [patch](../patches/{patch.theme}/{patch.name}.py), [test](../{test})\n",
        )
    )


def main() -> int:
    """Write the page, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {INDEX.name}")
    if parser.parse_args().write:
        INDEX.write_text(index())
    else:
        print(index(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
