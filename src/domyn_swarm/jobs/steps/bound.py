"""The statements of a module that make the values of its names: assignments to them, and calls that change them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_APART = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def statements_of(module: ast.Module) -> dict[str, list[ast.stmt]]:
    """The statements by the names whose values they make, those in blocks of `if`, `with` and the like included."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in _statements(module):
        for name in {name for target in _targets(statement) for name in _roots(target)}:
            found.setdefault(name, []).append(statement)
    return found


def _statements(block: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(block):
        if isinstance(child, _APART):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _targets(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign, ast.For)):
        return [statement.target]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return [statement.value.func]
    return []


def _roots(target: ast.expr) -> Iterator[str]:
    """The names that `target` begins with: X of X, X.field, X[0] and X.add(...)."""
    if isinstance(target, (ast.Tuple, ast.List)):
        for one in target.elts:
            yield from _roots(one)
    elif isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)):
        yield from _roots(target.value)
    elif isinstance(target, ast.Call):
        yield from _roots(target.func)
    elif isinstance(target, ast.Name):
        yield target.id
