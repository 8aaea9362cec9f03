"""What the name of a path or URL says, without a look at what is there."""

from __future__ import annotations

from pathlib import PurePosixPath


def split(path: str) -> tuple[str, str]:
    """`a/b/c.parquet` -> (`a/b/`, `c.parquet`), for URLs too."""
    parent, slash, name = path.rstrip("/").rpartition("/")
    return parent + slash, name


def names_directory(path: str) -> bool:
    """Whether an output at `path` is a directory of parquet files rather than one file."""
    return path.endswith("/") or not PurePosixPath(split(path)[1]).suffix
