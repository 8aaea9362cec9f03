"""The files that are uploaded to a cluster: the run's spec and the Python files of its job."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.errors import JobError
from domyn_swarm.jobs.loading import module_in
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.runs.launchers.base import Launch

SPEC = "spec.json"
FOLDER = "job"
"""Subfolder for the job's files: at the top level its `queue.py` would shadow the standard library's."""


def sent_job(launch: Launch) -> str | None:
    """The value of SENT_ALONG; None for a job in an installed module."""
    if not python_files(launch):
        return None
    where = module_in(launch.job)
    return f"{FOLDER}/{_in_folder(launch, where).name}" if where.endswith(".py") else FOLDER


def python_files(launch: Launch) -> dict[str, Path]:
    """Name in the uploaded folder -> file. A module outside the run's working directory counts as installed.

    Uploaded are the Python files in the job's folder and in packages below it. Data files are not: a working directory
    may hold gigabytes of them.
    """
    where = module_in(launch.job)
    if where.endswith(".py"):
        return dict(_python_files(_in_folder(launch, where).parent, f"{FOLDER}/"))
    home, module = Path(launch.folder), where.partition(".")[0]
    is_there = (home / f"{module}.py").is_file() or (home / module).is_dir()
    return dict(_python_files(home, f"{FOLDER}/")) if is_there else {}


def gather(launch: Launch, folder: Path) -> None:
    """Copy everything that is uploaded into `folder`.

    Raises:
        JobError: a file cannot be read.
    """
    try:
        for name, file in python_files(launch).items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        spec = msgspec.json.decode(Path(launch.spec).read_bytes(), type=JobSpec)
    except OSError as error:
        raise JobError(
            f"{error.filename} cannot be uploaded: {error.strerror}.",
            "Make it readable.",
            code="storage.unreadable",
            path=str(error.filename),
        ) from None
    # On the cluster the environment gives the address; this one is the job server's.
    here = msgspec.structs.replace(spec, ray_address=None)
    (folder / SPEC).write_bytes(msgspec.json.encode(here))


def _in_folder(launch: Launch, where: str) -> Path:
    return Path(launch.folder, Path(where).expanduser()).resolve()


def _python_files(root: Path, name: str, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, Path]]:
    here = root.resolve()
    if here in above:  # a cyclic link
        return
    for path in sorted(root.iterdir()):
        if path.suffix == ".py" and not path.name.startswith(".") and path.is_file():
            yield f"{name}{path.name}", path
        elif path.name.isidentifier() and path.is_dir() and any(path.glob("*.py")):  # others cannot be imported
            yield from _python_files(path, f"{name}{path.name}/", (*above, here))
