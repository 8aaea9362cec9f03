"""Writing that appears whole or not at all, on any filesystem."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.errors import OutputConflictError
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

LEFTOVER = ".tmp"
"""What the names of files end in that are not complete."""
ATTEMPTS = 5
"""Times that an output is tried to be put in its place, while what is there changes."""


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
