"""A checkpoint directory, as runs will use it: they write, rename and lock there. Nothing is left behind."""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.lock import locked
from domyn_swarm.doctor.finding import PROBES, Finding, ProbeError, probed
from domyn_swarm.errors import CheckpointError, SwarmError
from domyn_swarm.storage.files import create_file, is_local, make_folder, reaching, whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "checkpoints"
LOW_BYTES = 2**30
ROUNDS = 30
"""Times that a file is replaced while it is read."""
WRITERS = 8
"""Threads that create the same file at once."""
SIZE = 64 * 2**10
OTHER_PLACE = "Give a --checkpoint-dir on another filesystem."


def check_checkpoint_dir(directory: str) -> Iterator[Finding]:
    """The directory, looked at from a process of its own: a filesystem that hangs keeps nobody waiting."""
    try:
        yield from msgspec.convert(probed(PROBES, "checkpoints", directory)["findings"], list[Finding])
    except ProbeError as error:
        yield Finding(NAME, "failed", f"{directory}: {error}", OTHER_PLACE)


def examined(directory: str) -> Iterator[Finding]:
    """The directory, which need not be there yet, by what is done in a folder of this check's own."""
    try:
        folder = RunFolder(f"{directory.rstrip('/')}/.doctor-{uuid.uuid4().hex[:12]}")
    except SwarmError as error:
        yield Finding(NAME, "failed", error.message, error.hint)
        return
    made = _missing_above(folder)
    try:
        with reaching(directory):
            make_folder(folder.fs, folder.root)
            _write(folder)
        yield Finding(NAME, "ok", f"{directory} can be written to")
        yield _atomic(folder) if is_local(folder.fs) else _put_whole(folder)
        yield _exclusive(folder)
        yield from _room(folder)
    except SwarmError as error:
        yield _refused(directory, error)
    finally:
        _remove(folder, made)


def _refused(directory: str, error: SwarmError) -> Finding:
    reason = getattr(error.__cause__, "strerror", None)
    if reason is None:
        return Finding(NAME, "failed", error.message, error.hint)
    mend = "Give this user the right to write there, or another --checkpoint-dir."
    return Finding(NAME, "failed", f"{directory} cannot be written to: {reason}", mend)


def _write(folder: RunFolder) -> None:
    with whole_file(folder.fs, f"{folder.root}/written") as file:
        file.write(b"a" * SIZE)


def _atomic(folder: RunFolder) -> Finding:
    """Replace a file again and again while it is read: whoever reads sees one whole version or another."""
    path, torn, done = f"{folder.root}/written", [0], threading.Event()

    def read() -> None:
        while not done.is_set():
            content = Path(path).read_bytes() if Path(path).exists() else b""
            torn[0] += len(content) != SIZE or len(set(content)) != 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(ROUNDS):
            with whole_file(folder.fs, path) as file:
                file.write(bytes([number]) * SIZE)
    finally:
        done.set()
        reader.join()
    if torn[0]:
        return Finding("rename", "failed", f"a file was read half written {torn[0]} times", OTHER_PLACE)
    return Finding("rename", "ok", f"a file was replaced {ROUNDS} times, and never seen half written")


def _put_whole(folder: RunFolder) -> Finding:
    """A store has no renames: what is put is there at once, and whole."""
    for number in range(3):
        with whole_file(folder.fs, f"{folder.root}/written") as file:
            file.write(bytes([number]) * SIZE)
        if folder.fs.cat_file(f"{folder.root}/written") != bytes([number]) * SIZE:
            return Finding("rename", "failed", "a file that was put is not what is read next", OTHER_PLACE)
    return Finding("rename", "ok", "a file that was put is there at once")


def _exclusive(folder: RunFolder) -> Finding:
    """Of several that create a file only one may; and a lock that is held is refused to others."""
    with ThreadPoolExecutor(WRITERS) as pool:
        created = sum(pool.map(lambda number: _creates(folder, str(number)), range(WRITERS)))
    if created != 1:
        found = f"{created} of {WRITERS} could create the same file: two runs may begin in the same instant"
        mend = "Do not start a run twice at once, or use a store that knows conditional puts (If-None-Match)."
        return Finding("lock", "warning" if created else "failed", found, mend if created else OTHER_PLACE)
    with locked(folder), contextlib.suppress(CheckpointError), locked(RunFolder(folder.path)):
        return Finding("lock", "failed", "a lock that was held was given a second time", OTHER_PLACE)
    return Finding("lock", "ok", f"one of {WRITERS} could take it, and nobody while it was held")


def _creates(folder: RunFolder, content: str) -> bool:
    try:
        create_file(folder.fs, f"{folder.root}/created", content.encode())
    except FileExistsError:
        return False
    return True


def _room(folder: RunFolder) -> Iterator[Finding]:
    if not is_local(folder.fs):
        return
    usage = shutil.disk_usage(folder.root)
    found = f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB are free"
    low = usage.free < LOW_BYTES
    yield Finding("space", "warning" if low else "ok", found, "Free some, or give another place." if low else "")


def _missing_above(folder: RunFolder) -> list[Path]:
    """Folders above that are not there, the innermost first: they go again."""
    if not is_local(folder.fs):
        return []
    return [above for above in Path(folder.root).parents if not above.exists()]


def _remove(folder: RunFolder, made: list[Path]) -> None:
    with contextlib.suppress(Exception):  # a filesystem that refused before may refuse this, too
        folder.fs.rm(folder.root, recursive=True)
    for above in made:
        with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
            above.rmdir()
