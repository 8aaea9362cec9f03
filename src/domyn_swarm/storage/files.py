"""Files on any filesystem: opening, moving and removing them."""

from __future__ import annotations

import contextlib
import glob
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.errors import DataError, MissingDependencyError
from domyn_swarm.references import resolved

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL_READ_BYTES = 2**20
REMOTE_READ_BYTES = 8 * 2**20


def filesystem(path: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec filesystem that `path` (a local path or any fsspec URL) lives on, and the path on it.

    Raises:
        MissingDependencyError: the URL's protocol needs a package that is not installed.
        DataError: the protocol is unknown, or it does not take the `storage_options`.
    """
    storage_options = resolved(storage_options) if isinstance(storage_options, Mapping) else storage_options
    try:
        # Listings are read anew each time: other processes write to the same folders.
        fs, on_fs = fsspec.core.url_to_fs(path, **{"use_listings_cache": False, **(storage_options or {})})
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: {error}", "Install the package that the message names.", path=path
        ) from None
    except ValueError as error:
        raise DataError(
            f"{path}: {error}",
            "Use a local path or a URL that fsspec knows (s3://, gs://, ...).",
            code="storage.unknown",
            path=path,
        ) from None
    except TypeError as error:
        raise DataError(
            f"{path}: storage_options {storage_options!r} are not taken: {error}",
            "Give an object that fsspec knows.",
            code="storage.options",
            path=path,
        ) from None
    if not str(on_fs).strip("/") and set(protocols(fs)) & set(_WITH_BUCKETS):
        hint = "Write its name and a path in it: s3://bucket/folder."
        raise DataError(f"{path!r} names no bucket.", hint, code="storage.no_bucket", path=path)
    return fs, str(on_fs)


def protocols(fs: Any) -> tuple[str, ...]:
    """What URLs of `fs` begin with."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


_WITH_BUCKETS = ("abfs", "abfss", "adl", "az", "gcs", "gs", "s3", "s3a")


@contextlib.contextmanager
def translating_io_errors(path: str) -> Iterator[None]:
    """What a filesystem throws in here, for want of a network or of rights, is one error about `path`.

    Raises:
        DataError: it cannot be reached.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise DataError(
            f"{path} cannot be reached: {type(error).__name__}: {error}",
            "Check the path, the credentials, the network.",
            code="storage.unreachable",
            path=path,
        ) from error


_CLIENTS = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")
"""Packages of filesystems' clients, whose errors are not all OSErrors."""


def is_local(fs: Any) -> bool:
    """Whether renames are atomic and the kernel's locks work on `fs`."""
    return isinstance(fs, LocalFileSystem)


def open_parquet(fs: Any, path: str, int96: str | None = None) -> pq.ParquetFile:
    """A parquet file opened for streaming; local files without Python in the read path.

    `int96` is the unit of moments in that old type (None: nanoseconds).
    Reading ahead is bounded: pyarrow's own default buffers every row group that was read until the file is closed.
    """
    source, ahead = (path, LOCAL_READ_BYTES) if is_local(fs) else (fs.open(path, "rb"), REMOTE_READ_BYTES)
    return pq.ParquetFile(
        source, pre_buffer=False, buffer_size=ahead, page_checksum_verification=True, coerce_int96_timestamp_unit=int96
    )


def make_folder(fs: Any, path: str) -> None:
    """Make the folder at `path` and those above it. Object stores have none; a bucket that is not there is not made.

    Raises:
        OSError: it cannot be made.
    """
    bucket = path.partition("/")[0]
    if is_local(fs) or not bucket:
        fs.makedirs(path, exist_ok=True)
        return
    with contextlib.suppress(PermissionError):  # keys for a part of a bucket may not look at all of it
        if not fs.exists(bucket):
            raise FileNotFoundError(f"there is no bucket {bucket!r}")


def remove_folder(fs: Any, path: str) -> None:
    """Remove a folder and all that is in it. fsspec's own `rm` takes a name like `v[1]` for a pattern.

    Raises:
        OSError: there is none, or it cannot be removed.
    """
    if is_local(fs):
        shutil.rmtree(path)
    elif not glob.has_magic(path):
        fs.rm(path, recursive=True)
    else:
        for file in fs.find(path):
            fs.rm_file(file)


def move_file(fs: Any, source: str, target: str) -> None:
    """Give a file another name; fsspec's own `mv` takes names for patterns."""
    if is_local(fs):
        Path(source).replace(target)
    else:
        fs.cp_file(source, target)
        fs.rm_file(source)
