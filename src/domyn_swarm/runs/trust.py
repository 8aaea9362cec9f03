"""Which handles of runs may be acted on: a folder may come from anyone, and its handle may name anything.

A handle (a process, a job's number, a server's URL) is acted on when it is in this user's own index, or when the folder
and the file belong to this user. Otherwise nothing is signalled, queried, cancelled, or read outside the folder.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.checkpoint.lock import RUNNING, newest
from domyn_swarm.checkpoint.submission import FILE, LOG
from domyn_swarm.errors import CheckpointError, ConfigurationError
from domyn_swarm.jobspec import JobSpec, make_spec
from domyn_swarm.runs import index
from domyn_swarm.runs.find import canonical
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.process import Process
    from domyn_swarm.checkpoint.submission import Submission
    from domyn_swarm.runs.find import Run


def may_act(run: Run, submission: Submission) -> bool:
    """Whether the submission's handle belongs to this user."""
    sent = index.Sent(submission.placement.run_on, submission.handle or {})
    return run.folder.is_mine(FILE) or _is_indexed(run, sent)


def may_signal(run: Run, holder: Process) -> bool:
    """Whether this user started the process that holds the run's lock."""
    lock = f"{RUNNING}-{newest(run.folder):06d}"
    return run.folder.is_mine(lock) or _is_indexed(run, started_here(holder))


def started_here(process: Process) -> index.Sent:
    """The index entry of a run that was started in a terminal."""
    return index.Sent("", {"pid": process.pid, "machine": process.machine, "started": round(process.started)})


def check_may_execute(run: Run) -> None:
    """Refuse to run code named in a folder of another user.

    Files on an object store have no owner: there the run must have been started by this user.

    Raises:
        ConfigurationError: the folder does not belong to this user.
    """
    if is_local(run.folder.fs):
        mine = run.folder.is_mine("spec.json", "run.json", FILE)
    else:
        mine = False
        with contextlib.suppress(index.IndexUnavailableError):
            mine = index.sent(canonical(run.folder.path)) is not None
    if not mine:
        raise ConfigurationError(
            f"{run.folder.path} does not belong to you, and resuming {run.name} runs the code named in its spec.json.",
            f"Inspect it: domyn-swarm job show {quote(run.folder.path)}\n"
            f"If you trust its code, add --trust: domyn-swarm job resume {quote(run.folder.path)} --trust",
            code="run.untrusted",
            path=run.folder.path,
        )


def _is_indexed(run: Run, sent: index.Sent) -> bool:
    with contextlib.suppress(index.IndexUnavailableError):
        return index.sent(canonical(run.folder.path)) == sent
    return False


def refusal(run: Run) -> CheckpointError:
    """The error for a run of another user."""
    return CheckpointError(
        f"{run.name} was not submitted by you: {run.folder.path} is not yours, and your index of runs has no handle "
        "for it.",
        "Ask the user who submitted it. You can view the run, but not control it.",
        code="run.other_user",
        path=run.folder.path,
    )


def log_of(run: Run) -> Path | None:
    """The path of the run's log, derived rather than read from its folder; None when it is unknown."""
    if is_local(run.folder.fs):
        return Path(run.folder.root) / LOG
    home = home_of(run)
    return home / LOG if home else None


def home_of(run: Run) -> Path | None:
    """The local folder of a run on an object store; None when the folder of that name belongs to another run."""
    home = index.homes() / run.name
    if home.parent != index.homes() or home.is_symlink():
        return None
    try:
        spec: JobSpec = make_spec(msgspec.json.decode((home / "spec.json").read_bytes()))
    except (OSError, ConfigurationError, TypeError, ValueError):
        return None
    return home if canonical(spec.run_dir) == canonical(run.folder.path) else None
