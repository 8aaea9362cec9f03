"""Sending a run somewhere: checked as if it ran here, written into its folder, handed to a launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.lock import SENDING, locked
from domyn_swarm.checkpoint.process import Process
from domyn_swarm.checkpoint.submission import FILE, LOG, Submission
from domyn_swarm.engine.output_paths import check_outlives
from domyn_swarm.engine.output_writer import is_current
from domyn_swarm.engine.planning import make_plan
from domyn_swarm.engine.preflight import looked_around
from domyn_swarm.engine.recording.run_record import without_secrets
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import anchored, flag_of
from domyn_swarm.redaction import HIDDEN
from domyn_swarm.runs import index, trust
from domyn_swarm.runs.control import refuse_if_on
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


class Ready(NamedTuple):
    """A run that can be sent: what it would do, and where."""

    plan: RunPlan
    placement: Placement
    launcher: Launcher

    @property
    def nothing_to_do(self) -> bool:
        """Whether the output is there, and is what the run would write."""
        return self.plan.pending == 0 and is_current(self.plan.store, self.plan.spec)


def checked(spec: JobSpec, placement: Placement) -> Ready:
    """Look at the run as if it were to go on here; nothing is written, and nothing is sent.

    Raises:
        SwarmError: with exit status 2, when it could not run, or not be sent there.
    """
    launcher = load_launcher(placement.run_on)
    _check_travels(spec)
    check_outlives(spec)
    if HIDDEN in placement.slurm_args:
        raise ConfigurationError(
            "--slurm-args: they held secrets, which the run did not write down.", "Give --slurm-args again."
        )
    placement = launcher.check(placement)
    plan = make_plan(spec)
    return Ready(looked_around(plan) if launcher.near else plan, placement, launcher)


def check_name_for(spec: JobSpec, wanted: str) -> None:
    """Refuse a name that a run cannot have.

    Raises:
        ConfigurationError: it is none, it is another run's, or the run has one.
    """
    check_name(wanted)
    with index.hurried():
        try:
            index.check_free(canonical(spec.run_dir), wanted)
        except index.IndexUnavailableError as error:
            logger.warning("%s", error)


def shown(ready: Ready, wanted: str | None = None) -> str:
    """What would be sent."""
    name = wanted or _known_name(ready.plan) or base_name(ready.plan.spec.output)
    return ready.launcher.shown(_launch(ready, name))


def send(ready: Ready, wanted: str | None = None) -> Run:
    """Send the run; return as soon as its place has taken it.

    Raises:
        ConfigurationError: the name is another run's.
        CheckpointError: the run goes on already, or somebody else is sending it.
        JobError: the place does not take it; nothing is left behind.
    """
    if wanted is not None:
        check_name(wanted)
    plan, folder = ready.plan, ready.plan.store.folder
    missing = _missing(folder)
    try:
        with locked(folder, kind=SENDING), index.hurried():
            refuse_if_on(Run(_known_name(plan) or base_name(plan.spec.output), folder))
            with _taken_back(folder):
                name = _registered(plan, wanted)
                submission = _written(plan, _launch(ready, name))
                handle = ready.launcher.start(_launch(ready, name))
            msgspec.structs.replace(submission, handle=handle).save(folder)
            _remember(plan, index.Sent(submission.placement.run_on, dict(handle)))
    except BaseException:
        for home in missing:
            with contextlib.suppress(OSError):  # somebody has put something there, or it was not made
                home.rmdir()
        raise
    return Run(name, folder)


def _remember(plan: RunPlan, sent: index.Sent) -> None:
    with contextlib.suppress(index.IndexUnavailableError):
        index.remember(canonical(plan.store.path), sent)


def _written(plan: RunPlan, launch: Launch) -> Submission:
    """Write down what is asked for, as it has to be there when the run begins."""
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


def _launch(ready: Ready, name: str) -> Launch:
    """A folder that only clients of an object store reach holds no file that a command could name."""
    folder = ready.plan.store.folder
    home = canonical(folder.path) if is_local(folder.fs) else str(index.homes() / name)
    return Launch(
        name=name, job=anchored(ready.plan.spec).job, spec=f"{home}/spec.json", log=f"{home}/{LOG}",
        folder=str(Path.cwd()), placement=ready.placement, grace=ready.plan.spec.grace,
    )  # fmt: skip


def _check_travels(spec: JobSpec) -> None:
    """Refuse what cannot be written down for another process to read."""
    if not spec.checkpointing:
        raise ConfigurationError(
            "--no-checkpointing: a run that is sent away is looked after by its folder, and this one has none.",
            "Drop --no-checkpointing, or run it here.",
        )
    public = without_secrets(spec)
    for name in spec.__struct_fields__:
        if getattr(public, name) != getattr(spec, name):
            what = "its storage_options hold" if name.startswith("backend_") else "it holds"
            raise ConfigurationError(
                f"{flag_of(name)}: {what} secrets, which are written down nowhere, and not sent.",
                "Give them by the environment: env:NAME in their place, or a profile of your credentials file.",
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
    """Folders of a local disk that have to be made for the run, the innermost first."""
    if not is_local(folder.fs):
        return []
    home = Path(folder.root)
    return [path for path in (home / "parts", home, *home.parents) if not path.exists()]


@contextlib.contextmanager
def _taken_back(folder: RunFolder) -> Iterator[None]:
    """What is written in here, to the folder and into the index, is as it was before when the run cannot be sent."""
    path = canonical(folder.path)
    before = {name: folder.load(name) for name in ("spec.json", FILE)}
    logged = folder.fs.exists(f"{folder.root}/{LOG}")
    known = _is_known(path)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # whatever a filesystem throws: what has to be told is the reason
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
    """Shows a run as `progress` does, and takes it into the index once it has begun. Nothing of that can break it."""

    def __init__(self, progress: Progress, spec: JobSpec, wanted: str | None = None) -> None:
        self._progress = progress
        self._spec = spec
        self._wanted = wanted
        self._thread: threading.Thread | None = None

    def started(self, total: int, done: int) -> None:
        """It has begun: its folder is there. The index is written beside the run, which it must not keep waiting."""
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
        """As before."""
        self._progress.advanced(more)

    def finished(self) -> None:
        """As before."""
        if self._thread is not None:
            self._thread.join(index.START_SECONDS)
        self._progress.finished()
