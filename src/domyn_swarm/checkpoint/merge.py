"""Parts, each sorted by POSITION, merged into one stream in input order, in memory that does not grow with the rows.

The merge goes window by window over the positions. A part is opened when the first window reaches into it and read
batch by batch, so what is held is one window and one batch of each part that overlaps it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from domyn_swarm.data.columns import FAILURE, POSITION
from domyn_swarm.helpers.io import open_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WINDOW_ROWS = 65_536
BATCH_ROWS = 32_768


class DamagedPartError(Exception):
    """`part` cannot be read to its end: its pages do not have the checksums that they were written with."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part} is damaged: {reason}")
        self.part = part


def in_order(fs: Any, parts: Sequence[str], columns: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows by ascending POSITION, one for each, as tables of `columns`; `schema` has the types of output columns.

    Where parts share a position, a row without FAILURE wins, then the later part.

    Raises:
        DamagedPartError: a part cannot be read.
    """
    closed = [_Cursor(fs, part, columns, schema) for part in parts]
    ends = [cursor.last for cursor in closed]
    active: list[_Cursor] = []
    for start in range(0, max(ends, default=-1) + 1, WINDOW_ROWS):
        end = start + WINDOW_ROWS
        active += [cursor for cursor in closed if cursor.first < end]
        closed = [cursor for cursor in closed if cursor.first >= end]
        active.sort(key=lambda cursor: cursor.part)
        tables = [table for cursor in active for table in cursor.until(end)]
        active = [cursor for cursor in active if cursor.last >= end]
        if tables and (window := _latest(pa.concat_tables(tables))).num_rows:
            yield window


class _Cursor:
    """One part, read as far as the merge has come."""

    def __init__(self, fs: Any, part: str, columns: Sequence[str], schema: pa.Schema) -> None:
        self.part = part
        self._fs = fs
        self._columns = columns
        self._types = schema
        with _reading(part), open_parquet(fs, part) as parquet:
            statistics = [group.column(0).statistics for group in _row_groups(parquet.metadata)]
        self.first = int(statistics[0].min)
        self.last = int(statistics[-1].max)
        self._batches: Iterator[pa.Table] | None = None
        self._rest: pa.Table | None = None

    def until(self, end: int) -> Iterator[pa.Table]:
        """The rows with a position below `end` that have not been given yet."""
        if self._batches is None:
            self._batches = (conformed(table, self._columns, self._types) for table in self._read())
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

    def _read(self) -> Iterator[pa.Table]:
        with _reading(self.part), open_parquet(self._fs, self.part) as parquet:
            names = set(parquet.schema_arrow.names)
            present = [name for name in self._columns if name in names]
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=present):
                yield pa.Table.from_batches([batch])


def conformed(table: pa.Table, columns: Sequence[str], types: pa.Schema) -> pa.Table:
    """`table` with all `columns`, in order, those in `types` with these types, nulls where it has none."""
    arrays: list[Any] = []
    for name in columns:
        wanted = types.field(name).type if name in types.names else None
        if name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, wanted))
        else:
            # Not a safe cast: integers that become floats beside other rows' floats may lose their last digits.
            same = wanted in (None, table[name].type)
            arrays.append(table[name] if same else table[name].cast(wanted, safe=False))
    return pa.table(arrays, names=list(columns))


@contextlib.contextmanager
def _reading(part: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DamagedPartError(part, str(error)) from error


def _row_groups(metadata: Any) -> list[Any]:
    return [metadata.row_group(i) for i in range(metadata.num_row_groups)]


def _latest(window: pa.Table) -> pa.Table:
    """One row for each position that is in the input, in order."""
    positions = window[POSITION].to_numpy()
    if positions[0] >= 0 and (np.diff(positions) > 0).all():
        return window
    fine = window[FAILURE].combine_chunks().is_null().to_numpy(zero_copy_only=False)
    order = np.lexsort((np.arange(len(positions)), fine, positions))
    in_order = positions[order]
    last = np.append(in_order[1:] != in_order[:-1], True) & (in_order >= 0)
    return window.take(order[last])
