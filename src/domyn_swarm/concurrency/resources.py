"""What a process may take of its machine (open files, threads, memory, disk), and what to do when it runs out.

Running out is a condition: it has nothing to do with the row or the server at which it shows. So the limit of open
files is raised at the start, calls are capped to what is left of it, and descriptors, address space and disk space are
reserved for writing down what has finished.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import shutil
import threading
import uuid
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from domyn_swarm.concurrency.adaptive import MOST
from domyn_swarm.errors import ConditionError, opt
from domyn_swarm.storage.atomic import LEFTOVER

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES_KEPT = 64
"""Descriptors that calls leave alone: inputs, parts and locks are opened, and names looked up, while calls are made."""
MOST_FILES = 2**20
"""More is never needed, and some programs that we start close every descriptor that they could have."""
RESERVED_FILES = 16
RESERVED_BYTES = 64 * 2**20
"""Of disk and of address space: what one full part takes, and more, as parts are compressed."""
SHARE_OF_DISK = 8
"""No more than this part of what is free is reserved."""
_NO_THREAD = "can't start new thread"

_HINTS = {
    errno.EMFILE: f"Raise the limit (ulimit -n), or lower {opt('max_concurrency')}.",
    errno.ENFILE: f"The whole machine has too many files open: lower {opt('max_concurrency')}, or end other programs.",
    errno.ENOMEM: f"Lower {opt('max_concurrency')}, or give the process more memory.",
    errno.EAGAIN: f"Raise the limit of threads and processes (ulimit -u), or lower {opt('max_concurrency')}.",
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some space, or raise the quota.",
}

logger = logging.getLogger("domyn_swarm")


class ExhaustedError(ConditionError):
    """This process, or its machine, has run out of something. The run ends, and can be resumed."""

    default_code = "resources.exhausted"


def exhausted(error: BaseException) -> ExhaustedError | None:
    """What `error`, or one that it was made from, has run out of; None when it is about something else."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, ExhaustedError):
            return link
        if (number := _number_of(link)) is not None:
            full = getattr(link, "filename", None) if number in (errno.ENOSPC, errno.EDQUOT) else None
            where = f"{full}: " if full else ""
            return ExhaustedError(f"{where}{_what(number)}.", _HINTS[number])
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return None


def _number_of(error: BaseException) -> int | None:
    """The `errno` that says what was exhausted."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_THREAD):
        return errno.EAGAIN
    # EAGAIN of an OSError means to try again.
    return error.errno if isinstance(error, OSError) and error.errno in _HINTS.keys() - {errno.EAGAIN} else None


def _what(number: int) -> str:
    if number == errno.EMFILE and (limit := _soft_limit()) is not None:
        return f"Too many open files: this process may have {limit:,} (ulimit -n)"
    return {errno.ENOMEM: "Out of memory", errno.EAGAIN: "No further thread can be started"}.get(
        number, os.strerror(number)
    )


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, as far as the system lets us."""
    if (limits := _file_limits()) is None:
        return
    soft, hard = limits
    import resource  # noqa: PLC0415 - not on every platform

    for wanted in (min(hard, MOST_FILES), 10_240):  # macOS allows no more, whatever the hard limit says
        if soft < wanted <= hard:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return


def calls_that_fit(wanted: int | None, sockets: int = 1) -> int:
    """`wanted` calls at once (None: MOST), or as many as there are descriptors left for, with FILES_KEPT kept.

    A call holds `sockets` of them: where there are several servers, connections to one stay open while others are used.
    """
    most = MOST if wanted is None else wanted
    if (limit := _soft_limit()) is None:
        return most
    fit = max(1, (limit - psutil.Process().num_fds() - FILES_KEPT) // sockets)
    if wanted is not None and fit < wanted:
        _tell_cap(wanted, fit, limit)
    return min(most, fit)


@cache
def _tell_cap(wanted: int, fit: int, limit: int) -> None:
    """Say it once, however many jobs the process runs."""
    logger.warning(
        "at most %s calls at once instead of %s: this process may open %s files (ulimit -n)",
        f"{fit:,}", f"{wanted:,}", f"{limit:,}",
    )  # fmt: skip


def _soft_limit() -> int | None:
    limits = _file_limits()
    return limits[0] if limits else None


def _file_limits() -> tuple[int, int] | None:
    """Soft and hard limit of open files; None where the system has none."""
    try:
        import resource  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    soft, hard = (
        MOST_FILES if one == resource.RLIM_INFINITY else one for one in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return soft, hard


class Reserve:
    """Descriptors, address space, and disk space in the local `folder` (None: none), held until they are needed.

    `disk_bytes` is how much of the disk there was to reserve. Release it when something is exhausted: what has
    finished can be written then.
    """

    def __init__(self, folder: str | None) -> None:
        self.disk_bytes = RESERVED_BYTES
        self._files: list[int] = []
        self._memory: mmap.mmap | None = None
        self._space: Path | None = None
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):  # what cannot be had cannot be reserved
            self._files += [os.open(os.devnull, os.O_RDONLY) for _ in range(RESERVED_FILES)]
        with contextlib.suppress(OSError):  # never touched: it costs no memory
            self._memory = mmap.mmap(-1, RESERVED_BYTES)
        if folder is not None:
            self._reserve_disk(Path(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give everything back. It may be called again, and from any thread."""
        with self._lock:
            while self._files:
                os.close(self._files.pop())
            if self._memory is not None:
                self._memory.close()
                self._memory = None
            if self._space is not None:
                self._space.unlink(missing_ok=True)
                self._space = None

    def _reserve_disk(self, folder: Path) -> None:
        """A file that is named like those of writers that were killed, so that the next run removes it."""
        with contextlib.suppress(OSError):
            self.disk_bytes = min(RESERVED_BYTES, shutil.disk_usage(folder).free // SHARE_OF_DISK)
            space = folder / f".reserve.{uuid.uuid4().hex}{LEFTOVER}"
            with _descriptor(space) as number:
                self._space = space
                if self.disk_bytes and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(number, 0, self.disk_bytes)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        yield number
    finally:
        os.close(number)
