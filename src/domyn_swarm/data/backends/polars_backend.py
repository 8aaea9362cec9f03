"""The polars engine: its reader, and `polars.DataFrame`s as native batches.

Its lazy frame is a stream of record batches that polars reads a window of rows at a time, each a small query of its
own. One query over all rows would not do: the streaming engine reads ahead of a slow consumer without a bound
(`collect_batches` and `sink_batches` of polars 2.1 held all of a file of 0.9 GB), and jobs are slow consumers.

Columns of types that polars lacks, files that have other types than the input, and windows that polars refuses (it
minds text that is not valid) are read by Arrow.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from domyn_swarm.data import arrow, stream
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.damage import check_rows
from domyn_swarm.data.ids import EXAMPLES, duplicate_ids, null_id
from domyn_swarm.data.stream import Stream, check_write_kwargs, count, head, schema, with_row_id, write
from domyn_swarm.data.types import LIST_VIEWS, comparable, conformed, converted, parts, rebuilt
from domyn_swarm.data.values import check_id_texts, job_batch
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import pandas as pd

    from domyn_swarm.data.backends.base import JobBatch, Outputs
    from domyn_swarm.data.input_files import InputFile, InputFiles

__all__ = [
    "check_ids", "check_write_kwargs", "count", "distributed", "exclude", "from_arrow", "head", "in_memory",
    "iter_batches", "join", "name", "read", "schema", "to_pandas", "with_row_id", "write",
]  # fmt: skip

name = "polars"
distributed = False

WINDOW_ROWS = 262_144
OWN_READ_KWARGS = ("columns", "filters", "hive", "storage_options")
ENGINE_READ_KWARGS = ("parallel", "use_statistics", "low_memory", "cache", "rechunk")


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    """Local files through polars' own scan; on other filesystems, and under filters, Arrow reads."""
    found = arrow.check_parquet(name, files)
    engine = set(ENGINE_READ_KWARGS) & inspect.signature(pl.scan_parquet).parameters.keys()
    arrow.check_read_kwargs(name, read_kwargs, {*OWN_READ_KWARGS, *(engine if is_local(files.fs) else ())})
    read_by_arrow = stream.read_parquet(files, read_kwargs)
    panics = any(_panics(one) for dtype in found.types for one in parts(dtype))
    if not is_local(files.fs) or read_kwargs.get("filters") or panics:
        return read_by_arrow
    options = {key: value for key, value in read_kwargs.items() if key not in OWN_READ_KWARGS}
    return replace(read_by_arrow, scan=partial(_scan, files, options, read_by_arrow))


def from_arrow(table: pa.Table) -> Stream:
    """Batches of the table."""
    return stream.from_arrow(table)


def in_memory(table: pa.Table) -> pl.DataFrame:
    """A data frame."""
    return _framed(table)


def _framed(rows: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    """`rows` as a data frame with their very names: polars makes one up for a column whose name is empty."""
    frame = cast("pl.DataFrame", pl.from_arrow(rows))
    if "" in rows.schema.names:
        frame.columns = rows.schema.names
    return frame


def check_ids(frame: Stream, id_col: str) -> None:
    """One pass over the id column, eight bytes a row: only ids whose hashes meet are compared themselves."""
    hashes = []
    position = 0
    for ids in _ids(frame, id_col):
        if ids.null_count():
            raise null_id(id_col, position + cast("int", ids.is_null().arg_max()))
        hashes.append(ids.hash())
        position += len(ids)
    if hashes:
        ordered = pl.concat(hashes).sort()
        twice = ordered.filter(ordered == ordered.shift(1)).unique()
        if len(twice):
            _refuse_duplicates(frame, id_col, twice)


def _ids(frame: Stream, id_col: str) -> Iterator[pl.Series]:
    dtype = comparable(frame.schema.field(id_col).type)
    position = 0
    for batch in frame.scan([id_col], WINDOW_ROWS):
        check_id_texts(batch.column(0), id_col, position)
        position += batch.num_rows
        ids: Any = pl.from_arrow(converted(batch.column(0), dtype))
        yield ids.alias("id")


def _refuse_duplicates(frame: Stream, id_col: str, hashes: pl.Series) -> None:
    suspects = pl.concat(ids.filter(ids.hash().is_in(hashes.implode())) for ids in _ids(frame, id_col)).to_frame()
    counts = suspects.group_by("id", maintain_order=True).len("times").filter(pl.col("times") > 1)
    if len(counts):
        raise duplicate_ids(id_col, len(counts), dict(counts.head(EXAMPLES).iter_rows()))


def exclude(frame: Stream, finished: np.ndarray[Any, np.dtype[np.bool_]]) -> Stream:
    """Look each row's position up in the array."""
    return stream.exclude(_conforming(frame), finished) if finished.any() else frame


def iter_batches(frame: Stream, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Data frames."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    for batch in frame.scan(list(dict.fromkeys([*columns, POSITION])), batch_size):
        yield job_batch(batch, id_col, input_cols, _frame)


def _frame(batch: pa.RecordBatch) -> Any:
    """The batch in polars, moments with a fixed offset in UTC: polars breaks on what it lacks.

    Raises:
        pa.ArrowNotImplementedError: it lacks a column's type.
    """
    for field in batch.schema:
        if lacking := next((one for one in parts(field.type) if pa.types.is_decimal256(one)), None):
            raise pa.ArrowNotImplementedError(f"polars has no {lacking}")
    kinds = [rebuilt(dtype, _with_zone) for dtype in batch.schema.types]
    fields = [field.with_type(kind) for field, kind in zip(batch.schema, kinds, strict=True)]
    return _framed(batch if kinds == batch.schema.types else conformed(batch, pa.schema(fields)))


def _with_zone(dtype: Any) -> pa.DataType:
    fixed = pa.types.is_timestamp(dtype) and not _is_zone(dtype.tz)
    return pa.timestamp(dtype.unit, "UTC") if fixed else dtype


def to_pandas(frame: Stream, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames."""
    return stream.to_pandas(_conforming(frame), columns, batch_size)


def join(frame: Stream, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side."""
    return stream.join(_conforming(frame), outputs, id_col, columns)


def _conforming(frame: Stream) -> Stream:
    """`frame` with the types of its schema: text is copied once, from polars' views."""

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        types = pa.schema([frame.schema.field(column) for column in columns])
        return (conformed(batch, types) for batch in frame.scan(columns, batch_size))

    return replace(frame, scan=scan)


def _scan(
    files: InputFiles, options: Mapping[str, Any], read_by_arrow: Stream, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The next window is read while one is worked on."""
    if not all(_is_known(read_by_arrow.schema.field(column)) for column in columns):
        yield from read_by_arrow.scan(columns, batch_size)
        return
    rows = min(WINDOW_ROWS, 2 * arrow.rows_within(files, arrow.BATCH_BYTES))
    size = min(batch_size, arrow.rows_within(files, arrow.BATCH_BYTES))
    steps = [(file, at, rows) for file in files.files for at in range(0, file.rows or 0, rows)]
    make = partial(_window, files, options, columns)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(make, *steps[0]) if steps else None
        for step in [*steps[1:], None]:
            if ahead is None:
                return
            window = ahead.result()
            ahead = thread.submit(make, *step) if step else None
            yield from _cut(window, size)


def _window(
    files: InputFiles, options: Mapping[str, Any], columns: Sequence[str], file: InputFile, start: int, rows: int
) -> pl.DataFrame | pa.Table:
    stored = [column for column in columns if column not in files.hive.names]
    if file.int96:  # moments beyond the reach of nanoseconds would become others
        return pa.Table.from_batches(list(arrow.scan_window(files, file, start, rows, columns)))
    try:
        lazy = pl.scan_parquet(file.path, glob=False, hive_partitioning=False, **options).slice(start, rows)
        # By their very names: `select` takes `*` and `^a.*$` for patterns.
        window = lazy.select(cs.by_name(*stored)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        window = None
    if window is None or not stored:  # without a column of the file polars has no rows
        return pa.Table.from_batches(list(arrow.scan_window(files, file, start, rows, columns)))
    check_rows(file, min(rows, (file.rows or 0) - start), len(window))
    return window.with_columns(_constant(name, value, files.hive) for name, value in file.hive)[list(columns)]


def _constant(column: str, value: Any, hive: pa.Schema) -> pl.Expr:
    dtype = cast("pl.Series", pl.from_arrow(pa.array([], hive.field(column).type))).dtype
    return pl.lit(value, dtype).alias(column)


def _cut(window: pl.DataFrame | pa.Table, size: int) -> Iterator[pa.RecordBatch]:
    if isinstance(window, pa.Table):
        window = window.combine_chunks()
        yield from window.to_batches(max_chunksize=size)
        return
    for frame in window.iter_slices(size):
        yield from frame.rechunk().to_arrow(compat_level=pl.CompatLevel.newest()).to_batches()


def _panics(dtype: Any) -> bool:
    """Whether polars breaks on files that have such a column, even if it is not read."""
    return isinstance(dtype, LIST_VIEWS) or (pa.types.is_timestamp(dtype) and not _is_zone(dtype.tz))


def _is_known(field: pa.Field[Any]) -> bool:
    """Whether polars reads such a column, and hands its values out again unchanged."""
    dtype: Any = field.type
    if pa.types.is_timestamp(dtype):
        return _is_zone(dtype.tz)
    if isinstance(dtype, (pa.ListType, pa.LargeListType)):
        return dtype.value_field.nullable and _is_known(dtype.value_field)
    if isinstance(dtype, pa.StructType):
        return dtype.num_fields > 0 and all(child.nullable and _is_known(child) for child in dtype)
    return any(is_one(dtype) for is_one in _KNOWN)


_KNOWN = (
    pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64,
    pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_date32,
    pa.types.is_duration,
)  # fmt: skip


@lru_cache(64)
def _is_zone(zone: str | None) -> bool:
    try:
        pl.Series(dtype=pl.Datetime("us", zone))
    except pl.exceptions.PolarsError:
        return False
    return True
