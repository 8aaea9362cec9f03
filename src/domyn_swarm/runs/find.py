"""Find a run by its name or its folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from domyn_swarm.checkpoint import records, run_record
from domyn_swarm.checkpoint.folder import RunFolder, name_of
from domyn_swarm.checkpoint.submission import FILE, Submission
from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.runs import index
from domyn_swarm.runs.names import base_name, nearest
from domyn_swarm.runs.references import CHECKPOINTS, holds_run, is_path, meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Run(NamedTuple):
    """A run: its name and its folder."""

    name: str
    folder: RunFolder


def find(run: str) -> Run:
    """The run with the name, the folder or the output `run`, or the newest one (`@last`).

    Raises:
        ConfigurationError: it does not exist; the message lists similar names.
    """
    run = meant(run)
    if is_path(run):
        folder = _opened(run)
        return Run(name_in(folder), folder)
    entry = index.entry_of(run)
    if entry is None:
        scan()
        entry = index.entry_of(run)
    if entry is not None:
        return Run(entry.name, RunFolder(entry.path, entry.storage))
    if Path(run).is_dir():
        folder = _opened(run)
        return Run(name_in(folder), folder)
    raise unknown(run)


def folder_of(run: str) -> RunFolder:
    """As `find`, the folder alone, for commands that read its checkpoint.

    Raises:
        ConfigurationError: it does not exist.
    """
    from domyn_swarm.checkpoint.inspection import open_run  # noqa: PLC0415 - it reads parts, and NumPy takes its time

    run = meant(run)
    entry = _entry(run)
    return open_run(run) if entry is None else open_run(entry.path, entry.storage)


def known_path(run: str) -> str | None:
    """The path of the folder of the run that `run` refers to; None when it is not known."""
    run = meant(run)
    entry = _entry(run)
    return entry.path if entry is not None else run if holds_run(run) else None


def _entry(run: str) -> index.Entry | None:
    """The index entry for `run`; None when it is a path, or no name resembles it: then it is treated as a path."""
    if is_path(run):
        return None
    with contextlib.suppress(index.IndexUnavailableError):
        found = index.entry_of(run)
        if found is None and not Path(run).exists() and nearest(run, (entry.name for entry in index.entries())):
            raise unknown(run)
        return found
    return None


def unknown(run: str) -> ConfigurationError:
    """The error for an unknown name, with similar names."""
    names = [entry.name for entry in index.entries()]
    near = nearest(run, names)
    known = f"Did you mean: {', '.join(near)}?" if near else "List runs with: domyn-swarm job list."
    return ConfigurationError(
        f"No run is named {run!r}.", f"{known} You can also give a run's folder.", code="run.unknown", path=run
    )


def all_runs(directories: Iterable[str] = ()) -> list[Run]:
    """All known runs, including those in checkpoint `directories` and near the working directory.

    Raises:
        ConfigurationError: a directory does not exist.
    """
    for directory in directories:
        if not RunFolder(directory).fs.isdir(RunFolder(directory).root):
            raise ConfigurationError(
                f"{directory!r} is not a directory.",
                "Name a folder that contains runs.",
                code="option.invalid",
                option="checkpoint_dir",
                path=directory,
            )
        adopt_all(directory)
    scan()
    return [Run(entry.name, RunFolder(entry.path, entry.storage)) for entry in index.entries()]


def scan() -> None:
    """Add to the index the runs in checkpoint directories in the working directory and one level below."""
    here = Path.cwd()
    directories = [here]
    with contextlib.suppress(OSError):
        directories += [path for path in here.iterdir() if path.is_dir()]
    for directory in directories:
        with contextlib.suppress(OSError):  # not readable by this user
            if (found := directory / CHECKPOINTS).is_dir():
                adopt_all(str(found))


def adopt_all(directory: str) -> None:
    """Add the runs of a checkpoint directory to the index."""
    known = {entry.path for entry in index.entries()}
    for path in _below(canonical(directory)):
        if path not in known:
            adopt(RunFolder(path))


def adopt(folder: RunFolder) -> None:
    """Add a run to the index under the name recorded in its folder. Nothing else in the folder is trusted."""
    if not (records.exists(folder, FILE) or records.exists(folder, run_record.FILE)):
        return
    submission, path = Submission.load(folder), canonical(folder.path)
    if submission is not None and (entry := index.entry_of(submission.name)) and not exists(entry):
        index.moved(entry.name, path)
        return
    base = submission.name if submission else base_name(str((folder.load("spec.json") or {}).get("output") or path))
    index.register(path, {}, base)


def exists(entry: index.Entry) -> bool:
    """Whether the run's folder still exists; True when that cannot be checked."""
    with contextlib.suppress(Exception):
        folder = RunFolder(entry.path, entry.storage)
        return bool(folder.fs.exists(folder.root))
    return True


def name_in(folder: RunFolder) -> str:
    """The name of the run in `folder`; its path when it has none and none can be stored."""
    path = canonical(folder.path)
    with contextlib.suppress(index.IndexUnavailableError):
        if name := index.name_of(path):
            return name
        adopt(folder)
        if name := index.name_of(path):
            return name
    submission = Submission.load(folder)
    return submission.name if submission else folder.path


def canonical(path: str) -> str:
    """The canonical form of a folder's path."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


def _opened(path: str) -> RunFolder:
    """A run's folder; a run that was only submitted has no checkpoint in it yet."""
    from domyn_swarm.checkpoint.inspection import open_run  # noqa: PLC0415 - see above

    folder = RunFolder(path)
    with contextlib.suppress(SwarmError, OSError):
        if records.exists(folder, FILE) or records.exists(folder, run_record.FILE):
            return folder
    return open_run(path)


def _below(directory: str, *, deeper: bool = True) -> Iterator[str]:
    """The folders in a checkpoint directory and in a nested checkpoint directory."""
    folder = RunFolder(directory)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in folder.fs.ls(folder.root, detail=True):
            name = name_of(entry["name"].rstrip("/"))
            if entry["type"] == "directory" and name != CHECKPOINTS:
                yield f"{directory}/{name}"
            elif name == CHECKPOINTS and deeper:
                yield from _below(f"{directory}/{CHECKPOINTS}", deeper=False)
