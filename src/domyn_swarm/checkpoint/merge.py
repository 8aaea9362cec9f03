"""Parts merged into one stream in input order, in memory that does not grow with the rows.

The merge goes window by window over the positions. A part is opened when the first window reaches into it and read
batch by batch, so what is held is one window and one batch of each part that overlaps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from domyn_swarm.checkpoint.part import fitting, latest, united
from domyn_swarm.data.columns import DEFAULT_COLUMN, POSITION
from domyn_swarm.data.types import parts as nested

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.checkpoint.part import Part

WINDOW_ROWS = 65_536
WINDOW_BYTES = 64 * 2**20
"""A window has as many rows as that many bytes hold, or WINDOW_ROWS: a row may be megabytes."""
LEAST_ROWS = 16


def in_order(parts: Sequence[Part], columns: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows by ascending POSITION, one for each, as tables of `columns`; `schema` has the types of output columns.

    Where `parts`, oldest first, share a position, a row without FAILURE wins, then the later part. An output that would
    become another one in its column's type makes its row a failed one.

    Raises:
        DamagedPartError: a part cannot be read.
    """
    closed = [_Cursor(age, part, columns, schema) for age, part in enumerate(parts)]
    ends = [cursor.last for cursor in closed]
    active: list[_Cursor] = []
    rows = _rows_of_a_window(parts)
    for start in range(0, max(ends, default=-1) + 1, rows):
        end = start + rows
        active += [cursor for cursor in closed if cursor.first < end]
        closed = [cursor for cursor in closed if cursor.first >= end]
        active.sort(key=lambda cursor: cursor.age)
        tables = [table for cursor in active for table in cursor.until(end)]
        active = [cursor for cursor in active if cursor.last >= end]
        if tables and (window := latest(pa.concat_tables(tables), gone=False)).num_rows:
            yield window


def output_types(parts: Sequence[Part], declared: Sequence[str]) -> pa.Schema:
    """The output columns of `parts`, each with a type that holds all of its values; those `declared` always exist."""
    types = united([pa.schema([(name, pa.null()) for name in declared]), *(part.types for part in parts)])
    # A row that failed before the first dict was returned leaves an empty default column.
    at = types.get_field_index(DEFAULT_COLUMN)
    if DEFAULT_COLUMN not in declared and len(types) > 1 and at >= 0 and pa.types.is_null(types.field(at).type):
        types = types.remove(at)
    return types


def that_may_not_fit(parts: Sequence[Part], types: pa.Schema) -> pa.Schema:
    """The columns of `types` whose values in a part may become others: units of time reach differently far."""
    here = {field.name: field.type for field in types}
    others = {field for part in parts for field in part.types if field.type != here.get(field.name, field.type)}
    names = {field.name for field in others if any(map(pa.types.is_temporal, nested(field.type)))}
    return pa.schema([field for field in types if field.name in names])


def _rows_of_a_window(parts: Sequence[Part]) -> int:
    widest = max((part.decoded_bytes / part.rows for part in parts if part.rows), default=1.0)
    return max(LEAST_ROWS, min(WINDOW_ROWS, int(WINDOW_BYTES // max(widest, 1.0))))


class _Cursor:
    """One part, read as far as the merge has come."""

    def __init__(self, age: int, part: Part, columns: Sequence[str], schema: pa.Schema) -> None:
        self.age = age
        self.first, self.last = part.first, part.last
        self._part = part
        self._columns = columns
        self._types = schema
        self._batches: Iterator[pa.Table] | None = None
        self._rest: pa.Table | None = None

    def until(self, end: int) -> Iterator[pa.Table]:
        """The rows with a position below `end` that have not been given yet."""
        if self._batches is None:
            part, columns = self._part, self._columns
            batches = part.batches(columns)
            self._batches = (fitting(table, columns, self._types, part.origin.id_col) for table in batches)
        while True:
            table, self._rest = self._rest or next(self._batches, None), None
            if table is None:
                return
            cut = int(np.searchsorted(table[POSITION].to_numpy(), end))
            if cut:
                yield table.slice(0, cut)
            if cut < table.num_rows:
                self._rest = table.slice(cut)
                return
