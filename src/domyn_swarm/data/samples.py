"""A small table that stands for an input: its first rows, the extremes that its footers tell, and a row of nulls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.arrow import check_parquet, projected, rows_within, scan_window
from domyn_swarm.data.input_files import READERS
from domyn_swarm.data.types import conformed, parts
from domyn_swarm.errors import DataError
from domyn_swarm.storage.files import is_local, open_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.data.input_files import InputFile, InputFiles

ROWS = 16
FILES = 64
"""Files of a local folder of which the first rows are read; on other filesystems it is one, as each costs a request."""
LOOKED_AT_BYTES = 16 * 2**20
"""Decoded bytes that are read in all, about: of small files that is every page."""
_STATED = ("INT32", "INT64", "FLOAT", "DOUBLE")
"""Physical types whose statistics are whole values."""


@dataclass(frozen=True)
class Sample:
    """`rows` of an input, as its files declare their types. In the last one everything is null that may be.

    `first` is how many are the first ones of the first of `files` that has any; `may_be_null` names the columns that
    are null in the last row.
    """

    rows: pa.Table
    first: int
    may_be_null: frozenset[str]

    @classmethod
    def of(cls, first: pa.Table, extremes: Mapping[str, Any] | None = None) -> Sample:
        """The sample with these first rows, of which there has to be one, and two extremes of some columns."""
        schema = first.schema
        usual = {field.name: first[field.name].chunk(0)[:1] for field in schema}
        most = {name: values for name, values in (extremes or {}).items() if values is not None}
        nulls = [field.name for field in schema if _may_be_null(field)]
        rows = [
            [most.get(field.name, _twice(usual[field.name])) for field in schema],
            [pa.nulls(1, field.type) if field.name in nulls else usual[field.name] for field in schema],
        ]
        added = [pa.Table.from_arrays(columns, schema=schema) for columns in rows]
        return cls(pa.concat_tables([first, *added]), first.num_rows, frozenset(nulls))


def sample_of(files: InputFiles, columns: Sequence[str]) -> Sample:
    """The sample of parquet files that have rows. All pages that it reads are whole.

    Raises:
        DataError: a page of them is damaged or encrypted; the message names the file and the column.
    """
    schema = projected(check_parquet("", files), list(columns)).remove_metadata()
    there = [file for file in files.files if file.rows][: FILES if is_local(files.fs) else 1]
    rows = max(ROWS, rows_within(files, LOOKED_AT_BYTES // len(there)))
    try:
        with ThreadPoolExecutor(READERS) as pool:
            tables = list(pool.map(partial(_beginning, files, schema, rows), there))
            extremes = list(pool.map(partial(_extremes, files, schema), there))
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{there[0].path} cannot be read: {error}",
            "Replace the file.",
            code="input.damaged",
            option="input",
            path=there[0].path,
        ) from None
    stated = {field.name: list(chain.from_iterable(one.get(field.name, ()) for one in extremes)) for field in schema}
    ends = {name: (min(values), max(values)) for name, values in stated.items() if values}
    return Sample.of(tables[0], {name: _as(*two, schema.field(name).type) for name, two in ends.items()})


def _beginning(files: InputFiles, schema: pa.Schema, rows: int, file: InputFile) -> pa.Table:
    """The first ROWS rows of `file`; more are read."""
    batches = scan_window(files, file, 0, rows, schema.names)
    first = [conformed(batch, schema).slice(0, ROWS) for batch in islice(batches, 1)]
    for _ in batches:
        pass
    return pa.Table.from_batches(first, schema=schema)


def _extremes(files: InputFiles, schema: pa.Schema, file: InputFile) -> dict[str, list[Any]]:
    """What statistics tell of columns, in the form in which values are stored."""
    found: dict[str, list[Any]] = {}
    names = set(schema.names)
    if file.encrypted:
        return found
    with open_parquet(files.fs, file.path) as parquet:
        leaves = [parquet.schema.column(number) for number in range(len(parquet.schema))]
        for number, leaf in enumerate(leaves):
            if leaf.path not in names or leaf.path != leaf.name or leaf.physical_type not in _STATED:
                continue
            for group in range(parquet.num_row_groups):
                stated = parquet.metadata.row_group(group).column(number).statistics
                if stated is not None and stated.has_min_max:
                    found.setdefault(leaf.name, []).extend([stated.min_raw, stated.max_raw])
    return found


def _as(low: Any, high: Any, dtype: Any) -> Any | None:
    """The values that are stored as `low` and `high`; None where that cannot be said."""
    if getattr(dtype, "unit", "") == "s" or pa.types.is_decimal(dtype):  # stored as milliseconds, or unscaled
        return None
    try:
        if not pa.types.is_temporal(dtype):
            return pa.array([low, high]).cast(dtype)
        width: Any = pa.int32() if dtype.bit_width == 32 else pa.int64()
        return pa.array([low, high], width).view(dtype)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _twice(value: Any) -> Any:
    return pa.chunked_array([value, value])


def _may_be_null(field: pa.Field[Any]) -> bool:
    """Whether the field, and all fields inside, may be null: Arrow makes no null of a struct with others."""
    inside = (child for one in parts(field.type) if isinstance(one, pa.StructType) for child in one)
    return field.nullable and all(child.nullable for child in inside)
