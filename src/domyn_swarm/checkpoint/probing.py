"""Reading a parquet file in another process first: damage that no digest finds can abort the process that reads it.

Parts without a seal are read so, and those of other users of the machine, each once by a process. The first are from
earlier versions, and get a seal when they are merged.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.storage import files

if TYPE_CHECKING:
    from collections.abc import Hashable

READY = b"ready\n"
READ = b"read\n"
SECONDS = 60
"""Of CPU time that the reading of one file may take, beside what its size needs."""
BYTES_PER_SECOND = 2**20


def probe(fs: Any, path: str) -> None:
    """Read the file at `path` in another process, unless that was done.

    Raises:
        ArrowInvalid: that process ended.
        OSError: it cannot be read.
    """
    if files.is_local(fs):
        state = Path(path).stat()
        key: Hashable = (path, state.st_ino, state.st_size, state.st_mtime_ns)
        if key not in _survived:
            _reader.read(path)
            _survived.add(key)
        return
    key = (fs.to_json(include_password=False) if hasattr(fs, "to_json") else id(fs), path, fs.info(path)["size"])
    if key not in _survived:
        with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
            copy.write(fs.cat_file(path))
            copy.flush()
            _reader.read(copy.name)
        _survived.add(key)


_survived: set[Hashable] = set()
"""Files, as they were, that the other process has read."""


class _Reader:
    """The other process, started for the first file and after each one that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Any = None  # a Popen, whose pipes are there

    def read(self, path: str) -> None:
        """Have the file read.

        Raises:
            ArrowInvalid: the process ended over it.
        """
        with self._lock:
            if (process := self._process or self._started()) is None:
                return
            if not self._reads(process, path):
                self.close()
                raise pa.ArrowInvalid("it cannot be read: the process that tried was aborted, or ran out of time")

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> Any:
        """None where no Python can be started, or none that has this package."""
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(  # noqa: S603 - this package
                [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._answer(self._process) != READY:
                self.close()
        return self._process

    def _reads(self, process: Any, path: str) -> bool:
        try:
            process.stdin.write(os.fsencode(Path(path).absolute()) + b"\0")
            process.stdin.flush()
        except OSError:
            return False
        return self._answer(process) == READ

    @staticmethod
    def _answer(process: Any) -> bytes:
        return bytes(process.stdout.readline())


_reader = _Reader()
atexit.register(_reader.close)


def main() -> None:
    """Read the files whose paths come in, and say so after each; what is wrong with them is for others to say."""
    _write(READY)
    pending = b""
    while content := os.read(0, 2**16):
        *paths, pending = (pending + content).split(b"\0")
        for path in map(os.fsdecode, paths):
            _limit_time(path)
            with contextlib.suppress(Exception):
                _read(path)
            _write(READ)


def _read(path: str) -> None:
    """All that is in the file, in all ways in which parts are read."""
    with files.open_parquet(LocalFileSystem(), path) as parquet:
        _look_at(parquet.metadata)
        _ = parquet.schema_arrow.metadata
        with contextlib.suppress(Exception):
            parquet.read_row_groups(list(range(parquet.num_row_groups)))
        for _ in parquet.iter_batches():
            pass


def _look_at(metadata: pq.FileMetaData) -> None:
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            with contextlib.suppress(Exception):
                _ = column.path_in_schema
                if (statistics := column.statistics) is not None and statistics.has_min_max:
                    _ = statistics.min, statistics.max, statistics.null_count


def _limit_time(path: str) -> None:
    """End by a signal when the reading of this file takes for ever."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not everywhere

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + SECONDS + Path(path).stat().st_size // BYTES_PER_SECOND
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _write(answer: bytes) -> None:
    os.write(1, answer)


if __name__ == "__main__":
    main()
