"""One schema for files that differ as their writers do: each column has a type that holds the values of all files.

A column that one file lacks, or holds as nulls alone, is null there. `not null` holds where it holds in all files.
Encodings (large offsets, views, dictionaries) do not count, integers and floats widen as long as each value stays
exact, structs have the fields of all files, moments the first file's time zone. Everything else is a difference, and
nobody knows which file is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.types import LARGE_LISTS, LISTS, arrow_types, empty_table, list_like, working
from domyn_swarm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

_is = pa.types
_EXACT_BITS = {64: 53, 32: 24, 16: 11}
"""Bits of integers that a float of so many bits holds exactly."""


class _Different(Exception):  # noqa: N818 - control flow within this module
    pass


def united(paths: Sequence[str], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all `schemas`, those of the files at `paths`, in the order in which they first come.

    Raises:
        DataError: a file has two columns of one name, or two files have values that no type holds together.
    """
    fields: dict[str, pa.Field[Any]] = {}
    first_in: dict[str, str] = {}
    seen: list[pa.Schema] = []
    for path, schema in zip(paths, schemas, strict=True):
        if any(schema.equals(one) for one in seen):
            continue
        _check_names(path, schema)
        for field in schema:
            before = fields.get(field.name)
            try:
                fields[field.name] = (
                    field.with_nullable(bool(seen) or field.nullable) if before is None else _field(before, field)
                )
            except _Different:
                raise DataError(
                    f"column {field.name!r} is {field.type} in {path} but {before and before.type} in "
                    f"{first_in[field.name]}.",
                    "No type holds the values of both exactly. Convert one of the files, or read them in runs of "
                    "their own.",
                    code="input.schemas",
                    option="input",
                    path=path,
                    column=field.name,
                ) from None
            first_in.setdefault(field.name, path)
        here = set(schema.names)
        fields |= {name: one.with_nullable(True) for name, one in fields.items() if name not in here}
        seen.append(schema)
    return pa.schema(list(fields.values()), metadata=schemas[0].metadata)  # type: ignore[arg-type]  # what it gives it takes


def _check_names(path: str, schema: pa.Schema) -> None:
    names = schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{path} has two columns {twice!r}.",
            "Each column needs a name of its own.",
            code="column.duplicate",
            option="input",
            path=path,
            column=twice,
        )


def _field(one: pa.Field[Any], other: pa.Field[Any]) -> pa.Field[Any]:
    nullable = one.nullable or other.nullable or _is.is_null(other.type)
    return one.with_type(_type(one.type, other.type)).with_nullable(nullable)


def _type(one: Any, other: Any) -> pa.DataType:
    """The type that holds the values of both, as they are."""
    if one == other or _is.is_null(one) or _is.is_null(other):
        return other if _is.is_null(one) else one  # type: ignore[no-any-return]
    if isinstance(one, pa.DictionaryType) and isinstance(other, pa.DictionaryType):
        ordered = one.ordered and other.ordered
        return arrow_types.dictionary(pa.int32(), _type(one.value_type, other.value_type), ordered)  # type: ignore[no-any-return]
    return _of_values(_without_encoding(one), _without_encoding(other))


def _of_values(one: Any, other: Any) -> pa.DataType:
    if one == other:
        found = one
    elif isinstance(one, pa.StructType) and isinstance(other, pa.StructType):
        found = _struct(one, other)
    elif isinstance(one, pa.MapType) and isinstance(other, pa.MapType):
        found = arrow_types.map_(_field(one.key_field, other.key_field), _field(one.item_field, other.item_field))
    elif isinstance(one, LISTS) and isinstance(other, LISTS):
        found = _list(one, other)
    else:
        found = _scalar(one, other)
    return found  # type: ignore[no-any-return]


def _without_encoding(dtype: Any) -> Any:
    return working(dtype.value_type if isinstance(dtype, pa.DictionaryType) else dtype)


def _struct(one: Any, other: Any) -> pa.DataType:
    """The fields of both, by name."""
    theirs = {field.name: field for field in other}
    if len(theirs) < other.num_fields or len({field.name for field in one}) < one.num_fields:
        raise _Different
    shared = [_field(field, theirs[field.name]) if field.name in theirs else field.with_nullable(True) for field in one]
    mine = {field.name for field in one}
    return pa.struct([*shared, *(field.with_nullable(True) for field in other if field.name not in mine)])


def _list(one: Any, other: Any) -> pa.DataType:
    values = _field(one.value_field, other.value_field)
    both = isinstance(one, pa.FixedSizeListType) and isinstance(other, pa.FixedSizeListType)
    if both and one.list_size == other.list_size:
        return list_like(one, values)
    return pa.large_list(values) if isinstance(one, LARGE_LISTS) or isinstance(other, LARGE_LISTS) else pa.list_(values)


def _scalar(one: Any, other: Any) -> pa.DataType:
    if not any(fits(one, other) or fits(other, one) for fits in (_integers, _numbers, _texts, _times)):
        raise _Different
    if isinstance(one, pa.TimestampType) and one.tz:
        other = pa.timestamp(other.unit, one.tz)
    schemas = [pa.schema([("x", dtype)]) for dtype in (one, other)]
    try:
        found = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        for schema in schemas:  # whether there is such a cast
            empty_table(schema).column(0).cast(found)
    except pa.ArrowException:
        raise _Different from None
    return found  # type: ignore[no-any-return]


def _integers(one: Any, other: Any) -> bool:
    """No type holds all integers of 64 bits, signed and unsigned."""
    if not _is.is_integer(one) or not _is.is_integer(other):
        return False
    return not (_is.is_uint64(one) and _is.is_signed_integer(other)) and not (
        _is.is_uint64(other) and _is.is_signed_integer(one)
    )


def _numbers(one: Any, other: Any) -> bool:
    if _is.is_floating(one):
        exact = _is.is_integer(other) and other.bit_width <= _EXACT_BITS[one.bit_width]
        return bool(_is.is_floating(other) or exact)
    return bool(_is.is_decimal(one) and (_is.is_decimal(other) or _is.is_integer(other)))


def _texts(one: Any, other: Any) -> bool:
    text = (_is.is_string, _is.is_large_string)
    data = (_is.is_binary, _is.is_large_binary, _is.is_fixed_size_binary)
    return any(any(is_one(one) for is_one in kind) and any(is_one(other) for is_one in kind) for kind in (text, data))


def _times(one: Any, other: Any) -> bool:
    """Of different units, but for nanoseconds, which reach from 1677 to 2262 only. Zones name the same moments."""
    if _is.is_timestamp(one) and _is.is_timestamp(other):
        return (one.tz is None) == (other.tz is None) and (one.unit == other.unit or "ns" not in (one.unit, other.unit))
    if _is.is_duration(one) and _is.is_duration(other):
        return "ns" not in (one.unit, other.unit)
    return bool((_is.is_date(one) and _is.is_date(other)) or (_is.is_time(one) and _is.is_time(other)))
