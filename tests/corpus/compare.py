"""What engines made of one file, beside each other and beside the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Tables = Mapping[str, pa.Table]


def differences(tables: Tables) -> Iterator[str]:
    """A line for each column, type, value or key of metadata that an engine has otherwise than the first one."""
    (first, expected), *others = tables.items()
    for engine, table in others:
        yield from (f"{engine}: {line} ({first})" for line in difference(table, expected))


def difference(table: pa.Table, expected: pa.Table) -> Iterator[str]:
    """What differs between two tables, a line for each thing."""
    if table.column_names != expected.column_names:
        yield f"columns {table.column_names}, not {expected.column_names}"
        return
    if table.num_rows != expected.num_rows:
        yield f"{table.num_rows} rows, not {expected.num_rows}"
        return
    for at, field in enumerate(expected.schema):
        if table.schema.field(at).type != field.type:
            yield f"column {field.name!r} is {table.schema.field(at).type}, not {field.type}"
        elif not same_values(table.column(at), expected.column(at)):
            yield f"values of column {field.name!r} differ"
    if keys(table) != keys(expected):
        yield f"metadata {sorted(keys(table))}, not {sorted(keys(expected))}"


def keys(table: pa.Table) -> set[bytes]:
    """The keys of the table's metadata that any file may have."""
    return {key for key in table.schema.metadata or {} if not key.startswith((b"domyn_swarm", b"ARROW:"))}


def same_values(one: pa.ChunkedArray[Any], other: pa.ChunkedArray[Any]) -> bool:
    """Whether two columns of one type hold the same, where NaN is NaN and an unreadable text is its bytes."""
    return (
        one.equals(other)
        or list(map(buffers, one.chunks)) == list(map(buffers, other.chunks))
        or shown(one) == shown(other)
    )


def buffers(array: pa.Array[Any]) -> list[bytes | None]:
    """The bytes of an array."""
    return [None if buffer is None else buffer.to_pybytes() for buffer in array.buffers()]


def shown(column: pa.ChunkedArray[Any]) -> list[str]:
    """Each value as text: what Python cannot hold by Arrow's own words."""
    return [value_text(chunk, number) for chunk in column.chunks for number in range(len(chunk))]


def value_text(array: pa.Array[Any], number: int) -> str:
    """One value as text."""
    value: Any = array[number]
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError, UnicodeDecodeError):
        if pa.types.is_string(array.type):
            return str(value.cast(pa.binary()))
        nested = array.type.num_fields > 0
        return array.slice(number, 1).to_string() if nested else str(value.cast(pa.int64()))


def output(path: Path) -> pa.Table:
    """The output at `path`."""
    return pq.ParquetFile(path).read()
