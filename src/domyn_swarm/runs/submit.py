"""Submit a run: check it as if it ran here, store it in its folder, and pass it to a launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from domyn_swarm.anchoring import anchored
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.lock import SENDING, locked
from domyn_swarm.checkpoint.process import Process
from domyn_swarm.checkpoint.submission import FILE, LOG, Submission
from domyn_swarm.engine.output_paths import check_outlives
from domyn_swarm.engine.output_writer import is_current
from domyn_swarm.engine.planning import make_plan
from domyn_swarm.engine.preflight import run_preflight
from domyn_swarm.engine.recording.run_record import without_secrets
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.redaction import HIDDEN
from domyn_swarm.runs import index, trust
from domyn_swarm.runs.control import ensure_not_running
from domyn_swarm.runs.find import Run, canonical
from domyn_swarm.runs.launchers.base import Launch
from domyn_swarm.runs.launchers.registry import load_launcher
from domyn_swarm.runs.names import base_name, check_name
from domyn_swarm.storage.files import is_local
from domyn_swarm.storage.texts import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.submission import Placement
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.recording.metrics import Progress
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.runs.launchers.base import Launcher
    from domyn_swarm.telemetry.counts import Counts

logger = logging.getLogger("domyn_swarm")


class PreparedRun(NamedTuple):
    """A run that is ready to be submitted: its plan and its launcher."""

    plan: RunPlan
    placement: Placement
    launcher: Launcher

    @property
    def nothing_to_do(self) -> bool:
        """Whether every row is done and the output is up to date."""
        return self.plan.pending == 0 and is_current(self.plan.store, self.plan.spec)


def prepare(spec: JobSpec, placement: Placement) -> PreparedRun:
    """Check and plan a run as if it ran here; nothing is written or submitted.

    Raises:
        SwarmError: with exit status 2, when it cannot run or cannot be submitted.
    """
    launcher = load_launcher(placement.run_on)
    _check_travels(spec)
    check_outlives(spec)
    if HIDDEN in placement.slurm_args:
        raise ConfigurationError(
            "they contained secrets, which are not stored.",
            f"Give {opt('slurm_args')} again.",
            code="option.secret",
            option="slurm_args",
        )
    placement = launcher.check(placement)
    plan = make_plan(spec)
    return PreparedRun(run_preflight(plan) if launcher.near else plan, placement, launcher)


def check_name_for(spec: JobSpec, wanted: str) -> None:
    """Refuse a name that the run cannot use.

    Raises:
        ConfigurationError: it is invalid, belongs to another run, or the run already has a name.
    """
    check_name(wanted)
    with index.hurried():
        try:
            index.check_free(canonical(spec.run_dir), wanted)
        except index.IndexUnavailableError as error:
            logger.warning("%s", error)


def shown(prepared: PreparedRun, wanted: str | None = None) -> str:
    """The command or script that would be submitted."""
    name = wanted or _known_name(prepared.plan) or base_name(prepared.plan.spec.output)
    return prepared.launcher.shown(_launch(prepared, name))


def submit_run(prepared: PreparedRun, wanted: str | None = None) -> Run:
    """Submit the run; return as soon as the launcher has accepted it.

    Raises:
        ConfigurationError: the name belongs to another run.
        CheckpointError: the run is already running or being submitted.
        JobError: the launcher rejects it; all changes are undone.
    """
    if wanted is not None:
        check_name(wanted)
    plan, folder = prepared.plan, prepared.plan.store.folder
    missing = _missing(folder)
    try:
        with locked(folder, kind=SENDING), index.hurried():
            ensure_not_running(Run(_known_name(plan) or base_name(plan.spec.output), folder))
            with _undone_on_error(folder):
                name = _registered(plan, wanted)
                submission = _stored(plan, _launch(prepared, name))
                handle = prepared.launcher.start(_launch(prepared, name))
            msgspec.structs.replace(submission, handle=handle).save(folder)
            _remember(plan, index.Sent(submission.placement.run_on, dict(handle)))
    except BaseException:
        for home in missing:
            with contextlib.suppress(OSError):  # not empty, or it was not created
                home.rmdir()
        raise
    return Run(name, folder)


def _remember(plan: RunPlan, sent: index.Sent) -> None:
    with contextlib.suppress(index.IndexUnavailableError):
        index.remember(canonical(plan.store.path), sent)


def _stored(plan: RunPlan, launch: Launch) -> Submission:
    """Store spec and submission in the run's folder, before the run starts."""
    folder = plan.store.folder
    submission = Submission(
        name=launch.name, placement=launch.placement.public, number=folder.newest_run() + 1, submitted=now(),
        host=socket.gethostname(), folder=launch.folder, log=launch.log,
    )  # fmt: skip
    spec = msgspec.to_builtins(anchored(without_secrets(plan.spec)))
    folder.save("spec.json", spec)
    if not is_local(folder.fs):
        home = RunFolder(launch.spec.rpartition("/")[0])
        Path(home.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        home.save("spec.json", spec)
    submission.save(folder)
    return submission


def _launch(prepared: PreparedRun, name: str) -> Launch:
    """What the launcher needs. For a folder on an object store, spec and log are kept in a local folder."""
    folder = prepared.plan.store.folder
    home = canonical(folder.path) if is_local(folder.fs) else str(index.homes() / name)
    return Launch(
        name=name, job=anchored(prepared.plan.spec).job, spec=f"{home}/spec.json", log=f"{home}/{LOG}",
        folder=str(Path.cwd()), placement=prepared.placement, grace=prepared.plan.spec.grace,
    )  # fmt: skip


def _check_travels(spec: JobSpec) -> None:
    """Refuse options that another process could not read from spec.json."""
    if not spec.checkpointing:
        raise ConfigurationError(
            f"{opt('checkpointing', False)}: a detached run is managed through its folder, and this one would have "
            "none.",
            f"Remove {opt('checkpointing', False)}, or run it in this terminal.",
            code="option.conflict",
        )
    public = without_secrets(spec)
    for name in spec.__struct_fields__:
        if getattr(public, name) != getattr(spec, name):
            what = "its storage_options contain" if name.startswith("backend_") else "it contains"
            raise ConfigurationError(
                f"{what} secrets, which are never stored or submitted.",
                "Pass them through the environment: write env:NAME instead, or use a profile of your credentials file.",
                code="option.secret",
                option=name,
            )


def _known_name(plan: RunPlan) -> str | None:
    with contextlib.suppress(index.IndexUnavailableError):
        if name := index.name_of(canonical(plan.store.path)):
            return name
    earlier = Submission.load(plan.store.folder)
    return earlier.name if earlier else None


def _registered(plan: RunPlan, wanted: str | None) -> str:
    base = _known_name(plan) or base_name(plan.spec.output)
    try:
        return index.register(canonical(plan.store.path), without_secrets(plan.spec).run_storage, base, wanted)
    except index.IndexUnavailableError as error:
        logger.warning("%s", error)
        return wanted or base


def _missing(folder: RunFolder) -> list[Path]:
    """Local folders that have to be created for the run, innermost first."""
    if not is_local(folder.fs):
        return []
    home = Path(folder.root)
    return [path for path in (home / "parts", home, *home.parents) if not path.exists()]


@contextlib.contextmanager
def _undone_on_error(folder: RunFolder) -> Iterator[None]:
    """Undo changes to the folder and the index when the run cannot be submitted."""
    path = canonical(folder.path)
    before = {name: folder.load(name) for name in ("spec.json", FILE)}
    logged = folder.fs.exists(f"{folder.root}/{LOG}")
    known = _is_known(path)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the original error matters more
            for file, content in before.items():
                folder.save(file, content) if content is not None else _remove(folder, file)
            if not logged:
                _remove(folder, LOG)
            if not known and (name := index.name_of(path)):
                index.forget(name)
        raise


def _is_known(path: str) -> bool:
    with contextlib.suppress(index.IndexUnavailableError):
        return index.name_of(path) is not None
    return False


def _remove(folder: RunFolder, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder.fs.rm_file(f"{folder.root}/{name}")


class Registering:
    """Wraps `progress` and adds the run to the index when it starts. Errors of the index never fail the run."""

    def __init__(self, progress: Progress, spec: JobSpec, wanted: str | None = None) -> None:
        self._progress = progress
        self._spec = spec
        self._wanted = wanted
        self._thread: threading.Thread | None = None

    def started(self, total: int, done: int) -> None:
        """Called when the run's folder exists. The index is written in a thread, so that the run does not wait."""
        if self._spec.checkpointing:
            self._thread = threading.Thread(target=self._register, name="domyn-swarm-index", daemon=True)
            self._thread.start()
        self._progress.started(total, done)

    def _register(self) -> None:
        try:
            path, base = canonical(self._spec.run_dir), base_name(self._spec.output)
            index.register(path, without_secrets(self._spec).run_storage, base, self._wanted)
            index.remember(path, trust.started_here(Process.of(os.getpid())))
        except Exception as error:  # noqa: BLE001 - the run is what matters
            logger.debug("the run is not in the index: %s", error)

    def advanced(self, more: Counts) -> None:
        """Forwarded to `progress`."""
        self._progress.advanced(more)

    def finished(self) -> None:
        """Forwarded to `progress`."""
        if self._thread is not None:
            self._thread.join(index.START_SECONDS)
        self._progress.finished()
