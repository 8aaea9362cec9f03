"""A run's folder: where its files are, on any fsspec filesystem.

    <checkpoint-dir>/<tag>/
        spec.json        the JobSpec of the newest run
        run.json         its state and counts, who runs it, and what the parts belong to
        parts/           RRRR-[worker-]NNNNNN.parquet: the run's number, the worker where there are several, the part's
        earlier/         parts whose steps have changed since; what is still as it was is taken from them
        damaged/         parts that could not be read; their rows are computed again
        lock-NNNNNN      held by the one process that writes here
        servers/         the logs of the run's model servers, and how they were last
        submission.json  where the newest run was sent, if it was; log.txt has what it printed

Files whose names end in `.tmp` are not complete, and nobody looks at them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.storage.atomic import atomic_write, remove_leftovers
from domyn_swarm.storage.files import filesystem, is_local, make_folder, move_file, remove_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PART_NAME = re.compile(r"(\d{4,})-(?:(\w+)-)?(\d{6,})\.parquet")

EARLIER = "earlier"
MOST_RUNS = 10**9
"""A higher number is no run's, and the next one could not be written down."""


class PartName(NamedTuple):
    """What the name of a part tells; parts are ordered by it, the later ones last."""

    run: int
    worker: str
    number: int

    def __str__(self) -> str:
        worker = f"{self.worker}-" if self.worker else ""
        return f"{self.run:04d}-{worker}{self.number:06d}.parquet"

    @classmethod
    def of(cls, path: str) -> PartName | None:
        """The name in `path`, or None when it is not that of a part."""
        match = _PART_NAME.fullmatch(name_of(path))
        if match is None or (run := int(match[1])) > MOST_RUNS:
            return None
        return cls(run, match[2] or "", int(match[3]))


class RunFolder:
    """The folder at `path`. Nothing is written, and no filesystem asked, before it is asked for."""

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.storage_options = dict(storage_options or {})

    @cached_property
    def _place(self) -> tuple[Any, str]:
        return filesystem(self.path, self.storage_options)

    @property
    def fs(self) -> Any:
        """The fsspec filesystem that it is on."""
        return self._place[0]

    @property
    def root(self) -> str:
        """Its path on that filesystem."""
        return self._place[1]

    def is_mine(self, *names: str) -> bool:
        """Whether the folder and, where they are there, the files `names` in it belong to this user.

        Nobody is known to own what is on an object store.
        """
        if not is_local(self.fs):
            return False
        folder, user = Path(self.root), os.geteuid() if hasattr(os, "geteuid") else None
        try:
            files = [folder / name for name in names if os.path.lexists(folder / name)]
            owners = [folder.stat().st_uid, *(file.lstat().st_uid for file in files)]
        except OSError:
            return False
        return all(owner == user or user is None for owner in owners)

    def make(self) -> None:
        """Make the folder, and that of the parts. It is this user's alone, unless it is made in a shared one."""
        if is_local(self.fs):
            root = Path(self.root)
            root.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                root.mkdir(mode=0o770 if is_shared(root.parent) else 0o700)
        make_folder(self.fs, f"{self.root}/parts")

    def files(self, folder: str = "") -> dict[str, int]:
        """Paths and sizes of the files in the folder, or in one below it, as they are now."""
        path = f"{self.root}/{folder}".rstrip("/")
        try:
            entries = self.fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {entry["name"]: entry["size"] for entry in entries if entry["type"] == "file"}

    def part_path(self, name: PartName) -> str:
        """Where the part `name` is, or will be."""
        return f"{self.root}/parts/{name}"

    def parts(self) -> list[str]:
        """Paths of the parts, oldest first."""
        named = {path: name for path in self.files("parts") if (name := PartName.of(path))}
        return sorted(named, key=named.__getitem__)

    def earlier(self) -> list[str]:
        """Paths of the parts that were made by earlier versions of the job's steps, oldest first."""
        named = {path: name for path in self.files(EARLIER) if (name := PartName.of(path))}
        return sorted(named, key=named.__getitem__)

    def move(self, part: str, folder: str) -> None:
        """Move a part to `parts` or to EARLIER, whole or not at all where the filesystem can do that."""
        make_folder(self.fs, f"{self.root}/{folder}")
        move_file(self.fs, part, f"{self.root}/{folder}/{name_of(part)}")

    def foreign_files(self) -> list[str]:
        """Parquet files among the parts that no run has named."""
        return [path for path in self.files("parts") if path.endswith(".parquet") and not PartName.of(path)]

    def run_id(self) -> str | None:
        """The id of the run whose folder this is; None when there was none yet, or its record is gone."""
        record = RunRecord.load(self)
        return (record.run_id or None) if record else None

    def newest_run(self) -> int:
        """The highest number of a run that has left anything here, 0 when none has."""
        record = RunRecord.load(self)
        return max(record.number if record else 0, self.newest_part_run())

    def newest_part_run(self) -> int:
        """The highest number of a run that has left a part, 0 when none has."""
        names = map(PartName.of, [*self.parts(), *self.earlier()])
        return max((name.run for name in names if name), default=0)

    def fingerprint(self) -> str:
        """Changes whenever a part is added, removed or rewritten at another size."""
        sizes = [*self.files("parts").items(), *self.files(EARLIER).items()]
        return ";".join(f"{path.removeprefix(self.root)}:{size}" for path, size in sorted(sizes))

    def set_aside(self, parts: Iterable[str]) -> None:
        """Move damaged parts out of the way, so that their rows are computed again and nothing is lost to look at."""
        make_folder(self.fs, f"{self.root}/damaged")
        for name in map(name_of, parts):
            aside = {name_of(path) for path in self.files("damaged")}
            names = (f"{name}.{count}" if count else name for count in range(len(aside) + 1))
            free = next(free for free in names if free not in aside)
            move_file(self.fs, f"{self.root}/parts/{name}", f"{self.root}/damaged/{free}")

    def clear(self) -> None:
        """Delete all parts, to compute every row again."""
        self.remove(EARLIER)
        self.remove("parts")

    def remove(self, name: str) -> None:
        """Delete the file or folder `name` of this one, if there is one. Where a link leads nothing is deleted.

        Raises:
            OSError: it cannot be deleted.
        """
        path = f"{self.root}/{name}"
        with contextlib.suppress(FileNotFoundError):
            if is_local(self.fs) and (Path(path).is_symlink() or not Path(path).is_dir()):
                Path(path).unlink()
            elif self.fs.isdir(path):
                remove_folder(self.fs, path)
            else:
                self.fs.rm_file(path)

    def tidy(self) -> None:
        """Remove what processes that were killed had half written."""
        for folder in (self.root, f"{self.root}/parts", f"{self.root}/{EARLIER}"):
            remove_leftovers(self.fs, folder)

    def load(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder (`run.json`), or None when there is none that can be read as JSON."""
        return records.load(self, name, dict[str, Any])

    def save(self, name: str, content: Any) -> None:
        """Write a JSON file of the folder, whole or not at all."""
        with atomic_write(self.fs, f"{self.root}/{name}") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def is_shared(folder: Path) -> bool:
    """Whether what is made in the folder is meant for its group, too: it may write there, and the umask lets it.

    A folder where anybody may put something (`/tmp`) is not shared by that.
    """
    mode = folder.stat().st_mode
    return bool(mode & (stat.S_IWGRP | stat.S_ISGID)) and not mode & stat.S_ISVTX and not _umask() & stat.S_IRGRP


def _umask() -> int:
    """The umask, which can only be read by being set, in all threads: Linux tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def name_of(path: str) -> str:
    """The last part of `path`."""
    return path.rpartition("/")[2]
