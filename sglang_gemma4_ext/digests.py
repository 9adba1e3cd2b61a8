# SPDX-License-Identifier: Apache-2.0
"""Print the SGLang sources that differ from the patches' records, or record them after review.

python -m sglang_gemma4_ext.digests                     # list the differences
python -m sglang_gemma4_ext.digests --write             # record the installed source
python -m sglang_gemma4_ext.digests --write swa_policy  # for these patches only
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

from sglang_gemma4_ext import pipes
from sglang_gemma4_ext.registry import Patch, digest_of


def rewrite(path: Path, patch: Patch) -> int:
    """Write the installed SGLang's digests into a patch's module; return how many changed.

    The file lists the records in the order of `patch.sources`.
    Raises SystemExit if the file has another number of records.
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
    if changed:
        path.write_text("".join(lines))
        _format(path)
    return changed


def _format(path: Path) -> None:
    """Format a module with ruff, because a digest may make its line too long."""
    try:
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(path)], check=True)
    except subprocess.CalledProcessError:
        print(f"{path} is not formatted: install ruff, then run make format", file=sys.stderr)


def differences(patch: Patch) -> dict[str, str]:
    """Map each target that differs from its record to the installed digest, or to "gone"."""
    found = {}
    for source in patch.sources:
        try:
            now = digest_of(source.target)
        except (ImportError, AttributeError):
            now = "gone"
        if now != source.digest:
            found[source.target] = f"{source.digest or 'unrecorded'} -> {now}"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--write",
        nargs="*",
        metavar="PATCH",
        help="record the installed source as reviewed, for these patches or for all",
    )
    args = parser.parse_args()
    from sglang_gemma4_ext.patches.series import PATCHES

    names = {patch.name for patch in PATCHES}
    if unknown := sorted(set(args.write or ()) - names):
        parser.error(f"no such patch: {', '.join(unknown)}")
    chosen = set() if args.write is None else set(args.write) or names
    left = 0
    for patch in PATCHES:
        found = differences(patch)
        for target, change in found.items():
            print(f"{patch.name}: {target} {change}")
        gone = any(change.endswith("gone") for change in found.values())
        if patch.name in chosen and not gone:
            module = sys.modules[f"sglang_gemma4_ext.patches.{patch.theme}.{patch.name}"]
            rewrite(Path(str(module.__file__)).resolve(), patch)
        elif found:
            left += 1
            if patch.name in chosen:
                print(f"{patch.name} is not recorded: mend or delete what hooks or relies on it")
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(pipes.run(main))
