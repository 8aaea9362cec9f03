"""A JobSpec for any working directory."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from domyn_swarm.jobspec import JobSpec


def anchored(spec: JobSpec, folder: str = "") -> JobSpec:
    """`spec` with relative local paths made absolute, so that it is valid in any working directory.

    Paths are resolved against `folder`, by default the current working directory.
    """
    names, folder = ("input", "output", "checkpoint_dir", "api_key_file"), folder or str(Path.cwd())
    paths = {name: _anchored(path, folder) for name in names if (path := getattr(spec, name)) is not None}
    where, colon, job_class = (spec.job, "", "") if spec.job.endswith(".py") else spec.job.rpartition(":")
    job = f"{_anchored(where, folder)}{colon}{job_class}" if where.endswith(".py") else spec.job
    files = (named.partition("=") for named in spec.api_key_files)
    keys = [f"{name}={_anchored(path, folder)}" for name, _, path in files]
    return msgspec.structs.replace(spec, **paths, job=job, api_key_files=keys)


def _anchored(path: str, folder: str) -> str:
    if "://" in path or PurePosixPath(path).is_absolute():
        return path
    return f"{folder}/{path}" if not path.startswith("~") else str(Path(path).expanduser())
