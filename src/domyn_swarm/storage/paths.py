"""What the name of a path or URL says, without a look at what is there."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from domyn_swarm.errors import ConfigurationError


def split(path: str) -> tuple[str, str]:
    """`a/b/c.parquet` -> (`a/b/`, `c.parquet`), for URLs too."""
    parent, slash, name = path.rstrip("/").rpartition("/")
    return parent + slash, name


def names_directory(path: str) -> bool:
    """Whether an output at `path` is a directory of parquet files rather than one file."""
    return path.endswith("/") or not PurePosixPath(split(path)[1]).suffix


def is_text(path: str) -> bool:
    """Whether a name can be written down: the bytes of a file's name need not be UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_home() -> None:
    """Refuse to go on for a user without a home folder, which libraries look for when they are imported.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        Path.home()
    except RuntimeError:
        raise ConfigurationError(
            "HOME is not set, and this user is not known to the system (a container with a user of its own?).",
            "Set HOME to a directory that this user may write to.",
            code="home.missing",
        ) from None
