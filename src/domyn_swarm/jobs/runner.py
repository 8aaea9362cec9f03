"""From a JobSpec to a result: plans, locks, runs the graph, and records how it went."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.locate import locator
from domyn_swarm.checkpoint.lock import LockLostError, locked
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.errors import CheckpointError, Interrupted, JobError, SwarmError
from domyn_swarm.helpers.counts import Counts
from domyn_swarm.helpers.io import reaching
from domyn_swarm.jobs.adapters import load_adapters, telling_of
from domyn_swarm.jobs.finalize import check_output, is_current
from domyn_swarm.jobs.flows import Flows
from domyn_swarm.jobs.graph import driver_for
from domyn_swarm.jobs.identity import check_identity, identity_of
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.jobs.meter import ErrorBudget, Meter, Progress, Silent
from domyn_swarm.jobs.record import Record
from domyn_swarm.jobs.spec import anchored
from domyn_swarm.jobs.transform import batch_rows, check_method, method_of
from domyn_swarm.jobs.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hamilton.driver import Driver

    from domyn_swarm.checkpoint.lock import Lock
    from domyn_swarm.checkpoint.store import CheckpointStore, DoneRows
    from domyn_swarm.data.backends.base import DataBackend, Frame
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobs.finalize import Artifact
    from domyn_swarm.jobs.spec import JobSpec

PLANNED = ("backend", "files", "source", "schema", "columns", "identified", "limited", "store", "done")

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class Plan:
    """What a run would do: the spec, the job, and the values of the graph's planning nodes."""

    spec: JobSpec
    job: SwarmJob
    nodes: Mapping[str, Any]
    rows: int
    pending: int
    adapters: Sequence[Any] = ()

    @property
    def store(self) -> CheckpointStore:
        """The run's folder."""
        store: CheckpointStore = self.nodes["store"]
        return store

    @property
    def in_workers(self) -> bool:
        """Whether the rows go through the engine's workers, and not through this process."""
        backend: DataBackend = self.nodes["backend"]
        return backend.distributed and self.pending > 0

    @property
    def method(self) -> str:
        """The job's method that will be called."""
        return method_of(self.job, native=self.spec.native_backend)


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `rows` are those of the output; `done_before` were finished by earlier runs."""

    output: str
    errors_path: str | None
    run_dir: str
    rows: int
    done_before: int
    done_now: int
    failed: int
    seconds: float

    @property
    def exit_status(self) -> int:
        """0 when every row is done, 3 when some failed."""
        return 3 if self.failed else 0


def make_plan(spec: JobSpec, run_dir: str | None = None, flows: Flows | None = None) -> Plan:
    """Look at the job, the input and the run's folder (`spec.run_dir` unless given); write nothing and call nothing.

    `flows` takes down what the nodes that are computed for that do.

    Raises:
        SwarmError: with exit status 2, when the job cannot run as it is.
    """
    job = build_job(load_job_class(spec.job), spec.job_kwargs)
    spec = _with_columns_of(job, spec)
    check_method(job, spec)
    identity_of(spec, job)  # refuses a job that cannot tell it
    run_dir = run_dir or spec.run_dir
    inputs = {**_inputs(spec, job), "run_dir": run_dir, "run_storage": spec.run_storage if spec.checkpointing else {}}
    adapters = load_adapters(spec.adapters)
    with telling_of(spec.adapters):
        nodes = driver_for(spec, adapters=adapters, flows=flows).execute([*PLANNED], inputs=inputs)
    backend: DataBackend = nodes["backend"]
    backend.check_write_kwargs(spec.backend_write_kwargs)
    with reaching(spec.output):
        check_output(spec, nodes["files"], nodes["store"])
    if spec.resume:
        check_identity(spec, job, nodes["store"], nodes["files"])
    return _plan(spec, job, nodes, adapters)


def _with_columns_of(job: SwarmJob, spec: JobSpec) -> JobSpec:
    """`spec` with the job's own columns where it names none."""
    inputs, outputs = job.default_columns()
    return msgspec.structs.replace(
        spec, input_columns=spec.input_columns or list(inputs), output_columns=spec.output_columns or list(outputs)
    )


def _plan(spec: JobSpec, job: SwarmJob, nodes: Mapping[str, Any], adapters: Sequence[Any]) -> Plan:
    backend: DataBackend = nodes["backend"]
    limited: Frame = nodes["limited"]
    done: DoneRows = nodes["done"]
    pending = backend.count(backend.exclude(limited, done.finished))
    return Plan(spec, job, nodes, backend.count(limited), pending, adapters)


def run(spec: JobSpec, progress: Progress | None = None) -> RunResult:
    """Run the job to its end, or as far as it gets; whatever finished is durable.

    Works inside a running event loop, too. In the main thread, the first SIGINT or SIGTERM lets the calls in flight
    finish (a few seconds at most) and ends the run; a second one ends it at once.

    Raises:
        SwarmError: refused (exit status 2, nothing written), broken (1) or interrupted (130).
    """
    started = time.monotonic()
    with _run_dir(spec) as run_dir:
        flows = Flows()
        plan = make_plan(spec, run_dir, flows)
        if plan.pending:
            plan.job.preflight(plan.spec)
        if plan.in_workers:
            plan.nodes["backend"].check_address(spec.ray_address)
        stop = threading.Event()
        with locked(plan.store.folder, stop) as lock:
            meter = Meter(progress or Silent(), plan.job.traffic, ErrorBudget(spec.max_errors), stop, flows)
            return _run_locked(plan, lock, meter, started)


@contextlib.contextmanager
def _run_dir(spec: JobSpec) -> Iterator[str]:
    """The run's folder; without checkpointing one that goes when the run ends."""
    if spec.checkpointing:
        yield spec.run_dir
        return
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as folder:
        yield folder


def _run_locked(plan: Plan, lock: Lock, meter: Meter, started: float) -> RunResult:
    spec, store = plan.spec, plan.store
    plan = _prepared(plan)
    before = plan.rows - plan.pending
    if plan.pending == 0 and is_current(store, spec):
        return RunResult(spec.output, None, store.path, plan.rows, before, 0, 0, time.monotonic() - started)
    artifact = _recorded(plan, meter, lock)
    return RunResult(
        spec.output, spec.errors_path if artifact.failed else None, store.path, artifact.rows, before,
        artifact.rows - before - artifact.failed, artifact.failed, time.monotonic() - started,
    )  # fmt: skip


def _recorded(plan: Plan, meter: Meter, lock: Lock) -> Artifact:
    """Do all that is left to do, and write down how it goes and how it ended."""
    record = Record(plan.store, plan.spec, plan.job, plan.nodes["files"], plan.nodes["columns"].inputs)
    watch = Watch(record, plan, meter, lock)
    meter.progress.started(plan.rows, plan.rows - plan.pending)
    try:
        plan.store.begin(record.run_id, record.number, record.identity, lock.fence)
        record.begin(watch.begun())
        with watch.looking():
            artifact = _completed(plan, meter, lock)
        lock.check()
        report = watch.done(artifact)
        record.end(report, content=artifact.content)
        watch.save(report)
    except BaseException as error:
        meter.finish()
        explained = _explained(error, plan)
        if not _is_lost(lock):
            report = watch.broke(error, explained)
            record.end(report, error)
            watch.save(report)
        raise explained from error
    finally:
        meter.progress.finished()
    return artifact


def _is_lost(lock: Lock) -> bool:
    """Whether another process has the folder now, and writes its own record. One that cannot tell has it still."""
    try:
        lock.check()
    except LockLostError:
        return True
    except Exception:  # noqa: BLE001 - whatever a filesystem throws
        return False
    return False


def _completed(plan: Plan, meter: Meter, lock: Lock) -> Artifact:
    """Compute what is pending and write the output; again, when a part that seemed whole turns out to be damaged.

    Each time one part is set aside, so there is an end to it.
    """
    expected = plan.pending
    while True:
        try:
            plan.store.compact()
            return _execute(plan, meter, lock)
        except DamagedPartError:
            plan = _as_it_stands(plan)
            # Rows that are computed again count once.
            meter.advanced(Counts(expected - meter.counts.rows - plan.pending, -meter.counts.failed))


def _execute(plan: Plan, meter: Meter, lock: Lock) -> Artifact:
    """Pull the rows through, then write the output. Only the first needs care when it is interrupted."""
    stop = meter.stop
    with _graph_for(plan, meter, stop) as graph:
        with _on_signals(stop):
            report = graph.value("flushed") if plan.pending else FlushReport()
        lock.check()
        if meter.overspent:
            counts = meter.counts
            raise JobError(
                f"{counts.failed:,} of {counts.rows:,} rows have failed; --max-errors allows {plan.spec.max_errors}.",
                "The reasons are in the run's parts; mend the cause, or allow more.",
            )
        if stop.is_set():
            raise Interrupted("The run was asked to stop.")
        with _on_signals(None):
            plan.store.compact()
            artifact: Artifact = graph.value("finalized", flushed=report)
    return artifact


@dataclass(frozen=True)
class _Graph:
    """A driver with all that it is given: inputs, and the values of nodes that are known already.

    With `remote` flows the nodes run elsewhere, and are measured from here.
    """

    driver: Driver
    inputs: Mapping[str, Any]
    known: Mapping[str, Any]
    remote: Flows | None = None

    def value(self, node: str, **more: Any) -> Any:
        """The value of `node`, with `more` nodes known."""
        with self.remote.running(node) if self.remote else contextlib.nullcontext():
            return self.driver.execute([node], inputs=dict(self.inputs), overrides={**self.known, **more})[node]


@contextlib.contextmanager
def _graph_for(plan: Plan, meter: Meter, stop: threading.Event) -> Iterator[_Graph]:
    """The graph where its rows go through: in this process, or on an engine that has workers, if there is work."""
    if not plan.in_workers:
        driver = driver_for(plan.spec, adapters=plan.adapters, flows=meter.flows)
        yield _Graph(driver, {**_inputs(plan.spec, plan.job), "stop": stop, "meter": meter}, plan.nodes)
        return
    spec = anchored(plan.spec)
    inputs = _inputs(spec, plan.job)
    here = _Graph(driver_for(spec, "workers", plan.adapters, meter.flows), inputs, plan.nodes)
    # These only describe what is to be done, and a task on the cluster would be a process to start.
    described = {node: here.value(node) for node in ("pending", "transformed")}
    with plan.nodes["backend"].session(spec.ray_address, stop, meter.advanced) as session:
        there = driver_for(spec, "workers", [*session.adapters, *plan.adapters])
        yield _Graph(there, {**inputs, "monitor": session.monitor}, {**plan.nodes, **described}, meter.flows)


def _prepared(plan: Plan) -> Plan:
    """The plan, now that nobody else writes, with the folder put in order."""
    store = plan.store
    store.folder.tidy()
    if not plan.spec.resume:
        store.folder.clear()
        return plan
    check_identity(plan.spec, plan.job, store, plan.nodes["files"])
    return _as_it_stands(plan)


def _as_it_stands(plan: Plan) -> Plan:
    """The plan for what is not done now; damaged parts are set aside."""
    spec, store, nodes = plan.spec, plan.store, plan.nodes
    done: DoneRows = nodes["done"]
    locate = locator(nodes["backend"], nodes["identified"], store.id_col)
    if store.rebase(locate) or done.fingerprint != store.folder.fingerprint():
        done = store.done(locate)
    if done.damaged:
        store.folder.set_aside(done.damaged)
        names = ", ".join(done.damaged)
        logger.warning("%d damaged part(s) set aside in %s/damaged: %s", len(done.damaged), store.path, names)
    return _plan(spec, plan.job, {**nodes, "done": done}, plan.adapters)


def _explained(error: BaseException, plan: Plan) -> BaseException:
    """`error` as one of ours, with how much is safe and how to go on."""
    if isinstance(error, (CheckpointError, LockLostError)):
        return error
    resume = f"{_kept(plan.store)} {_way_on(plan.spec)}"
    if not plan.spec.checkpointing:
        resume = "Nothing is kept, because checkpointing is off."
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return Interrupted("Interrupted.", resume)
    if isinstance(error, SwarmError):
        return type(error)(error.message, f"{error.hint}\n{resume}".strip())
    if isinstance(error, OSError) and error.errno in _MEND:
        where = error.filename or plan.store.path
        return JobError(f"{where}: {error.strerror}.", f"{_MEND[error.errno]} {resume}")
    return JobError(f"{type(error).__name__}: {error}", resume)


_MEND = {
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some space, or ask for more.",
    errno.EACCES: "Give this user the right to write there.",
    errno.EPERM: "Give this user the right to write there.",
    errno.EROFS: "Make the filesystem writable.",
}


def _kept(store: CheckpointStore) -> str:
    try:
        return f"{store.rows_of_this_run():,} rows of this run are kept in {store.path}."
    except Exception:  # noqa: BLE001 - what broke the run may keep its folder from being read, and is what has to be told
        return f"What finished is kept in {store.path}."


def _way_on(spec: JobSpec) -> str:
    same = "the same command again" if spec.resume else "the same command without --no-resume"
    return f"Run {same} to go on from there."


@contextlib.contextmanager
def _on_signals(stop: threading.Event | None) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`; the next one, or the first without `stop`, is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        if stop is None or stop.is_set():
            raise KeyboardInterrupt
        logger.warning("%s: finishing the calls in flight; once more to stop at once", signal.Signals(number).name)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _inputs(spec: JobSpec, job: SwarmJob) -> dict[str, Any]:
    options = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return {**options, "spec": spec, "job": job, "read_batch_size": batch_rows(spec, job)}
