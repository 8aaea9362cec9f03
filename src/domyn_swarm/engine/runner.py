"""From a JobSpec to a result: locks, runs the graph, and records how it went."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from domyn_swarm.checkpoint.locate import following
from domyn_swarm.checkpoint.lock import LockLostError, locked
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.concurrency.resources import ExhaustedError, exhausted, raise_file_limit
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.data.listing import HIDDEN, summary
from domyn_swarm.engine.calls.pipeline import row_failed
from domyn_swarm.engine.graph.build import driver_for, inputs_of
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.engine.identity import check_identity
from domyn_swarm.engine.output_writer import is_current, remove_half_written
from domyn_swarm.engine.planning import RunPlan, counted, make_plan
from domyn_swarm.engine.preflight import looked_around
from domyn_swarm.engine.recording.metrics import ErrorBudget, Meter, NullProgress, Progress
from domyn_swarm.engine.recording.node_stats import Flows
from domyn_swarm.engine.recording.reporter import Watch
from domyn_swarm.engine.recording.run_record import Record
from domyn_swarm.engine.signals import on_signals, on_time_up
from domyn_swarm.errors import AGAIN, CheckpointError, DataError, Interrupted, JobError, SwarmError, TimeUp, opt
from domyn_swarm.jobspec import anchored
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hamilton.driver import Driver

    from domyn_swarm.checkpoint.lock import Lock
    from domyn_swarm.checkpoint.store import CheckpointStore, DoneRows
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.output_writer import Artifact
    from domyn_swarm.jobspec import JobSpec

logger = logging.getLogger("domyn_swarm")

MOST_DAMAGED = 2
"""Parts that one run writes, loses to damage, and computes again."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `rows` are those of the output; `done_before` were finished by earlier runs.

    `changed` rows had an output that was made from other inputs than they have now, and were computed again.
    """

    output: str
    errors_path: str | None
    run_dir: str
    rows: int
    done_before: int
    done_now: int
    failed: int
    seconds: float
    changed: int = 0

    @property
    def exit_status(self) -> int:
        """0 when every row is done, 3 when some failed."""
        return 3 if self.failed else 0


def run(spec: JobSpec, progress: Progress | None = None, overrides: Overrides = NOTHING) -> RunResult:
    """Run the job to its end, or as far as it gets; whatever finished is durable. Nodes may be replaced.

    Works inside a running event loop, too. In the main thread, the first SIGINT or SIGTERM lets the calls in flight
    finish (for `spec.grace` seconds at most) and ends the run; a second one drops them. SIGUSR1 says that its time is
    up. The soft limit of open files is raised to the hard one.

    Raises:
        SwarmError: refused (exit status 2, nothing written), broken (1), interrupted (130) or out of time (124).
    """
    started = time.monotonic()
    raise_file_limit()
    stop = Stop()
    with _run_dir(spec) as run_dir, on_time_up(stop):
        flows = Flows()
        plan = make_plan(spec, run_dir, flows, overrides)
        if left_out := summary(one for one in plan.nodes["files"].skipped if one.reason != HIDDEN):
            logger.warning("the input %s leaves out %s", spec.input, left_out)
        plan = looked_around(plan)
        with locked(plan.store.folder, stop) as lock:
            meter = Meter(progress or NullProgress(), plan.job.traffic, _budget(spec), stop, flows)
            return _run_locked(plan, lock, meter, started)


def _budget(spec: JobSpec) -> ErrorBudget:
    return ErrorBudget("0" if spec.on_error == "fail" else spec.max_errors)


@contextlib.contextmanager
def _run_dir(spec: JobSpec) -> Iterator[str]:
    """The run's folder; without checkpointing one that goes when the run ends."""
    if spec.checkpointing:
        yield spec.run_dir
        return
    with tempfile.TemporaryDirectory(prefix="domyn-swarm-") as folder:
        yield folder


def _run_locked(plan: RunPlan, lock: Lock, meter: Meter, started: float) -> RunResult:
    spec, store = plan.spec, plan.store
    plan = _prepared(plan)
    before = plan.rows - plan.pending
    if plan.pending == 0 and is_current(store, spec):
        return RunResult(spec.output, None, store.path, plan.rows, before, 0, 0, time.monotonic() - started)
    artifact = _recorded(plan, meter, lock)
    return RunResult(
        spec.output, spec.errors_path if artifact.failed else None, store.path, artifact.rows, before,
        max(0, artifact.rows - before - artifact.failed), artifact.failed, time.monotonic() - started, plan.changed,
    )  # fmt: skip


def _recorded(plan: RunPlan, meter: Meter, lock: Lock) -> Artifact:
    """Do all that is left to do, and write down how it goes and how it ended."""
    record = Record(plan.store, plan.spec, plan.identity, plan.nodes["files"], plan.nodes["columns"].inputs)
    watch = Watch(record, plan, meter, lock)
    meter.progress.started(plan.rows, plan.rows - plan.pending)
    try:
        plan.store.begin(record.run_id, record.number, record.identity, lock.fence)
        record.begin(watch.begun())
        with watch.looking():
            artifact = _completed(plan, meter, lock)
        lock.check()
        report = watch.done(artifact)
        record.end(report, content="" if artifact.failed else artifact.content)  # a rerun has to say it again
        watch.save(report)
    except BaseException as error:
        meter.finish()
        explained = _explained(error, plan, meter)
        if not _is_lost(lock):
            report = watch.broke(error, explained)
            record.end(report, error)
            watch.save(report)
        if explained is error:
            raise
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


def _completed(plan: RunPlan, meter: Meter, lock: Lock) -> Artifact:
    """Compute what is pending and write the output; again, when a part that seemed whole turns out to be damaged.

    Each time one part is set aside, so there is an end to those of earlier runs. Those that this run wrote are computed
    again MOST_DAMAGED times.

    Raises:
        CheckpointError: parts of this run cannot be read, again and again.
    """
    expected = plan.pending
    damaged = 0
    while True:
        try:
            plan.store.compact()
            return _execute(plan, meter, lock)
        except DamagedPartError as error:
            damaged += plan.store.wrote(error.part)
            if damaged > MOST_DAMAGED:
                raise _gone_bad(error, damaged) from error
            plan = _as_it_stands(plan)
            # Rows that are computed again count once.
            meter.advanced(Counts(expected - meter.counts.rows - plan.pending, -meter.counts.failed))


def _gone_bad(error: DamagedPartError, parts: int) -> CheckpointError:
    return CheckpointError(
        f"{parts} parts that this run wrote could not be read afterwards; the last is {error.part}: {error.reason}",
        "They were read when they were written, so look at the disk. Nothing is computed again until the next run.",
    )


def _execute(plan: RunPlan, meter: Meter, lock: Lock) -> Artifact:
    """Pull the rows through, then write the output. Only the first needs care when it is interrupted."""
    stop = meter.stop
    with _graph_for(plan, meter, stop) as graph:
        with on_signals(stop):
            pulls = plan.pending and plan.overrides.pull_rows
            report = graph.value("flushed") if pulls else FlushReport()
        lock.check()
        _check_failures(plan.spec, plan.store.id_col, meter)
        if stop.is_set():
            raise Interrupted("The run was asked to stop.")
        with on_signals(None):
            plan.store.compact()
            artifact: Artifact = graph.value("finalized", flushed=report)
    return artifact


def _check_failures(spec: JobSpec, id_col: str, meter: Meter) -> None:
    """Refuse to finish with more failed rows than may be. The job's own failures ended the stream of rows already."""
    counts = meter.counts
    if spec.on_error == "fail" and counts.failed:
        (error, _), failed = next(iter(counts.failures.items()))
        raise row_failed(id_col, failed.examples[0][0], error, failed.examples[0][1])
    if meter.overspent:
        raise JobError(
            f"{counts.failed:,} of {counts.rows:,} rows have failed, more than "
            f"{opt('max_errors', spec.max_errors)} allows.",
            "The reasons are in the run's parts. Remove the cause, or allow more.",
        )


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
def _graph_for(plan: RunPlan, meter: Meter, stop: Stop) -> Iterator[_Graph]:
    """The graph where its rows go through: in this process, or on an engine that has workers, if there is work."""
    if not plan.in_workers:
        driver = driver_for(plan.resolved, adapters=plan.adapters, flows=meter.flows, overrides=plan.overrides)
        yield _Graph(driver, {**inputs_of(plan.resolved, plan.job), "stop": stop, "meter": meter}, plan.nodes)
        return
    spec = anchored(plan.resolved)
    inputs = inputs_of(spec, plan.job)
    here = _Graph(driver_for(spec, "workers", plan.adapters, meter.flows, plan.overrides), inputs, plan.nodes)
    # These only describe what is to be done, and a task on the cluster would be a process to start.
    described = {node: here.value(node) for node in ("pending", "transformed")}
    with plan.nodes["backend"].session(spec.ray_address, stop, meter.advanced) as session:
        there = driver_for(spec, "workers", [*session.adapters, *plan.adapters], overrides=plan.overrides)
        yield _Graph(there, {**inputs, "monitor": session.monitor}, {**plan.nodes, **described}, meter.flows)


def _prepared(plan: RunPlan) -> RunPlan:
    """The plan, now that nobody else writes, with the folder put in order."""
    store = plan.store
    store.folder.tidy()
    remove_half_written(plan.spec, store)
    if not plan.spec.resume:
        store.folder.clear()
        return plan
    check_identity(plan.identity, plan.spec, store, plan.nodes["files"])
    return _as_it_stands(plan)


def _as_it_stands(plan: RunPlan) -> RunPlan:
    """The plan for what is not done now; damaged parts are set aside."""
    store, nodes = plan.store, plan.nodes
    if "done" in plan.overrides.names:
        return plan
    done: DoneRows = nodes["done"]
    backend, identified = nodes["backend"], nodes["identified"]
    locate, inputs = following(backend, identified, store, keep_changed=plan.spec.keep_changed)
    if store.rebase(locate, inputs) or done.fingerprint != store.folder.fingerprint():
        done = replace(store.done(locate), changed=done.changed)
    if done.damaged:
        store.folder.set_aside(done.damaged)
        names = ", ".join(done.damaged)
        logger.warning("%d damaged part(s) set aside in %s/damaged: %s", len(done.damaged), store.path, names)
    return counted(replace(plan, nodes={**nodes, "done": done}))


def _explained(error: BaseException, plan: RunPlan, meter: Meter) -> BaseException:
    """`error` as one of ours, with how much is safe and how to go on."""
    if isinstance(error, (CheckpointError, LockLostError)):
        return error
    resume = f"{_kept(plan.store)} {_way_on(plan.spec)}"
    if not plan.spec.checkpointing:
        resume = "Nothing is kept, because checkpointing is off."
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return _ended(plan.spec, meter, resume)
    if not isinstance(error, SwarmError) and (ran_out := exhausted(error)) is not None:
        return ExhaustedError(ran_out.text, f"{ran_out.advice} {resume}")
    if isinstance(error, SwarmError):
        if isinstance(error, DataError):  # it is too late to refuse
            error = JobError(error.text, error.advice, **error.about)
        error.advise(resume)
        return error
    if isinstance(error, OSError) and error.errno in _FIXES:
        where = error.filename or plan.store.path
        return JobError(f"{where}: {error.strerror}.", f"{_FIXES[error.errno]} {resume}")
    return JobError(f"{type(error).__name__}: {error}", resume)


def _ended(spec: JobSpec, meter: Meter, resume: str) -> SwarmError:
    """Who has been asked to end. If time was up and nothing comes of it, another time as long would not help."""
    if not meter.stop.time_is_up:
        return Interrupted("Interrupted.", resume)
    if spec.checkpointing and meter.counts.rows > meter.counts.failed:
        return TimeUp("Time was up.", resume)
    return JobError("Time was up before a row was done that is kept.", f"Allow more time. {resume}")


_FIXES = {
    errno.EACCES: "Give this user the right to write there.",
    errno.EPERM: "Give this user the right to write there.",
    errno.EROFS: "Make the filesystem writable.",
}


def _kept(store: CheckpointStore) -> str:
    try:
        return f"{store.rows_of_this_run():,} rows of this run are kept in {store.path}."
    except Exception:  # noqa: BLE001 - what broke the run may keep its folder from being read, and is what must be shown
        return f"What finished is kept in {store.path}."


def _way_on(spec: JobSpec) -> str:
    return f"{AGAIN} to resume." if spec.resume else f"{AGAIN} without {opt('resume', False)} to resume."
