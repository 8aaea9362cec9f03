"""Frames that are streams of Arrow batches: what backends share whose engine has no lazy frames of its own.

A backend takes the functions that it needs from here; what makes it an engine (reading, native batches) is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from domyn_swarm.data import arrow, parquet_writer
from domyn_swarm.data.batches import Outputs, dtype_name
from domyn_swarm.data.columns import POSITION, ROW_ID
from domyn_swarm.data.filters import Filters, files_that_may_pass, parse_filters
from domyn_swarm.data.ids import EXAMPLES, duplicate_ids, null_id
from domyn_swarm.data.types import comparable, conformed, converted, is_stored, working, working_schema
from domyn_swarm.data.values import check_id_texts
from domyn_swarm.storage.files import open_parquet

if TYPE_CHECKING:
    from domyn_swarm.data.input_files import InputFile, InputFiles
    from domyn_swarm.data.parquet_writer import Guard

Scan: TypeAlias = Callable[[Sequence[str], int], Iterator[pa.RecordBatch]]

SCAN_ROWS = 65_536


@dataclass(frozen=True)
class Stream:
    """A frame that is read anew each time it is iterated.

    `scan(columns, batch_size)` yields those columns in input order as record batches of at most `batch_size` rows.
    `rows` is None when only reading tells. `schema` has working types (`domyn_swarm.data.types`), which are those of
    the batches; `declared` has the types that the columns have in what is written, where these are others. `counted_by`
    is the column to read where rows are only counted: one that is read in any case, if there is such, else the first.
    """

    schema: pa.Schema
    scan: Scan
    rows: int | None
    declared: pa.Schema | None = None
    counted_by: str | None = None


def read_parquet(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    """The files' row groups with `columns` of `read_kwargs`, and of their rows those that pass `filters`."""
    kept = arrow.projected(cast("pa.Schema", files.schema), read_kwargs.get("columns"))
    types = working_schema(kept)
    if not read_kwargs.get("filters"):
        return Stream(types, partial(arrow.scan_files, files), files.rows, kept)
    wanted = parse_filters(read_kwargs["filters"], cast("pa.Schema", files.schema))
    scan = _filtered_scan(files_that_may_pass(files, read_kwargs["filters"]), wanted)
    return Stream(types, scan, None, kept, wanted.columns[0])


def from_arrow(table: pa.Table) -> Stream:
    """A table in memory, as if it were read."""
    types = working_schema(table.schema)
    plain = conformed(table, types)

    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        return iter(plain.select(list(columns)).to_batches(max_chunksize=min(batch_size, SCAN_ROWS)))

    kept = [field if is_stored(field.type) else types.field(field.name) for field in table.schema]
    return Stream(types, scan, table.num_rows, pa.schema(kept))


def schema(frame: Stream) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return {field.name: dtype_name(field.type) for field in frame.schema}


def with_row_id(frame: Stream, id_col: str | None) -> Stream:
    """Count rows while they stream by."""
    return counted(frame, id_col, 0)


def counted(frame: Stream, id_col: str | None, start: int) -> Stream:
    """`with_row_id` for a stream whose first row is the input's row `start`."""
    counters = [POSITION] if id_col is not None else [POSITION, ROW_ID]
    made = (pa.field(counter, pa.int64()) for counter in counters)
    # Ids are compared with those of other files, whose dictionaries are others.
    own = (field.with_type(comparable(field.type)) if field.name == id_col else field for field in frame.schema)
    schema = pa.schema([*own, *made])
    return replace(frame, schema=schema, scan=partial(_scan_counted, frame, schema, id_col, start))


def _scan_counted(
    frame: Stream, schema: pa.Schema, id_col: str | None, start: int, columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    own = set(frame.schema.names)
    kept = [column for column in columns if column in own]
    position = start
    for batch in frame.scan(kept or [frame.counted_by or frame.schema.names[0]], batch_size):
        arrays = {column: batch.column(column) for column in kept}
        if id_col in arrays:
            arrays[id_col] = converted(arrays[id_col], schema.field(id_col).type)
        counter = pa.array(np.arange(position, position + batch.num_rows))
        position += batch.num_rows
        made = [arrays.get(column, counter) for column in columns]
        fields = [schema.field(column).with_type(array.type) for column, array in zip(columns, made, strict=True)]
        yield pa.RecordBatch.from_arrays(made, schema=pa.schema(fields))


def check_ids(frame: Stream, id_col: str) -> None:
    """One pass over the id column, eight bytes a row: only ids whose hashes meet are compared themselves."""
    hashes = np.empty(count(frame), dtype=np.uint64)
    position = 0
    for batch in frame.scan([id_col], SCAN_ROWS):
        ids = batch.column(0)
        if ids.null_count:
            row = position + int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
            raise null_id(id_col, row)
        check_id_texts(ids, id_col, position)
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


def to_pandas(frame: Stream, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames over the same memory."""
    for batch in frame.scan(columns, batch_size):
        yield batch.to_pandas(types_mapper=pd.ArrowDtype)


def join(frame: Stream, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side."""
    wanted = list(dict.fromkeys([*columns, id_col, POSITION]))
    written = written_schema(frame, columns)
    joined = pa.schema([*written, *outputs.schema])
    return arrow.Tables(joined, lambda: arrow.beside(frame.scan(wanted, SCAN_ROWS), outputs, id_col, written))


def written_schema(frame: Stream, columns: Sequence[str]) -> pa.Schema:
    """The fields that `columns` have in what is written."""
    declared = frame.declared or frame.schema
    known = {field.name: field for field in (*frame.schema, *declared)}
    return pa.schema([_wide_enough(known[column], frame.rows) for column in columns])


def _wide_enough(field: pa.Field[Any], rows: int | None) -> pa.Field[Any]:
    """`field`; a dictionary's indices have 32 bits unless fewer can number `rows` values."""
    dtype = field.type
    if not isinstance(dtype, pa.DictionaryType) or dtype.index_type.bit_width >= 32:
        return field
    enough = rows is not None and rows < 2 ** (dtype.index_type.bit_width - 1)
    return field if enough else field.with_type(working(dtype))


def check_write_kwargs(write_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a keyword that pyarrow's parquet writer does not know."""
    parquet_writer.check_writer_kwargs(write_kwargs)


def write(
    frame: arrow.Tables, path: str, *, directory: bool, metadata: Mapping[str, str], write_kwargs: Mapping[str, Any],
    guard: Guard | None = None,
) -> int:  # fmt: skip
    """Stream to parquet, row group by row group."""
    return parquet_writer.write_parquet(
        frame, path, directory=directory, metadata=metadata, write_kwargs=write_kwargs, guard=guard
    )


def _filtered_scan(files: InputFiles, wanted: Filters) -> Scan:
    def scan(columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        needed = list(dict.fromkeys([*columns, *wanted.columns]))
        for file in files.files:
            for batch in arrow.scan_groups(files, file, _groups(files, file, wanted), needed, batch_size):
                kept = batch.filter(wanted.mask(batch))
                if kept.num_rows:
                    yield kept.select(list(columns))

    return scan


def _groups(files: InputFiles, file: InputFile, wanted: Filters) -> Sequence[int]:
    """The row groups of `file` that may hold rows that pass."""
    groups = range(len(file.groups))
    if file.encrypted:
        return groups
    with open_parquet(files.fs, file.path) as parquet:
        metadata = parquet.metadata
    return [group for group in groups if wanted.may_pass(metadata.row_group(group))]
