"""What people call a run: its name, its folder, the path or the name of its output, or `@last`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from domyn_swarm.checkpoint import records, run_record
from domyn_swarm.checkpoint.folder import RunFolder, name_of
from domyn_swarm.checkpoint.run_record import RunRecord, SpecRecord
from domyn_swarm.checkpoint.submission import FILE, Submission
from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.runs import index
from domyn_swarm.runs.names import base_name
from domyn_swarm.storage.paths import split

CHECKPOINTS = ".domyn-swarm"
LAST = "@last"
"""The run that was submitted or started last."""


def meant(run: str) -> str:
    """The name or the folder of the run that `run` refers to; `run` itself if it is one of these or nothing is found.

    Raises:
        ConfigurationError: `@last`, and there is no run.
    """
    if run == LAST:
        return _last()
    with contextlib.suppress(index.IndexUnavailableError):
        if not is_path(run) and index.entry_of(run) is not None:
            return run
    if holds_run(run):
        return run
    return _of_output(run) or run


def is_path(run: str) -> bool:
    """Whether `run` can be no name."""
    return "/" in run or run in (".", "..") or run.startswith("~")


def holds_run(path: str) -> bool:
    """Whether a run has written into the folder, or was submitted there."""
    with contextlib.suppress(SwarmError, OSError, ValueError):
        folder = RunFolder(path)
        return records.exists(folder, FILE) or records.exists(folder, run_record.FILE)
    return False


def _last() -> str:
    newest, found = "", ""
    for entry in index.entries():
        with contextlib.suppress(Exception):  # a folder that cannot be read is not the newest
            folder = RunFolder(entry.path, entry.storage)
            submission, record = Submission.load(folder), RunRecord.load(folder)
            since = max(submission.submitted if submission else "", record.started if record else "")
            if since > newest:
                newest, found = since, entry.name
    if not found:
        raise ConfigurationError("There is no run yet.", "Start one with: domyn-swarm job submit.", code="run.unknown")
    return found


def _of_output(output: str) -> str | None:
    """The folder of the run that writes `output`, which is a path or the name of a file."""
    parent, tag = split(output)
    if holds_run(beside := f"{parent}{CHECKPOINTS}/{tag}"):
        return beside
    with contextlib.suppress(index.IndexUnavailableError):
        if not is_path(output):
            named = index.entry_of(base_name(output))
            return named.name if named is not None and name_of(named.path) == output else None
        for entry in index.entries():
            if _writes(entry, output):
                return entry.name
    return None


def _writes(entry: index.Entry, output: str) -> bool:
    """Whether the run's output is at the path. A relative one is compared for runs below the working directory only."""
    with contextlib.suppress(Exception):
        spec = SpecRecord.load(RunFolder(entry.path, entry.storage))
        if spec is None or not spec.output:
            return False
        is_here = Path(entry.path).is_relative_to(Path.cwd().resolve())
        return (_is_absolute(spec.output) or is_here) and _normal(spec.output) == _normal(output)
    return False


def _is_absolute(path: str) -> bool:
    return "://" in path or Path(path).is_absolute()


def _normal(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))  # noqa: PTH111
