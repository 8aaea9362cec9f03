"""The polars engine: its reader and its expressions, and `polars.DataFrame`s as native batches.

Its lazy frame is a `Query`: windows of rows, each a small query of its own. One query over all rows would not do: the
streaming engine reads ahead of a slow consumer without a bound (`collect_batches` and `sink_batches` of polars 2.1 held
all of a file of 0.9 GB), and jobs are slow consumers.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from domyn_swarm.data import arrow
from domyn_swarm.data.backends.base import JobBatch, Outputs, dtype_name
from domyn_swarm.data.columns import POSITION, ROW_ID
from domyn_swarm.data.filters import Condition, parse_filters
from domyn_swarm.data.ids import EXAMPLES, duplicate_ids, null_id
from domyn_swarm.helpers.io import is_local

if TYPE_CHECKING:
    from domyn_swarm.data.input_files import InputFile, InputFiles

name = "polars"
distributed = False

Windows: TypeAlias = Callable[[Sequence[str]], Iterator[pl.DataFrame]]

SCAN_ROWS = 65_536
WINDOW_ROWS = 262_144
OWN_READ_KWARGS = ("columns", "filters", "storage_options")
ENGINE_READ_KWARGS = ("parallel", "use_statistics", "low_memory", "cache", "rechunk")


@dataclass(frozen=True)
class Query:
    """A lazy frame: `windows(columns)` makes those columns of the rows, in order, a data frame at a time.

    `schema` has the types that the columns have in the files: polars has fewer than parquet (one for strings, none for
    UUIDs), and what leaves the engine has to have the types that came in. `rows` is None when only reading tells.
    `batch_rows` average rows take about `arrow.BATCH_BYTES`.
    """

    windows: Windows
    schema: pa.Schema
    rows: int | None
    batch_rows: int


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Query:
    """Local files through polars' own scan; on other filesystems Arrow reads the windows."""
    found = arrow.check_parquet(name, files)
    engine = set(ENGINE_READ_KWARGS) & inspect.signature(pl.scan_parquet).parameters.keys()
    arrow.check_read_kwargs(name, read_kwargs, {*OWN_READ_KWARGS, *(engine if is_local(files.fs) else ())})
    options = {key: value for key, value in read_kwargs.items() if key not in OWN_READ_KWARGS}
    filters = read_kwargs.get("filters")
    predicate = _expression(parse_filters(filters, found)) if filters else None
    rows = files.rows if predicate is None else None
    schema = arrow.projected(found, read_kwargs.get("columns"))
    local = partial(_windows, files, options, predicate)
    windows = local if is_local(files.fs) else partial(_remote_windows, files, predicate)
    return Query(windows, schema, rows, arrow.rows_within(files, arrow.BATCH_BYTES))


def from_arrow(table: pa.Table) -> Query:
    """Windows of the table."""

    def windows(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        chosen = table.select(list(columns))
        for at in range(0, table.num_rows, WINDOW_ROWS):
            yield cast("pl.DataFrame", pl.from_arrow(chosen.slice(at, WINDOW_ROWS)))

    row_bytes = table.nbytes / max(1, table.num_rows)
    return Query(windows, table.schema, table.num_rows, max(1, int(arrow.BATCH_BYTES / max(1.0, row_bytes))))


def in_memory(table: pa.Table) -> pl.DataFrame:
    """A data frame."""
    return cast("pl.DataFrame", pl.from_arrow(table))


def schema(frame: Query) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return {field.name: dtype_name(field.type) for field in frame.schema}


def with_row_id(frame: Query, id_col: str | None) -> Query:
    """Count the rows window by window."""
    counters = [POSITION] if id_col is not None else [POSITION, ROW_ID]

    def windows(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        kept = [column for column in columns if column not in counters] or frame.schema.names[:1]
        position = 0
        for window in frame.windows(kept):
            count_ = pl.int_range(position, position + len(window), dtype=pl.Int64, eager=True)
            yield window.with_columns(count_.alias(counter) for counter in counters).select(columns)
            position += len(window)

    fields = [*frame.schema, *(pa.field(counter, pa.int64()) for counter in counters)]
    return replace(frame, windows=windows, schema=pa.schema(fields))


def check_ids(frame: Query, id_col: str) -> None:
    """One pass over the id column, eight bytes a row: only ids whose hashes meet are compared themselves."""
    hashes = []
    position = 0
    for window in frame.windows([id_col]):
        ids = window[id_col]
        if ids.null_count():
            raise null_id(id_col, position + cast("int", ids.is_null().arg_max()))
        hashes.append(ids.hash())
        position += len(ids)
    if hashes:
        ordered = pl.concat(hashes).sort()
        twice = ordered.filter(ordered == ordered.shift(1)).unique()
        if len(twice):
            _refuse_duplicates(frame, id_col, twice)


def _refuse_duplicates(frame: Query, id_col: str, hashes: pl.Series) -> None:
    suspects = pl.concat(
        window.filter(window[id_col].hash().is_in(hashes.implode())) for window in frame.windows([id_col])
    )
    counts = suspects.group_by(id_col, maintain_order=True).len("times").filter(pl.col("times") > 1)
    if len(counts):
        raise duplicate_ids(id_col, len(counts), dict(counts.head(EXAMPLES).iter_rows()))


def head(frame: Query, rows: int) -> Query:
    """Stop reading after `rows` rows."""

    def windows(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        left = rows
        for window in frame.windows(columns):
            yield window.head(left)
            left -= len(window)
            if left <= 0:
                return

    return replace(frame, windows=windows, rows=None if frame.rows is None else min(rows, frame.rows))


def count(frame: Query) -> int:
    """From the footers where they tell, else by reading one column."""
    if frame.rows is not None:
        return frame.rows
    return sum(len(window) for window in frame.windows(frame.schema.names[-1:]))


def exclude(frame: Query, finished: np.ndarray[Any, np.dtype[np.bool_]]) -> Query:
    """An anti-join whose right side is the array: each row's position is looked up in it."""
    if not finished.any():
        return frame

    def windows(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        for window in frame.windows(list(dict.fromkeys([*columns, POSITION]))):
            at = window[POSITION].to_numpy()
            known = at < len(finished)
            pending = window.filter(pl.Series(~(known & finished[np.where(known, at, 0)])))
            if len(pending):
                yield pending.select(columns)

    rows = None if frame.rows is None else frame.rows - int(finished[: frame.rows].sum())
    return replace(frame, windows=windows, rows=rows)


def iter_batches(frame: Query, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Data frames."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    for batch in _frames(frame, list(dict.fromkeys([*columns, POSITION])), batch_size):
        keys = _record_batch(batch.select(id_col, POSITION), frame.schema)
        yield JobBatch(keys.column(id_col), keys.column(POSITION), batch=batch.select(columns))


def to_pandas(frame: Query, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames."""
    for batch in _batches(frame, columns, batch_size):
        yield batch.to_pandas(types_mapper=pd.ArrowDtype)


def join(frame: Query, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side."""
    wanted = list(dict.fromkeys([*columns, id_col, POSITION]))
    schema = pa.schema([*(frame.schema.field(column) for column in columns), *outputs.schema])
    return arrow.Tables(schema, lambda: arrow.beside(_batches(frame, wanted, SCAN_ROWS), outputs, id_col, columns))


def check_write_kwargs(write_kwargs: Mapping[str, Any]) -> None:
    """Pyarrow writes: polars' own sink cannot write every type that the input may have."""
    arrow.check_writer_kwargs(write_kwargs)


def write(
    frame: arrow.Tables, path: str, *, directory: bool, metadata: Mapping[str, str], write_kwargs: Mapping[str, Any]
) -> int:
    """Stream to parquet, row group by row group."""
    return arrow.write_parquet(frame, path, directory=directory, metadata=metadata, write_kwargs=write_kwargs)


def _windows(
    files: InputFiles, options: Mapping[str, Any], predicate: pl.Expr | None, columns: Sequence[str]
) -> Iterator[pl.DataFrame]:
    """The next window is read while one is worked on."""
    rows = min(WINDOW_ROWS, 2 * arrow.rows_within(files, arrow.BATCH_BYTES))
    steps = [(file, at, rows) for file in files.files for at in range(0, file.rows or 0, rows)]
    make = partial(_window, files, options, predicate, columns)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(make, *steps[0]) if steps else None
        for step in [*steps[1:], None]:
            if ahead is None:
                return
            window = ahead.result()
            ahead = thread.submit(make, *step) if step else None
            yield window


def _window(
    files: InputFiles, options: Mapping[str, Any], predicate: pl.Expr | None, columns: Sequence[str],
    file: InputFile, start: int, rows: int,
) -> pl.DataFrame:  # fmt: skip
    lazy = pl.scan_parquet(file.path, glob=False, hive_partitioning=False, **options).slice(start, rows)
    if predicate is not None:
        lazy = lazy.filter(predicate)
    return lazy.select(columns).collect(engine="streaming")


def _remote_windows(files: InputFiles, predicate: pl.Expr | None, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    needed = list(dict.fromkeys([*columns, *(predicate.meta.root_names() if predicate is not None else ())]))
    for batch in arrow.scan_files(files, needed, WINDOW_ROWS):
        window = cast("pl.DataFrame", pl.from_arrow(batch))
        yield (window if predicate is None else window.filter(predicate)).select(columns)


def _expression(alternatives: list[list[Condition]]) -> pl.Expr:
    compare: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
        "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
        "in": pl.Expr.is_in, "not in": lambda column, values: ~column.is_in(values),
    }  # fmt: skip
    groups = [
        reduce(operator.and_, (compare[name](pl.col(column), value) for column, name, value in alternative))
        for alternative in alternatives
    ]
    return reduce(operator.or_, groups)


def _frames(frame: Query, columns: Sequence[str], batch_size: int) -> Iterator[pl.DataFrame]:
    size = min(batch_size, frame.batch_rows)
    for window in frame.windows(columns):
        yield from window.iter_slices(size)


def _batches(frame: Query, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    convert = partial(_record_batch, schema=frame.schema)
    return map(convert, _frames(frame, columns, batch_size))


def _record_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """`frame` with the types that its columns had in the files: once as views that share its memory, then copied."""
    types = pa.schema([schema.field(column) for column in frame.columns])
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest()).cast(types)
    return table.combine_chunks().to_batches()[0]
