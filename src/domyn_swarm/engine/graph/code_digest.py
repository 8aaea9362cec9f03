"""Telling whether code is what it was: for classes and functions that stand in no file, like those of a notebook."""

from __future__ import annotations

import hashlib
import types
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_OF_THE_LANGUAGE = frozenset(
    {
        "__doc__", "__module__", "__qualname__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__",
        "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__firstlineno__", "__static_attributes__",
        "__annotations_cache__", "__annotate_func__", "__parameters__", "__orig_bases__", "_abc_impl",
    }
)  # fmt: skip


def code_digest(code: Any) -> str:
    """Identifies what a function or class does: its code, its constants, and what it uses of its own module.

    Comments, docstrings of classes, names of arguments' types and what other modules do are not part of it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in _told(code, set()):
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


def _told(value: Any, seen: set[int]) -> Iterator[str]:
    if id(value) in seen:
        return
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, (staticmethod, classmethod)):
        yield from _told(value.__func__, seen)
    elif isinstance(value, property):
        yield from (text for part in (value.fget, value.fset) for text in _told(part, seen))
    elif isinstance(value, cached_property):
        yield from _told(value.func, seen)
    else:
        yield from _collection(value, seen)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield from _code(function.__code__, function.__globals__, function.__module__, seen)
    yield from _told(function.__defaults__, seen)
    yield from _told(function.__kwdefaults__, seen)
    for cell in function.__closure__ or ():
        yield from _told(_content(cell), seen)
    yield from _told(getattr(function, "__wrapped__", None), seen)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _code(code: types.CodeType, names: dict[str, Any], module: str, seen: set[int]) -> Iterator[str]:
    yield code.co_code.hex()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant, names, module, seen)
        else:
            yield from _told(constant, seen)
    for name in code.co_names:
        yield name
        value = names.get(name)
        if not isinstance(value, (types.FunctionType, type)) or value.__module__ == module:
            yield from _told(value, seen)


def _class(cls: type, seen: set[int]) -> Iterator[str]:
    yield cls.__qualname__
    for name, value in sorted(vars(cls).items()):
        if name not in _OF_THE_LANGUAGE:
            yield name
            yield from _told(value, seen)
    for base in cls.__bases__:
        if base.__module__ == cls.__module__:
            yield from _told(base, seen)


def _collection(value: Any, seen: set[int]) -> Iterator[str]:
    """Of what is neither plain nor a collection of such, only the type."""
    yield type(value).__qualname__
    if isinstance(value, (set, frozenset)):
        yield from sorted(text for item in value for text in _told(item, set(seen)))
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _told(part, seen))
    elif isinstance(value, (list, tuple)):
        yield from (text for item in value for text in _told(item, seen))
