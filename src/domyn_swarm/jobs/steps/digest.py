"""What a step does, as a digest: its code and what it uses of its own module.

The code is taken from its source, so comments, formatting and docstrings do not count, and neither does the version of
Python. What other modules do is not part of it.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import textwrap
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from domyn_swarm.jobs.steps.step import Step

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def step_digest(step: Step, module: types.ModuleType) -> str:
    """Identifies what `step` does, which `module` defines."""
    digest = hashlib.blake2b(digest_size=16)
    seen: set[str] = set()
    digest.update(f"{step.name}\0".encode())  # one function may make several steps
    for source in step.sources or (step.call,):
        for text in _told(inspect.unwrap(source), module, seen):
            digest.update(text.encode("utf-8", "surrogatepass"))
            digest.update(b"\0")
    return digest.hexdigest()


def _told(definition: Callable[..., Any] | type, module: types.ModuleType, seen: set[str]) -> Iterator[str]:
    """The code of a function or class of `module`, then of all that it uses there, each once."""
    tree = _tree(definition)
    yield _code_of(definition) if tree is None else ast.unparse(tree)
    names = _names(definition, tree)
    for name in sorted(names - seen):
        seen.add(name)
        value = vars(module).get(name, _ABSENT)
        if value is not _ABSENT:
            yield name
            yield from _used(value, module, seen)


def _used(value: Any, module: types.ModuleType, seen: set[str]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, (types.FunctionType, type)):
        if value.__module__ == module.__name__:
            yield from _told(value, module, seen)
        else:
            yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    else:
        yield from _collection(value, module, seen)


def _collection(value: Any, module: types.ModuleType, seen: set[str]) -> Iterator[str]:
    """Of what is neither plain nor a collection of such, only the type."""
    yield type(value).__qualname__
    if isinstance(value, (set, frozenset)):
        yield from sorted(text for item in value for text in _used(item, module, seen))
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _used(part, module, seen))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in _used(item, module, seen))
    elif hasattr(value, "pattern"):  # a compiled regular expression
        yield f"{value.pattern!r} {getattr(value, 'flags', '')}"


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


def _names(definition: Any, tree: ast.Module | None) -> set[str]:
    """The names that the code looks up in its module: decorators, defaults and annotations included, parameters not."""
    code = getattr(definition, "__code__", None) if tree is None else compile(tree, "<step>", "exec", dont_inherit=True)
    return set(_looked_up(code)) if code is not None else set()


def _looked_up(code: types.CodeType) -> Iterator[str]:
    yield from (str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _looked_up(constant)


def _code_of(definition: Any) -> str:
    code = getattr(definition, "__code__", None)
    return f"{code.co_code.hex()} {code.co_consts!r}" if code is not None else repr(definition)


_ABSENT = object()
