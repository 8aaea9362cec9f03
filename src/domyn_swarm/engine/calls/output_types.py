"""The Arrow types of output columns: what Arrow infers, what holds the values of two types, what parquet stores."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.types import rebuilt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_LEVELS = 97
"""Levels of a value that parquet's readers take: they refuse a file whose schema has 100."""

ARROW_REFUSALS: tuple[type[Exception], ...] = (Exception,)
"""What converting values may raise: they may be objects of anybody's, whose methods raise anything."""

_KINDS: dict[str, Callable[[Any], bool]] = {
    "null": pa.types.is_null,
    "text": lambda dtype: pa.types.is_string(dtype) or pa.types.is_large_string(dtype),
    "bytes": lambda dtype: pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype),
    "decimal": pa.types.is_decimal,
    "float": pa.types.is_floating,
}


def are_alike(values: Sequence[Any]) -> bool:
    """Whether Arrow can be left to find their type. Of a mixture it cuts times to dates, and turns true into 1.0."""
    kinds = {*map(type, values)} - {type(None)}
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return len({value.tzinfo is None for value in values if value is not None}) == 1
    return len(kinds) <= 1 or kinds == {int, float}


def holds(dtype: pa.DataType, value: Any) -> bool:
    """Whether a column of that type can hold `value`."""
    try:
        pa.array([value], type=dtype, from_pandas=False)
    except MemoryError:
        raise
    except ARROW_REFUSALS:
        return False
    return True


def without_empty_dicts(dtype: pa.DataType, value: Any) -> list[Any]:
    """`value` without its dicts that have no keys, if the column can hold it then; else nothing."""
    try:
        bare = _without_empty(value)
    except RecursionError:
        return []
    return [bare] if holds(dtype, bare) else []


def inferred(values: Sequence[Any]) -> Any:
    """The array that Arrow makes of `values`, with nanoseconds where they have some: it would cut them off."""
    array = pa.array(values, from_pandas=False)
    fine = rebuilt(array.type, _fine)
    if fine != array.type:
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):  # nanoseconds reach from 1677 to 2262
            exact = pa.array(values, fine, from_pandas=False)
            return array if exact.equals(array.cast(fine)) else exact
    return array


def _fine(dtype: Any) -> pa.DataType:
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("ns", dtype.tz)
    return pa.duration("ns") if pa.types.is_duration(dtype) else dtype


def _without_empty(value: Any) -> Any:
    """`value` with null for each dict without keys."""
    if isinstance(value, dict):
        return {name: _without_empty(inner) for name, inner in value.items()} or None
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


def union(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, as they are. Raises ArrowTypeError when there is none."""
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz and other.tz:
        other = pa.timestamp(other.unit, one.tz)  # the same moments
    if {one, other} == {pa.int64(), pa.uint64()}:
        return one  # the values of both would fit no integer
    schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
    united: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    if depth(united) > MOST_LEVELS:
        raise pa.ArrowTypeError(f"more than {MOST_LEVELS} levels")
    kinds = {_kind(one), _kind(other)} - {"null"}
    if kinds in ({"text", "bytes"}, {"decimal", "float"}):
        raise pa.ArrowTypeError(f"{one} and {other}")
    return _storable(united)


def depth(dtype: pa.DataType) -> int:
    """Levels that `dtype` has in parquet: a list or a map is two."""
    own = 1 if pa.types.is_struct(dtype) else 2
    inner = (dtype.field(number).type for number in range(dtype.num_fields))
    return own + max(map(depth, inner)) if dtype.num_fields else 1


def _kind(dtype: pa.DataType) -> str:
    for kind, is_kind in _KINDS.items():
        if is_kind(dtype):
            return kind
    return "other"


def _storable(dtype: pa.DataType) -> pa.DataType:
    """`dtype` with null for each struct without fields."""
    if pa.types.is_struct(dtype):
        fields = [field.with_type(_storable(field.type)) for field in dtype]
        return pa.struct(fields) if fields else pa.null()
    return pa.list_(_storable(dtype.value_type)) if pa.types.is_list(dtype) else dtype
