"""Files on any filesystem: opening them, and writing that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import itertools
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import fsspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.errors import DataError, MissingDependencyError, OutputConflictError
from domyn_swarm.redaction import resolved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LOCAL_READ_BYTES = 2**20
REMOTE_READ_BYTES = 8 * 2**20
LEFTOVER = ".tmp"
"""What the names of files end in that are not complete."""
ATTEMPTS = 5
"""Times that an output is tried to be put in its place, while what is there changes."""


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


Guard: TypeAlias = "Callable[[], bool]"
"""Asked when all is written, immediately before it takes its place: whether what is there may be replaced.

False says that there was nothing, and that nothing may be replaced. It raises OutputConflictError when what was made
must not stand there, and anything else when it must not be kept at all.
"""


@contextlib.contextmanager
def atomic_write(
    fs: Any, path: str, *, streamed: bool = False, guard: Guard | None = None, owner: str = ""
) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path` complete, or not at all.

    On local disks it is written beside, synced and renamed. Elsewhere it is kept in memory and becomes a single put, or
    (`streamed`, for files of any size) an upload in pieces that is completed at the end. Without a `guard` it replaces
    whatever is there. `owner` is who may remove what a killed process leaves beside: see `remove_leftovers`.

    Raises:
        OSError: it cannot be written; `filename` says which.
        OutputConflictError: the guard refused. On local disks what was made is kept at the error's `beside`.
    """
    try:
        writing = _beside(path, guard, owner) if is_local(fs) else _upload(fs, path, guard) if streamed else None
        with writing or _put(fs, path) as file:
            yield file
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _beside(path: str, guard: Guard | None, owner: str) -> Iterator[IO[bytes]]:
    target = Path(path)
    with _temporary(target, owner) as beside:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _settle(beside, target, guard, owner)
        _sync_directory(target.parent)


@contextlib.contextmanager
def _put(fs: Any, path: str) -> Iterator[IO[bytes]]:
    buffer = io.BytesIO()
    yield buffer
    fs.pipe_file(path, buffer.getvalue())


@contextlib.contextmanager
def _upload(fs: Any, path: str, guard: Guard | None) -> Iterator[IO[bytes]]:
    file = fs.open(path, "wb", autocommit=False)
    try:
        with file:
            yield file
        replace = guard is None or guard()
    except BaseException:
        file.discard()
        raise
    _commit(file, guard, replace=replace)


def _commit(file: Any, guard: Guard | None, *, replace: bool) -> None:
    """Make an upload visible; unless it may `replace`, on condition that there is nothing yet, where stores know that.

    Raises:
        OutputConflictError: something else is there now.
    """
    if not replace:
        file.mode = "xb"
    try:
        file.commit()
    except FileExistsError:
        file.discard()
        # What is there may be this very file: an answer that was lost is asked for again.
        if guard is None or not guard():
            raise


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


def remove_leftovers(fs: Any, folder: str, name: str = "", owner: str = "") -> None:
    """Remove what processes that were killed had half written: of `name` by `owner`, or all in a folder of our own.

    Whatever else lies beside `name` stays, for only `owner` makes such names.
    """
    if not is_local(fs) or bool(name) != bool(owner):
        return
    ours = rf"\.{re.escape(name)}\.{re.escape(owner)}-\w+\.(tmp|old)" if name else rf"\..+\.[\w-]+{re.escape(LEFTOVER)}"
    for leftover in [path for path in Path(folder).glob(".*") if re.fullmatch(ours, path.name) and path not in _in_use]:
        if leftover.is_file() or leftover.is_symlink():
            leftover.unlink(missing_ok=True)
        elif name:
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def whole_directory(
    fs: Any, path: str, *, guard: Guard | None = None, owner: str = ""
) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    """Makes files, by name, of a directory that takes the place of `path` when it is complete.

    On local disks it is filled beside and renamed. Elsewhere the files are uploaded, and become visible together at the
    end, but for the moment that each of them takes; then files that were there before are removed. See `atomic_write`
    for `guard` and `owner`.
    """
    local = is_local(fs)
    with _directory_beside(path, guard, owner) if local else _directory_uploaded(fs, path, guard) as make:
        yield make


@contextlib.contextmanager
def _directory_beside(
    path: str, guard: Guard | None, owner: str
) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target, owner) as beside:
        beside.mkdir()
        yield lambda name: atomic_write(LocalFileSystem(), f"{beside}/{name}")
        _settle(beside, target, guard, owner)
        _sync_directory(target.parent)


@contextlib.contextmanager
def _directory_uploaded(
    fs: Any, path: str, guard: Guard | None
) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    before = set(fs.find(path))
    uploads: dict[str, Any] = {}

    @contextlib.contextmanager
    def make(name: str) -> Iterator[IO[bytes]]:
        with fs.open(f"{path}/{name}", "wb", autocommit=False) as file:
            uploads[f"{path}/{name}"] = file
            yield file

    try:
        yield make
        replace = guard is None or guard()
    except BaseException:
        for file in uploads.values():
            file.discard()
        raise
    for file in uploads.values():
        _commit(file, guard, replace=replace)
    for stale in before - {fs._strip_protocol(name) for name in uploads}:  # noqa: SLF001 - how fsspec spells names
        fs.rm_file(stale)


@contextlib.contextmanager
def _temporary(target: Path, owner: str, ending: str = LEFTOVER) -> Iterator[Path]:
    """A name beside `target` that nothing has, for what is gone again at the end."""
    path = target.with_name(f".{target.name}.{f'{owner}-' if owner else ''}{uuid.uuid4().hex}{ending}")
    _in_use.add(path)
    try:
        yield path
    finally:
        _in_use.discard(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


_in_use: set[Path] = set()
"""Temporary names of this process, which are no leftovers yet."""


def _settle(beside: Path, target: Path, guard: Guard | None, owner: str) -> None:
    """Put what was made in its place, if `guard` allows for what is there at that very moment.

    Raises:
        OutputConflictError: it does not; what was made is kept.
    """
    if guard is None and not beside.is_dir():
        beside.replace(target)
        return
    try:
        for _ in range(ATTEMPTS):
            there = _contents(target)
            replace = guard is None or guard()
            if _contents(target) != there:
                continue
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                _replace(beside, target, there, owner) if replace and there else _move(beside, target)
                return
    except OutputConflictError as error:
        raise error.keeping(_set_aside(beside, f"{target}.conflict-{error.run}")) from None
    raise OSError(errno.EBUSY, "it changes all the time", str(target))


def _contents(path: Path) -> dict[str, tuple[int, ...]]:
    """What is at `path`, and below it, distinguished from all else that was ever there; empty when there is nothing."""
    found = {}
    for each in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(FileNotFoundError):
            stat = each.lstat()
            times = () if each.is_dir() else (stat.st_size, stat.st_mtime_ns)
            found[str(each.relative_to(path))] = (stat.st_ino, *times)
    return found


def _replace(beside: Path, target: Path, there: Mapping[str, Any], owner: str) -> None:
    """Put `beside` in the place of `target`, whose contents are just what is `there`.

    Raises:
        FileExistsError: something else is there now.
    """
    if not beside.is_dir():
        beside.replace(target)
        return
    with _temporary(target, owner, ".old") as old:
        target.rename(old)
        try:
            if _contents(old) != there:
                raise FileExistsError(errno.EEXIST, "it has changed", str(target))
            _move(beside, target)
        except OSError:
            old.rename(target)
            raise


def _move(beside: Path, target: Path) -> None:
    """Give `beside` the name `target`, which nothing has.

    Raises:
        FileExistsError: something has it.
    """
    if beside.is_dir():
        try:
            beside.rename(target)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, "it exists", str(target)) from None
            raise
        return
    try:
        target.hardlink_to(beside)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without links
        if target.exists():
            raise FileExistsError(errno.EEXIST, "it exists", str(target)) from None
        beside.rename(target)


def _set_aside(beside: Path, path: str) -> str:
    """Keep what was made under the first free one of the names `path`, `path-2` and so on."""
    for number in itertools.count(1):
        name = path if number == 1 else f"{path}-{number}"
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _move(beside, Path(name))
            return name
    raise AssertionError


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
