# SPDX-License-Identifier: Apache-2.0
"""Print, or record after review, the fingerprints of the SGLang source that patches rely on.

python -m sglang_gemma4_ext.digests           # what differs from the installed SGLang
python -m sglang_gemma4_ext.digests --write   # record the installed SGLang as the one reviewed
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

from sglang_gemma4_ext.registry import Patch, digest_of


def rewrite(path: Path, patch: Patch) -> int:
    """Replace the digests in a patch's module by those of the installed SGLang; how many changed.

    The records stand in the file in the order of `patch.sources`.
    """
    text = path.read_text()
    calls = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Hook", "Source")
    ]
    literals = sorted(
        (call.args[1] for call in calls), key=lambda node: (node.lineno, node.col_offset)
    )
    if len(literals) != len(patch.sources):
        raise SystemExit(f"{path}: {len(literals)} records for {len(patch.sources)} sources")
    lines = text.splitlines(keepends=True)
    changed = 0
    for node, source in reversed(list(zip(literals, patch.sources, strict=True))):
        new = digest_of(source.target)
        if new == source.digest:
            continue
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = f'{line[: node.col_offset]}"{new}"{line[node.end_col_offset :]}'
        changed += 1
    path.write_text("".join(lines))
    return changed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="record the installed source")
    args = parser.parse_args()
    from sglang_gemma4_ext.patches.series import PATCHES

    stale = 0
    for patch in PATCHES:
        for source in patch.sources:
            try:
                now = digest_of(source.target)
            except (ImportError, AttributeError):
                now = "gone"
            if now != source.digest:
                stale += 1
                print(f"{patch.name}: {source.target} {source.digest or 'unrecorded'} -> {now}")
        if args.write:
            module = sys.modules[f"sglang_gemma4_ext.patches.{patch.name}"]
            rewrite(Path(module.__file__).resolve(), patch)
    return 0 if args.write or not stale else 1


if __name__ == "__main__":
    raise SystemExit(main())
