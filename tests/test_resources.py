"""Open files, threads, memory, disk: running out of them ends a run, never loses a finished row, and blames nobody."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from domyn_swarm.concurrency.resources import Reserve, exhausted
from domyn_swarm.errors import ConditionError, EndpointError
from tests.conftest import command_line, run_command, write
from tests.servers.chaos import chaos
from tests.servers.modes import playing

RUN = Path(".domyn-swarm/out.parquet")
LEAKY = """
import os
from domyn_swarm import SwarmJob

class Leaky(SwarmJob):
    input_columns = ("number",)
    output_columns = ("twice",)

    async def transform_item(self, number: int) -> int:
        if number >= 300:
            while True:
                os.open(os.devnull, os.O_RDONLY)  # and never closed
        return 2 * number
"""
FILLING = """
import asyncio
import os
from domyn_swarm import SwarmJob

class Filling(SwarmJob):
    input_columns = ("number",)
    output_columns = ("random",)

    async def transform_item(self, number: int) -> str:
        await asyncio.sleep(0.001)
        return os.urandom(4000).hex()
"""


def submitted(*arguments: str, files: tuple[int, int] | None = None, memory: int | None = None) -> Any:
    """A run with these limits of open files (soft and hard) and of address space (bytes)."""

    limits = {resource.RLIMIT_NOFILE: files, resource.RLIMIT_AS: memory and (memory, memory)}
    set_ = {limit: values for limit, values in limits.items() if values}
    names = ("--input", "in.parquet", "--output", "out.parquet")
    return run_command("job", "submit", *arguments, *names, timeout=200, limits=set_)


def kept() -> int:
    return sum(pq.read_metadata(part).num_rows for part in RUN.glob("parts/*.parquet"))


def asking(url: str, concurrency: int) -> tuple[str, ...]:
    return ("--input-column", "text", "--endpoint", url, "--max-concurrency", str(concurrency))


def test_a_low_soft_limit_of_open_files_is_raised() -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(600)]})
    with chaos("--latency", "1") as server:
        done = submitted(*asking(server.url, 300), files=(128, 4096))
        most = max(one["in_flight"] for one in server.requests())
    assert (done.returncode, "ulimit" in done.stderr) == (0, False), done.stderr
    assert most > 200


@pytest.mark.parametrize(
    "limit", [256, pytest.param(512, marks=pytest.mark.stress), pytest.param(1024, marks=pytest.mark.stress)]
)
def test_calls_are_capped_to_the_open_files_that_there_are(limit: int) -> None:
    rows = 3 * limit
    write("in.parquet", {"text": [f"row {number}" for number in range(rows)]})
    with chaos("--latency", "1") as server:
        done = submitted(*asking(server.url, 2000), files=(limit, limit))
        most = max(one["in_flight"] for one in server.requests())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"instead of 2,000: this process may open {limit:,} files") == 1
    assert limit // 4 < most < limit
    assert pq.read_metadata("out.parquet").num_rows == rows


def test_a_job_that_opens_too_many_files_ends_the_run_and_no_row_fails() -> None:
    write("in.parquet", {"number": list(range(1000))})
    Path("leaky.py").write_text(LEAKY)
    done = submitted("leaky.py:Leaky", "--max-concurrency", "1", files=(256, 256))
    assert done.returncode == 1
    assert "Error: Too many open files: this process may have 256 (ulimit -n).\nRaise the limit" in done.stderr
    assert "300 rows of this run are kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept() == 300
    assert json.loads((RUN / "run.json").read_text())["failed"] == 0


@contextlib.contextmanager
def memory_group(size: int) -> Iterator[Path]:
    """A control group whose processes may take so many bytes, and are killed when they take more."""
    root = Path("/sys/fs/cgroup")
    parent, file = (root / "memory", "memory.limit_in_bytes") if (root / "memory").is_dir() else (root, "memory.max")
    folder = parent / f"domyn-swarm-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / file).write_text(str(size))
    except OSError:
        pytest.skip("no control group can be made")
    try:
        yield folder
    finally:
        folder.rmdir()


@contextlib.contextmanager
def disk(megabytes: int) -> Iterator[Path]:
    """A small disk of its own."""
    folder = Path("disk").absolute()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_every_row_that_finished_is_kept() -> None:
    write("in.parquet", {"number": list(range(6000))})
    Path("filling.py").write_text(FILLING)
    with disk(8) as folder:
        done = submitted("filling.py:Filling", "--checkpoint-dir", str(folder), "--max-concurrency", "1")
        parts = list(folder.glob("out.parquet/parts/*.parquet"))
        record = json.loads((folder / "out.parquet/run.json").read_text())
        rows = sum(pq.read_metadata(part).num_rows for part in parts)
        assert list(folder.glob("out.parquet/.*")) == []
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert f"{rows:,} rows of this run are kept" in done.stderr
    assert rows == record["rows"] > 1000


@pytest.mark.stress
def test_answers_that_need_more_memory_than_there_is_end_the_run_and_those_that_finished_are_kept() -> None:
    write("in.parquet", {"number": list(range(4000))})
    Path("large.py").write_text(
        LEAKY.replace("os.open(os.devnull, os.O_RDONLY)", "kept.append(bytearray(2**26))").replace(
            "            while True:", "            kept = []\n            while True:"
        )
    )
    done = submitted("large.py:Leaky", "--max-concurrency", "1", memory=4 * 2**30)
    assert done.returncode == 1
    assert "Error: Out of memory.\nLower --max-concurrency" in done.stderr
    assert kept() == 300


@pytest.mark.stress
@pytest.mark.parametrize("says", ["how long", "nothing"])
def test_many_large_answers_at_once_are_read_as_there_is_memory_for_them(says: str) -> None:
    """512 calls whose answers of 1 MB come at once, 700 in all, where there are 2 GB of memory."""
    write("in.parquet", {"text": [f"row {number}" for number in range(700)]})
    with playing("large", says=says.replace(" ", "_")) as server, memory_group(2 * 2**30) as group:
        line = command_line(
            "job", "submit", *asking(server.url, 512), "--input", "in.parquet", "--output", "out.parquet"
        )
        enter = ["bash", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group), *line]
        done = subprocess.run(enter, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert pq.read_metadata("out.parquet").num_rows == 700


@pytest.mark.stress
def test_so_they_are_where_the_address_space_is_limited() -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(700)]})
    with playing("large", says="how_long") as server:
        done = submitted(*asking(server.url, 512), memory=2 * 2**30)
    assert done.returncode == 0, done.stderr
    assert pq.read_metadata("out.parquet").num_rows == 700


@pytest.mark.parametrize(
    ("error", "is_condition"),
    [
        (OSError(errno.EMFILE, "many"), True),
        (OSError(errno.ENFILE, "many"), True),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.ENOMEM, "none"), True),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (OSError(errno.EAGAIN, "again"), False),
        (OSError(errno.ECONNREFUSED, "refused"), False),
        (RuntimeError("broken"), False),
        (ValueError(), False),
    ],
)
def test_what_an_error_was_made_from_tells_whether_something_was_exhausted(
    error: BaseException, is_condition: bool
) -> None:
    try:
        try:
            raise error
        except type(error):
            raise EndpointError("no answer") from None
    except EndpointError as wrapped:
        found = exhausted(wrapped)
    assert (found is not None) == is_condition
    assert found is None or (isinstance(found, ConditionError) and found.hint)


def test_a_reserve_gives_back_what_it_holds(tmp_path: Path) -> None:
    before = len([*Path("/dev/fd").iterdir()])
    with Reserve(str(tmp_path)) as reserve:
        (space,) = tmp_path.iterdir()
        assert space.stat().st_size == reserve.disk_bytes > 0
        assert len([*Path("/dev/fd").iterdir()]) > before
    assert list(tmp_path.iterdir()) == []
    assert len([*Path("/dev/fd").iterdir()]) == before
