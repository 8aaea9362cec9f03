"""Files that a run's own record names, which a command opens to show them, or to leave them alone.

The record may be anybody's, and must not choose more than where parquet files are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import DataError
from domyn_swarm.storage.braces import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.checkpoint.folder import RunFolder

PROTOCOLS = frozenset({
    "file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https", "hf", "hdfs", "webhdfs",
    "oci", "oss", "r2", "tos", "memory",
})  # fmt: skip
"""Plain storage. Other filesystems of fsspec open what a file describes, run templates, or start programs."""


def check_plain(pattern: str) -> None:
    """Refuse a path or pattern that is not on plain storage.

    Raises:
        DataError: it is not.
    """
    for path in expanded(pattern):
        protocol, found, _ = path.partition("://")
        if "::" in path or (found and protocol not in PROTOCOLS):
            raise DataError(
                f"{pattern!r} is not on plain storage, and is not opened to be shown.",
                "",
                code="input.untrusted",
                path=pattern,
            )


def storage_of(folder: RunFolder, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The storage options in `kwargs`, from a record in `folder`.

    They count only where the folder is this user's, or is reached by the same: they can name a server, which this
    user's credentials would be sent to.
    """
    options = kwargs.get("storage_options")
    if isinstance(options, dict) and (folder.is_mine("spec.json") or options == folder.storage_options):
        return options
    return None
