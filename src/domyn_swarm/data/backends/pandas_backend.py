"""The default engine: pandas frames over streams of Arrow batches, so that input larger than memory passes through.

Its lazy frame is a `Stream`. pandas itself reads the debug formats (CSV, JSON Lines), looks for duplicate ids, and is
what native batches are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from domyn_swarm.data import arrow
from domyn_swarm.data.backends.base import JobBatch, Outputs, dtype_name
from domyn_swarm.data.columns import POSITION, ROW_ID
from domyn_swarm.data.filters import arrow_expression, parse_filters
from domyn_swarm.data.ids import EXAMPLES, duplicate_ids, null_id
from domyn_swarm.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from domyn_swarm.helpers.io import InputFiles

name = "pandas"

Scan: TypeAlias = Callable[[Sequence[str], int], Iterator[pa.RecordBatch]]

READ_KWARGS = ("columns", "filters", "dtype_backend", "storage_options")
DTYPE_BACKENDS = (None, "numpy_nullable", "pyarrow")
SCAN_ROWS = 65_536


@dataclass(frozen=True)
class Stream:
    """A frame that is read anew each time it is iterated.

    `scan(columns, batch_size)` yields those columns in input order as record batches of at most `batch_size` rows.
    `rows` is None when only reading tells. `dtype_backend` is what pandas' readers call by that name.
    """

    schema: pa.Schema
    scan: Scan
    rows: int | None
    dtype_backend: str | None = None


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    """Parquet as a stream of its row groups; CSV and JSON Lines through pandas, in memory."""
    if files.format != "parquet":
        return _read_with_pandas(files, read_kwargs)
    if unknown := read_kwargs.keys() - set(READ_KWARGS):
        raise ConfigurationError(
            f"--backend-read-kwargs: the pandas backend does not know {', '.join(map(repr, sorted(unknown)))}.",
            f"Known: {', '.join(READ_KWARGS)}.",
        )
    kept = arrow.projected(cast("pa.Schema", files.schema), read_kwargs.get("columns"))
    dtype_backend = read_kwargs.get("dtype_backend")
    if dtype_backend not in DTYPE_BACKENDS:
        raise ConfigurationError(
            f"--backend-read-kwargs: dtype_backend is {dtype_backend!r}.",
            f"It takes: {', '.join(filter(None, DTYPE_BACKENDS))}.",
        )
    if not read_kwargs.get("filters"):
        return Stream(kept, partial(arrow.scan_files, files), files.rows, dtype_backend)
    return Stream(kept, _filtered_scan(files, read_kwargs["filters"]), None, dtype_backend)


def schema(frame: Stream) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return {field.name: dtype_name(field.type) for field in frame.schema}


def with_row_id(frame: Stream, id_col: str | None) -> Stream:
    """Count rows while they stream by."""
    counters = [POSITION] if id_col is not None else [POSITION, ROW_ID]

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        kept = [column for column in columns if column not in counters]
        position = 0
        for batch in frame.scan(kept or frame.schema.names[:1], batch_size):
            counter = pa.array(np.arange(position, position + batch.num_rows))
            position += batch.num_rows
            yield pa.RecordBatch.from_arrays(
                [counter if column in counters else batch.column(column) for column in columns],
                schema=pa.schema([counted.field(column) for column in columns]),
            )

    counted = pa.schema([*frame.schema, *(pa.field(counter, pa.int64()) for counter in counters)])
    return replace(frame, schema=counted, scan=scan)


def check_ids(frame: Stream, id_col: str) -> None:
    """One pass over the id column, eight bytes a row: only ids whose hashes meet are compared themselves."""
    hashes = np.empty(count(frame), dtype=np.uint64)
    position = 0
    for batch in frame.scan([id_col], SCAN_ROWS):
        ids = batch.column(0)
        if ids.null_count:
            row = position + int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
            raise null_id(id_col, row)
        hashes[position : position + len(ids)] = _hash(ids)
        position += len(ids)
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(twice):
        _refuse_duplicates(frame, id_col, twice)


def _hash(ids: pa.Array[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    if pa.types.is_integer(ids.type):
        return pd.util.hash_array(ids.to_numpy(zero_copy_only=False))
    return pd.util.hash_array(np.asarray(ids.to_pylist(), dtype=object))


def _refuse_duplicates(frame: Stream, id_col: str, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    suspects = [
        batch.column(0).filter(pa.array(np.isin(_hash(batch.column(0)), hashes)))
        for batch in frame.scan([id_col], SCAN_ROWS)
    ]
    counts = pd.Series([value for array in suspects for value in array.to_pylist()], dtype=object).value_counts()
    if len(repeated := counts[counts > 1]):
        raise duplicate_ids(id_col, len(repeated), repeated.head(EXAMPLES).to_dict())


def head(frame: Stream, rows: int) -> Stream:
    """Stop reading after `rows` rows."""

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        left = rows
        for batch in frame.scan(columns, min(batch_size, rows)):
            yield batch.slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                return

    return replace(frame, scan=scan, rows=None if frame.rows is None else min(rows, frame.rows))


def count(frame: Stream) -> int:
    """From the footers where they tell, else by reading one column."""
    if frame.rows is not None:
        return frame.rows
    return sum(batch.num_rows for batch in frame.scan(frame.schema.names[-1:], SCAN_ROWS))


def exclude(frame: Stream, finished: np.ndarray[Any, np.dtype[np.bool_]]) -> Stream:
    """Look each row's position up in the array."""
    if not finished.any():
        return frame

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        wanted = list(dict.fromkeys([*columns, POSITION]))
        for batch in frame.scan(wanted, batch_size):
            kept = arrow.filter_positions(batch, finished)
            if kept.num_rows:
                yield kept.select(list(columns))

    rows = None if frame.rows is None else frame.rows - int(finished[: frame.rows].sum())
    return replace(frame, scan=scan, rows=rows)


def iter_batches(frame: Stream, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Pandas frames with the dtypes that `pandas.read_parquet` would give."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    for batch in frame.scan(list(dict.fromkeys([*columns, POSITION])), batch_size):
        native = batch.select(columns).to_pandas(types_mapper=_types_mapper(frame.dtype_backend))
        yield JobBatch(batch.column(id_col), batch.column(POSITION), batch=native)


def to_pandas(frame: Stream, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames over the same memory."""
    for batch in frame.scan(columns, batch_size):
        yield batch.to_pandas(types_mapper=pd.ArrowDtype)


def join(frame: Stream, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side."""
    wanted = list(dict.fromkeys([*columns, id_col, POSITION]))
    joined = pa.schema([*(frame.schema.field(column) for column in columns), *outputs.schema])
    return arrow.Tables(joined, lambda: arrow.beside(frame.scan(wanted, SCAN_ROWS), outputs, id_col, columns))


def check_write_kwargs(write_kwargs: Mapping[str, Any]) -> None:
    """Pyarrow's parquet writer is the one that pandas uses, too."""
    arrow.check_writer_kwargs(write_kwargs)


def write(
    frame: arrow.Tables, path: str, *, directory: bool, metadata: Mapping[str, str], write_kwargs: Mapping[str, Any]
) -> int:
    """Stream to parquet, row group by row group."""
    return arrow.write_parquet(frame, path, directory=directory, metadata=metadata, write_kwargs=write_kwargs)


def _filtered_scan(files: InputFiles, filters: Any) -> Scan:
    schema = cast("pa.Schema", files.schema)
    condition = arrow_expression(parse_filters(filters, schema))

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.dataset as ds  # noqa: PLC0415 - slow to import, and only filters need it

        dataset = ds.dataset([file.path for file in files.files], schema=schema, filesystem=files.fs)
        scanner = dataset.scanner(
            columns=list(columns), filter=condition, batch_size=batch_size, batch_readahead=2, fragment_readahead=1
        )
        return (batch for batch in scanner.to_batches() if batch.num_rows)

    return scan


def _read_with_pandas(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    reader = pd.read_csv if files.format == "csv" else pd.read_json
    lines = {} if files.format == "csv" else {"lines": True}
    tables = []
    for file in files.files:
        try:
            with files.fs.open(file.path, "rb") as handle:
                frame = reader(handle, **{**lines, **read_kwargs})
            tables.append(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None))
        except TypeError as error:
            raise ConfigurationError(
                f"--backend-read-kwargs: {error}.", f"Use keywords of pandas.read_{files.format}."
            ) from None
        except (ValueError, pa.ArrowException) as error:
            raise DataError(f"--input: {file.path} is not readable as {files.format}: {error}") from None
    table = pa.concat_tables(tables, promote_options="permissive")

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        return iter(table.select(list(columns)).to_batches(max_chunksize=batch_size))

    return Stream(table.schema, scan, table.num_rows, read_kwargs.get("dtype_backend"))


def _types_mapper(dtype_backend: str | None) -> Callable[[pa.DataType], Any] | None:
    if dtype_backend == "pyarrow":
        return pd.ArrowDtype
    if dtype_backend == "numpy_nullable":
        return _NULLABLE.get
    return None


_NULLABLE: Mapping[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
