"""Streams of Arrow batches: reading and re-cutting them, putting outputs beside inputs, writing them as parquet.

Backends whose frames are Arrow streams use these; an engine with its own streaming join and writer need not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domyn_swarm.data.columns import POSITION, RUN_KEY
from domyn_swarm.data.damage import check_rows, naming_damage
from domyn_swarm.data.hive import with_hive_values
from domyn_swarm.data.int96 import int96_columns, within_reach
from domyn_swarm.data.types import conformed, converted, empty_table, working_schema
from domyn_swarm.data.values import python_row
from domyn_swarm.errors import CheckpointError, ConfigurationError, OutputConflictError
from domyn_swarm.storage.files import (
    atomic_write,
    filesystem,
    make_folder,
    open_parquet,
    remove_leftovers,
    whole_directory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from domyn_swarm.data.batches import Outputs
    from domyn_swarm.data.input_files import InputFile, InputFiles

BATCH_BYTES = 32 * 2**20
ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 64 * 2**20
FILE_ROWS = 1_000_000
PART_FILE = r"part-\d{5,}\.parquet"
"""What the files of an output directory are called."""
SAMPLE_ROWS = 8192


OWN_READ_KWARGS = ("hive", "storage_options")
"""What no engine's reader needs to know: they say how the files are found."""
CONVERSIONS = {
    "csv": "pandas.read_csv({path!r}, dtype=str)",
    "jsonl": "pandas.read_json({path!r}, lines=True, dtype=False, convert_dates=False)",
}


def conversion(files: InputFiles) -> str:
    """A command that makes parquet of the first of CSV or JSON Lines files."""
    path = files.files[0].path
    read = CONVERSIONS[files.format].format(path=path)
    return f'python -c "import pandas; {read}.to_parquet({path.rpartition(".")[0] + ".parquet"!r})"'


def check_parquet(backend: str, files: InputFiles) -> pa.Schema:
    """The schema of parquet files; raises ConfigurationError for files of another format."""
    if files.schema is None:
        raise ConfigurationError(
            f"--input: the {backend} backend reads parquet only, not {files.format}.",
            f"Leave --data-backend out, or convert the files first: {conversion(files)}",
        )
    return files.schema


def check_read_kwargs(backend: str, read_kwargs: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ConfigurationError for a keyword that the backend's reader does not know."""
    known = {*known, *OWN_READ_KWARGS}
    if unknown := sorted(read_kwargs.keys() - known):
        raise ConfigurationError(
            f"--backend-read-kwargs: the {backend} backend does not know {', '.join(map(repr, unknown))}.",
            f"Known: {', '.join(sorted(known))}.",
        )


def projected(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """`schema` with `columns` only, in that order; all of it without any.

    Raises:
        ConfigurationError: there is no such column.
    """
    if columns is not None and not isinstance(columns, list):
        raise ConfigurationError(
            f"--backend-read-kwargs: columns is {columns!r}, no list of names.", f"Columns: {', '.join(schema.names)}."
        )
    if missing := [column for column in columns or () if column not in schema.names]:
        raise ConfigurationError(
            f"--backend-read-kwargs: the input has no column {missing[0]!r}.", f"Columns: {', '.join(schema.names)}."
        )
    return pa.schema([schema.field(column) for column in columns or schema.names])


def scan_files(files: InputFiles, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    """`columns` of parquet files in order, in batches of at most `batch_size` rows and about BATCH_BYTES."""
    for file in files.files:
        yield from scan_groups(files, file, range(len(file.groups)), columns, batch_size)


def scan_groups(
    files: InputFiles, file: InputFile, groups: Sequence[int], columns: Sequence[str], batch_size: int
) -> Iterator[pa.RecordBatch]:
    """The same for some row groups of one of the files, whose columns get the working types of all files."""
    size = min(batch_size, rows_within(files, BATCH_BYTES))
    schema = working_schema(projected(check_parquet("", files), list(columns)))
    found = 0
    with naming_damage(files, file, columns), open_parquet(files.fs, file.path, file.int96) as parquet:
        own = parquet.schema_arrow.names
        present = [column for column in columns if column in own] or own[:1]
        for batch in _batches(files, file, parquet, {"batch_size": size, "row_groups": list(groups)}, present):
            found += batch.num_rows
            yield with_hive_values(conformed(batch, schema), file)
        check_rows(file, sum(file.groups[group] for group in groups), found)


def _batches(
    files: InputFiles, file: InputFile, parquet: pq.ParquetFile, cut: Mapping[str, Any], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    batches = parquet.iter_batches(columns=list(columns), **cut)
    if file.int96 != "ns" or not (old := sorted(int96_columns(parquet).intersection(columns))):
        yield from batches
        return
    with open_parquet(files.fs, file.path, "us") as coarse:
        yield from within_reach(batches, coarse.iter_batches(columns=old, **cut))


def row_at(files: InputFiles, file: InputFile, row: int, columns: Sequence[str]) -> dict[str, Any]:
    """A row of a file, counted from 0, by column."""
    for group, rows in enumerate(file.groups):
        if row >= rows:
            row -= rows
            continue
        for batch in scan_groups(files, file, [group], columns, ROW_GROUP_ROWS):
            if row < batch.num_rows:
                return python_row(batch, row)
            row -= batch.num_rows
    raise IndexError(row)


def scan_window(
    files: InputFiles, file: InputFile, start: int, rows: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The same for `rows` rows of one of the files, from its row `start` on."""
    ends = np.cumsum(file.groups)
    groups = [number for number, end in enumerate(ends) if end > start and end - file.groups[number] < start + rows]
    skipped = start - int(ends[groups[0]] - file.groups[groups[0]]) if groups else 0
    left = rows
    for batch in scan_groups(files, file, groups, columns, rows):
        cut = batch.slice(min(skipped, batch.num_rows), left)
        skipped, left = max(0, skipped - batch.num_rows), left - cut.num_rows
        if cut.num_rows:
            yield cut
        if left <= 0:
            return


def rows_within(files: InputFiles, most_bytes: int) -> int:
    """How many average rows of the widest file, decoded, fit into `most_bytes`."""
    widest = max((file.decoded_bytes / file.rows for file in files.files if file.rows), default=1.0)
    return max(1, int(most_bytes / max(1.0, widest)))


@dataclass(frozen=True)
class Tables:
    """A stream of tables of one schema, made anew by each call of `tables`."""

    schema: pa.Schema
    tables: Callable[[], Iterator[pa.Table]]


JOINED_BYTES = 64 * 2**20
"""Of outputs that are joined with their rows at a time: a row may be megabytes."""


class RowReader:
    """Takes any number of rows at a time from a stream of tables."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
        self._tables = tables
        self._rest = empty_table(schema)

    def take(self, rows: int, most: int | None = None) -> pa.Table:
        """The next `rows` rows, or fewer: what is left, or as many as make `most` bytes."""
        parts = [self._rest]
        have = self._rest.num_rows
        while (
            have < rows
            and not (have and most and sum(one.nbytes for one in parts) >= most)
            and (table := next(self._tables, None)) is not None
        ):
            parts.append(table)
            have += table.num_rows
        joined = pa.concat_tables(parts) if len(parts) > 1 else self._rest
        self._rest = joined.slice(rows)
        return joined.slice(0, rows)

    def is_empty(self) -> bool:
        """Whether no row is left."""
        while self._rest.num_rows == 0 and (table := next(self._tables, None)) is not None:
            self._rest = table
        return self._rest.num_rows == 0


def beside(batches: Iterable[pa.RecordBatch], outputs: Outputs, id_col: str, columns: pa.Schema) -> Iterator[pa.Table]:
    """`columns` of each batch with its rows' outputs. Batches carry POSITION and `id_col`, in input order.

    `columns` says which types they have in what is written; the batches have working types.

    Raises:
        CheckpointError: a row has no output, or its id is not the one that the output was made for.
    """
    reader: RowReader | None = None
    joined = pa.schema([*columns, *outputs.schema])
    for batch in batches:
        if reader is None:
            id_field = batch.schema.field(id_col)
            schema = pa.schema([pa.field(POSITION, pa.int64()), id_field, *outputs.schema])
            reader = RowReader((_with_ids(table, id_field) for table in outputs.tables()), schema)
        while True:
            table = reader.take(batch.num_rows, JOINED_BYTES)
            rows = batch.slice(0, table.num_rows) if table.num_rows else batch
            _check_aligned(rows, table, id_col)
            arrays = [converted(rows.column(field.name), field.type) for field in columns]
            yield pa.table([*arrays, *(table.column(name) for name in outputs.schema.names)], schema=joined)
            if rows.num_rows == batch.num_rows:
                break
            batch = batch.slice(rows.num_rows)  # noqa: PLW2901 - what is left of it


def _with_ids(table: pa.Table, id_field: pa.Field[Any]) -> pa.Table:
    """The table with its ids in the input's type: who made them may have held them in another of the same kind."""
    at = table.schema.get_field_index(id_field.name)
    if table.schema.field(at).type == id_field.type:
        return table
    return table.set_column(at, id_field, converted(table.column(at), id_field.type))


def _check_aligned(batch: pa.RecordBatch, table: pa.Table, id_col: str) -> None:
    positions, ids = batch.column(POSITION), batch.column(id_col)
    same = table.num_rows == batch.num_rows and table.column(POSITION).combine_chunks().equals(_whole(positions))
    if same and not table.column(id_col).combine_chunks().equals(_whole(ids)):
        same = False
    if not same:
        raise CheckpointError(
            f"The checkpoint does not fit the input at row {positions[0].as_py():,} ({id_col} = {ids[0].as_py()!r}).",
            "The input changed under the run. Run again with --no-resume, or with another --checkpoint-tag.",
        )


def _whole(array: pa.Array[Any]) -> Any:
    return pa.chunked_array([array]).combine_chunks()


def filter_positions(batch: pa.RecordBatch, finished: Any) -> pa.RecordBatch:
    """The rows of `batch` whose POSITION is not marked in the boolean array `finished`."""
    positions = batch.column(POSITION).to_numpy()
    if len(positions) == 0 or positions[0] >= len(finished):
        return batch
    known = positions[: positions.searchsorted(len(finished))]
    done = finished[known]
    if not done.any():
        return batch
    keep = pa.concat_arrays([pc.invert(pa.array(done)), pa.array([True] * (len(positions) - len(known)), pa.bool_())])
    return batch.filter(keep)


def check_writer_kwargs(write_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for keywords that pyarrow's parquet writer refuses."""
    rows = write_kwargs.get("row_group_size")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise ConfigurationError(
            f"--backend-write-kwargs: row_group_size is {rows!r}.", "Give a number of rows, 1 or more."
        )
    try:
        _open_writer(pa.BufferOutputStream(), pa.schema([("x", pa.int64())]), write_kwargs).close()
    except (TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise ConfigurationError(
            f"--backend-write-kwargs: {error}.",
            "Use keywords of pyarrow.parquet.ParquetWriter (compression, compression_level, row_group_size, ...).",
        ) from None


Guard: TypeAlias = "Callable[[int], bool]"
"""See `domyn_swarm.storage.files.Guard`; it gets the number of rows that were written."""


def write_parquet(
    stream: Tables, path: str, *, directory: bool, metadata: Mapping[str, str], write_kwargs: Mapping[str, Any],
    guard: Guard | None = None,
) -> int:  # fmt: skip
    """Write one file, or a directory of files of FILE_ROWS rows, whole or not at all; returns the rows written.

    What the run that RUN_KEY names in `metadata` left half written when it was killed is removed.

    Raises:
        OutputConflictError: `guard` refused; what was written is kept at the error's `beside`.
    """
    fs, target = filesystem(path, write_kwargs.get("storage_options"))
    target = target.rstrip("/")
    parent, _, name = target.rpartition("/")
    make_folder(fs, parent or ".")
    owner = metadata.get(RUN_KEY, "")
    remove_leftovers(fs, parent or ".", name, owner)
    schema = stream.schema.with_metadata({key.encode(): value.encode() for key, value in metadata.items()})
    writing = _Writing(fs, stream, schema, directory, write_kwargs, owner)
    try:
        return writing.to(target, guard)
    except OutputConflictError as error:
        if error.beside:
            raise
        ending = f".conflict-{error.run}"  # an upload cannot be given another name
        writing.to(f"{target}{ending}", None)
        raise error.keeping(f"{path.rstrip('/')}{ending}") from None


@dataclass(frozen=True)
class _Writing:
    """Rows to write, and how."""

    fs: Any
    stream: Tables
    schema: pa.Schema
    directory: bool
    write_kwargs: Mapping[str, Any]
    owner: str

    def to(self, target: str, guard: Guard | None) -> int:
        """Write them there, if `guard` allows it; returns their number."""
        reader = RowReader(self.stream.tables(), self.schema)
        written = number = 0
        asked = None if guard is None else (lambda: guard(written))
        if not self.directory:
            with atomic_write(self.fs, target, streamed=True, guard=asked, owner=self.owner) as file:
                written = _write_file(file, reader, self.schema, None, self.write_kwargs)
            return written
        with whole_directory(self.fs, target, guard=asked, owner=self.owner) as make:
            while number == 0 or not reader.is_empty():
                with make(f"part-{number:05d}.parquet") as file:
                    written += _write_file(file, reader, self.schema, FILE_ROWS, self.write_kwargs)
                number += 1
        return written


def _write_file(
    file: Any, reader: RowReader, schema: pa.Schema, most: int | None, write_kwargs: Mapping[str, Any]
) -> int:
    group_rows = int(write_kwargs.get("row_group_size") or ROW_GROUP_ROWS)
    group = _row_group(reader, group_rows if most is None else min(group_rows, most))
    options = {"use_dictionary": _repetitive(group), **write_kwargs}
    written = 0
    # One row group is written while the next one is read and joined.
    with _open_writer(file, schema, options) as writer, ThreadPoolExecutor(1) as thread:
        while group.num_rows:
            # A cast to the same types would break slices of structs with a null column (pyarrow 26).
            table = group if group.schema.equals(schema) else group.cast(schema)
            writing = thread.submit(writer.write_table, table, row_group_size=group.num_rows)
            written += group.num_rows
            group = _row_group(reader, group_rows if most is None else min(group_rows, most - written))
            writing.result()
    return written


def _repetitive(sample: pa.Table) -> list[str]:
    """The columns whose first values repeat: a dictionary of different ones costs half of the time of writing.

    Those that are dictionaries stay so: the order of their values is kept.
    """
    head = sample.slice(0, SAMPLE_ROWS)
    names = [field.name for field in head.schema if any(is_one(field.type) for is_one in _SAMPLED)]
    repeating = [name for name in names if 2 * pc.count_distinct(head[name]).as_py() <= head.num_rows]
    return [*repeating, *(field.name for field in head.schema if pa.types.is_dictionary(field.type))]


_SAMPLED = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_integer,
    pa.types.is_floating,
)  # fmt: skip


def _row_group(reader: RowReader, rows: int) -> pa.Table:
    """Up to `rows` rows, fewer when they are wide, so that memory stays bounded by bytes."""
    step = min(rows, 8192)
    parts = [reader.take(0)]
    have = size = 0
    while have < rows and size < ROW_GROUP_BYTES:
        parts.append(reader.take(min(step, rows - have)))
        if parts[-1].num_rows == 0:
            break
        have += parts[-1].num_rows
        size += parts[-1].nbytes
    return pa.concat_tables(parts)


def _open_writer(file: Any, schema: pa.Schema, write_kwargs: Mapping[str, Any]) -> pq.ParquetWriter:
    options = {name: value for name, value in write_kwargs.items() if name not in ("storage_options", "row_group_size")}
    return pq.ParquetWriter(file, schema, **{"compression": "zstd", **options})
