"""From what people type for a run, a name or a folder, to its folder."""

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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHECKPOINTS = ".domyn-swarm"


class Run(NamedTuple):
    """A run: what it is called, and its folder."""

    name: str
    folder: RunFolder


def find(run: str) -> Run:
    """The run that is called `run`, or whose folder is there.

    Raises:
        ConfigurationError: there is none; the message says which names are nearest.
    """
    if _is_path(run):
        folder = _opened(run)
        return Run(name_in(folder), folder)
    entry = index.entry_of(run)
    if entry is None:
        look_through()
        entry = index.entry_of(run)
    if entry is not None:
        return Run(entry.name, RunFolder(entry.path, entry.storage))
    if Path(run).is_dir():
        folder = _opened(run)
        return Run(name_in(folder), folder)
    raise unknown(run)


def folder_of(run: str) -> RunFolder:
    """The folder of the run that is called `run`, or that is there: for commands that look into what it holds.

    Raises:
        ConfigurationError: there is none.
    """
    from domyn_swarm.checkpoint.inspection import open_run  # noqa: PLC0415 - it reads parts, and NumPy takes its time

    entry = _entry(run)
    return open_run(run) if entry is None else open_run(entry.path, entry.storage)


def known_path(run: str) -> str | None:
    """The path of the folder of the run that is called `run`; None when none is."""
    entry = _entry(run)
    return None if entry is None else entry.path


def _entry(run: str) -> index.Entry | None:
    """A name that is not known may well be meant for a folder that is not there, unless it is nearly one that is."""
    if _is_path(run):
        return None
    with contextlib.suppress(index.IndexUnavailableError):
        found = index.entry_of(run)
        if found is None and not Path(run).exists() and nearest(run, (entry.name for entry in index.entries())):
            raise unknown(run)
        return found
    return None


def unknown(run: str) -> ConfigurationError:
    """That no run is called so, with the names that it may have been meant for."""
    names = [entry.name for entry in index.entries()]
    near = nearest(run, names)
    known = f"Nearest: {', '.join(near)}." if near else "domyn-swarm job list shows those that there are."
    return ConfigurationError(f"No run is called {run!r}.", f"{known} A run's folder does as well as its name.")


def all_runs(directories: Iterable[str] = ()) -> list[Run]:
    """Every run that is known; those in checkpoint `directories`, and near the working directory, are looked for.

    Raises:
        ConfigurationError: there is no such directory.
    """
    for directory in directories:
        if not RunFolder(directory).fs.isdir(RunFolder(directory).root):
            raise ConfigurationError(f"--checkpoint-dir: {directory!r} is no directory.", "Give a folder of runs.")
        adopt_all(directory)
    look_through()
    return [Run(entry.name, RunFolder(entry.path, entry.storage)) for entry in index.entries()]


def look_through() -> None:
    """Take runs into the index from the checkpoint directories in the working directory, and one level below it."""
    here = Path.cwd()
    directories = [here]
    with contextlib.suppress(OSError):
        directories += [path for path in here.iterdir() if path.is_dir()]
    for directory in directories:
        with contextlib.suppress(OSError):  # one that this user may not look into
            if (found := directory / CHECKPOINTS).is_dir():
                adopt_all(str(found))


def adopt_all(directory: str) -> None:
    """Take the runs of a checkpoint directory into the index."""
    known = {entry.path for entry in index.entries()}
    for path in _below(canonical(directory)):
        if path not in known:
            adopt(RunFolder(path))


def adopt(folder: RunFolder) -> None:
    """Take a run into the index, under the name that its folder says, if it is one. What it says is not acted on."""
    if not (records.exists(folder, FILE) or records.exists(folder, run_record.FILE)):
        return
    submission, path = Submission.load(folder), canonical(folder.path)
    if submission is not None and (entry := index.entry_of(submission.name)) and not exists(entry):
        index.moved(entry.name, path)
        return
    base = submission.name if submission else base_name(str((folder.load("spec.json") or {}).get("output") or path))
    index.register(path, {}, base)


def exists(entry: index.Entry) -> bool:
    """Whether the run's folder is still there; one that cannot be asked for is."""
    with contextlib.suppress(Exception):
        folder = RunFolder(entry.path, entry.storage)
        return bool(folder.fs.exists(folder.root))
    return True


def name_in(folder: RunFolder) -> str:
    """What the run in `folder` is called; its path when that can be neither found out nor written down."""
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
    """One way to write a folder's path, whatever it is reached by."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


def _is_path(run: str) -> bool:
    return "/" in run or run in (".", "..") or run.startswith("~")


def _opened(path: str) -> RunFolder:
    """A run's folder; one that was only sent holds nothing else yet."""
    from domyn_swarm.checkpoint.inspection import open_run  # noqa: PLC0415 - see above

    folder = RunFolder(path)
    with contextlib.suppress(SwarmError, OSError):
        if records.exists(folder, FILE) or records.exists(folder, run_record.FILE):
            return folder
    return open_run(path)


def _below(directory: str, *, deeper: bool = True) -> Iterator[str]:
    """The folders in a checkpoint directory, and in the one that it may itself hold."""
    folder = RunFolder(directory)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in folder.fs.ls(folder.root, detail=True):
            name = name_of(entry["name"].rstrip("/"))
            if entry["type"] == "directory" and name != CHECKPOINTS:
                yield f"{directory}/{name}"
            elif name == CHECKPOINTS and deeper:
                yield from _below(f"{directory}/{CHECKPOINTS}", deeper=False)
