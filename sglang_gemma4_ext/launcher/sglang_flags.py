# SPDX-License-Identifier: Apache-2.0
"""List SGLang's flags from its source files, without importing SGLang or torch.

SGLang declares a flag as an annotated field (`name: A[type, "help"]` or `A[type, Arg(...)]`) or as
a call of `parser.add_argument`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_gemma4_ext.launcher.source_values import Source, Unreadable, read_source

_CONVERT = {"int": int, "float": float}
_SWITCHES = ("store_true", "store_false")


@dataclass(frozen=True)
class Flag:
    """Describe one flag as argparse takes it.

    names: every spelling. nargs: as argparse's; 0 takes no value. negatable: `--no-NAME` too.
    convert: int or float where SGLang converts so. choices: None where the source does not tell.
    """

    names: tuple[str, ...]
    nargs: int | str | None = None
    negatable: bool = False
    convert: type[int] | type[float] | None = None
    choices: tuple[Any, ...] | None = None


@functools.cache
def read_flags() -> tuple[Flag, ...]:
    """Return the installed SGLang's flags; none where its source has another layout."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        return ()
    package = Path(spec.submodule_search_locations[0])
    root, srt = package.parent, package / "srt"
    try:
        fields = sorted((srt / "arg_groups" / "fields").glob("*.py"))
        declared = [flag for file in fields for flag in _fields(read_source(file, root))]
        return (*declared, *_calls(read_source(srt / "server_args.py", root)))
    except (OSError, SyntaxError):
        return ()


def _fields(source: Source) -> Iterator[Flag]:
    """Yield the flags of a file whose classes declare them as annotated fields."""
    for node in ast.walk(source.tree):
        match node:
            case ast.AnnAssign(
                target=ast.Name(id=name),
                annotation=ast.Subscript(
                    value=ast.Name(id="A"), slice=ast.Tuple(elts=[kind, *notes])
                ),
            ):
                keywords = _arg(notes)
                if keywords is not None and not _is_true(keywords.get("no_cli")):
                    yield _field(name, kind, keywords, source)


def _arg(notes: list[ast.expr]) -> dict[str, ast.expr] | None:
    """Return the keywords of the first `Arg(...)`, {} for a help text, None without either."""
    for note in notes:
        match note:
            case ast.Call(func=ast.Name(id="Arg"), keywords=keywords):
                return {keyword.arg: keyword.value for keyword in keywords if keyword.arg}
            case ast.Call():
                continue
            case _:
                return {}
    return None


def _field(name: str, kind: ast.expr, keywords: dict[str, ast.expr], source: Source) -> Flag:
    spelt = _value(keywords.get("cli_name"), source) or "--" + name.replace("_", "-")
    names = (spelt, *(_value(keywords.get("aliases"), source) or ()))
    if "action" in keywords:
        return _action(names, keywords, source, None)
    plain = "type_parser" not in keywords
    kind, literals, many = _unwrap(kind, source)
    choices = _value(keywords.get("choices"), source) if "choices" in keywords else literals
    if _named(kind, "bool") and literals is None and not many:
        return Flag(names, nargs=0)
    if many and plain:
        nargs = _value(keywords.get("nargs"), source) or "+"
    else:
        nargs = _value(keywords.get("nargs"), source)
    if literals and isinstance(literals[0], int):
        convert: Any = int
    else:
        convert = _CONVERT.get(kind.id) if isinstance(kind, ast.Name) else None
    return Flag(names, nargs, False, convert if plain else None, _choices(choices, plain))


def _unwrap(kind: ast.expr, source: Source) -> tuple[ast.expr, list[Any] | None, bool]:
    """Return (the type within Optional and List, values of a Literal, whether it is a List)."""
    literals, many = None, False
    while isinstance(kind, ast.Subscript):
        outer, inner = kind.value, kind.slice
        if _named(outer, "Optional"):
            kind = inner
        elif _named(outer, "List") or _named(outer, "list"):
            kind, many = inner, True
        elif _named(outer, "Literal"):
            values = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            literals = [_value(value, source) for value in values]
            break
        else:
            break
    return kind, literals, many


def _calls(source: Source) -> Iterator[Flag]:
    """Yield the flags that `ServerArgs.add_cli_args` registers by hand."""
    for scope in ast.walk(source.tree):
        if not isinstance(scope, ast.FunctionDef) or scope.name != "add_cli_args":
            continue
        for node in ast.walk(scope):
            match node:
                case ast.Call(func=ast.Attribute(attr="add_argument"), args=args):
                    names = tuple(_value(arg, source) for arg in args)
                    keywords = {key.arg: key.value for key in node.keywords if key.arg}
                    if "action" in keywords:
                        yield _action(names, keywords, source, scope)
                    else:
                        yield _plain(names, keywords, source, scope)


def _plain(
    names: tuple[str, ...],
    keywords: dict[str, ast.expr],
    source: Source,
    scope: ast.FunctionDef | None,
) -> Flag:
    kind = keywords.get("type")
    convert = _CONVERT.get(kind.id) if isinstance(kind, ast.Name) else None
    choices = _value(keywords.get("choices"), source, scope)
    plain = kind is None or _named(kind, "str") or convert is not None
    return Flag(
        names, _value(keywords.get("nargs"), source), False, convert, _choices(choices, plain)
    )


def _action(
    names: tuple[str, ...],
    keywords: dict[str, ast.expr],
    source: Source,
    scope: ast.FunctionDef | None,
) -> Flag:
    """Read a flag with an action of its own: a switch, or a class with its own `nargs`."""
    action = keywords["action"]
    if isinstance(action, ast.Attribute) and action.attr == "BooleanOptionalAction":
        return Flag(names, nargs=0, negatable=True)
    if _value(action, source) in _SWITCHES:
        return Flag(names, nargs=0)
    extra = keywords.get("action_kwargs")
    if isinstance(extra, ast.Dict):
        pairs = zip(extra.keys, extra.values, strict=True)
        keywords = keywords | {str(_value(key, source)): value for key, value in pairs}
    if "nargs" not in keywords and isinstance(action, ast.Name):
        keywords = keywords | {"nargs": _default_nargs(action.id, source)}
    return _plain(names, keywords, source, scope)


def _default_nargs(action: str, source: Source) -> ast.expr:
    """Return the default of `nargs` in the constructor of one of SGLang's action classes."""
    file = source.root / "sglang" / "srt" / "arg_groups" / "argparse_actions.py"
    for node in ast.walk(read_source(file, source.root).tree):
        if not isinstance(node, ast.ClassDef) or node.name != action:
            continue
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                with_default = method.args.args[-len(method.args.defaults) or None :]
                defaults = dict(
                    zip((a.arg for a in with_default), method.args.defaults, strict=False)
                )
                if "nargs" in defaults:
                    return defaults["nargs"]
    return ast.Constant(None)


def _value(node: ast.expr | None, source: Source, scope: ast.FunctionDef | None = None) -> Any:
    """Return an expression's value; None where it is missing or not told by the source."""
    try:
        return None if node is None else source.evaluate(node, scope)
    except Unreadable:
        return None


def _choices(values: Any, plain: bool) -> tuple[Any, ...] | None:
    return tuple(values) if plain and isinstance(values, list) else None


def _named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
