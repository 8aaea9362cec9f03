"""The polars engine: lazy scans on its streaming engine, and `polars.DataFrame`s as native batches.

Its lazy frame is a `Query`: the LazyFrame, and the Arrow schema of the files, because polars has fewer types than
parquet (one for strings, none for UUIDs) and what leaves the engine has to have the types that came in.
"""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from domyn_swarm.data import arrow
from domyn_swarm.data.backends.base import JobBatch, Outputs, dtype_name
from domyn_swarm.data.columns import POSITION, ROW_ID
from domyn_swarm.data.filters import Condition, parse_filters
from domyn_swarm.data.ids import EXAMPLES, duplicate_ids, null_id
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.helpers.io import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.helpers.io import InputFiles

name = "polars"
distributed = False

SCAN_ROWS = 65_536
OWN_READ_KWARGS = ("columns", "filters", "storage_options")
ENGINE_READ_KWARGS = ("parallel", "use_statistics", "low_memory", "cache", "rechunk")


@dataclass(frozen=True)
class Query:
    """A lazy frame: `lazy` makes the rows, `schema` has the types that they had in the files.

    `rows` is None when only running the query tells. `batch_rows` average rows take about `arrow.BATCH_BYTES`.
    """

    lazy: pl.LazyFrame
    schema: pa.Schema
    rows: int | None
    batch_rows: int


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Query:
    """Local files through polars' own scan; on other filesystems Arrow's batches feed the query."""
    found = arrow.check_parquet(name, files)
    known = {*OWN_READ_KWARGS, *(set(ENGINE_READ_KWARGS) & inspect.signature(pl.scan_parquet).parameters.keys())}
    arrow.check_read_kwargs(name, read_kwargs, known)
    schema = arrow.projected(found, read_kwargs.get("columns"))
    options = {key: value for key, value in read_kwargs.items() if key not in OWN_READ_KWARGS}
    lazy = _scan(files, options)
    rows = files.rows
    if read_kwargs.get("filters"):
        lazy, rows = lazy.filter(_expression(parse_filters(read_kwargs["filters"], found))), None
    return Query(lazy.select(schema.names), schema, rows, arrow.rows_within(files, arrow.BATCH_BYTES))


def schema(frame: Query) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return {field.name: dtype_name(field.type) for field in frame.schema}


def with_row_id(frame: Query, id_col: str | None) -> Query:
    """Polars' row index, as a signed integer."""
    counters = [POSITION] if id_col is not None else [POSITION, ROW_ID]
    count = pl.col(POSITION).cast(pl.Int64)
    lazy = frame.lazy.with_row_index(POSITION).with_columns(count.alias(counter) for counter in counters)
    fields = [*frame.schema, *(pa.field(counter, pa.int64()) for counter in counters)]
    return replace(frame, lazy=lazy.select(field.name for field in fields), schema=pa.schema(fields))


def check_ids(frame: Query, id_col: str) -> None:
    """One pass over the id column, eight bytes a row: only ids whose hashes meet are compared themselves."""
    ids = frame.lazy.select(pl.col(id_col), pl.int_range(pl.len()).alias("row"))
    empty = ids.filter(pl.col(id_col).is_null()).select(pl.col("row").min()).collect(engine="streaming").item()
    if empty is not None:
        raise null_id(id_col, empty)
    hashed = frame.lazy.select(pl.col(id_col).hash().alias("hash"))
    hashes = hashed.collect(engine="streaming")["hash"].sort()
    twice = hashes.filter(hashes == hashes.shift(1)).unique()
    if len(twice):
        _refuse_duplicates(frame, id_col, twice)


def _refuse_duplicates(frame: Query, id_col: str, hashes: pl.Series) -> None:
    suspects = frame.lazy.select(id_col).filter(pl.col(id_col).hash().is_in(hashes.implode()))
    counts = suspects.group_by(id_col, maintain_order=True).len("times").filter(pl.col("times") > 1)
    repeated = counts.collect(engine="streaming")
    if len(repeated):
        raise duplicate_ids(id_col, len(repeated), dict(repeated.head(EXAMPLES).iter_rows()))


def head(frame: Query, rows: int) -> Query:
    """The query's first rows; the scan stops there."""
    return replace(frame, lazy=frame.lazy.head(rows), rows=None if frame.rows is None else min(rows, frame.rows))


def count(frame: Query) -> int:
    """From the footers where they tell, else by running the query over no columns."""
    if frame.rows is not None:
        return frame.rows
    return int(frame.lazy.select(pl.len()).collect(engine="streaming").item())


def exclude(frame: Query, finished: np.ndarray[Any, np.dtype[np.bool_]]) -> Query:
    """An anti-join whose right side is the array: each row's position is looked up in it."""
    if not finished.any():
        return frame

    def is_pending(positions: pl.Series) -> pl.Series:
        at = positions.to_numpy()
        known = at < len(finished)
        return pl.Series(~(known & finished[np.where(known, at, 0)]), dtype=pl.Boolean)

    pending = pl.col(POSITION).map_batches(is_pending, return_dtype=pl.Boolean, is_elementwise=True)
    rows = None if frame.rows is None else frame.rows - int(finished[: frame.rows].sum())
    return replace(frame, lazy=frame.lazy.filter(pending), rows=rows)


def iter_batches(frame: Query, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Data frames from the streaming engine."""
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


def _scan(files: InputFiles, options: Mapping[str, Any]) -> pl.LazyFrame:
    paths = [file.path for file in files.files]
    if is_local(files.fs):
        return pl.scan_parquet(cast("list[Any]", paths), glob=False, hive_partitioning=False, **options)
    if options:
        raise ConfigurationError(
            f"--backend-read-kwargs: {', '.join(options)} works on local files only.", "Leave it out."
        )
    schema = cast("pa.Schema", files.schema)

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for batch in arrow.scan_files(files, columns or schema.names, batch_size or SCAN_ROWS):
            frame = cast("pl.DataFrame", pl.from_arrow(batch))
            frame = frame if left is None else frame.head(left)
            left = None if left is None else left - len(frame)
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    empty = cast("pl.DataFrame", pl.from_arrow(schema.empty_table()))
    return register_io_source(source, schema=empty.schema, is_pure=True)


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
    for chunk in frame.lazy.select(columns).collect_batches(chunk_size=size, maintain_order=True, engine="streaming"):
        yield from (chunk,) if len(chunk) <= size else chunk.iter_slices(size)


def _batches(frame: Query, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    convert = partial(_record_batch, schema=frame.schema)
    return map(convert, _frames(frame, columns, batch_size))


def _record_batch(frame: pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """`frame` with the types that its columns had in the files."""
    table = frame.to_arrow().cast(pa.schema([schema.field(column) for column in frame.columns]))
    return table.combine_chunks().to_batches()[0]
