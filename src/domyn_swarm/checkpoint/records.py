"""The one reader of a run's small files (`run.json`, `submission.json`, `spec.json`, locks).

A run's folder may come from anybody: a shared disk, a bucket, an archive. So a record is read only from a regular file
of bounded size, parsed to bounded depth, and checked against a type. All else is unreadable, and said to be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from domyn_swarm.errors import CheckpointError

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

MAX_BYTES = {"run.json": 32 * 2**20, "spec.json": 16 * 2**20}
"""By name: `run.json` lists the input's files, which may be 100,000. The others are small."""
MAX_BYTES_OF_OTHERS = 2**20
MAX_DEPTH = 50
MAX_DIGITS = 20
"""An unsigned integer of 64 bits has as many; JSON cannot write longer ones back."""
YEARS = range(1971, 9000)
"""Within which every time zone can be applied to a moment."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(max_length=100_000)]
PlainName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.+-]{0,59}\Z")]
"""A name that is no path, no flag, and nothing that a shell or a terminal would take for something else."""
RunId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{0,64}\Z")]
"""Names of temporary files and of conflicting outputs have it in them."""

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""One that never ends is taken to the end, so that the search stays linear."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONG_INTEGER = re.compile(rb"(?<![\d.])\d{%d,}(?![\d.eE])" % (MAX_DIGITS + 1))
T = TypeVar("T")


class UnreadableRecordError(CheckpointError):
    """A record that is there, and is not what it should be. `reason` says why, without the path."""

    default_code = "record.unreadable"

    def __init__(self, message: str, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint)
        self.args = (self.text, self.advice, reason)
        self.reason = reason

    @classmethod
    def of(cls, path: str, reason: str) -> UnreadableRecordError:
        """What is wrong with the record at `path`."""
        return cls(f"{path} cannot be read: {reason}.", "If it was damaged, delete it.", reason)


def read(folder: RunFolder, name: str, kind: type[T]) -> T | None:
    """The record `name` of the folder; None when there is none.

    Raises:
        UnreadableRecordError: it is no regular file, too large, no JSON, or not of that kind.
        OSError: the filesystem does not give it.
    """
    path = f"{folder.path.rstrip('/')}/{name}"
    content = content_of(folder.fs, f"{folder.root}/{name}", path)
    return None if content is None else decoded(content, kind, path)


def load(folder: RunFolder, name: str, kind: type[T]) -> T | None:
    """As `read`; None, too, for a record that cannot be read."""
    with contextlib.suppress(UnreadableRecordError):
        return read(folder, name, kind)
    return None


def exists(folder: RunFolder, name: str) -> bool:
    """Whether there is anything called `name`, readable or not."""
    if _is_local(folder.fs):
        return os.path.lexists(f"{folder.root}/{name}")
    return bool(folder.fs.exists(f"{folder.root}/{name}"))


def content_of(fs: Any, path: str, shown: str) -> bytes | None:
    """The bytes of a record, None when there is none. Nothing else than a regular file is opened to be read."""
    most = MAX_BYTES.get(path.rpartition("/")[2], MAX_BYTES_OF_OTHERS)
    try:
        content = _local(path, shown, most) if _is_local(fs) else fs.cat_file(path, start=0, end=most + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise UnreadableRecordError.of(shown, "it is a directory") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UnreadableRecordError.of(shown, "it is a link to itself") from None
    if len(content) > most:
        raise _too_large(shown, most)
    return bytes(content)


def _is_local(fs: Any) -> bool:
    from domyn_swarm.storage.files import is_local  # noqa: PLC0415 - pyarrow; the command line needs this module's types

    return is_local(fs)


def _too_large(shown: str, most: int) -> UnreadableRecordError:
    return UnreadableRecordError.of(shown, f"it is larger than {most // 2**20} MiB")


def _local(path: str, shown: str, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))  # a FIFO would block
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableRecordError.of(shown, "it is no regular file")
        if state.st_size > most:
            raise _too_large(shown, most)
        return file.read(most + 1)


def decoded(content: bytes, kind: type[T], path: str) -> T:
    """JSON of that kind.

    Raises:
        UnreadableRecordError: it is not.
    """
    _check_bounds(content, path)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise UnreadableRecordError.of(path, _told(error)) from None
    except (ValueError, RecursionError):
        raise UnreadableRecordError.of(path, "it is not JSON") from None


def converted(value: Any, kind: type[T], path: str) -> T:
    """Plain data, such as a launcher's handle, as that kind.

    Raises:
        UnreadableRecordError: it is not.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UnreadableRecordError.of(path, _told(error)) from None


def _told(error: msgspec.ValidationError) -> str:
    return str(error)[:200].rstrip(".").replace("`", "").replace("\n", " ")


def _check_bounds(content: bytes, path: str) -> None:
    """Depth and digits, at the speed of C: innermost pairs of brackets are removed until none is left."""
    bare = _STRINGS.sub(b"", content)
    if _LONG_INTEGER.search(bare):
        raise UnreadableRecordError.of(path, f"it holds a number of more than {MAX_DIGITS} digits")
    brackets = bare.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH if b"[" * MAX_DEPTH not in brackets else 0):
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    if len(brackets) > MAX_DEPTH:  # what is left of less is torn, which the parser says better
        raise UnreadableRecordError.of(path, f"it is nested more than {MAX_DEPTH} levels deep, or is not JSON")


def check_moment(text: str) -> None:
    """Refuse what is no moment with a time zone, as they are compared and counted with.

    Raises:
        ValueError: it is not; msgspec makes it a ValidationError.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or moment.year not in YEARS:
        raise ValueError(f"{text!r} is no moment with a time zone")
