"""Files that a run's own record names, opened to be shown.

The record may be anybody's, and must not choose more than where parquet files are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.data.input_files import list_files
from domyn_swarm.errors import DataError
from domyn_swarm.storage.braces import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.data.input_files import InputFiles

PROTOCOLS = frozenset({
    "file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "http", "https", "hf", "hdfs", "webhdfs",
    "oci", "oss", "r2", "tos", "memory",
})  # fmt: skip
"""Plain storage. Other filesystems of fsspec open what a file describes, run templates, or start programs."""


def files_of(folder: RunFolder, pattern: str, kwargs: Mapping[str, Any]) -> InputFiles:
    """The files that `pattern`, from a record in `folder`, names.

    Storage options in `kwargs` count only where the folder is this user's, or is reached by the same: they can name a
    server, which this user's credentials would be sent to.

    Raises:
        DataError: there are none, or they are on no plain storage.
    """
    for path in expanded(pattern):
        protocol, found, _ = path.partition("://")
        if "::" in path or (found and protocol not in PROTOCOLS):
            raise DataError(f"{pattern!r} is on no plain storage, and is not opened to be shown.", "")
    options = kwargs.get("storage_options")
    may_choose = isinstance(options, dict) and (folder.is_mine("spec.json") or options == folder.storage_options)
    return list_files(pattern, options if may_choose else None, hive=kwargs.get("hive", True) is True)
