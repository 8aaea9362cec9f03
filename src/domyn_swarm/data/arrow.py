"""Streams of Arrow batches: reading and re-cutting them, and putting outputs beside inputs.

Backends whose frames are Arrow streams use these; an engine with its own streaming join and writer need not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.damage import check_rows, naming_damage
from domyn_swarm.data.hive import with_hive_values
from domyn_swarm.data.int96 import int96_columns, within_reach
from domyn_swarm.data.types import conformed, converted, empty_table, working_schema
from domyn_swarm.data.values import python_row
from domyn_swarm.errors import CheckpointError, ConfigurationError, opt
from domyn_swarm.storage.files import open_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from domyn_swarm.data.batches import Outputs
    from domyn_swarm.data.input_files import InputFile, InputFiles

BATCH_BYTES = 32 * 2**20
ROW_BATCH = 131_072
"""Rows of a batch in which one row is looked for."""


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
            f"the {backend} backend reads parquet only, not {files.format}.",
            f"Leave {opt('data_backend')} out, or convert the files first: {conversion(files)}",
            code="input.format",
            option="input",
        )
    return files.schema


def check_read_kwargs(backend: str, read_kwargs: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ConfigurationError for a keyword that the backend's reader does not know."""
    known = {*known, *OWN_READ_KWARGS}
    if unknown := sorted(read_kwargs.keys() - known):
        raise ConfigurationError(
            f"the {backend} backend does not know {', '.join(map(repr, unknown))}.",
            f"Known: {', '.join(sorted(known))}.",
            code="option.unknown_key",
            option="backend_read_kwargs",
            choices=tuple(sorted(known)),
        )


def projected(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    """`schema` with `columns` only, in that order; all of it without any.

    Raises:
        ConfigurationError: there is no such column.
    """
    if columns is not None and not isinstance(columns, list):
        raise ConfigurationError(
            f"columns is {columns!r}, no list of names.",
            f"Columns: {', '.join(schema.names)}.",
            code="option.invalid",
            option="backend_read_kwargs",
            choices=tuple(schema.names),
        )
    known = {field.name: field for field in schema}
    if missing := [column for column in columns or () if column not in known]:
        raise ConfigurationError(
            f"the input has no column {missing[0]!r}.",
            f"Columns: {', '.join(known)}.",
            code="column.missing",
            option="backend_read_kwargs",
            column=missing[0],
            choices=tuple(known),
        )
    return pa.schema([known[column] for column in columns or known])


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
        own = dict.fromkeys(parquet.schema_arrow.names)
        present = [column for column in columns if column in own] or [*own][:1]
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
        for batch in scan_groups(files, file, [group], columns, ROW_BATCH):
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
            f"The input changed under the run. Run again with {opt('resume', False)}, or with another "
            f"{opt('checkpoint_tag')}.",
            code="checkpoint.mismatch",
            row=positions[0].as_py(),
            column=id_col,
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
