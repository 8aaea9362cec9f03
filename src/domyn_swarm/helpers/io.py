"""Files on any filesystem: opening them, and writing that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

LOCAL_READ_BYTES = 2**20
REMOTE_READ_BYTES = 8 * 2**20
LEFTOVER = ".tmp"
"""What the names of files end in that are not complete."""


def filesystem(path: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec filesystem that `path` (a local path or any fsspec URL) lives on, and the path on it.

    Raises:
        MissingDependencyError: the URL's protocol needs a package that is not installed.
        DataError: the protocol is unknown, or it does not take the `storage_options`.
    """
    try:
        # Listings are read anew each time: other processes write to the same folders.
        fs, on_fs = fsspec.core.url_to_fs(path, **{"use_listings_cache": False, **(storage_options or {})})
    except ImportError as error:
        raise MissingDependencyError(f"{path}: {error}", "Install the package that the message names.") from None
    except ValueError as error:
        raise DataError(
            f"{path}: {error}", "Use a local path or a URL that fsspec knows (s3://, gs://, ...)."
        ) from None
    except TypeError as error:
        raise DataError(
            f"{path}: storage_options {storage_options!r} are not taken: {error}", "Give an object that fsspec knows."
        ) from None
    return fs, str(on_fs)


@contextlib.contextmanager
def reaching(path: str) -> Iterator[None]:
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
        ) from error


_CLIENTS = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")
"""Packages of filesystems' clients, whose errors are not all OSErrors."""


def is_local(fs: Any) -> bool:
    """Whether renames are atomic and the kernel's locks work on `fs`."""
    return isinstance(fs, LocalFileSystem)


def open_parquet(fs: Any, path: str) -> pq.ParquetFile:
    """A parquet file opened for streaming; local files without Python in the read path.

    Reading ahead is bounded: pyarrow's own default buffers every row group that was read until the file is closed.
    """
    source, ahead = (path, LOCAL_READ_BYTES) if is_local(fs) else (fs.open(path, "rb"), REMOTE_READ_BYTES)
    return pq.ParquetFile(source, pre_buffer=False, buffer_size=ahead, page_checksum_verification=True)


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


@contextlib.contextmanager
def whole_file(fs: Any, path: str, *, streamed: bool = False) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path` complete, or not at all.

    On local disks it is written beside, synced and renamed. Elsewhere it is kept in memory and becomes a single put, or
    (`streamed`, for files of any size) an upload in pieces that is completed at the end.

    Raises:
        OSError: it cannot be written; `filename` says which.
    """
    try:
        with _beside(path) if is_local(fs) else _upload(fs, path) if streamed else _put(fs, path) as file:
            yield file
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _beside(path: str) -> Iterator[IO[bytes]]:
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}{LEFTOVER}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_directory(target.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _put(fs: Any, path: str) -> Iterator[IO[bytes]]:
    buffer = io.BytesIO()
    yield buffer
    fs.pipe_file(path, buffer.getvalue())


@contextlib.contextmanager
def _upload(fs: Any, path: str) -> Iterator[IO[bytes]]:
    file = fs.open(path, "wb", autocommit=False)
    try:
        with file:
            yield file
    except BaseException:
        file.discard()
        raise
    file.commit()


def create_file(fs: Any, path: str, content: bytes) -> None:
    """Write a small file that appears whole, if there is none at `path`: of several processes only one succeeds.

    Raises:
        FileExistsError: there is one.
    """
    if not is_local(fs):
        fs.pipe_file(path, content, mode="create")
        return
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{LEFTOVER}")
    try:
        beside.write_bytes(content)
        target.hardlink_to(beside)
    except FileNotFoundError:
        if not target.exists():
            raise
        raise FileExistsError(path) from None  # whoever was first has tidied up already
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _create_exclusively(target, content)
    finally:
        beside.unlink(missing_ok=True)


_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK)
"""What filesystems answer that have none: FAT, exFAT, some of FUSE and of SMB."""


def _create_exclusively(target: Path, content: bytes) -> None:
    """The same where there are no hard links: only one creates it, but it is empty for a moment."""
    with target.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(fs: Any, folder: str, name: str = "") -> None:
    """Remove what `whole_file` and `create_file` had half written of `name` (of all) when their process was killed."""
    if is_local(fs):
        for leftover in Path(folder).glob(f".{glob.escape(name)}{'.' if name else ''}*{LEFTOVER}"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(fs: Any, path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    """Makes files, by name, of a directory that takes the place of `path` when it is complete.

    On local disks it is filled beside and renamed. Elsewhere the files are uploaded, and become visible together at the
    end, but for the moment that each of them takes; then files that were there before are removed.
    """
    with _directory_beside(path) if is_local(fs) else _directory_uploaded(fs, path) as make:
        yield make


@contextlib.contextmanager
def _directory_beside(path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    target = Path(path)
    beside, old = (target.with_name(f".{target.name}{suffix}") for suffix in (LEFTOVER, ".old"))
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield lambda name: whole_file(LocalFileSystem(), f"{beside}/{name}")
        if target.exists():
            target.replace(old)
        beside.replace(target)
        _sync_directory(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _directory_uploaded(fs: Any, path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    before = set(fs.find(path))
    uploads: dict[str, Any] = {}

    @contextlib.contextmanager
    def make(name: str) -> Iterator[IO[bytes]]:
        with fs.open(f"{path}/{name}", "wb", autocommit=False) as file:
            uploads[f"{path}/{name}"] = file
            yield file

    try:
        yield make
    except BaseException:
        for file in uploads.values():
            file.discard()
        raise
    for file in uploads.values():
        file.commit()
    for stale in before - {fs._strip_protocol(name) for name in uploads}:  # noqa: SLF001 - how fsspec spells names
        fs.rm_file(stale)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
