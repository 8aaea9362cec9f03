"""The checkpoint store: every finished row in a parquet part that exists whole or not at all.

    <checkpoint-dir>/<tag>/
        spec.json      the JobSpec of the newest run
        run.json       its state and counts, who runs it, and what the parts belong to
        parts/         RRRR-NNNNNN.parquet: run number (worker, where there are several) and part number; later runs win
        damaged/       parts that could not be read; their rows are computed again
        lock           held by the one process that writes here

A part has POSITION, the id column, the output columns and FAILURE, sorted by POSITION. Its footer names the digest of
the input that the positions count in.
"""

from __future__ import annotations

import contextlib
import copy
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domyn_swarm.checkpoint.merge import DamagedPartError, conformed, in_order
from domyn_swarm.data.backends.base import Outputs
from domyn_swarm.data.columns import DEFAULT_COLUMN, FAILURE, POSITION
from domyn_swarm.errors import JobError
from domyn_swarm.helpers.io import filesystem, is_local, open_parquet, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Marks: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Locate: TypeAlias = "Callable[[pa.Array[Any]], pa.Array[Any]]"
"""From ids to the positions that they have in today's input, -1 where an id is gone."""

PART_ROWS = 65_536
PART_BYTES = 64 * 2**20
ROW_GROUP_ROWS = 32_768
_INPUT_KEY = b"domyn_swarm.input"
_PART_NAME = re.compile(r"(\d{4,})-(?:\w+-)?\d{6,}\.parquet")
_UNREADABLE = (pa.ArrowException, OSError)


@dataclass(frozen=True)
class DoneRows:
    """What the parts hold already.

    `finished[p]` tells whether the row at position p has its outputs; rows beyond its end have none. `failed` counts
    rows that were tried and have none. `types` has the output columns so far. `damaged` names the parts that cannot be
    read. `fingerprint` is the store's.
    """

    finished: Marks = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    failed: int = 0
    types: pa.Schema = field(default_factory=lambda: pa.schema([]))
    damaged: tuple[str, ...] = ()
    fingerprint: str = ""


@dataclass(frozen=True)
class FlushReport:
    """What one run made durable: rows (failed ones included), failed rows, parts."""

    rows: int = 0
    failed: int = 0
    parts: int = 0

    def __add__(self, other: FlushReport) -> FlushReport:
        return FlushReport(self.rows + other.rows, self.failed + other.failed, self.parts + other.parts)


class CheckpointStore:
    """The parts under `path`, for rows identified by `id_col` in the input with digest `input_digest`.

    Nothing is written before `flush` or `save`.
    """

    def __init__(self, path: str, id_col: str, input_digest: str, output_columns: Sequence[str] = ()) -> None:
        self.path = path
        self.id_col = id_col
        self.input_digest = input_digest
        self._declared = tuple(output_columns)
        self._prefix = ""
        self.fs, self._root = filesystem(path)

    def for_worker(self, name: str) -> CheckpointStore:
        """This run's store for one of several processes that write parts at once; `name` keeps their parts apart."""
        store = copy.copy(self)
        vars(store).update(_run_number=self._run_number, _prefix=f"{name}-")
        return store

    def begin(self) -> None:
        """Fix this run's number, for all processes that the store travels to, before any of them writes."""
        _ = self._run_number

    @cached_property
    def _run_number(self) -> int:
        numbers = (_PART_NAME.fullmatch(_name(part)) for part in self.parts())
        return 1 + max((int(match[1]) for match in numbers if match), default=0)

    def parts(self) -> list[str]:
        """Paths of the parts, oldest first."""
        return sorted(self._sizes())

    def fingerprint(self) -> str:
        """Changes whenever a part is added, removed or rewritten at another size."""
        return ";".join(f"{_name(part)}:{size}" for part, size in sorted(self._sizes().items()))

    def _sizes(self) -> dict[str, int]:
        folder = f"{self._root}/parts"
        if not self.fs.isdir(folder):
            return {}
        self.fs.invalidate_cache(folder)
        entries = self.fs.ls(folder, detail=True)
        return {entry["name"]: entry["size"] for entry in entries if entry["name"].endswith(".parquet")}

    def done(self, locate: Locate) -> DoneRows:
        """Read which rows have finished; `locate` is asked where parts count in an earlier version of the input.

        Damaged parts are counted out; `set_aside` moves them.
        """
        fingerprint = self.fingerprint()
        finished, tried = np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
        types = pa.schema([])
        damaged = []
        for part in self.parts():
            try:
                positions, fine, own = self._summary(part, locate)
                types = _united([types, own])
            except _UNREADABLE:
                damaged.append(_name(part))
                continue
            finished = _mark(finished, positions[fine])
            tried = _mark(tried, positions[~fine])
        both = min(len(finished), len(tried))
        failed = int(tried.sum()) - int((tried[:both] & finished[:both]).sum())
        return DoneRows(finished, failed, types, tuple(damaged), fingerprint)

    def _summary(self, part: str, locate: Locate) -> tuple[Positions, Marks, pa.Schema]:
        """A part's positions that are in the input, which of them are free of failure, and its output columns."""
        with open_parquet(self.fs, part) as parquet:
            stale = self._input_of(parquet) != self.input_digest
            table = parquet.read(columns=[self.id_col if stale else POSITION, f"{FAILURE}.type"])
            types = self._types_in(parquet)
        key = table.column(0).combine_chunks()
        positions = np.asarray(locate(key) if stale else key, dtype=np.int64)
        fine = table[FAILURE].combine_chunks().is_null().to_numpy(zero_copy_only=False)
        known = positions >= 0
        return positions[known], fine[known], types

    def _input_of(self, parquet: pq.ParquetFile) -> str:
        """The digest of the input that a part counts in.

        Raises:
            ArrowInvalid: the file is none of this store's parts.
        """
        schema = parquet.schema_arrow
        digest = (schema.metadata or {}).get(_INPUT_KEY)
        if digest is None or not {POSITION, self.id_col, FAILURE} <= set(schema.names):
            raise pa.ArrowInvalid("not a part of this run")
        return digest.decode()

    def rows_of_this_run(self) -> int:
        """Rows that this run has made durable."""
        rows = 0
        for part in self._parts_of_this_run():
            with open_parquet(self.fs, part) as parquet:
                rows += parquet.metadata.num_rows
        return rows

    def _parts_of_this_run(self) -> list[str]:
        return [part for part in self.parts() if _name(part).startswith(f"{self._run_number:04d}-")]

    def settled(self, locate: Locate) -> Marks:
        """Positions that are finished, or that failed in this very run: what is left needs another pass."""
        settled = self.done(locate).finished
        for part in self._parts_of_this_run():
            settled = _mark(settled, self._summary(part, locate)[0])
        return settled

    def set_aside(self, damaged: Iterable[str]) -> None:
        """Move damaged parts out of the way, so that their rows are computed again and nothing is lost to look at."""
        for name in damaged:
            self.fs.makedirs(f"{self._root}/damaged", exist_ok=True)
            self.fs.mv(f"{self._root}/parts/{name}", f"{self._root}/damaged/{name}")

    def clear(self) -> None:
        """Delete all parts, to compute every row again."""
        if self.fs.isdir(f"{self._root}/parts"):
            self.fs.rm(f"{self._root}/parts", recursive=True)

    def flush(self, tables: Iterable[pa.Table], interval: float) -> FlushReport:
        """Make a stream of finished rows durable, in parts cut by rows, by bytes, and every `interval` seconds.

        When the stream breaks, what came before is made durable first.

        Raises:
            OSError: a part could not be written; the parts before it are whole.
            Exception: whatever the stream raises.
        """
        self.fs.makedirs(f"{self._root}/parts", exist_ok=True)
        with _Parts(self) as parts:
            for table in tables:
                parts.add(table)
                if parts.is_full() or parts.age() >= interval:
                    parts.cut()
        return parts.report

    def write_part(self, number: int, table: pa.Table) -> None:
        """Write part `number` of this run: `table`, sorted by POSITION."""
        self._write(f"{self._root}/parts/{self._run_number:04d}-{self._prefix}{number:06d}.parquet", table)

    def _write(self, path: str, table: pa.Table) -> None:
        table = table.replace_schema_metadata({_INPUT_KEY: self.input_digest.encode()})
        with whole_file(self.fs, path) as file:
            pq.write_table(
                table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd", use_dictionary=False,
                write_page_checksum=True,
            )  # fmt: skip

    def rebase(self, locate: Locate) -> bool:
        """Rewrite parts that count in an earlier version of the input; whether there were any.

        Each is rewritten whole or not at all, so a rebase that was cut off goes on with the parts that are left. Rows
        whose ids are gone stay in their parts, at position -1, where nothing looks for them.
        """
        stale = [part for part in self.parts() if self._is_stale(part)]
        for part in stale:
            with open_parquet(self.fs, part) as parquet:
                table = parquet.read()
            positions = locate(table[self.id_col].combine_chunks())
            self._write(
                part, table.set_column(table.column_names.index(POSITION), POSITION, positions).sort_by(POSITION)
            )
        return bool(stale)

    def _is_stale(self, part: str) -> bool:
        try:
            with open_parquet(self.fs, part) as parquet:
                return self._input_of(parquet) != self.input_digest
        except _UNREADABLE:
            return False

    def outputs(self) -> Outputs:
        """All finished rows in input order, one for each position.

        A success wins over a failure, and the later over the earlier.
        """
        schema = self._schema()
        names = [POSITION, self.id_col, *schema.names]
        return Outputs(schema, lambda: (table.drop_columns(FAILURE) for table in self._in_order(names, schema)))

    def failures(self) -> Iterator[pa.Table]:
        """POSITION, id and FAILURE of the rows that failed, in input order. Reads footers only when there are none."""
        if not any(map(self._has_failures, self.parts())):
            return
        for table in self._in_order([POSITION, self.id_col], pa.schema([])):
            yield table.filter(pc.is_valid(table[FAILURE]))

    def _has_failures(self, part: str) -> bool:
        with open_parquet(self.fs, part) as parquet:
            groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        types = [column.statistics for column in columns if column.path_in_schema == f"{FAILURE}.type"]
        return any(statistics is None or statistics.has_min_max for statistics in types)

    def _in_order(self, names: list[str], schema: pa.Schema) -> Iterator[pa.Table]:
        try:
            yield from in_order(self.fs, self.parts(), [*names, FAILURE], schema)
        except DamagedPartError as error:
            self.set_aside([_name(error.part)])
            raise JobError(
                f"{error}; it is set aside in {self.path}/damaged, and its rows have to be computed again."
            ) from error

    def _schema(self) -> pa.Schema:
        """The output columns of all parts, each with a type that holds all of its values."""
        schemas = [self._types_of(part) for part in self.parts()]
        declared = pa.schema([(name, pa.null()) for name in self._declared or (() if schemas else (DEFAULT_COLUMN,))])
        merged = _united([declared, *schemas])
        # A row that failed before any dict came along left the default column behind, with nothing in it.
        if DEFAULT_COLUMN not in self._declared and len(merged) > 1 and DEFAULT_COLUMN in merged.names:
            at = merged.get_field_index(DEFAULT_COLUMN)
            merged = merged.remove(at) if pa.types.is_null(merged.field(at).type) else merged
        return merged

    def _types_of(self, part: str) -> pa.Schema:
        with open_parquet(self.fs, part) as parquet:
            return self._types_in(parquet)

    def _types_in(self, parquet: pq.ParquetFile) -> pa.Schema:
        """The output columns of one part."""
        own = (POSITION, self.id_col, FAILURE)
        return pa.schema([field for field in parquet.schema_arrow if field.name not in own])

    def load(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run's folder (`run.json`), or None when there is none."""
        try:
            return msgspec.json.decode(self.fs.cat_file(f"{self._root}/{name}"), type=dict[str, Any])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except msgspec.DecodeError:
            return None

    def save(self, name: str, content: Any) -> None:
        """Write a JSON file of the run's folder, whole or not at all."""
        self.fs.makedirs(self._root, exist_ok=True)
        with whole_file(self.fs, f"{self._root}/{name}") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")

    @property
    def lock_path(self) -> str:
        """Where the lock of the one writer lives."""
        return f"{self._root}/lock"

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local disk."""
        return is_local(self.fs)


class _Parts:
    """Finished rows on their way to the disk: gathered here, cut into parts, written by a thread of its own.

    One part is written while the next one is gathered, so that a slow disk or object store does not stop the calls, and
    no more than two are ever in memory. Leaving the context cuts and writes what is left, whatever ended the stream.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self.report = FlushReport()
        self._store = store
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="domyn-swarm-parts")
        self._writing: Future[FlushReport] | None = None
        self._start()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where an error is underway already it is the one to report, else the disk's own.
        with self._writer, contextlib.suppress(*((OSError, pa.ArrowException) if kind else ())):
            self.cut()
            self._settle()

    def _start(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._since = time.monotonic()

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            if not self._tables:
                self._since = time.monotonic()
            self._tables.append(table)
            self._rows += table.num_rows
            self._bytes += table.nbytes

    def is_full(self) -> bool:
        return self._rows >= PART_ROWS or self._bytes >= PART_BYTES

    def age(self) -> float:
        """Seconds since the oldest of the rows finished."""
        return time.monotonic() - self._since if self._tables else 0.0

    def cut(self) -> None:
        """Hand what is gathered to the writer, once the part before is durable."""
        self._settle()
        if self._tables:
            self._writing = self._writer.submit(self._write, self._tables, self.report)
            self._start()

    def _settle(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.report = writing.result()

    def _write(self, tables: list[pa.Table], report: FlushReport) -> FlushReport:
        types = _united([table.schema for table in tables])
        table = pa.concat_tables([conformed(table, types.names, types) for table in tables])
        if not (np.diff(table[POSITION].to_numpy()) > 0).all():
            table = table.sort_by(POSITION)
        self._store.write_part(report.parts + 1, table)
        failed = table.num_rows - table[FAILURE].null_count
        return FlushReport(report.rows + table.num_rows, report.failed + failed, report.parts + 1)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _united(schemas: list[pa.Schema]) -> pa.Schema:
    return pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()


def _mark(finished: Marks, positions: Positions) -> Marks:
    if len(positions) == 0:
        return finished
    last = int(positions.max())
    if last >= len(finished):
        grown = np.zeros(max(last + 1, 2 * len(finished)), dtype=np.bool_)
        grown[: len(finished)] = finished
        finished = grown
    finished[positions] = True
    return finished
