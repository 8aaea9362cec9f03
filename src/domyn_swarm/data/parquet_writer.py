"""Streams of Arrow tables to parquet: one file, or a directory of files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domyn_swarm.data.arrow import RowReader, Tables
from domyn_swarm.data.columns import RUN_KEY
from domyn_swarm.errors import ConfigurationError, OutputConflictError
from domyn_swarm.storage.atomic import atomic_write, remove_leftovers, whole_directory
from domyn_swarm.storage.files import filesystem, make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


ROW_GROUP_ROWS = 131_072
ROW_GROUP_BYTES = 64 * 2**20
FILE_ROWS = 1_000_000
PART_FILE = r"part-\d{5,}\.parquet"
"""What the files of an output directory are called."""
SAMPLE_ROWS = 8192
PAGE_BYTES, PAGE_ROWS = 2**20, 1024
"""Of a page, and after how many rows a writer looks at its size: pyarrow's defaults."""


def check_writer_kwargs(write_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for keywords that pyarrow's parquet writer refuses."""
    rows = write_kwargs.get("row_group_size")
    if rows is not None and (type(rows) is not int or rows < 1):
        raise ConfigurationError(
            f"row_group_size is {rows!r}.",
            "Give a number of rows, 1 or more.",
            code="option.invalid",
            option="backend_write_kwargs",
        )
    try:
        _open_writer(pa.BufferOutputStream(), pa.schema([("x", pa.int64())]), write_kwargs).close()
    except (TypeError, ValueError, OSError, pa.ArrowException) as error:
        raise ConfigurationError(
            f"{error}.",
            "Use keywords of pyarrow.parquet.ParquetWriter (compression, compression_level, row_group_size, ...).",
            code="option.invalid",
            option="backend_write_kwargs",
        ) from None


Guard: TypeAlias = "Callable[[int], bool]"
"""See `domyn_swarm.storage.atomic.Guard`; it gets the number of rows that were written."""


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
    options = {"use_dictionary": _repetitive(group), "write_batch_size": page_rows(group), **write_kwargs}
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
        parts.append(reader.take(min(step, rows - have), ROW_GROUP_BYTES - size))
        if parts[-1].num_rows == 0:
            break
        have += parts[-1].num_rows
        size += parts[-1].nbytes
    return pa.concat_tables(parts)


def page_rows(table: pa.Table) -> int:
    """How many rows like those of `table` to write between two looks at a page's size.

    A page is decoded whole, whatever is read of it, and a row may be megabytes.
    """
    return max(1, min(PAGE_ROWS, table.num_rows * PAGE_BYTES // max(1, table.nbytes)))


def _open_writer(file: Any, schema: pa.Schema, write_kwargs: Mapping[str, Any]) -> pq.ParquetWriter:
    options = {name: value for name, value in write_kwargs.items() if name not in ("storage_options", "row_group_size")}
    return pq.ParquetWriter(file, schema, **{"compression": "zstd", **options})
