# SPDX-License-Identifier: Apache-2.0
"""Describe patches as records, apply them, and verify that they hold.

A record names the functions of SGLang that a patch hooks, and the digest of the source that was
read. It also says why the patch exists and when it can be deleted. SGLang's HookRegistry hooks the
functions, but it logs and skips a hook that does not apply. Therefore `apply` checks every target
afterwards.

A required patch that does not hold stops the start: `HeldBackError` carries all such reasons at
once. An optional patch stops it if only some of its hooks hold, because a hook cannot be undone.
"""

from __future__ import annotations

import hashlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from sglang_gemma4_ext import PLUGIN
from sglang_gemma4_ext.context import Context

HookKind = Literal["before", "after", "around", "replace"]


class State(Enum):
    """Name the state of a patch in this process."""

    APPLIED = "applied"
    STANDS_DOWN = "stands down"
    DISABLED = "disabled"
    BROKEN = "broken"


@dataclass(frozen=True)
class Source:
    """Identify a function or class of SGLang and the source that we have read.

    digest: first 12 hexadecimal digits of the SHA-256 of its source text
    """

    target: str
    digest: str


@dataclass(frozen=True)
class Hook(Source):
    """Describe one function hooked through SGLang's HookRegistry, by that registry's rules."""

    kind: HookKind
    fn: Callable[..., Any]


@dataclass(frozen=True)
class Patch:
    """Describe one behaviour that differs from SGLang's.

    relies_on: upstream code that is not hooked, but whose change would make the patch wrong
    stands_down: returns a reason why this process does not need the patch, or None. Without a model
        in the context, as in the doctor, it judges the machine alone.
    retired: True once upstream behaves by itself; a test then asks for the file to be deleted
    every_model: whether our launcher applies it for models other than Gemma 4 too
    required: whether a patch that cannot be applied stops the server, or is reported and skipped
    """

    name: str
    theme: str
    summary: str
    why: str
    upstream: str
    retire_when: str
    retired: Callable[[], bool]
    hooks: tuple[Hook, ...] = ()
    relies_on: tuple[Source, ...] = ()
    stands_down: Callable[[Context], str | None] = lambda ctx: None
    required: bool = True
    every_model: bool = False

    @property
    def sources(self) -> tuple[Source, ...]:
        return (*self.hooks, *self.relies_on)


@dataclass(frozen=True)
class Outcome:
    """Hold the state of one patch in this process, and its reasons in words.

    partly_hooked: whether some hooks of a broken patch are in place
    """

    patch: Patch
    state: State
    reasons: tuple[str, ...] = field(default=())
    partly_hooked: bool = False

    @property
    def stops_server(self) -> bool:
        return self.state is State.BROKEN and (self.patch.required or self.partly_hooked)


class HeldBackError(RuntimeError):
    """Report required patches that do not hold; the message names each, and what to do."""

    def __init__(self, outcomes: Iterable[Outcome], sglang: str):
        broken = [outcome for outcome in outcomes if outcome.stops_server]
        names = ",".join(outcome.patch.name for outcome in broken)
        lines = [f"  {o.patch.name}: {reason}" for o in broken for reason in o.reasons]
        super().__init__(
            f"a server does not start half-patched. On SGLang {sglang} these patches do "
            "not hold:\n" + "\n".join(lines) + "\nInstall the SGLang that this release is made "
            f"for, or leave them out with --gemma4-ext-disable {names}"
        )


def resolve(target: str) -> Any:
    """Return the object of a dotted name; class attributes are not bound.

    Raises ImportError or AttributeError if it does not exist.
    """
    path, _, attribute = target.rpartition(".")
    owner = pkgutil.resolve_name(path)
    if isinstance(owner, type):
        for base in owner.__mro__:
            if attribute in base.__dict__:
                raw = base.__dict__[attribute]
                return raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
    return getattr(owner, attribute)


def digest_of(target: str) -> str:
    """Return the fingerprint of a target's own source, below any hooks. Raises as `resolve`."""
    found = inspect.unwrap(resolve(target))
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]


def changed_sources(patch: Patch) -> list[str]:
    """Write one sentence for each source of a patch that is gone or changed."""
    reasons = []
    for source in patch.sources:
        try:
            now = digest_of(source.target)
        except (ImportError, AttributeError):
            reasons.append(f"{source.target} is gone")
            continue
        except (OSError, TypeError):
            reasons.append(f"{source.target} has no source to compare")
            continue
        if now != source.digest:
            reasons.append(f"{source.target} changed upstream ({source.digest} -> {now})")
    return reasons


def decide(patches: Iterable[Patch], ctx: Context) -> list[Outcome]:
    """Decide which patches this process needs; APPLIED here means 'to be applied'."""
    outcomes = []
    for patch in patches:
        if patch.name in ctx.settings.disable:
            outcomes.append(Outcome(patch, State.DISABLED, ("by --gemma4-ext-disable",)))
        elif reason := patch.stands_down(ctx):
            outcomes.append(Outcome(patch, State.STANDS_DOWN, (reason,)))
        elif reasons := changed_sources(patch):
            outcomes.append(Outcome(patch, State.BROKEN, tuple(reasons)))
        else:
            outcomes.append(Outcome(patch, State.APPLIED))
    return outcomes


def apply(patches: Iterable[Patch], ctx: Context, *, strict: bool = True) -> list[Outcome]:
    """Apply the patches that this process needs, then verify each.

    Nothing is changed unless every required patch can be applied.
    Raises HeldBackError if a required patch does not hold, unless not `strict`.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry

    outcomes = register(patches, ctx, strict=strict)
    HookRegistry.apply_hooks()
    return verify(outcomes, ctx, strict=strict)


def register(patches: Iterable[Patch], ctx: Context, *, strict: bool = True) -> list[Outcome]:
    """Register the hooks of the needed patches with SGLang, which applies them later.

    Raises HeldBackError as `apply` does, with nothing registered.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

    source = HookSource(PLUGIN, "sglang-gemma4-ext")
    outcomes = _held(decide(patches, ctx), ctx, strict)
    for outcome in outcomes:
        if outcome.state is State.APPLIED:
            for hook in outcome.patch.hooks:
                HookRegistry.register(hook.target, hook.fn, HookType(hook.kind), source=source)
    return outcomes


def verify(outcomes: Iterable[Outcome], ctx: Context, *, strict: bool = True) -> list[Outcome]:
    """Check that each applied hook is in place. Raises HeldBackError as `apply` does."""
    checked = [_verified(o) if o.state is State.APPLIED else o for o in outcomes]
    return _held(checked, ctx, strict)


def _held(outcomes: list[Outcome], ctx: Context, strict: bool) -> list[Outcome]:
    if strict and any(outcome.stops_server for outcome in outcomes):
        raise HeldBackError(outcomes, ctx.sglang)
    return outcomes


def _verified(outcome: Outcome) -> Outcome:
    missing = tuple(
        f"{hook.target} could not be hooked (did another plugin hook it first?)"
        for hook in outcome.patch.hooks
        if not is_wrapped(resolve(hook.target), hook.fn)
    )
    if not missing:
        return outcome
    partly = len(missing) < len(outcome.patch.hooks)
    return Outcome(outcome.patch, State.BROKEN, missing, partly_hooked=partly)


def is_wrapped(found: Any, fn: Callable[..., Any]) -> bool:
    """Tell whether `fn` is one of the hooks that HookRegistry wrapped around `found`."""
    while found is not None:
        cells = getattr(found, "__closure__", None) or ()
        if any(cell.cell_contents is fn for cell in cells):
            return True
        found = getattr(found, "__wrapped__", None)
    return False
