# SPDX-License-Identifier: Apache-2.0
"""Check that the lock is consistent and installed, and that our code trusts no remote code.

The tests need no network. They cannot check that a file equals the published one, because the lock
has versions and no hashes.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCKED = {
    canonicalize_name(name): version for name, _, version in (x.partition("==") for x in LINES)
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = canonicalize_name(PROJECT["name"])


def test_each_line_is_one_version_of_one_package_and_nothing_else():
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []
    assert len(LOCKED) == len(LINES)


def test_installed_versions_equal_the_lock():
    differing = {
        name: (version, metadata.version(name))
        for name, version in LOCKED.items()
        if name != "pip" and metadata.version(name) != version
    }
    assert not differing
    # Not sys.path: setuptools adds its bundled packages there.
    found = metadata.distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonicalize_name(distribution.metadata["Name"]) for distribution in found}
    assert installed - set(LOCKED) <= {OURS, "pip", "uv", "setuptools"}


def own(extras: frozenset[str]) -> list[str]:
    optional = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(text for extra in extras for text in optional[extra])]


def wanted() -> dict[str, list[tuple[str, Requirement]]]:
    """Map each package to its requirers and their requirements, from ours with the `test` extra."""
    asked: dict[str, list[tuple[str, Requirement]]] = {}
    todo = [(OURS, frozenset({"test"}))]
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in own(extras) if name == OURS else metadata.requires(name) or ():
            need = Requirement(text)
            environments = ({"extra": extra} for extra in extras or {""})
            if need.marker and not any(map(need.marker.evaluate, environments)):
                continue
            key = canonicalize_name(need.name)
            asked.setdefault(key, []).append((name, need))
            todo.append((key, frozenset(need.extras)))
    return asked


def test_each_requirement_is_locked_at_a_version_that_satisfies_all():
    asked = wanted()
    assert len(asked) > 200
    assert sorted(set(asked) - set(LOCKED) - {OURS}) == []
    refused = [
        f"{who} wants {need}, locked is {LOCKED[name]}"
        for name, needs in asked.items()
        for who, need in needs
        if name != OURS and not need.specifier.contains(LOCKED[name], prereleases=True)
    ]
    assert refused == []


def test_every_locked_package_is_required():
    assert set(LOCKED) - set(wanted()) <= {"pip", "setuptools"}


def test_the_pin_of_sglang_is_the_same_in_all_three_places():
    from sglang_gemma4_ext import VERIFIED_SGLANG

    major, minor, patch = VERIFIED_SGLANG.split(".")
    users = f"sglang>={VERIFIED_SGLANG},<{major}.{minor}.{int(patch) + 1}"
    assert PROJECT["dependencies"] == [users]
    assert LOCKED["sglang"] == VERIFIED_SGLANG


def calls(folder: str) -> list[tuple[Path, ast.Call]]:
    return [
        (path, node)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_our_code_never_trusts_remote_code_or_unpickles():
    found = [
        x for folder in ("sglang_gemma4_ext", "patches", "kernels", "bench") for x in calls(folder)
    ]
    assert len(found) > 1000
    for path, call in found:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        function = ast.unparse(call.func)
        assert "trust_remote_code" not in given, path
        assert function != "torch.load" or given.get("weights_only") == "True", path
        assert not re.match(
            r"(pickle|dill|cloudpickle|joblib)\.|(eval|exec|yaml\.load)$", function
        ), path
