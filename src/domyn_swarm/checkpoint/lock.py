"""One writer at a time for a run's folder, on any filesystem that can create a file exclusively.

The lock is a file `lock-NNNNNN` that says who holds it, and that its holder rewrites every few seconds (a heartbeat).
To take over from a holder that is gone is to create the next number, which only one process can; a holder that finds a
higher number than its own has been taken for dead, and stops. Nothing needs the clocks of two machines to agree: what
counts is whether the file changes while one watches. The numbers are what Chubby calls sequencers (Burrows, OSDI 2006).
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.folder import name_of
from domyn_swarm.checkpoint.process import LockOwner, this_process
from domyn_swarm.errors import CheckpointError, DataError, JobError, opt
from domyn_swarm.storage.atomic import atomic_write, create_file
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.folder import RunFolder

BEAT_SECONDS = 5.0
PATIENCE = 4
"""Heartbeats that a holder on another machine may miss before it is taken for dead."""
POLL_SECONDS = 0.25
RUNNING, SENDING = "lock", "sending"
"""What a folder can be held for, by the names of the files: to write its rows, or only to send its run somewhere."""

logger = logging.getLogger("domyn_swarm")


class LockLostError(JobError):
    """Another process has taken over the folder. What finished here is kept."""

    default_code = "lock.lost"


class FencingToken(NamedTuple):
    """What whoever writes for the holder of a lock shows first; it keeps out a process that outlived its holder."""

    number: int
    token: str
    kind: str = RUNNING

    def check(self, folder: RunFolder) -> None:
        """Make sure that the lock is still held.

        Raises:
            LockLostError: another process has taken it over.
        """
        mine, last = read(folder, self.number, self.kind), newest(folder, self.kind)
        if mine is not None and mine.token == self.token and last <= self.number:
            return
        if last:
            raise LockLostError(
                "Another process has taken over this job, as this one gave no sign of life: "
                f"{read(folder, last, self.kind) or 'unknown'} ({folder.path}).",
                "What finished here is kept. Nothing has to be done; the other process continues the run.",
                code="lock.taken",
                path=folder.path,
            )
        if not folder.fs.exists(folder.root):
            raise LockLostError(
                f"The run's folder is gone: {folder.path} was moved or deleted while the run was running.",
                "What finished is in the folder, wherever it is now. Move it back, and run the same command to resume.",
                code="run.gone",
                path=folder.path,
            )
        raise LockLostError(
            f"The run's lock was removed: {folder.root}/{_name(self.number, self.kind)}. Another run may start.",
            "What finished is kept. Run the same command to resume, and leave the locks of running runs alone.",
            code="lock.removed",
            path=folder.root,
        )

    def renew(self, folder: RunFolder) -> None:
        """Give a sign of life now, so that nobody takes the lock over during the next heartbeats.

        Whoever stood still for long, or cannot write, stops here, before what cannot be taken back.

        Raises:
            LockLostError: another process has taken it over.
        """
        self.check(folder)
        if (mine := read(folder, self.number, self.kind)) is not None:
            with atomic_write(folder.fs, _path(folder, self.number, self.kind)) as file:
                file.write(msgspec.json.encode(msgspec.structs.replace(mine, beat=mine.beat + 1)))
        self.check(folder)


class Lock:
    """The lock of one folder, while it is held."""

    def __init__(self, folder: RunFolder, lost: threading.Event, kind: str = RUNNING) -> None:
        self._folder = folder
        self._lost = lost
        self._kind = kind
        self._mine = this_process()
        self._number = 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="domyn-swarm-lock", daemon=True)

    def acquire(self) -> None:
        """Take the lock, or take it over from a holder that is dead.

        Raises:
            CheckpointError: another process holds it; the message says which.
        """
        while True:
            number = newest(self._folder, self._kind)
            if holder := _alive(self._folder, number, self._kind):
                raise _held(self._folder, holder, self._kind)
            self._number = number + 1
            with contextlib.suppress(FileExistsError):
                create_file(self._folder.fs, self._path, msgspec.json.encode(self._mine))
            # Where an answer was lost it exists, and is ours; a store that knows no conditions lets everybody write.
            if self._is_mine():
                break
        for number, path in _locks(self._folder, self._kind).items():
            if number < self._number:
                _remove(self._folder, path)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the lock is still held, before something is written that cannot be taken back.

        Raises:
            LockLostError: another process has taken it over.
        """
        self.fence.check(self._folder)

    @property
    def fence(self) -> FencingToken:
        """For those who write in this process's name."""
        return FencingToken(self._number, self._mine.token, self._kind)

    def release(self) -> None:
        """Give the lock back."""
        self._released.set()
        self._thread.join(BEAT_SECONDS)  # no longer than that for a filesystem that does not answer
        with contextlib.suppress(Exception):  # whatever a filesystem throws: the lock is left behind, as by a kill
            if self._is_mine():
                _remove(self._folder, self._path)

    @property
    def _path(self) -> str:
        return _path(self._folder, self._number, self._kind)

    def _is_mine(self) -> bool:
        holder = read(self._folder, self._number, self._kind)
        return holder is not None and holder.token == self._mine.token

    def _keep(self) -> None:
        """Beat until released. A filesystem that fails for a while does not matter: others wait for some beats."""
        while not self._released.wait(BEAT_SECONDS):
            try:
                self.check()
                self._mine = msgspec.structs.replace(self._mine, beat=self._mine.beat + 1)
                with atomic_write(self._folder.fs, self._path) as file:
                    file.write(msgspec.json.encode(self._mine))
            except LockLostError as error:
                logger.warning("%s", error.message)
                self._lost.set()
                return
            except Exception as error:  # noqa: BLE001 - whatever a filesystem throws
                logger.warning("the lock of %s cannot be renewed for now: %s", self._folder.path, error)


@contextlib.contextmanager
def locked(folder: RunFolder, lost: threading.Event | None = None, kind: str = RUNNING) -> Iterator[Lock]:
    """Hold `folder`, which is made if there is none. `lost` is set if another process takes it over.

    Locks of different kinds do not know of each other.

    Raises:
        CheckpointError: it cannot be made, or another process holds it.
    """
    lock = Lock(folder, lost or threading.Event(), kind)
    try:
        with translating_io_errors(folder.path):
            folder.make()
            lock.acquire()
    except DataError as error:
        raise CheckpointError(
            error.text,
            f"Give another {opt('output')} or {opt('checkpoint_dir')}, in a directory to write in.",
            code="storage.unwritable",
        ) from error
    try:
        yield lock
    finally:
        lock.release()


def newest(folder: RunFolder, kind: str = RUNNING) -> int:
    """The number of the lock that counts, 0 when there is none."""
    return max(_locks(folder, kind), default=0)


def read(folder: RunFolder, number: int, kind: str = RUNNING) -> LockOwner | None:
    """Who holds the lock `number`; None when it is gone, or cannot be read."""
    return records.load(folder, _name(number, kind), LockOwner)


def living_holder(folder: RunFolder, kind: str = RUNNING) -> LockOwner | None:
    """Who holds the folder, and is alive. For one on another machine it waits for a sign of life."""
    return _alive(folder, newest(folder, kind), kind, logging.DEBUG)


class Watch:
    """Judges, by looking now and then, whether the holder of a folder lives.

    A process of this machine is looked up; one of another is alive if its lock changes, whatever its clock says. Until
    a lock has not changed for as long as others would wait for it, its holder is taken for alive.
    """

    def __init__(self, folder: RunFolder, kind: str = RUNNING, number: int | None = None) -> None:
        self._folder = folder
        self._kind = kind
        self._number = number
        self._seen: tuple[int, LockOwner | None] | None = None
        self._since = 0.0
        self.is_certain = False
        """Whether what was found last is known, rather than waited for."""

    def look(self) -> LockOwner | None:
        """The holder as far as is known now; None when nobody holds the folder any more."""
        number = newest(self._folder, self._kind)
        if not number or number != (self._number or number):
            return self._known(None)
        holder = read(self._folder, number, self._kind)
        if holder is not None and holder.is_near:
            return self._known(holder if holder.is_alive else None)
        first, seen = self._seen is None, (number, holder)
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
            self.is_certain = not first and holder is not None
        elif time.monotonic() - self._since >= PATIENCE * BEAT_SECONDS:
            return self._known(None)
        return holder

    def _known(self, holder: LockOwner | None) -> LockOwner | None:
        self.is_certain = True
        return holder


def _alive(folder: RunFolder, number: int, kind: str, level: int = logging.INFO) -> LockOwner | None:
    """The living holder of the lock `number`; None when nobody holds it any more: it is gone, or its holder is dead."""
    watch = Watch(folder, kind, number)
    if not number:
        return None
    holder = watch.look()
    if not watch.is_certain and holder is not None:
        patience = PATIENCE * BEAT_SECONDS
        logger.log(level, "%s may hold %s; waiting up to %.0f s for a sign of life", holder, folder.path, patience)
    while not watch.is_certain:
        time.sleep(POLL_SECONDS)
        holder = watch.look()
    return holder


def _held(folder: RunFolder, holder: LockOwner, kind: str) -> CheckpointError:
    doing = "sending" if kind == SENDING else "running"
    return CheckpointError(
        f"Another process is {doing} this job: {holder} ({folder.path}).",
        f"Wait for it or stop it. For a second run of its own give another {opt('output')} or {opt('checkpoint_tag')}.",
        code="run.active",
        path=folder.path,
    )


def _path(folder: RunFolder, number: int, kind: str) -> str:
    return f"{folder.root}/{_name(number, kind)}"


def _name(number: int, kind: str) -> str:
    return f"{kind}-{number:06d}"


def _locks(folder: RunFolder, kind: str) -> dict[int, str]:
    found = {path: re.fullmatch(rf"{kind}-(\d{{6,}})", name_of(path)) for path in folder.files()}
    return {int(match[1]): path for path, match in found.items() if match}


def _remove(folder: RunFolder, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder.fs.rm_file(path)
