"""The Ray engine: Ray Data reads the input in tasks, actors apply the job and write parts of their own.

Its lazy frame is a `Splits`: the input as one stream, for what is done in one place, and cut into runs of row groups
that know the position of their first row, which is what Ray Data reads in parallel.

Nothing here holds a CPU but the read tasks: actors mostly wait for answers, and a cluster of two CPUs must neither
starve its readers nor deadlock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from hamilton.base import DictResult
from hamilton.plugins.h_ray import RayGraphAdapter
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from domyn_swarm.data import arrow, stream
from domyn_swarm.data.backends.base import JobBatch, Monitor, Outputs, Session, WorkerFactory
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.stream import Stream
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pandas as pd

    from domyn_swarm.helpers.io import InputFile, InputFiles

name = "ray"
distributed = True

READ_KWARGS = ("columns", "filters", "storage_options")
SPLIT_ROWS = 65_536
SPLIT_BYTES = 32 * 2**20
BLOCKS_IN_FLIGHT = 2
POLL_SECONDS = 0.3
CONNECT_SECONDS = 10
_LOSSES = (RayActorError, ObjectLostError)

logger = logging.getLogger("domyn_swarm")

Marks = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Splits:
    """The rows as one stream (`whole`), and as consecutive streams with the position of each one's first row.

    `finished` marks positions to leave out; it travels through the object store once, not with each split.
    """

    whole: Stream
    parts: tuple[tuple[int, Stream], ...]
    finished: Marks = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Splits:
    """Row groups, gathered to about SPLIT_ROWS rows; one split under filters, which decide what the positions are."""
    arrow.check_parquet(name, files)
    arrow.check_read_kwargs(name, read_kwargs, READ_KWARGS)
    whole = stream.read_parquet(files, read_kwargs)
    if read_kwargs.get("filters"):
        return Splits(whole, ((0, whole),))
    parts = []
    start = 0
    for file in files.files:
        for groups, rows in _grouped(file):
            parts.append((start, Stream(whole.schema, partial(arrow.scan_groups, files, file, groups), rows)))
            start += rows
    return Splits(whole, tuple(parts))


def _grouped(file: InputFile) -> Iterator[tuple[list[int], int]]:
    """Consecutive row groups of a file, and their rows."""
    row_bytes = file.decoded_bytes / max(1, file.rows or 0)
    most = min(SPLIT_ROWS, SPLIT_BYTES / max(1.0, row_bytes))
    groups: list[int] = []
    rows = 0
    for number, count_ in enumerate(file.groups):
        if groups and rows + count_ > most:
            yield groups, rows
            groups, rows = [], 0
        groups.append(number)
        rows += count_
    if rows:
        yield groups, rows


def schema(frame: Splits) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return stream.schema(frame.whole)


def with_row_id(frame: Splits, id_col: str | None) -> Splits:
    """Count rows; each split from the position of its first row."""
    parts = tuple((start, stream.counted(part, id_col, start)) for start, part in frame.parts)
    return replace(frame, whole=stream.with_row_id(frame.whole, id_col), parts=parts)


def check_ids(frame: Splits, id_col: str) -> None:
    """One pass over the id column, in the driver."""
    stream.check_ids(frame.whole, id_col)


def head(frame: Splits, rows: int) -> Splits:
    """The splits that begin before `rows`, the last of them cut."""
    parts = tuple((start, stream.head(part, rows - start)) for start, part in frame.parts if start < rows)
    return replace(frame, whole=stream.head(frame.whole, rows), parts=parts)


def count(frame: Splits) -> int:
    """From the footers where they tell."""
    return stream.count(frame.whole)


def exclude(frame: Splits, finished: Marks) -> Splits:
    """Leave out splits that are finished altogether; the read tasks leave out the others' finished rows."""
    parts = tuple((start, part) for start, part in frame.parts if not _is_finished(start, part, finished))
    return replace(frame, whole=stream.exclude(frame.whole, finished), parts=parts, finished=finished)


def _is_finished(start: int, part: Stream, finished: Marks) -> bool:
    if part.rows is None or start + part.rows > len(finished):
        return False
    return bool(finished[start : start + part.rows].all())


def iter_batches(frame: Splits, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Arrow tables, which are what blocks of Ray Data are."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    for batch in frame.whole.scan(list(dict.fromkeys([*columns, POSITION])), batch_size):
        table: Any = pa.Table.from_batches([batch.select(columns)])
        yield JobBatch(batch.column(id_col), batch.column(POSITION), batch=table)


def to_pandas(frame: Splits, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames, in the driver."""
    return stream.to_pandas(frame.whole, columns, batch_size)


def join(frame: Splits, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side, whatever order the workers finished in."""
    return stream.join(frame.whole, outputs, id_col, columns)


check_write_kwargs = stream.check_write_kwargs
write = stream.write


def distribute(
    frame: Splits, columns: Sequence[str], make_worker: WorkerFactory, monitor: Monitor
) -> tuple[list[Any], bool]:
    """Stream the rows through an actor for each CPU: their reports, and whether a worker or a block was lost.

    Rows that were lost are not repeated here: the parts tell which they are.

    Raises:
        Exception: whatever ended a worker.
    """
    crew = _Crew(columns, make_worker, monitor)
    try:
        for block in _blocks(frame, columns):
            if not crew.feed(block):
                break
        return crew.finish(), crew.lost
    finally:
        crew.dismiss()


def _blocks(frame: Splits, columns: Sequence[str]) -> Iterator[ray.ObjectRef[Any]]:
    """Blocks as Ray Data reads them, by reference."""
    if not frame.parts:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    dataset = ray.data.read_datasource(_Reader(frame, columns), override_num_blocks=len(frame.parts))
    for bundle in dataset.iter_internal_ref_bundles():
        yield from bundle.block_refs


class _Reader(Datasource):
    """One read task a split."""

    def __init__(self, frame: Splits, columns: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts = frame.parts
        self._columns = list(columns)
        self._finished = ray.put(frame.finished)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before it is read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """A task for each split, whatever the parallelism: their number was chosen by rows and bytes."""
        return [
            ReadTask(
                partial(_read_split, part, self._columns, self._finished),
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
                per_task_row_limit=per_task_row_limit,
            )
            for _, part in self._parts
        ]


def _read_split(part: Stream, columns: Sequence[str], finished: ray.ObjectRef[Any]) -> Iterator[pa.Table]:
    pending = stream.exclude(part, ray.get(finished))
    empty = pa.schema([part.schema.field(column) for column in columns]).empty_table()
    batches = [pa.Table.from_batches([batch]) for batch in pending.scan(columns, SPLIT_ROWS)]
    yield pa.concat_tables([empty, *batches])


class _Crew:
    """The actors, and the calls to them that have not returned."""

    def __init__(self, columns: Sequence[str], make_worker: WorkerFactory, monitor: Monitor) -> None:
        self.lost = False
        self._make_worker = make_worker
        self._monitor = monitor
        self._reported = (0, 0)
        self._last_report = 0.0
        self._calls: dict[ray.ObjectRef[Any], Any] = {}
        self._size = _workers(make_worker.concurrency)
        self._actors = [self._spawn() for _ in range(self._size)]

    def _spawn(self) -> Any:
        # Parts bear this name: no two workers of a run may share one, in whatever pass they work.
        worker = uuid.uuid4().hex[:12]
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 8, "scheduling_strategy": "SPREAD"}
        return ray.remote(_Actor).options(**options).remote(self._make_worker, worker, self._size)

    def feed(self, block: ray.ObjectRef[Any]) -> bool:
        """Hand a block to the actor with the fewest, once one has room; false when the run was asked to stop."""
        while True:
            self._look()
            if self._monitor.stopped():
                return False
            load = {actor: list(self._calls.values()).count(actor) for actor in self._actors}
            actor = min(self._actors, key=load.__getitem__)
            if load[actor] < BLOCKS_IN_FLIGHT:
                self._calls[actor.add.remote(block)] = actor
                return True
            ray.wait(list(self._calls), timeout=POLL_SECONDS)

    def finish(self) -> list[Any]:
        """Wait until all rows are through, and every actor has said how it went."""
        self._wait()
        self._calls = {actor.finish.remote(): actor for actor in self._actors}
        reports = self._wait()
        self._report()
        return reports

    def _wait(self) -> list[Any]:
        results = []
        while self._calls:
            results += self._look()
            ray.wait(list(self._calls), timeout=POLL_SECONDS)
        return results

    def _look(self) -> list[Any]:
        """The results of calls that returned; passes on how far the actors are."""
        done = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)[0] if self._calls else []
        results = []
        for call in done:
            actor = self._calls.pop(call, None)
            try:
                results.append(ray.get(call))
            except _LOSSES as error:
                self._lose(actor, error)
        if time.monotonic() - self._last_report >= POLL_SECONDS:
            self._report()
        return results

    def _lose(self, actor: Any, error: Exception) -> None:
        """Go on without what died: with fewer actors, or with a new one if it was the last."""
        self.lost = True
        logger.warning("lost a worker or its rows, which are computed again: %s", str(error).partition("\n")[0])
        if isinstance(error, RayActorError) and actor in self._actors:
            self._actors.remove(actor)
            self._calls = {call: owner for call, owner in self._calls.items() if owner is not actor}
            if not self._actors:
                self._actors.append(self._spawn())

    def _report(self) -> None:
        self._last_report = time.monotonic()
        if self._monitor.stopped():
            for actor in self._actors:
                actor.stop.remote()
        counts = []
        for actor in self._actors:
            with contextlib.suppress(RayError):
                counts.append(ray.get(actor.counts.remote(), timeout=10))
        rows, failed = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
        before, self._reported = self._reported, (rows, failed)
        self._monitor.advanced(max(0, rows - before[0]), max(0, failed - before[1]))

    def dismiss(self) -> None:
        """End the actors, whatever they do."""
        for actor in self._actors:
            ray.kill(actor)


class _Actor:
    """A worker as an actor: it is made where it runs."""

    def __init__(self, make_worker: WorkerFactory, name: str, workers: int) -> None:
        self._worker = make_worker(name, workers)

    def add(self, block: pa.Table) -> None:
        self._worker.add(block)

    def counts(self) -> tuple[int, int]:
        return self._worker.counts()

    def stop(self) -> None:
        self._worker.stop()

    def finish(self) -> Any:
        return self._worker.finish()


def _workers(most: int) -> int:
    cpus: float = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    return max(1, min(int(cpus), most))


@contextlib.contextmanager
def session(address: str | None, stop: threading.Event, advanced: Callable[[int, int], None]) -> Iterator[Session]:
    """Connect to `address`, or $RAY_ADDRESS, or a local Ray that ends with the session.

    While it is open, `advanced` is told of progress, and `stop` reaches the cluster.
    """
    owned = _connect(address)
    relay: Any = ray.remote(_Relay).options(num_cpus=0, max_concurrency=8).remote()
    ended = threading.Event()
    thread = threading.Thread(target=_pump, args=(relay, stop, advanced, ended), daemon=True)
    thread.start()
    try:
        yield Session([RayGraphAdapter(DictResult())], RelayMonitor(relay))
    except RayTaskError as error:
        raise cast("Any", error).cause from error
    finally:
        ended.set()
        thread.join()
        ray.kill(relay)
        if owned:
            ray.shutdown()


def check_address(address: str | None) -> None:
    """Refuse a cluster that nobody answers for, before anything is written: Ray itself would end the process.

    Raises:
        ConfigurationError: it is no address, or there is no answer.
    """
    cluster = _chosen(address)
    if cluster in ("local", "auto"):
        return
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"--ray-address: {cluster} cannot be used: {error}.",
            "Is the cluster up? An address is auto, host:6379 or ray://host:10001.",
        ) from None


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _connect(address: str | None) -> bool:
    """Whether Ray was connected to here, so that it has to be left again."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = _chosen(address)
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if local:
        logger.info("starting a local Ray; --ray-address or RAY_ADDRESS names a cluster")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"--ray-address: {address} cannot be used: {error}", "Is the cluster up?") from None
    return True


class _Relay:
    """What driver and cluster tell each other: rows that went through, and whether to stop."""

    def __init__(self) -> None:
        self._rows = self._failed = 0
        self._stopped = False

    def advanced(self, rows: int, failed: int) -> None:
        self._rows += rows
        self._failed += failed

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped

    def take(self) -> tuple[int, int]:
        taken = self._rows, self._failed
        self._rows = self._failed = 0
        return taken


class RelayMonitor:
    """The cluster's end of the relay."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def advanced(self, rows: int, failed: int) -> None:
        """`rows` more have finished, `failed` of them without output."""
        if rows or failed:
            self._relay.advanced.remote(rows, failed)

    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(ray.get(self._relay.stopped.remote()))


def _pump(relay: Any, stop: threading.Event, advanced: Callable[[int, int], None], ended: threading.Event) -> None:
    told = False
    while True:
        last = ended.wait(POLL_SECONDS)
        with contextlib.suppress(RayError):
            if stop.is_set() and not told:
                ray.get(relay.stop.remote())
                told = True
            rows, failed = ray.get(relay.take.remote())
            advanced(rows, failed)
        if last:
            return
