"""What a step does, as a digest: its code and what it uses of its own module.

The code is taken from its source, so comments, formatting and docstrings do not count, and neither does the version of
Python. What other modules do is not part of it.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import re
import textwrap
import types
from functools import cached_property
from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.steps.bound import statements_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from domyn_swarm.jobs.steps.step import Step

_OF_ANY_MODULE = frozenset(
    {"__name__", "__file__", "__package__", "__spec__", "__loader__", "__cached__", "__builtins__"}
)
"""What a module has from where it was loaded. Bodies of classes look its name up."""
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def step_digest(step: Step, module: types.ModuleType) -> str:
    """Identifies what `step` does, which `module` defines."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{step.name}\0".encode())  # one function may make several steps
    used = _Used(module)
    for source in step.sources or (step.call,):
        for text in used.definition(inspect.unwrap(source)):
            digest.update(text.encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
    return digest.hexdigest()


class _Used:
    """The code and the values of `module` that a definition uses, as texts; each name once."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._seen: set[str] = set()
        self._inside: set[int] = set()  # ids of what is being read: it may contain itself
        self._has_opaque = False

    def definition(self, definition: Callable[..., Any] | type) -> Iterator[str]:
        """The code of a function or class, then of all that it uses."""
        if id(definition) in self._inside:
            return
        self._inside.add(id(definition))
        tree = _tree(definition)
        yield _code_of(definition) if tree is None else ast.unparse(tree)
        yield from self._names(_looked_up_by(definition, tree))
        for name, value in _enclosed(definition):
            yield name
            yield from self._value(value)
        self._inside.discard(id(definition))

    def _names(self, names: set[str]) -> Iterator[str]:
        for name in sorted(names - self._seen):
            self._seen.add(name)
            if name not in vars(self._module) or name in _OF_ANY_MODULE:
                continue
            yield name
            before, self._has_opaque = self._has_opaque, False
            yield from self._value(vars(self._module)[name])
            if self._has_opaque:
                yield from self._statements(name)
            self._has_opaque = before

    def _statements(self, name: str) -> Iterator[str]:
        """The statements that make the value of `name`, which does not show what is in it."""
        for statement in self._bound.get(name, ()):
            yield ast.unparse(statement)
            code = compile(ast.Module([statement], []), "<step>", "exec", dont_inherit=True)
            yield from self._names(set(_looked_up(code)))

    @cached_property
    def _bound(self) -> dict[str, list[ast.stmt]]:
        tree = _tree(self._module)
        return statements_of(tree) if tree else {}

    def _value(self, value: Any) -> Iterator[str]:
        if isinstance(value, _PLAIN):
            yield repr(value)
        elif isinstance(value, (types.FunctionType, type)):
            if value.__module__ == self._module.__name__:
                yield from self.definition(value)
            else:
                yield f"{value.__module__}.{value.__qualname__}"
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif id(value) in self._inside:
            yield "itself"
        else:
            self._inside.add(id(value))
            yield type(value).__qualname__
            yield from self._content(value)
            self._inside.discard(id(value))

    def _content(self, value: Any) -> Iterator[str]:
        """Of what does not show its content, nothing; `_has_opaque` says so."""
        if isinstance(value, (set, frozenset)):
            yield from sorted(text for item in value for text in self._value(item))
        elif isinstance(value, dict):
            yield from (text for pair in value.items() for part in pair for text in self._value(part))
        elif isinstance(value, (list, tuple)):
            yield from (text for item in value for text in self._value(item))
        elif isinstance(value, re.Pattern):
            yield f"{value.pattern!r} {value.flags}"
        elif isinstance(value, functools.partial):
            yield from (text for part in (value.func, value.args, value.keywords) for text in self._value(part))
        elif callable(value) and hasattr(value, "__wrapped__"):  # such as of functools.cache
            yield from self._value(inspect.unwrap(value))
        else:
            self._has_opaque = True
            yield from self._value(type(value))


def _enclosed(definition: Any) -> list[tuple[str, Any]]:
    """What a function that another one made has from there: the variables of its closure, and its defaults."""
    code = getattr(definition, "__code__", None)
    if code is None or "<locals>" not in code.co_qualname:
        return []
    found = []
    for name, cell in zip(code.co_freevars, definition.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # nothing was assigned to it
            continue
    return [*found, ("", definition.__defaults__), ("", definition.__kwdefaults__)]


def _tree(definition: Any) -> ast.Module | None:
    """The syntax tree without docstrings; None where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(definition)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node, False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _looked_up_by(definition: Any, tree: ast.Module | None) -> set[str]:
    """The names that the code looks up in its module: decorators, defaults and annotations included, parameters not."""
    code = getattr(definition, "__code__", None) if tree is None else compile(tree, "<step>", "exec", dont_inherit=True)
    return set(_looked_up(code)) if code is not None else set()


def _looked_up(code: types.CodeType) -> Iterator[str]:
    yield from (str(one.argval) for one in dis.get_instructions(code) if one.opname in _LOADS)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_up(constant)


_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})


def _code_of(definition: Any) -> str:
    """What a definition without source of its own does: a lambda in the middle of a statement, for instance."""
    code = getattr(definition, "__code__", None)
    return _instructions(code) if code is not None else repr(definition)


def _instructions(code: types.CodeType) -> str:
    constants = [_instructions(one) if isinstance(one, types.CodeType) else _plain(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} [{', '.join(constants)}]"


def _plain(constant: Any) -> str:
    """Like `repr`, with the items of a set in an order that is the same in each process."""
    return f"{{{', '.join(sorted(map(repr, constant)))}}}" if isinstance(constant, frozenset) else repr(constant)
