"""Frames in memory, of whatever library: as Arrow tables, with a digest, and as an input that no file holds."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from fsspec.spec import AbstractFileSystem

from domyn_swarm.data.input_files import InputFile, InputFiles
from domyn_swarm.data.types import without_views

IN_MEMORY = "frame://"
"""What the names of inputs begin with that no file holds. (fsspec's `memory://` are files.)"""
DIGEST_CHARS = 12
TAKEN = "a pandas or polars frame, an Arrow table, a Ray Dataset, or a dict of columns"


def as_table(value: Any) -> pa.Table | None:
    """A frame of any engine as Arrow; None when `value` is no frame. An index of pandas is left out.

    Raises:
        TypeError: a column holds Python objects.
        ValueError, pa.ArrowException: Arrow has no type for a column.
    """
    if isinstance(value, pa.Table):
        return value
    if hasattr(value, "columns") and hasattr(value, "__arrow_c_stream__"):
        for name, dtype in zip(value.columns, getattr(value, "dtypes", ()), strict=False):
            if type(dtype).__name__ == "Object":  # polars would hand out where they are in memory
                raise TypeError(f"column {name!r} holds Python objects")
        index = getattr(value, "index", None)
        return pa.table(value) if index is None else pa.Table.from_pandas(value, preserve_index=False)
    return pa.Table.from_batches([value]) if isinstance(value, pa.RecordBatch) else None


def held_table(value: Any) -> pa.Table | None:
    """`as_table` for what people hand in: lazy frames are collected, datasets read, dicts taken as columns.

    Metadata of the schema, which says how a library would make its own types of it, is left out.
    """
    if isinstance(value, Mapping):
        table: pa.Table | None = pa.table(dict(value))
    elif callable(read := getattr(value, "iter_batches", None)) and hasattr(value, "materialize"):
        tables = [batch for batch in read(batch_format="pyarrow", batch_size=None) if batch.num_rows]
        table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    elif callable(collect := getattr(value, "collect", None)):
        table = as_table(collect())
    else:
        table = as_table(value)
    return table if table is None else without_views(table.replace_schema_metadata(None))


def digest_of(table: pa.Table) -> str:
    """Identifies the content: columns, types and values, however they are cut into chunks."""
    digest = hashlib.blake2b(digest_size=32)
    whole = pa.concat_tables([table, table.slice(0, 0)]).combine_chunks()  # a copy: slices have validity maps to spare
    with pa.ipc.new_stream(pa.PythonFile(_Hashed(digest)), whole.schema) as stream:
        stream.write_table(whole)
    return digest.hexdigest()


@dataclass(frozen=True)
class InMemoryInput:
    """An input in memory. `files` is what `list_files` would say of it, if it were a file; hashing it takes time."""

    table: pa.Table
    files: InputFiles

    @classmethod
    def of(cls, table: pa.Table) -> InMemoryInput:
        """The table as an input, named by its content."""
        digest = digest_of(table)
        name = f"{IN_MEMORY}{digest[:DIGEST_CHARS]}"
        file = InputFile(name, table.nbytes, table.num_rows, digest, (table.num_rows,), table.nbytes)
        return cls(table, InputFiles(AbstractFileSystem(), (file,), "parquet", table.schema, name))


class _Hashed(io.RawIOBase):
    """A file that keeps nothing of what is written to it but its hash."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)
