"""Finished rows on their way to the disk: gathered, cut into parts, written by a thread of its own."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.compact import PART_BYTES, PART_ROWS
from domyn_swarm.checkpoint.encode import UnstorableError, storable
from domyn_swarm.checkpoint.lock import LockLostError
from domyn_swarm.checkpoint.part import fitting, united, write_part
from domyn_swarm.checkpoint.part_merger import PartMerger
from domyn_swarm.concurrency.resources import Reserve
from domyn_swarm.data.columns import FAILURE
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from collections.abc import Callable

    from domyn_swarm.checkpoint.folder import PartName, RunFolder
    from domyn_swarm.checkpoint.lock import FencingToken
    from domyn_swarm.checkpoint.part import PartMetadata
    from domyn_swarm.concurrency.stop import Stop

CUT_ROWS = 4 * PART_ROWS
"""Rows at which a part is cut, however young: where rows come fast, syncing files to the disk is what costs."""
LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 10.0
"""How old a row may become before it is durable. Each part takes money and round trips on an object store."""
AGAIN_BYTES = 8 * 2**20
"""Of the parts that are written after one could not be."""
ENDING_SECONDS = 1.0
"""How old a row may become before it is durable once the run has been asked to end: it may be killed at any moment."""
LAST_TRIES, LAST_PAUSE = 4, 0.25
"""How often, and with which pauses in seconds, rows are written again whose part could not be written."""


@dataclass(frozen=True)
class FlushReport:
    """What one run made durable: rows (failed ones included), failed rows, parts that were cut."""

    rows: int = 0
    failed: int = 0
    parts: int = 0

    def __add__(self, other: FlushReport) -> FlushReport:
        return FlushReport(self.rows + other.rows, self.failed + other.failed, self.parts + other.parts)


class PartWriter:
    """Cuts a part when it is full, and when its oldest row is `interval` seconds old (None: LOCAL_SECONDS, or remote).

    One part is written while the next one is gathered, so that a slow disk or object store does not stop the calls, and
    no more than two are ever in memory. Leaving the context cuts and writes what is left, whatever ended the stream.

    When a part cannot be written, `stop` is set, so that the stream ends with the calls that are in flight. Its rows
    are kept, and written at the end together with those that came after it: what was exhausted may be free by then, and
    a `Reserve` is released for them. The error is raised in any case. Without a `stop` it is raised at once.

    Rows whose outputs parquet cannot hold become failed rows. `refused` is called with them, in the thread that adds
    tables.
    """

    def __init__(
        self,
        folder: RunFolder,
        origin: PartMetadata,
        first: PartName,
        interval: float | None,
        fence: FencingToken | None = None,
        stop: Stop | None = None,
        refused: Callable[[pa.Table], None] | None = None,
    ) -> None:
        self.report = FlushReport()
        self._folder = folder
        self._origin = origin
        self._name = first
        usual = LOCAL_SECONDS if is_local(folder.fs) else REMOTE_SECONDS
        self._interval = usual if interval is None else interval
        self._fence = fence
        self._stop = stop
        self._tell = refused
        self._refused: list[pa.Table] = []
        self._trouble: Exception | None = None
        self._merger = PartMerger(folder, fence)
        self._reserve = Reserve(folder.root if is_local(folder.fs) else None)
        self._part_bytes = min(PART_BYTES, self._reserve.disk_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="domyn-swarm-parts")
        self._thread.submit(bool)  # later there may be no thread to be had
        self._writing: Future[FlushReport] | None = None
        self._in_hand: list[pa.Table] = []
        self._start()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where an error is underway already it is the one to report, else the disk's own.
        with self._reserve, self._merger, self._thread, contextlib.suppress(*((Exception,) if kind else ())):
            self._cut()
            self._settle()
            self._write_again()
            if self._trouble is not None:
                raise self._trouble

    def _start(self) -> None:
        self._tables: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._since = time.monotonic()

    def add(self, table: pa.Table) -> None:
        """Take in the rows of `table`.

        Raises:
            Exception: a part could not be written, and there is no `stop` to set.
            LockLostError: another process has taken over the lock.
        """
        if table.num_rows:
            if not self._tables:
                self._since = time.monotonic()
            self._tables.append(table)
            self._rows += table.num_rows
            self._bytes += table.nbytes
        if self._writing is not None and self._writing.done():
            self._settle()  # calls that go on while the disk is full are calls that are lost
        if self._trouble is not None and self._stop is None:
            raise self._trouble
        if self._is_full() or (self._tables and time.monotonic() - self._since >= self._patience()):
            self._cut()

    def _is_full(self) -> bool:
        return self._rows >= CUT_ROWS or self._bytes >= self._part_bytes

    def _patience(self) -> float:
        ending = self._stop is not None and self._stop.is_set()
        return min(self._interval, ENDING_SECONDS) if ending else self._interval

    def _cut(self) -> None:
        """Hand what is gathered to the thread, once the part before is durable."""
        self._settle()
        if self._tables and self._trouble is None:
            self._in_hand, tables = self._tables, self._tables
            self._writing = self._thread.submit(self._write, tables, self.report, self._name)
            self._name = self._name._replace(number=self._name.number + 1)  # never again, however this write ends
            self._start()

    def _settle(self) -> None:
        """Wait for the part that is being written. If it cannot be, its rows come before those that are gathered."""
        if self._writing is None:
            return
        try:
            self.report = self._writing.result()
            self._tell_refused()
        except LockLostError:
            self._writing = None
            raise
        except Exception as error:  # noqa: BLE001 - whatever a filesystem throws; raised when all is written
            self._trouble = error
            self._tables = [*self._in_hand, *self._tables]
            self._reserve.release()
            if self._stop is not None:
                self._stop.set()
        self._writing, self._in_hand = None, []

    def _write_again(self) -> None:
        """Write what is left after a part could not be written: calls hold nothing any more that it may need.

        In small parts, which take little memory, and of which some may be written where not all can.
        """
        waiting = [piece for table in self._tables for piece in _pieces(table)]
        for tries_left in reversed(range(LAST_TRIES if waiting else 0)):
            self._reserve.release()
            try:
                while waiting:
                    self.report = self._thread.submit(self._write, waiting[:1], self.report, self._name).result()
                    self._name = self._name._replace(number=self._name.number + 1)
                    self._tell_refused()
                    waiting.pop(0)
            except LockLostError:
                raise
            except Exception:  # noqa: BLE001 - the first error is the one to report
                self._name = self._name._replace(number=self._name.number + 1)
                if tries_left:
                    time.sleep(LAST_PAUSE)
            else:
                self._start()
                return

    def _tell_refused(self) -> None:
        """Hand on the rows that the part just written holds as failed ones, and that had not failed before."""
        refused, self._refused = self._refused, []
        for table in refused if self._tell else ():
            self._tell(table)  # type: ignore[misc]

    def _write(self, tables: list[pa.Table], report: FlushReport, name: PartName) -> FlushReport:
        types = united([table.schema for table in tables])
        before = pa.concat_tables([table.select([FAILURE]) for table in tables])
        table = pa.concat_tables([fitting(table, types.names, types, self._origin.id_col) for table in tables])
        path = self._folder.part_path(name)
        if self._fence is not None:
            self._fence.check(self._folder)
        table = self._stored(path, table)
        refused = pc.and_(pc.is_null(before[FAILURE]), pc.is_valid(table[FAILURE]))
        if pc.any(refused).as_py():
            self._refused.append(table.filter(refused))
        self._merger.add(path)
        failed = table.num_rows - table[FAILURE].null_count
        return FlushReport(report.rows + table.num_rows, report.failed + failed, report.parts + 1)

    def _stored(self, path: str, table: pa.Table) -> pa.Table:
        """`table` as it was written: what parquet cannot hold has become its rows' failure."""
        try:
            write_part(self._folder.fs, path, table, self._origin)
        except UnstorableError:
            table = storable(table, self._origin.id_col)
            write_part(self._folder.fs, path, table, self._origin)
        return table


def _pieces(table: pa.Table) -> list[pa.Table]:
    """`table` in slices of about AGAIN_BYTES."""
    rows = max(1, table.num_rows * AGAIN_BYTES // max(1, table.nbytes))
    return [table.slice(at, rows) for at in range(0, table.num_rows, rows)]
