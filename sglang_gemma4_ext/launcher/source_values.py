# SPDX-License-Identifier: Apache-2.0
"""Read constants out of Python source files without importing them.

Covers what a list of choices is written with: literals, names, imports, `+`, `set(...)` and calls
of functions without arguments. Everything else raises Unreadable.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

_COPIES = ("list", "tuple", "set", "frozenset", "sorted")


class Unreadable(ValueError):
    """Reject an expression whose value the source alone does not tell."""


class Source:
    """Parse a module and evaluate its constants.

    root: the folder that holds the top-level package.
    """

    def __init__(self, file: Path, root: Path):
        self.file, self.root = file, root
        self.tree = ast.parse(file.read_bytes())

    def evaluate(self, node: ast.expr, scope: ast.FunctionDef | None = None) -> Any:
        """Return the value of an expression; sequences and sets become lists. Raises Unreadable.

        scope: the function that the expression stands in.
        """
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [value for item in items for value in self._items(item, scope)]
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return [*self._list(left, scope), *self._list(right, scope)]
            case ast.Name(id=name):
                return self._name(name, scope)
            case ast.Call(func=ast.Name(id=name), args=[argument]) if name in _COPIES:
                return self._list(argument, scope)
            case ast.Call(func=ast.Name(id=name), args=[], keywords=[]):
                return self._call(name)
        raise Unreadable(ast.unparse(node))

    def _items(self, node: ast.expr, scope: ast.FunctionDef | None) -> list[Any]:
        if isinstance(node, ast.Starred):
            return self._list(node.value, scope)
        return [self.evaluate(node, scope)]

    def _list(self, node: ast.expr, scope: ast.FunctionDef | None) -> list[Any]:
        value = self.evaluate(node, scope)
        if not isinstance(value, list):
            raise Unreadable(ast.unparse(node))
        return value

    def _name(self, name: str, scope: ast.FunctionDef | None) -> Any:
        for within in (scope, self.tree):
            if within is None:
                continue
            if _is_changed(name, within):
                raise Unreadable(f"{name} is changed in place")
            for statement in within.body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                        return self.evaluate(value, scope)
                    case ast.ImportFrom(module=str(module), names=names, level=0):
                        for imported in names:
                            if (imported.asname or imported.name) == name:
                                return self._imported(module, imported.name)
        raise Unreadable(name)

    def _imported(self, module: str, name: str) -> Any:
        file = self.root.joinpath(*module.split(".")).with_suffix(".py")
        if not file.is_file():
            raise Unreadable(f"{module}.{name}")
        return read_source(file, self.root)._name(name, None)

    def _call(self, name: str) -> Any:
        """Return what a function without arguments returns in its last statement."""
        for statement in self.tree.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                last = statement.body[-1]
                if isinstance(last, ast.Return) and last.value is not None:
                    return self.evaluate(last.value, statement)
        raise Unreadable(f"{name}()")


@functools.cache
def read_source(file: Path, root: Path) -> Source:
    """Parse a module once. Raises OSError or SyntaxError."""
    return Source(file, root)


def _is_changed(name: str, within: ast.Module | ast.FunctionDef) -> bool:
    """Tell whether a function changes the named collection; a module's adders are for plugins."""
    if isinstance(within, ast.Module):
        return False
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == name
        for node in ast.walk(within)
    )
