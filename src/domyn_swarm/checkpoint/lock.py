"""One writer at a time for a run's folder."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from domyn_swarm.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.store import CheckpointStore


@contextlib.contextmanager
def locked(store: CheckpointStore) -> Iterator[None]:
    """Hold the folder of `store`. On local disks the kernel holds the lock, so it goes with a process that is killed.

    Elsewhere it is a file that only one process can create; one that was left behind has to be removed by hand.

    Raises:
        CheckpointError: another process holds it; the message says which.
    """
    try:
        store.fs.makedirs(store.lock_path.rpartition("/")[0], exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{store.path} cannot be made: {error}.",
            "Give another --output or --checkpoint-dir, in a directory to write in.",
        ) from None
    holder = _held_by_kernel(store) if store.is_local else _held_by_file(store)
    with holder:
        yield


@contextlib.contextmanager
def _held_by_kernel(store: CheckpointStore) -> Iterator[None]:
    lock = FileLock(store.lock_path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = store.load("run.json") or {}
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started', '?')}"
        raise CheckpointError(
            f"Another process is running this job: {who} ({store.path}).",
            "Wait for it or stop it. For a second run of its own give another --output or --checkpoint-tag.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _held_by_file(store: CheckpointStore) -> Iterator[None]:
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        store.fs.pipe_file(store.lock_path, owner.encode(), mode="create")
    except FileExistsError:
        held = store.fs.cat_file(store.lock_path).decode(errors="replace")
        raise CheckpointError(
            f"Another process is running this job: {held} ({store.path}).",
            f"Wait for it or stop it. If it is gone, remove {store.path}/lock.",
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            store.fs.rm(store.lock_path)
