"""Columns that stand in the names of folders, as Hive and Spark write them: `country=it/year=2024/part-0.parquet`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.data.input_files import InputFile, InputFiles
    from domyn_swarm.data.listing import Listing

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
"""Integers that are written in the one way that they have: `007` stays a text."""


def with_hive_columns(files: InputFiles, listing: Listing | None) -> InputFiles:
    """`files` with the columns that the names of their folders hold, but for those that the files have themselves."""
    texts = [listing.hive_values(file.path) if listing else {} for file in files.files]
    own = files.schema.names if files.schema is not None else []
    names = [name for name in dict.fromkeys(name for one in texts for name in one) if name not in own]
    if not names:
        return files
    columns = {name: _column([one.get(name) for one in texts]) for name in names}
    hive = pa.schema({name: column.type for name, column in columns.items()})
    values = (tuple((name, columns[name][at].as_py()) for name in names) for at in range(len(texts)))
    schema = None if files.schema is None else pa.schema([*files.schema, *hive]).with_metadata(files.schema.metadata)
    named = tuple(replace(file, hive=here) for file, here in zip(files.files, values, strict=True))
    return replace(files, files=named, schema=schema, hive=hive)


def _column(texts: Sequence[str | None]) -> pa.Array[Any]:
    """Integers where all values are, of 32 bits if they fit, else of 64; else strings."""
    if all(text is None or _INTEGER.fullmatch(text) for text in texts):
        numbers = [None if text is None else int(text) for text in texts]
        for kind in (pa.int32(), pa.int64()) if any(number is not None for number in numbers) else ():
            try:
                return pa.array(numbers, kind)
            except (pa.ArrowException, OverflowError):
                continue
    return pa.array(texts, pa.string())


def with_hive_values(batch: pa.RecordBatch, file: InputFile) -> pa.RecordBatch:
    """Rows of `file`, in which its folders' columns are nulls still, with the values of these."""
    for name, value in file.hive:
        if (at := batch.schema.get_field_index(name)) >= 0:
            field = batch.schema.field(at)
            batch = batch.set_column(at, field, _repeated(value, field.type, batch.num_rows))
    return batch


def _repeated(value: Any, kind: pa.DataType, rows: int) -> pa.Array[Any]:
    repeat: Any = pa.repeat  # the stubs want the scalar's exact type
    array: pa.Array[Any] = repeat(pa.scalar(value, kind), rows)
    return array
