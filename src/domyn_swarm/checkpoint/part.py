"""A part: finished rows in one parquet file, which says in its footer what it belongs to.

A part has POSITION, the id column, the output columns, FAILURE, and INPUTS and TRACE where there are any, sorted by
POSITION, each position once; rows whose id is gone from the input, or stands beside other inputs, come first, at
position -1.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.encode import UnstorableError, encode, failing
from domyn_swarm.checkpoint.part_file import open_parquet, seal
from domyn_swarm.checkpoint.records import RunId  # noqa: TC001 - msgspec evaluates the annotations
from domyn_swarm.concurrency.memory import is_memory_short
from domyn_swarm.data.columns import FAILURE, INPUTS, MADE, POSITION
from domyn_swarm.data.values import refused
from domyn_swarm.errors import CheckpointError, JobError
from domyn_swarm.storage.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Marks: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

BATCH_ROWS, BATCH_BYTES = 32_768, 8 * 2**20
"""What is read of a part at once: a merge reads many parts, and a row may be megabytes."""
RUN_ROWS = 64
"""Mean length of runs of rows from which on slicing is faster than taking them one by one."""
JOB_FIELD, NODE, STEP = "job_kwargs.", "node ", "step "
"""What entries of a job's identity begin with: a field of the job, a node that somebody replaced, a step's column."""
STEP_CODE, STEP_ANEW, STEP_MODEL = "code of ", "anew ", "named "
"""Likewise: a step's code, how often it was computed anew by hand, and the name of a model that steps ask."""
ROW_NODES = ("files", "source", "identified", "limited", "pending", "as_pandas", "batches")
"""Nodes that input rows pass through on their way to the job, in data order, as records of runs name them.

They are those with `rows="input"` on the graph's page, which needs Hamilton to be read.
"""
_CHOSEN = ROW_NODES[ROW_NODES.index("limited") :]
_FOOTER_KEY = b"domyn_swarm.part"
_FAILED = f"{FAILURE}.type"
"""The leaf of FAILURE that is null exactly where the row has not failed."""


class DamagedPartError(JobError):
    """`part` cannot be read as a part of its run. Its rows have to be computed again."""

    default_code = "part.damaged"

    def __init__(self, message: str, hint: str = "", part: str = "", reason: str = "") -> None:
        super().__init__(message, hint, path=part)
        self.args = (self.text, self.advice, part, reason)
        self.part, self.reason = part, reason

    @classmethod
    def of(cls, part: str, reason: str) -> DamagedPartError:
        """What is wrong with the part at `part`."""
        return cls(f"{part} is damaged: {reason}", part=part, reason=reason)


class PartMetadata(msgspec.Struct, frozen=True):
    """What a part belongs to: the run, the job's identity, the input that its positions count in, its id column."""

    run_id: RunId
    input_digest: str
    id_col: str
    identity: dict[str, Any] = {}

    def made_alike(self, versions: Mapping[str, str]) -> list[str]:
        """The columns of steps that were made as `versions`, an identity's entries, say."""
        return [
            name.removeprefix(STEP)
            for name, digest in versions.items()
            if name.startswith(STEP) and self.identity.get(name) == digest
        ]

    @property
    def tells_inputs(self) -> bool:
        """Whether digests of inputs are those of the input's rows, and not of what a replaced node made of them."""
        return not any(f"{NODE}{name}" in self.identity for name in _CHOSEN)


class Part:
    """A part whose footer has been read; its rows are read on request.

    Raises:
        DamagedPartError: it cannot be read, or is no part of any run.
    """

    def __init__(self, fs: Any, path: str) -> None:
        self.path = path
        self._fs = fs
        with reading(path):
            with open_parquet(fs, path) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
            self._describe(metadata, schema)

    def _describe(self, metadata: Any, schema: pa.Schema) -> None:
        """Take from the footer what it says of the part."""
        path = self.path
        try:
            self.origin = msgspec.json.decode((schema.metadata or {})[_FOOTER_KEY], type=PartMetadata)
        except (KeyError, msgspec.DecodeError):
            raise DamagedPartError.of(path, "it is not a part of a run") from None
        own = (POSITION, self.origin.id_col, FAILURE)
        if missing := set(own) - set(schema.names):
            raise DamagedPartError.of(path, f"it has no column {min(missing)!r}")
        self.types = pa.schema([field for field in schema if field.name not in (self.origin.id_col, *MADE)])
        self.has_digests = INPUTS in schema.names
        self.rows: int = metadata.num_rows
        self.decoded_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        self._groups = [_Group(path, metadata.row_group(group)) for group in range(metadata.num_row_groups)]
        if not self._groups:
            raise DamagedPartError.of(path, "it has no rows")

    @property
    def first(self) -> int:
        """The lowest position."""
        return self._groups[0].first

    @property
    def last(self) -> int:
        """The highest position."""
        return self._groups[-1].last

    @property
    def has_failures(self) -> bool:
        """Whether any row has failed."""
        return any(group.failed for group in self._groups)

    def states(self) -> Iterator[tuple[Positions | slice, Positions]]:
        """Positions of finished rows, and of failed ones, some row groups at a time.

        The statistics tell it all for a row group whose positions have no gap and that no failure is in, as most are;
        the pages of the others are read.
        """
        with reading(self.path):
            none = np.zeros(0, dtype=np.int64)
            kinds: dict[str, list[int]] = {"gaps": [], "failures": []}
            for number, group in enumerate(self._groups):
                if group.is_whole:
                    yield slice(group.first, group.last + 1), none
                else:
                    kinds["failures" if group.failed else "gaps"].append(number)
            if kinds["gaps"]:
                yield self._columns([POSITION], kinds["gaps"])[POSITION].to_numpy(), none
            if kinds["failures"]:
                table = self._columns([POSITION, _FAILED], kinds["failures"])
                positions, fine = table[POSITION].to_numpy(), _is_null(table[FAILURE])
                yield positions[fine], positions[~fine]

    def groups_between(self, first: int, last: int) -> list[int]:
        """The row groups that may hold one of the positions from `first` to `last`."""
        return [number for number, one in enumerate(self._groups) if one.first <= last and one.last >= first]

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """POSITION, FAILURE and `columns` of a row group."""
        return self._columns([POSITION, *columns, _FAILED], [number])

    def ids(self) -> tuple[pa.Array[Any], Marks, pa.Array[Any] | None]:
        """The ids, which of them are finished, and the digests of their inputs, if the part has any."""
        with reading(self.path):
            table = self._columns([self.origin.id_col, _FAILED, *([INPUTS] if self.has_digests else [])])
            digests = table[INPUTS].combine_chunks() if self.has_digests else None
            return table[self.origin.id_col].combine_chunks(), _is_null(table[FAILURE]), digests

    def read(self) -> pa.Table:
        """All rows."""
        return self._columns(None)

    def _columns(self, columns: list[str] | None, groups: list[int] | None = None) -> pa.Table:
        with reading(self.path), open_parquet(self._fs, self.path) as parquet:
            chosen = list(range(parquet.num_row_groups)) if groups is None else groups
            table: pa.Table = parquet.read_row_groups(chosen, columns=columns)
            self._check_complete(table.num_rows, sum(parquet.metadata.row_group(group).num_rows for group in chosen))
        return table

    def batches(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """Those of `columns` that it has (None: all that it has), a batch at a time."""
        with reading(self.path), open_parquet(self._fs, self.path) as parquet:
            names = parquet.schema_arrow.names
            present = names if columns is None else [name for name in columns if name in names]
            read = 0
            rows = max(1, min(BATCH_ROWS, self.rows * BATCH_BYTES // max(1, self.decoded_bytes)))
            for batch in parquet.iter_batches(batch_size=rows, columns=present):
                read += batch.num_rows
                yield pa.Table.from_batches([batch])
        self._check_complete(read, self.rows)

    def failures(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Those of `columns`, and FAILURE, of the failed rows, from the row groups that have any, `rows` at a time."""
        groups = [number for number, group in enumerate(self._groups) if group.failed]
        if not groups:
            return
        with reading(self.path), open_parquet(self._fs, self.path) as parquet:
            present = [name for name in (*columns, FAILURE) if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=rows, row_groups=groups, columns=present):
                table = pa.Table.from_batches([batch])
                yield table.filter(pc.is_valid(table[FAILURE]))

    def _check_complete(self, read: int, rows: int) -> None:
        """A page whose kind is not known, as its header was hit, is left out without a word."""
        if read != rows:
            raise DamagedPartError.of(self.path, f"{read:,} of {rows:,} rows can be read")


class _Group:
    """What the statistics say of a row group."""

    def __init__(self, path: str, metadata: Any) -> None:
        columns = [metadata.column(number) for number in range(metadata.num_columns)]
        statistics = {column.path_in_schema: column.statistics for column in columns}
        positions, failed = statistics[POSITION], statistics.get(_FAILED)
        if positions is None or not positions.has_min_max:
            raise DamagedPartError.of(path, "it has no statistics")
        self.first, self.last = int(positions.min), int(positions.max)
        self.failed = failed is None or failed.null_count < metadata.num_rows
        self.is_whole = not self.failed and self.first >= 0 and self.last - self.first + 1 == metadata.num_rows


def write_part(fs: Any, path: str, table: pa.Table, origin: PartMetadata) -> None:
    """Write `table`, whole or not at all; rows that share a position become one (see `latest`).

    Raises:
        UnstorableError: what would be written could not be read again. Nothing has been written.
        OSError: it cannot be written.
    """
    if not (np.diff(table[POSITION].to_numpy()) > 0).all():
        table = latest(table, gone=True)
    table = table.replace_schema_metadata({_FOOTER_KEY: msgspec.json.encode(origin)})
    counting = [name for name in (POSITION, origin.id_col) if pa.types.is_int64(table.schema.field(name).type)]
    encoded = encode(
        table, column_encoding=dict.fromkeys(counting, "DELTA_BINARY_PACKED"),
        write_statistics=[POSITION, origin.id_col, _FAILED], write_page_checksum=True,
    )  # fmt: skip
    with atomic_write(fs, path) as file:
        file.writelines(seal(encoded))


def latest(table: pa.Table, *, gone: bool) -> pa.Table:
    """One row for each position, in order: a success wins over a failure, and the later row over the earlier.

    With `gone`, all rows at -1, which stand for different ids, are kept; else none.
    """
    positions = table[POSITION].to_numpy()
    if (len(positions) == 0 or gone or positions[0] >= 0) and (np.diff(positions) > 0).all():
        return table
    order = np.lexsort((np.arange(len(positions)), _is_null(table[FAILURE]), positions))
    sorted_ = positions[order]
    last = np.append(sorted_[1:] != sorted_[:-1], True)
    return _picked(table, order[last | (sorted_ < 0) if gone else last & (sorted_ >= 0)])


def _picked(table: pa.Table, rows: np.ndarray[Any, np.dtype[np.intp]]) -> pa.Table:
    """`rows` of `table`: as slices where they come in long runs, as they mostly do, for those cost no copy."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    if len(starts) * RUN_ROWS > len(rows):
        return table.take(rows)
    ends = np.append(starts[1:], len(rows))
    slices = [table.slice(rows[start], end - start) for start, end in zip(starts, ends, strict=True)]
    return pa.concat_tables([table.slice(0, 0), *slices])


def united(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all `schemas`, each with a type that holds all of its values."""
    return pa.unify_schemas(list(schemas), promote_options="permissive").remove_metadata()


def conformed(table: pa.Table, columns: Sequence[str], types: pa.Schema) -> pa.Table:
    """`table` with all `columns`, in order, those in `types` with these types, nulls where it has none.

    Raises:
        UnstorableError: a value would become another one.
    """
    arrays: list[Any] = []
    for name in columns:
        wanted = types.field(name).type if name in types.names else None
        if name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, wanted))
        else:
            same = wanted in (None, table[name].type)
            arrays.append(table[name] if same else _cast(name, table[name], wanted))
    return pa.table(arrays, names=list(columns))


def _cast(name: str, values: Any, wanted: Any) -> Any:
    """`values` in another type. Integers beside other rows' floats may lose their last digits, as they do in Python."""
    try:
        return values.cast(wanted, safe=not pa.types.is_floating(wanted))
    except pa.ArrowInvalid as error:
        raise UnstorableError(f"column {name!r}: {error}") from error


def fitting(table: pa.Table, columns: Sequence[str], types: pa.Schema, id_col: str) -> pa.Table:
    """`conformed` with failed rows for those whose outputs would become others."""
    try:
        return conformed(table, columns, types)
    except UnstorableError:
        reasons: dict[int, str] = {}
        for field in table.schema:
            wanted = types.field(field.name).type if field.name in types.names else field.type
            if wanted != field.type:
                found = refused(table[field.name], partial(_cast, field.name, wanted=wanted))
                reasons |= {row: why.partition(": ")[2] for row, why in found.items()}
        return conformed(failing(table, reasons, id_col), columns, types)


_NONSENSE = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What Python raises over a footer that can be parsed and makes no sense."""


@contextlib.contextmanager
def reading(part: str) -> Iterator[None]:
    """What goes wrong in here is that `part` is damaged, unless the filesystem says that it cannot be reached.

    Raises:
        FileNotFoundError: it is not there.
        CheckpointError: the filesystem refuses or fails.
        MemoryError: there is too little left.
        DamagedPartError: its bytes are not what was written.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, *_NONSENSE) as error:
        if isinstance(error, MemoryError) and is_memory_short():  # which says nothing of the bytes
            raise
        if getattr(error, "errno", None) is not None:  # what Arrow finds wrong with the bytes has no errno
            raise CheckpointError(
                f"{part} cannot be read: {error}",
                "The part stays as it is. Remove the cause, and run again.",
                code="part.unreadable",
                path=part,
            ) from error
        raise DamagedPartError.of(part, str(error)) from error


def _is_null(failures: pa.ChunkedArray[Any]) -> Marks:
    nulls: Marks = failures.combine_chunks().is_null().to_numpy(zero_copy_only=False)
    return nulls
