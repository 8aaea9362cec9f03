"""Options, paths and filesystems at their worst: bounded time and memory, and one clear message."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from domyn_swarm.checkpoint import lock
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.process import this_process
from domyn_swarm.errors import DataError
from domyn_swarm.report.files import LiveReport
from domyn_swarm.runs.find import Run
from domyn_swarm.runs.state import status_of
from domyn_swarm.storage.braces import MAX_PATHS, expanded
from tests.conftest import Command, job, rows, run_command, start_command, tree, write
from tests.detached import FOLDER, refusal, texts

FILES = ("--input", "in.parquet", "--output", "out.parquet")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MOMENT = "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bomb.yaml", f"input: i\noutput: o\njob_kwargs:\n  {BOMB.replace(chr(10), chr(10) + '  ')}", "aliases expand"),
        ("loop.yaml", "input: i\noutput: o\njob_kwargs: &a {x: *a}\n", "job_kwargs: "),
        ("large.json", " " * (2**20 + 1) + "{}", "is larger than"),
        ("digits.json", '{"limit": ' + "9" * 5000 + "}", "digits"),
        ("digits.toml", "limit = " + "9" * 5000, "digits"),
        ("hex.toml", "limit = 0x" + "f" * 5000, "limit: a number of thousands of digits is not valid"),
        ("digits.yaml", "limit: " + "9" * 5000, "digits"),
        ("limit.yaml", f"limit: {10**30}", "limit: "),
        ("timeout.toml", "timeout = inf", "timeout: inf is not valid"),
        ("timeout.yaml", "timeout: 1e300", "timeout: 1e+300 is not valid"),
    ],
)
def test_an_option_file_at_its_worst_is_refused_soon(name: str, text: str, said: str) -> None:
    Path(name).write_text(text)
    began = time.process_time()
    assert said in refusal("job", "submit", f"@{name}")
    assert time.process_time() - began < 10
    assert tree() == {name}


@pytest.mark.parametrize("flags", [("--limit", "9" * 40), ("--timeout", "1e300"), ("--retries", "9" * 30)])
def test_huge_numbers_on_the_command_line_are_refused(flags: tuple[str, str], command: Command) -> None:
    texts(1)
    done = command("job", "submit", job("Upper"), *FILES, *flags)
    assert (done.returncode, flags[0] in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert tree() == {"in.parquet"}


@pytest.mark.parametrize(
    "pattern",
    [
        "in_{0..999999999}.parquet", "in_{0..999999999999999999999}.parquet", "{0..9}" * 8, "{a,b}" * 40,
        "{x,{0..99999}{0..99999}}", "{-999999999..9}", "{0..999999999..2}", "{1..300}{1..400}",
    ],
)  # fmt: skip
def test_braces_that_stand_for_too_many_paths_are_refused_soon(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(DataError, match="stand for more than 100,000 paths"):
        expanded(pattern)
    assert time.process_time() - began < 2


def test_braces_are_those_of_a_shell() -> None:
    assert expanded("a{1..3}b") == ["a1b", "a2b", "a3b"]
    assert expanded("{000..128..64}") == ["000", "064", "128"]
    assert expanded("{a,b{c,d}}") == ["a", "bc", "bd"]
    assert len(expanded("{1..100}{1..1000}")) == MAX_PATHS
    assert expanded("plain") == ["plain"]
    with pytest.raises(DataError, match="do not match"):
        expanded("{a,b")


def test_a_line_break_in_a_path_becomes_no_line_of_a_batch_script(command: Command) -> None:
    Path("bin").mkdir()
    for name in ("sbatch", "scontrol", "scancel"):
        Path("bin", name).write_text("#!/bin/sh\ncat >> ../submitted; echo 1\n")
        Path("bin", name).chmod(0o755)
    env = {"PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}"}
    folder = Path("a\n#SBATCH --uid=0\nb")
    folder.mkdir()
    write(folder / "in.parquet", {"text": ["a"]})
    before = tree()
    files = ("--input", f"{folder}/in.parquet", "--output", f"{folder}/out.parquet", "--run-on", "slurm")
    for more in ((), ("--dry-run",)):
        done = command("job", "submit", job("Upper"), *files, *more, env=env)
        assert (done.returncode, "a line break or a control character" in done.stderr) == (2, True), done.stderr
    assert tree() == before


NO_LINKS = """
import errno, os
def link(*arguments, **options):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
os.link = link
"""


@pytest.mark.stress
def test_a_filesystem_without_hard_links_does_as_well() -> None:
    Path("shim").mkdir()
    Path("shim/sitecustomize.py").write_text(NO_LINKS)
    env = {**os.environ, "PYTHONPATH": str(Path("shim").absolute())}
    texts(2)
    processes = [
        start_command("job", "submit", job("Upper"), *FILES, env=env, stderr=subprocess.PIPE) for _ in range(2)
    ]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert [said for said, status in ends if status not in (0, 2) or "Traceback" in said] == []
    assert 0 in [status for _, status in ends]
    assert [row["upper"] for row in rows("out.parquet")] == ["ROW 0", "ROW 1"]


@contextlib.contextmanager
def held_index() -> Iterator[None]:
    path = Path(os.environ["XDG_DATA_HOME"]) / "domyn-swarm/runs.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.rollback()


def test_an_index_that_somebody_holds_delays_no_start(command: Command) -> None:
    texts(1)
    assert command("job", "submit", job("Upper"), *FILES).returncode == 0
    called = Path("calls")
    with held_index():
        began = time.monotonic()
        done = start_command("job", "submit", job("Paced"), "--input", "in.parquet", "--output", "other.parquet")
        while not called.exists():
            assert time.monotonic() - began < 40
            time.sleep(0.05)
        assert done.wait(60) == 0
        away = ("--input", "in.parquet", "--output", "away.parquet", "--detach")
        detached = run_command("job", "submit", job("Upper"), *away, timeout=50,
        )  # fmt: skip
    assert detached.returncode == 0, detached.stderr
    assert "name       away" in detached.stdout
    assert command("job", "wait", ".domyn-swarm/away.parquet").returncode == 0


def test_view_and_status_agree_whatever_another_machine_s_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    texts(1)
    run = run_command("job", "submit", job("Upper"), *FILES)
    assert run.returncode == 0
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    folder = RunFolder(str(FOLDER))
    record = json.loads((FOLDER / "run.json").read_text())
    for moment in ("1999-01-01T00:00:00+00:00", MOMENT, "2999-01-01T00:00:00+00:00"):
        (FOLDER / "run.json").write_text(json.dumps({**record, "state": "running", "as_of": moment, "ended": None}))
        view, beats, over = LiveReport(folder), iter(range(10**6)), threading.Event()

        def beat(beats: Iterator[int] = beats) -> None:
            holder = msgspec.structs.replace(this_process(), machine="another", host="elsewhere", beat=next(beats))
            Path("lock").write_bytes(msgspec.json.encode(holder))
            Path("lock").replace(FOLDER / "lock-000001")

        def keep(over: threading.Event = over) -> None:
            while not over.wait(0.1):
                beat()

        beat()
        thread = threading.Thread(target=keep)
        thread.start()
        try:
            for _ in range(12):
                assert view.now().state == "running", moment
                time.sleep(0.1)
            assert status_of(Run("out", folder)).state == "running", moment
        finally:
            over.set()
            thread.join()
        assert status_of(Run("out", folder)).state == "lost", moment
        time.sleep(0.2)
        view.now()
        time.sleep(1)
        assert view.now().state == "lost", moment


def test_a_folder_that_is_moved_away_is_said_to_be() -> None:
    folder = RunFolder("run")
    with lock.locked(folder) as held:
        Path("run").rename("moved")
        with pytest.raises(lock.LockLostError, match="run was moved or deleted while the run was running"):
            held.check()
        Path("moved").rename("run")
        held.check()
