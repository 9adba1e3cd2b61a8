# SPDX-License-Identifier: Apache-2.0
"""Test the patch registry with a stand-in module, hooked through SGLang's real HookRegistry.

Each test of `apply` runs in a process of its own, because HookRegistry cannot undo a hook.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

TARGET = """
def double(x):
    return 2 * x


class Holder:
    @classmethod
    def make(cls, x):
        return x + 1

    def method(self, x):
        return x


class Child(Holder):
    pass
"""

PRELUDE = """
import target
from sglang_gemma4_ext.context import Context
from sglang_gemma4_ext.registry import *
from sglang_gemma4_ext.settings import Settings


def around(original, *args, **kwargs):
    return 10 * original(*args, **kwargs)


def patch(name="p", *, target="target.double", digest=None, fn=around, kind="around", **kw):
    digest = digest_of(target) if digest is None else digest
    return Patch(name=name, theme="t", summary="", why="", upstream="", retire_when="",
                 retired=lambda: False, hooks=(Hook(target, digest, kind, fn),), **kw)


ctx = Context(Settings(), sglang="0.5.23")
"""


# One interpreter imports SGLang; each piece of code runs in a fork of it.
FORKING = """
import io, json, os, sys, traceback
import sglang.srt.plugins.hook_registry
import sglang_gemma4_ext.doctor
exec(sys.argv[1])
for line in sys.stdin:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        sys.stdout, status = io.StringIO(), 0
        try:
            exec(json.loads(line))
        except BaseException:
            sys.stdout, status = io.StringIO(traceback.format_exc()), 1
        with os.fdopen(writer, "w") as pipe:
            json.dump([status, sys.stdout.getvalue()], pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        print(pipe.read(), flush=True)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "target.py").write_text(TARGET)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKING, PRELUDE],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture
def run(interpreter: subprocess.Popen[str]):
    """run(code): execute it beside the stand-in module and return the printed lines."""

    def run_code(code: str) -> list[str]:
        interpreter.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        interpreter.stdin.flush()
        status, said = json.loads(interpreter.stdout.readline())
        assert status == 0, said
        return said.split("\n")[:-1]

    return run_code


def test_a_patch_is_applied_and_verified(run):
    lines = run("""
        (outcome,) = apply([patch()], ctx)
        print(outcome.state.name, target.double(1))
        print(is_wrapped(resolve("target.double"), around), digest_of("target.double") ==
              patch(digest="x" * 12).hooks[0].digest)
    """)
    assert lines == ["APPLIED 20", "True False"]


def test_classmethods_and_inherited_methods_resolve_to_their_functions(run):
    lines = run("""
        outcomes = apply([patch("a", target="target.Holder.make"),
                          patch("b", target="target.Holder.method")], ctx)
        print([o.state.name for o in outcomes], target.Holder.make(1), target.Child().method(2))
    """)
    assert lines == ["['APPLIED', 'APPLIED'] 20 20"]


def test_a_refusal_names_every_reason_and_leaves_everything_unpatched(run):
    lines = run("""
        patches = [patch("sound"), patch("moved", target="target.gone", digest="0" * 12),
                   patch("changed", target="target.Holder.method", digest="0" * 12)]
        try:
            apply(patches, ctx)
        except HeldBackError as error:
            print(str(error).replace("\\n", "|"))
        print(target.double(1))
    """)
    message, value = lines
    assert "moved: target.gone is gone" in message
    assert "changed: target.Holder.method changed upstream (000000000000 -> " in message
    assert "--gemma4-ext-disable moved,changed" in message
    assert "sound" not in message
    assert value == "2"


def test_an_optional_patch_that_does_not_hold_is_skipped(run):
    lines = run("""
        outcomes = apply([patch("optional", digest="0" * 12, required=False),
                          patch("sound", target="target.Holder.method")], ctx)
        print([o.state.name for o in outcomes], target.double(1), target.Holder().method(1))
    """)
    assert lines == ["['BROKEN', 'APPLIED'] 2 10"]


def test_a_hook_that_hookregistry_dropped_is_reported(run):
    """HookRegistry silently drops our hook if another plugin hooked the target first."""
    lines = run("""
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType
        ours = patch()
        HookRegistry.register("target.double", lambda original, x: original(x), HookType.AROUND)
        HookRegistry.apply_hooks()
        try:
            apply([ours], ctx)
        except HeldBackError as error:
            print("could not be hooked" in str(error))
    """)
    assert lines == ["True"]


def test_an_optional_patch_with_one_hook_missing_stops_the_server(run):
    """Stop when another plugin took one of two targets: our hook of the other cannot be undone."""
    lines = run("""
        from dataclasses import replace
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType
        HookRegistry.register("target.double", lambda original, x: original(x), HookType.AROUND)
        HookRegistry.apply_hooks()
        taken = patch("halves", required=False)
        free = patch(target="target.Holder.method").hooks
        try:
            apply([taken, patch("sound", target="target.Holder.make")], ctx)
            print("all of an optional patch is skipped")
            apply([replace(taken, hooks=taken.hooks + free)], ctx)
        except HeldBackError as error:
            print("halves: target.double could not be hooked" in str(error))
    """)
    assert lines == ["all of an optional patch is skipped", "True"]


def test_disabled_patches_and_those_that_stand_down_change_nothing(run):
    lines = run("""
        ctx = Context(Settings(disable=frozenset({"a"})), sglang="0.5.23")
        outcomes = apply([patch("a"), patch("b", stands_down=lambda ctx: "not here")], ctx)
        print([(o.state.name, o.reasons) for o in outcomes], target.double(1))
    """)
    assert lines == [
        "[('DISABLED', ('by --gemma4-ext-disable',)), ('STANDS_DOWN', ('not here',))] 2"
    ]


def test_a_change_of_a_function_that_a_patch_relies_on_breaks_the_patch(run):
    lines = run("""
        relied = patch(relies_on=(Source("target.Holder.method", "0" * 12),))
        (outcome,) = decide([relied], ctx)
        print(outcome.state.name, outcome.reasons[0].startswith("target.Holder.method changed"))
    """)
    assert lines == ["BROKEN True"]


def test_the_doctor_names_what_changed_for_a_patch_that_stands_down(run):
    lines = run("""
        from sglang_gemma4_ext.doctor import examine, render, report
        down = patch(digest="0" * 12, stands_down=lambda ctx: "not here")
        data = report(examine([down], ctx), ctx)
        print(data["patches"][0]["state"], data["patches"][0]["reasons"])
        print(*[line.strip() for line in render(data).splitlines() if "target." in line])
    """)
    assert lines[0] == "stands down ['not here']"
    assert lines[1].startswith("it would not hold: target.double changed upstream (000000000000 ->")


def test_the_doctor_is_short_unless_all_is_asked_for(run):
    lines = run("""
        from sglang_gemma4_ext.doctor import examine, render, report
        sound, off = patch("sound"), patch("broken", target="target.triple", digest="0" * 12)
        data = report(examine([sound, off], ctx), ctx)
        for everything in (False, True):
            text = render(data, everything)
            print("t/sound" in text, "t/broken" in text, "why:" in text)
    """)
    assert lines == ["False True False", "True True True"]
