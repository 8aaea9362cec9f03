"""A part's bytes: encoded, and read back before anybody relies on them.

Arrow writes some values that no reader takes (structs nested too deep, empty lists of fixed size 0), and refuses others
only while it writes. Both are found here, before a file appears, and become failures of the rows that hold them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, MADE
from domyn_swarm.data.parquet_writer import page_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROW_GROUP_ROWS = 32_768
READ_BACK_ROWS = 1024
"""Rows of the first page that are decoded, of columns that do not nest."""
REASON_CHARS = 300

_REFUSALS = (pa.ArrowException, OSError, ValueError)
"""What Arrow raises for values that it cannot write or read; in memory there is nothing else that may go wrong."""


class UnstorableError(Exception):
    """Parquet cannot hold what was to be stored. Nothing has been written."""


def encode(table: pa.Table, **options: Any) -> pa.Buffer:
    """`table` as the bytes of a parquet file, whose footer and first pages can be read; nested columns can in whole.

    Raises:
        UnstorableError: they cannot be written or read.
    """
    sink = pa.BufferOutputStream()
    options |= {"compression": "zstd", "use_dictionary": False, "write_batch_size": page_rows(table)}
    try:
        pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, **options)
        encoded = sink.getvalue()
        _read_back(encoded, table.schema)
    except MemoryError:  # Arrow's own among them
        raise
    except _REFUSALS as error:
        raise UnstorableError(str(error)) from error
    return encoded


def _read_back(encoded: pa.Buffer, schema: pa.Schema) -> None:
    parquet = pq.ParquetFile(pa.BufferReader(encoded))
    next(parquet.iter_batches(batch_size=READ_BACK_ROWS), None)
    if nested := [field.name for field in schema if field.type.num_fields and field.name not in MADE]:
        for _ in parquet.iter_batches(columns=nested):
            pass


def storable(table: pa.Table, id_col: str) -> pa.Table:
    """`table` with the rows whose outputs cannot be stored as failed rows; the others are as they were.

    A column of a type that parquet cannot hold at all becomes one of nulls.
    """
    outputs = [name for name in table.column_names if name not in (id_col, *MADE)]
    reasons: dict[int, str] = {}
    columns = {name: _storable_column(name, table[name].combine_chunks(), reasons) for name in outputs}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return failing(table, reasons, id_col)


def failing(table: pa.Table, reasons: Mapping[int, str], id_col: str) -> pa.Table:
    """`table` with rows that have failed for these `reasons`, by number: their outputs are null."""
    kept = pa.array([None if row in reasons else row for row in range(table.num_rows)], pa.int64())
    for at, name in enumerate(table.column_names):
        if name not in (id_col, *MADE):
            table = table.set_column(at, name, table[name].take(kept))
    return table.set_column(table.column_names.index(FAILURE), FAILURE, _failures(table[FAILURE], reasons))


def _storable_column(name: str, column: pa.Array[Any], reasons: dict[int, str]) -> pa.Array[Any]:
    """`column`, or nulls when its type cannot be stored; adds to `reasons` why which rows cannot be."""
    if not _refusal(column):
        return column
    always = _refusal(pa.nulls(1, column.type))
    found = {row: always for row in range(len(column)) if column[row].is_valid} if always else _refused(column, 0)
    for row, reason in found.items():
        text = f"column {name!r} ({_shown(column.type)}) cannot be stored: {reason}"
        reasons.setdefault(row, text[:REASON_CHARS])
    return pa.nulls(len(column)) if always else column


def _refused(column: pa.Array[Any], start: int) -> Mapping[int, str]:
    """By number, the rows that cannot be stored, and why: found by halving."""
    reason = _refusal(column)
    if not reason:
        return {}
    if len(column) == 1:
        return {start: reason}
    half = len(column) // 2
    return {**_refused(column[:half], start), **_refused(column[half:], start + half)}


def _refusal(column: pa.Array[Any]) -> str:
    """Why `column` cannot be stored; empty when it can."""
    try:
        encode(pa.table([column], names=["value"]))
    except UnstorableError as error:
        return str(error)
    return ""


def _failures(before: pa.ChunkedArray[Any], reasons: Mapping[int, str]) -> pa.Array[Any]:
    failures: Sequence[Any] = before.to_pylist()
    return pa.array(
        [
            {"type": "OutputError", "message": reasons[row], "attempts": 1} if row in reasons else failure
            for row, failure in enumerate(failures)
        ],
        FAILURE_TYPE,
    )


def _shown(dtype: pa.DataType) -> str:
    text = str(dtype)
    return text if len(text) <= 80 else f"{text[:80]}…"
