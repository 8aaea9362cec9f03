"""From a JobSpec to a result: plan, lock, execute the graph, and record how it went."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.lock import LockLostError, locked
from domyn_swarm.concurrency.address_space import save_address_space
from domyn_swarm.concurrency.resources import ExhaustedError, exhausted, raise_file_limit
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.data.listing import HIDDEN, summary
from domyn_swarm.engine.execution import complete, recover_only
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.engine.identity import check_identity
from domyn_swarm.engine.output_writer import is_current
from domyn_swarm.engine.planning import make_plan
from domyn_swarm.engine.preflight import run_preflight
from domyn_swarm.engine.recording.metrics import ErrorBudget, Meter, NullProgress, Progress
from domyn_swarm.engine.recording.node_stats import Flows
from domyn_swarm.engine.recording.reporter import Reporter
from domyn_swarm.engine.serving import leaving_nothing, serving
from domyn_swarm.engine.signals import on_time_up
from domyn_swarm.errors import (
    AGAIN,
    CheckpointError,
    ConfigurationError,
    DataError,
    Interrupted,
    JobError,
    SwarmError,
    TimeUp,
    opt,
)
from domyn_swarm.telemetry.counts import Reason, reasons_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.checkpoint.done_rows import DoneRows
    from domyn_swarm.checkpoint.lock import Lock
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.output_writer import Artifact
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.step_plans import StepPlan
    from domyn_swarm.jobspec import JobSpec

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class RunResult:
    """How a run ended. `rows` are those of the output; `done_before` were finished by earlier runs.

    `changed` rows had an output that was made from other inputs than they have now, and were computed again. The tokens
    are those of this run's requests, and `reasons` the most frequent ones for which rows failed. `steps` says what of
    each step was kept from earlier runs.
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
    tokens_in: int = 0
    tokens_out: int = 0
    reasons: tuple[Reason, ...] = ()
    steps: Sequence[StepPlan] = ()

    @property
    def exit_status(self) -> int:
        """0 when every row is done, 3 when some failed."""
        return 3 if self.failed else 0


def run(spec: JobSpec, progress: Progress | None = None, overrides: Overrides = NOTHING) -> RunResult:
    """Run the job to its end, or as far as it gets; whatever finished is durable. Nodes may be overridden.

    Works inside a running event loop, too. In the main thread, the first SIGINT or SIGTERM lets the calls in flight
    finish (for `spec.grace` seconds at most) and ends the run; a second one drops them. SIGUSR1 says that its time is
    up. The soft limit of open files is raised to the hard one.

    Raises:
        SwarmError: refused (exit status 2, nothing written), broken (1), interrupted (130) or out of time (124).
    """
    started = time.monotonic()
    raise_file_limit()
    save_address_space()
    stop = Stop()
    with _run_dir(spec) as run_dir, on_time_up(stop):
        flows = Flows()
        plan = make_plan(spec, run_dir, flows, overrides)
        if left_out := summary(one for one in plan.nodes["files"].skipped if one.reason != HIDDEN):
            logger.warning("the input %s leaves out %s", spec.input, left_out)
        plan = run_preflight(plan)
        refusing = leaving_nothing(plan.store.folder) if spec.serve else contextlib.nullcontext()
        with refusing, locked(plan.store.folder, stop) as lock:
            if spec.resume:
                check_identity(plan.identity, spec, plan.store, plan.nodes["files"])
            meter = Meter(progress or NullProgress(), plan.job.traffic, _budget(spec), stop, flows)
            with _served(plan, meter) as plan:
                return _run_locked(plan, lock, meter, started)


@contextlib.contextmanager
def _served(plan: RunPlan, meter: Meter) -> Iterator[RunPlan]:
    """`plan` with its model servers, while they are there; what their model is like has been found out."""
    with contextlib.ExitStack() as resources:
        try:
            served = resources.enter_context(serving(plan, meter.stop))
            if served.servers is not None:
                served = run_preflight(served)
        except ConfigurationError:
            raise
        except (SwarmError, KeyboardInterrupt) as error:
            raise _explained(error, plan, meter) from error
        yield served


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
    spec, path = plan.spec, plan.store.path
    if _has_nothing_to_do(plan):
        recover_only(plan)
        seconds = time.monotonic() - started
        return RunResult(spec.output, None, path, plan.rows, plan.rows, 0, 0, seconds, steps=plan.steps)
    reporter = Reporter(plan, meter, lock)
    artifact = _run_recorded(plan, meter, lock, reporter)
    before = reporter.plan.rows - reporter.plan.pending
    return RunResult(
        spec.output, spec.errors_path if artifact.failed else None, path, artifact.rows, before,
        max(0, artifact.rows - before - artifact.failed), artifact.failed, time.monotonic() - started,
        reporter.plan.changed, meter.counts.tokens_in, meter.counts.tokens_out, reasons_of(meter.counts.failures),
        plan.steps,
    )  # fmt: skip


def _has_nothing_to_do(plan: RunPlan) -> bool:
    """Whether the output is current, and the folder still as it was when it was read without the lock."""
    found: DoneRows = plan.nodes["found"]
    unchanged = plan.spec.resume and found.fingerprint == plan.store.folder.fingerprint()
    return plan.pending == 0 and unchanged and is_current(plan.store, plan.spec)


def _run_recorded(plan: RunPlan, meter: Meter, lock: Lock, reporter: Reporter) -> Artifact:
    """Do all that is left to do, and write down how it goes and how it ended."""
    try:
        with reporter.watching():
            artifact = complete(plan, meter, reporter)
        lock.check()
        reporter.end(artifact)
    except BaseException as error:
        meter.finish()
        explained = _explained(error, plan, meter)
        if reporter.has_begun and not _is_lost(lock):
            reporter.fail(error, explained)
        if explained is error:
            raise
        raise explained from error
    finally:
        if reporter.has_begun:
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


def _explained(error: BaseException, plan: RunPlan, meter: Meter) -> BaseException:
    """`error` as one of ours, with how much is safe and how to resume."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)) and meter.stop.reason is not None:
        error = meter.stop.reason
    if isinstance(error, (CheckpointError, LockLostError)):
        return error
    resume = f"{_kept_rows(plan.store)} {_how_to_resume(plan.spec)}"
    if not plan.spec.checkpointing:
        resume = "Nothing is kept, because checkpointing is off."
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return _stopped(plan.spec, meter, resume)
    if not isinstance(error, SwarmError) and (ran_out := exhausted(error)) is not None:
        return ExhaustedError(ran_out.text, f"{ran_out.advice} {resume}")
    if isinstance(error, SwarmError):
        if isinstance(error, DataError):  # it is too late to refuse
            error = JobError(error.text, error.advice, **error.about)
        error.advise(resume)
        return error
    if isinstance(error, OSError) and error.errno in _FIXES:
        where = error.filename or plan.store.path
        return JobError(
            f"{where}: {error.strerror}.", f"{_FIXES[error.errno]} {resume}", code="storage.unwritable", path=where
        )
    return JobError(f"{type(error).__name__}: {error}", resume, code="run.failed")


def _stopped(spec: JobSpec, meter: Meter, resume: str) -> SwarmError:
    """The error of a run that was asked to end. If no row finished in its time, as much time again would not help."""
    if not meter.stop.time_is_up:
        return Interrupted("Interrupted.", resume)
    if spec.checkpointing and meter.counts.rows > meter.counts.failed:
        return TimeUp("Time was up.", resume)
    return JobError(
        "Time was up before a row was done that is kept.", f"Allow more time. {resume}", code="run.no_progress"
    )


_FIXES = {
    errno.EACCES: "Give this user the right to write there.",
    errno.EPERM: "Give this user the right to write there.",
    errno.EROFS: "Make the filesystem writable.",
}


def _kept_rows(store: CheckpointStore) -> str:
    try:
        rows = store.rows_of_this_run()
        return f"{rows:,} {'row of this run is' if rows == 1 else 'rows of this run are'} kept in {store.path}."
    except Exception:  # noqa: BLE001 - what broke the run may keep its folder from being read, and is what must be shown
        return f"What finished is kept in {store.path}."


def _how_to_resume(spec: JobSpec) -> str:
    anew = [opt("resume", False)] if not spec.resume else [opt("recompute")] if spec.recompute else []
    return f"{AGAIN} without {anew[0]} to resume." if anew else f"{AGAIN} to resume."
