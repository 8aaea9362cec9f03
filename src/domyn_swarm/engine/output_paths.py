"""An output, its file of failed rows and the run's folder have places of their own, which nothing else has.

Inputs come first: no spelling of a path makes the program write where one of them is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domyn_swarm.data.listing import would_name
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.storage.files import filesystem, is_local, protocols
from domyn_swarm.storage.locations import Location

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.jobspec import JobSpec

READ_ONLY = ("data", "git", "github", "http", "https", "libarchive", "reference", "tar", "zip")
NAME_BYTES = 255
NAME_AROUND = 32
"""Bytes that names of unfinished files have more than those of finished ones, about."""
_ELSEWHERE = "Write somewhere else; an input is never changed."


def check_locations(spec: JobSpec, files: InputFiles, run: RunFolder) -> None:
    """Refuse an output that could not be written, or that would damage an input or the run's own folder.

    Raises:
        ConfigurationError: the message names the flag and the path.
    """
    storage = spec.backend_write_kwargs.get("storage_options")
    output, errors = (Location.of(path, storage) for path in (spec.output, spec.errors_path))
    home = Location.on(run.fs, run.root)
    if any(file.version is not None for file in files.files):  # else they are in memory
        _check_inputs(spec, files, output, errors)
        if spec.checkpointing:
            _check_run_folder(spec, files, run, home)
    if home.lies_in(output):
        raise ConfigurationError(
            f"the run's folder {run.path!r} lies in the output {spec.output!r}.",
            "Keep it somewhere else: an output is replaced as a whole.",
            code="output.overlap",
            option="checkpoint_dir",
            path=run.path,
        )
    if output.lies_in(home) or errors.lies_in(home):
        raise ConfigurationError(
            f"{spec.output!r} lies in the run's folder {run.path!r}.",
            "Write somewhere else.",
            code="output.overlap",
            option="output",
            path=spec.output,
        )
    _check_writable(spec.output, storage, directory=spec.output_is_directory)
    _check_writable(spec.errors_path, storage, directory=False)


def check_outlives(spec: JobSpec) -> None:
    """Refuse, for a process that ends with the run, an output or a run's folder in its own memory.

    Raises:
        ConfigurationError: the message names the flag.
    """
    for option, path in (("output", spec.output), ("checkpoint_dir", spec.checkpoint_dir or "")):
        if "memory" in path.partition("://")[0].split("::"):
            raise ConfigurationError(
                f"{path!r} is in the memory of this process, and would be gone when it ends.",
                "Name a file or a folder, or the URL of an object store.",
                code="output.in_memory",
                option=option,
                path=path,
            )


def _check_inputs(spec: JobSpec, files: InputFiles, output: Location, errors: Location) -> None:
    paths = [file.path for file in files.files]
    storage, read = (kwargs.get("storage_options") for kwargs in (spec.backend_write_kwargs, spec.backend_read_kwargs))
    written = f"{spec.output.rstrip('/')}/part-00000.parquet" if spec.output_is_directory else spec.output
    if output.first_in(files.fs, paths) or would_name(spec.input, Location.of(written, storage), read):
        raise ConfigurationError(
            f"{spec.output!r} is the input, or among its files ({spec.input!r}).",
            _ELSEWHERE,
            code="output.overlap",
            option="output",
            path=spec.output,
        )
    if errors.first_in(files.fs, paths) or would_name(spec.input, errors, read):
        raise ConfigurationError(
            f"{spec.errors_path!r}, the file of failed rows, is among the input's files ({spec.input!r}).",
            _ELSEWHERE,
            code="output.overlap",
            option="output",
            path=spec.errors_path,
        )


def _check_run_folder(spec: JobSpec, files: InputFiles, run: RunFolder, home: Location) -> None:
    """Its parts are deleted by --no-resume, and would be rows of the input in the next run."""
    if inside := home.first_in(files.fs, (file.path for file in files.files)):
        raise ConfigurationError(
            f"{inside} of the input lies in the run's folder {run.path!r}.",
            "Keep the run's folder somewhere else; an input is never changed.",
            code="output.overlap",
            option="checkpoint_dir",
            path=run.path,
        )
    part = Location.on(run.fs, f"{run.root}/parts/0001-000001.parquet")
    if would_name(spec.input, part, spec.backend_read_kwargs.get("storage_options"), hidden=False):
        raise ConfigurationError(
            f"parts in {run.path!r} would be among the input's files ({spec.input!r}).",
            "Keep the run's folder somewhere else, or in a folder whose name begins with a dot.",
            code="output.overlap",
            option="checkpoint_dir",
            path=run.path,
        )


def _check_writable(path: str, storage: Any, *, directory: bool) -> None:
    """Refuse what can never become a file or folder there, whatever is paid for it."""
    fs, on_fs = filesystem(path, storage)
    on_fs = on_fs.rstrip("/")
    if set(protocols(fs)) & set(READ_ONLY):
        raise ConfigurationError(
            f"nothing can be written to {path!r}.",
            "Name a local path, or s3://, ...",
            code="storage.unwritable",
            option="output",
            path=path,
        )
    if is_local(fs):
        wrong = _wrong_here(Path(on_fs), directory=directory)
    elif directory:
        wrong = "is a file, not a directory" if fs.isfile(on_fs) else ""
    else:
        wrong = "is a directory, not a file" if fs.isdir(on_fs) else ""
    if wrong:
        hint = "Name a directory that can be made" if directory else "Name a file that can be made"
        raise ConfigurationError(
            f"{path!r} {wrong}.", f"{hint}, or move what is there.", code="output.invalid", option="output", path=path
        )


def _wrong_here(path: Path, *, directory: bool) -> str:
    if len(os.fsencode(path.name)) + NAME_AROUND > NAME_BYTES:
        return f"has a name of {len(os.fsencode(path.name))} bytes, which is too long"
    try:
        if path.exists() and (reason := _wrong_kind(path, directory=directory)):
            return reason
        above = next(parent for parent in path.parents if parent.exists())
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    if not above.is_dir():
        return f"cannot be written, because {above} is not a directory"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"cannot be written, because {above} is not writable"


def _wrong_kind(path: Path, *, directory: bool) -> str:
    """How what is there differs from what an output is; nothing when it does not."""
    if directory:
        if path.is_mount():
            return "is a mount point, which cannot be replaced; name a directory in it"
        return "" if path.is_dir() else "exists, and is not a directory"
    if path.is_dir():
        return "is a directory, not a file"
    return "" if path.is_file() else "exists, and is not a regular file"
