"""Checks of a checkpoint directory: write, rename and lock as runs do. No files are left behind."""

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
from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.errors import CheckpointError, SwarmError
from domyn_swarm.storage.atomic import atomic_write, create_file
from domyn_swarm.storage.files import is_local, make_folder, translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "checkpoints"
LOW_BYTES = 2**30
ROUNDS = 30
"""How often a file is replaced while another thread reads it."""
WRITERS = 8
"""Number of threads that try to create the same file."""
SIZE = 64 * 2**10
OTHER_FILESYSTEM = "Use a --checkpoint-dir on another filesystem."


def check_checkpoint_dir(directory: str) -> Iterator[Finding]:
    """Check the directory in a subprocess, so that a filesystem that hangs does not block the command."""
    try:
        yield from msgspec.convert(probed(PROBES, "checkpoints", directory)["findings"], list[Finding])
    except ProbeError as error:
        yield Finding(NAME, "failed", f"{directory}: {error}", OTHER_FILESYSTEM)


def check_in_process(directory: str) -> Iterator[Finding]:
    """Check the directory, which need not exist yet, in a temporary subfolder."""
    try:
        folder = RunFolder(f"{directory.rstrip('/')}/.doctor-{uuid.uuid4().hex[:12]}")
    except SwarmError as error:
        yield Finding(NAME, "failed", *error.rendered(COMMAND_LINE))
        return
    made = _missing_above(folder)
    try:
        with translating_io_errors(directory):
            make_folder(folder.fs, folder.root)
            _write(folder)
        yield Finding(NAME, "ok", f"{directory} is writable")
        yield _atomic(folder) if is_local(folder.fs) else _put_whole(folder)
        yield _exclusive(folder)
        yield from _disk_space(folder)
    except SwarmError as error:
        yield _refused(directory, error)
    finally:
        _remove(folder, made)


def _refused(directory: str, error: SwarmError) -> Finding:
    reason = getattr(error.__cause__, "strerror", None)
    if reason is None:
        return Finding(NAME, "failed", *error.rendered(COMMAND_LINE))
    fix = "Give this user write permission there, or use another --checkpoint-dir."
    return Finding(NAME, "failed", f"{directory} is not writable: {reason}", fix)


def _write(folder: RunFolder) -> None:
    with atomic_write(folder.fs, f"{folder.root}/written") as file:
        file.write(b"a" * SIZE)


def _atomic(folder: RunFolder) -> Finding:
    """Replace a file repeatedly while another thread reads it: each read must see one complete version."""
    path, torn, done = f"{folder.root}/written", [0], threading.Event()

    def read() -> None:
        while not done.is_set():
            content = Path(path).read_bytes() if Path(path).exists() else b""
            torn[0] += len(content) != SIZE or len(set(content)) != 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(ROUNDS):
            with atomic_write(folder.fs, path) as file:
                file.write(bytes([number]) * SIZE)
    finally:
        done.set()
        reader.join()
    if torn[0]:
        return Finding("rename", "failed", f"{torn[0]} reads saw a partially written file", OTHER_FILESYSTEM)
    return Finding("rename", "ok", f"{ROUNDS} replacements, and every read saw a complete file")


def _put_whole(folder: RunFolder) -> Finding:
    """An object store has no rename: a put must be visible at once, and complete."""
    for number in range(3):
        with atomic_write(folder.fs, f"{folder.root}/written") as file:
            file.write(bytes([number]) * SIZE)
        if folder.fs.cat_file(f"{folder.root}/written") != bytes([number]) * SIZE:
            return Finding("rename", "failed", "a read after a put did not return what was written", OTHER_FILESYSTEM)
    return Finding("rename", "ok", "a put is visible at once")


def _exclusive(folder: RunFolder) -> Finding:
    """Of several threads that create a file exactly one may succeed, and a held lock must be refused to others."""
    with ThreadPoolExecutor(WRITERS) as pool:
        created = sum(pool.map(lambda number: _creates(folder, str(number)), range(WRITERS)))
    if created != 1:
        found = f"{created} of {WRITERS} writers created the same file: two runs can start at the same time"
        fix = "Never start a run twice at once, or use a store that supports conditional puts (If-None-Match)."
        return Finding("lock", "warning" if created else "failed", found, fix if created else OTHER_FILESYSTEM)
    with locked(folder), contextlib.suppress(CheckpointError), locked(RunFolder(folder.path)):
        return Finding("lock", "failed", "a held lock was granted a second time", OTHER_FILESYSTEM)
    return Finding("lock", "ok", f"1 of {WRITERS} writers acquired it, and none while it was held")


def _creates(folder: RunFolder, content: str) -> bool:
    try:
        create_file(folder.fs, f"{folder.root}/created", content.encode())
    except FileExistsError:
        return False
    return True


def _disk_space(folder: RunFolder) -> Iterator[Finding]:
    if not is_local(folder.fs):
        return
    usage = shutil.disk_usage(folder.root)
    found = f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB are free"
    low = usage.free < LOW_BYTES
    yield Finding(
        "space", "warning" if low else "ok", found, "Free some space, or use another --checkpoint-dir." if low else ""
    )


def _missing_above(folder: RunFolder) -> list[Path]:
    """Parent folders that do not exist yet, innermost first; they are removed again."""
    if not is_local(folder.fs):
        return []
    return [above for above in Path(folder.root).parents if not above.exists()]


def _remove(folder: RunFolder, made: list[Path]) -> None:
    with contextlib.suppress(Exception):  # a filesystem that refused to write may refuse this too
        folder.fs.rm(folder.root, recursive=True)
    for above in made:
        with contextlib.suppress(OSError):  # another process has written there meanwhile
            above.rmdir()
