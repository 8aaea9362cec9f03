"""A job in a process of its own: blocks of rows come in, parts go out. What engines run in their workers.

A worker is the in-process pipeline again, fed from outside: one job, one event loop, one stream for as long as the
worker lives, so a slow row holds back nobody here either, and parts are cut over the blocks.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pyarrow as pa

from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.concurrency.address_space import save_address_space
from domyn_swarm.concurrency.resources import raise_file_limit
from domyn_swarm.data.values import job_batch
from domyn_swarm.engine.calls.items import item_batches
from domyn_swarm.engine.calls.limits import concurrency_for
from domyn_swarm.engine.calls.pipeline import batch_rows, method_of, transform
from domyn_swarm.engine.flush import run_pipeline
from domyn_swarm.engine.recording.metrics import Meter, NullProgress
from domyn_swarm.errors import JobError
from domyn_swarm.jobs.base import CODE
from domyn_swarm.jobs.loading import build_job, is_known_here_only, load_job_class

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.done_rows import DoneRows, Locate
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.checkpoint.stored_values import StoredValues
    from domyn_swarm.data.backends.base import DataBackend, DistributedBackend, Frame, JobBatch, Monitor
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.telemetry.counts import Counts

BLOCKS_WAITING = 1
PASSES = 5
WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class WorkerJob:
    """Everything that a worker needs, as plain data that travels: the job itself is rebuilt from `spec` where it runs.

    `store` is the run's folder, `known` are the types of output columns that earlier runs made. All workers together
    have `concurrency` calls in flight, or each as many as its share of the server takes (None). A call takes `batch`
    rows. `stored` has values of steps. `job_class` comes along when a worker could load it from nowhere.
    """

    spec: JobSpec
    columns: Columns
    store: CheckpointStore
    known: pa.Schema
    concurrency: int | None
    batch: int
    job_class: type[SwarmJob] | None = None
    stored: StoredValues | None = None

    @classmethod
    def of(cls, spec: JobSpec, columns: Columns, store: CheckpointStore, done: DoneRows) -> WorkerJob:
        """The work that `spec` describes."""
        job_class = load_job_class(spec.job)
        method = method_of(job_class, native=spec.native_backend)
        concurrency = concurrency_for(getattr(job_class, method), spec.max_concurrency)
        batch = 1 if method == "transform_item" else batch_rows(spec, job_class)
        travelling = job_class if is_known_here_only(job_class) else None
        return cls(spec, columns, store, done.types, concurrency, batch, travelling, done.stored)

    def __getstate__(self) -> dict[str, Any]:
        for travelling in self.job_class.__mro__ if self.job_class else ():
            if "__msgspec_cache__" in vars(travelling):  # no process can send it to another
                del travelling.__msgspec_cache__  # type: ignore[attr-defined]
        return vars(self)

    def __call__(self, name: str, workers: int) -> Worker:
        """The worker `name`, with its share of the calls in flight, and of the requests and tokens a minute."""
        spec = msgspec.structs.replace(
            self.spec,
            max_concurrency="auto" if self.concurrency is None else max(1, self.concurrency // workers),
            max_rpm=self.spec.max_rpm and self.spec.max_rpm / workers,
            max_tpm=self.spec.max_tpm and self.spec.max_tpm / workers,
        )
        return Worker(replace(self, spec=spec, store=self.store.for_worker(name)))


def flush_in_workers(
    backend: DataBackend, pending: Frame, work: WorkerJob, locate: Locate, monitor: Monitor
) -> FlushReport:
    """Stream `pending` through workers until no row is left without a result.

    Workers that die take with them what they had not made durable. The parts tell which rows those are, and another
    pass computes them, so nothing has to be remembered of who had what.

    Raises:
        JobError: workers die in every pass.
    """
    engine = cast("DistributedBackend", backend)
    report = FlushReport()
    for _ in range(PASSES):
        reports, lost = engine.distribute(pending, work.columns.read, work, monitor)
        report = sum(reports, report)
        if not lost or monitor.stopped():
            return report
        pending = backend.exclude(pending, work.store.settled(locate))
    raise JobError(
        f"Workers were lost in each of {PASSES} passes over the rows.",
        "Look for the cause in Ray's logs.",
        code="cluster.workers_lost",
    )


class Worker:
    """Takes blocks (tables of POSITION, the id and the input columns), applies the job, and writes parts of its own."""

    def __init__(self, work: WorkerJob) -> None:
        raise_file_limit()
        save_address_space()
        self._work = work
        self._job = build_job(work.job_class or load_job_class(work.spec.job), work.spec.job_kwargs)
        self._blocks: queue.Queue[pa.Table | None] = queue.Queue(BLOCKS_WAITING)
        self._meter = Meter(NullProgress(), self._job.traffic)
        self._report = FlushReport()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="domyn-swarm-worker", daemon=True)
        self._thread.start()

    def add(self, block: pa.Table | None) -> None:
        """Queue a block (None: the last one was); returns when it is taken in.

        Raises:
            BaseException: what ended the worker, if something did.
        """
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                return self._blocks.put(block, timeout=WAIT_SECONDS)
        return self.check()

    def counts(self) -> Counts:
        """What happened so far."""
        self._meter.flows.sample_memory()
        return self._meter.snapshot()

    def check(self) -> None:
        """Raise what ended the worker, if something did.

        Raises:
            BaseException: that.
        """
        if self._error is not None:
            raise self._error

    def stop(self, seconds: float) -> None:
        """Start no further call, and wait for those in flight no longer than that, if the job's grace is longer."""
        self._meter.stop.hurry(seconds)
        self._meter.stop.set()

    def finish(self) -> FlushReport:
        """Wait for the blocks that were added: every row that finished is durable then.

        Raises:
            BaseException: what ended the worker, if something did.
        """
        self.add(None)
        self._thread.join()
        self.check()
        return self._report

    def _run(self) -> None:
        """What the nodes `transformed` and `flushed` of a local run do, measured by the same names."""
        work, flows = self._work, self._meter.flows
        try:
            check_code(self._job, work.spec, work.store.identity)
            rows, stop = self._batches(), self._meter.stop
            results = transform(self._job, work.spec, rows, work.columns, work.known, stop, work.stored)
            with flows.running("flushed"):
                transformed = flows.measured("transformed", results)
                self._report = run_pipeline(work.store, transformed, self._meter, work.spec.checkpoint_interval)
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks
            self._error = error

    def _batches(self) -> Iterator[JobBatch]:
        rows = batch_rows(self._work.spec, self._job)
        arriving = self._meter.flows.measured("pending", self._arriving())
        slices = (block.slice(at, rows) for block in arriving for at in range(0, max(1, len(block)), rows))
        if self._work.spec.native_backend:
            return (_native(part, self._work.columns) for part in slices)
        return item_batches(slices, self._work.columns)

    def _arriving(self) -> Iterator[pa.Table]:
        """The blocks; one without rows now and then while none comes, so that finished rows are not kept waiting."""
        latest = self._blocks.get()
        while latest is not None:
            yield latest
            nothing = latest.slice(0, 0)
            try:
                latest = self._blocks.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                latest = nothing


def check_code(job: SwarmJob, spec: JobSpec, identity: Mapping[str, Any]) -> None:
    """Refuse steps whose code is not that of the run any more: its file was edited before this process read it.

    Raises:
        JobError: parts would say that their rows were made by other code than they were.
    """
    facts = {name: digest for name, digest in job.facts(spec).items() if name.startswith(f"{CODE} of ")}
    if changed := [name.removeprefix(f"{CODE} of ") for name in facts if identity.get(name) != facts[name]]:
        raise JobError(
            f"The code of {', '.join(changed)} changed while the run was in progress.",
            "Finished rows are stored with the code that made them.",
            code="job.changed",
            step=changed[0],
        )


def _native(block: pa.Table, columns: Columns) -> JobBatch:
    batch = next(iter(block.combine_chunks().to_batches()), None) or pa.RecordBatch.from_pylist([], schema=block.schema)
    return job_batch(batch, columns.id, columns.inputs, lambda part: pa.Table.from_batches([part]))
