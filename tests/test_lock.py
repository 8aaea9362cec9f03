"""One writer at a time: who gets the lock of a run's folder, who counts as dead, what a run does that lost it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pyarrow as pa
import pytest

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.checkpoint import lock
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.lock import Lock, LockLostError, locked
from domyn_swarm.checkpoint.process import LockOwner, this_process
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.errors import CheckpointError
from tests import forked
from tests.conftest import Command, write

FOLDER = ".domyn-swarm/out.parquet"
RUNNING = r"^Another process is running this job: process \d+ on .+, since \d{4}-\d\d-\d\dT[\d:+]+ \(run\)\.\n"
ELSEWHERE = {"host": "elsewhere", "pid": 4711, "machine": "another", "token": "theirs"}
FINDING_THIS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
LONG = 60
"""Seconds after which something that has to happen counts as not happening."""

PROCESS = """
import sys, threading, time
from domyn_swarm.checkpoint import lock, process
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.errors import SwarmError

machine = sys.argv[1]
if machine:
    process._machine = lambda: machine
    lock.BEAT_SECONDS = lock.POLL_SECONDS = 0.1
lost = threading.Event()

def acquire(path, moment):
    global held
    folder = RunFolder(path)
    folder.make()
    while time.time() < float(moment):
        pass
    held = lock.Lock(folder, lost)
    held.acquire()

commands = {
    "acquire": acquire, "lost": lambda: lost.wait(60) or 1 / 0,
    "check": lambda: held.check(), "release": lambda: held.release(),
}
print("ready", flush=True)
for line in sys.stdin:
    name, *arguments = line.split()
    try:
        commands[name](*arguments)
        print("ok", flush=True)
    except SwarmError as error:
        print(error.message, flush=True)
"""


class Process:
    """A process that does as it is told; one with a `machine` beats fast and thinks that it is there."""

    def __init__(self, machine: str = "") -> None:
        self._process = forked.start(
            str(Path("process.py").absolute()), machine, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid

    def tell(self, *words: object) -> None:
        print(*words, file=self._process.stdin, flush=True)

    def answer(self) -> str:
        return self._process.stdout.readline().strip()

    def ask(self, *words: object) -> str:
        self.tell(*words)
        return self.answer()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process; all of them end with the test."""
    processes: list[Process] = []
    Path("process.py").write_text(PROCESS)

    def start(machine: str = "") -> Process:
        processes.append(Process(machine))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def ready(process: Process) -> Process:
    assert process.answer() == "ready"
    return process


@pytest.fixture
def run_folder() -> RunFolder:
    folder = RunFolder("run")
    folder.make()
    return folder


def leave(folder: RunFolder, number: int = 1, **changes: Any) -> LockOwner:
    """A lock as another process would have written it."""
    holder = msgspec.structs.replace(this_process(), **changes)
    folder.fs.pipe_file(f"{folder.root}/lock-{number:06d}", msgspec.json.encode(holder))
    return holder


class Clock(SimpleNamespace):
    """The lock's clock, on which sleeping takes no time. `at` has what happens at a poll."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None) -> None:
        super().__init__(slept=0.0, polls=0, at=at or {})

    def monotonic(self) -> float:
        return 1000 + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.polls += 1
        self.at.get(self.polls, int)()


def taken(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, at: dict[int, Callable[[], object]] | None = None
) -> float:
    """Take the lock and give it back; the seconds that were waited for."""
    clock = Clock(at)
    monkeypatch.setattr(lock, "time", clock)
    with locked(folder) as held:
        held.check()
    return clock.slept


def lock_files(path: str | Path = "run") -> set[str]:
    return {file.name for file in Path(path).iterdir() if "lock" in file.name}


def locks(path: str | Path = "run") -> set[str]:
    """Without the files that a holder is just replacing them with."""
    return {name for name in lock_files(path) if not name.startswith(".")}


# Who gets it.


def test_of_processes_that_start_in_the_same_instant_one_gets_it_and_the_others_hear_which(start: Start) -> None:
    processes = [ready(one) for one in [start() for _ in range(8)]]
    gone = start()
    gone.kill()
    for number in range(20):
        folder = RunFolder(f"run-{number}")
        folder.make()
        if number % 2:  # to be taken over
            leave(folder, 7, pid=gone.pid)
        moment = time.time() + 0.05
        for process in processes:
            process.tell("acquire", folder.path, moment)
        answers = {process: process.answer() for process in processes}
        (winner,) = [process for process in processes if answers[process] == "ok"]
        losers = {answers[process] for process in processes if process is not winner}
        assert all(f"running this job: process {winner.pid} on {socket.gethostname()}" in said for said in losers)
        assert winner.ask("check") == "ok"
        assert winner.ask("release") == "ok"
        assert lock_files(folder.path) == set()


def test_the_second_is_refused_at_once_with_process_host_and_since(
    start: Start, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = ready(start())
    assert process.ask("acquire", "run", 0) == "ok"
    with pytest.raises(CheckpointError, match=RUNNING) as refused:
        taken(run_folder, monkeypatch, {1: lambda: pytest.fail("nothing is waited for")})
    assert f"process {process.pid} on {socket.gethostname()}, since 2" in str(refused.value)
    assert (refused.value.code, refused.value.path) == ("run.active", run_folder.path)
    assert process.ask("check") == "ok"
    assert process.ask("release") == "ok"
    assert taken(run_folder, monkeypatch) == 0


def test_one_process_does_not_get_it_twice() -> None:
    folder = RunFolder("memory://run-twice")
    with locked(folder) as held:
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on "), locked(folder):
            pass
        held.check()
    with locked(folder):
        pass
    assert folder.files() == {}


def test_of_threads_on_a_store_without_conditions_one_is_left_after_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    folder = RunFolder("memory://run-threads")
    lost = [threading.Event() for _ in range(8)]
    locks = [Lock(folder, event) for event in lost]
    refused = []

    def acquire(number: int) -> None:
        try:
            locks[number].acquire()
        except CheckpointError:
            refused.append(number)

    threads = [threading.Thread(target=acquire, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [number for number in range(8) if number not in refused]
    deadline = time.monotonic() + LONG
    while sum(not lost[number].is_set() for number in got) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (winner,) = [number for number in got if not lost[number].is_set()]
    locks[winner].check()
    for number in got:
        locks[number].release()
    assert folder.files() == {}


# Who counts as dead.


def test_a_holder_that_was_killed_is_taken_over_at_once(
    start: Start, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = ready(start())
    assert process.ask("acquire", "run", 0) == "ok"
    process.kill()
    assert locks() == {"lock-000001"}
    assert taken(run_folder, monkeypatch) == 0
    assert lock_files() == set()


def test_another_process_with_the_same_number_is_not_the_holder(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run_folder, started=this_process().started - 100)
    assert taken(run_folder, monkeypatch) == 0


def test_a_zombie_is_dead(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    leave(run_folder, pid=child.pid, started=process.create_time() - psutil.boot_time())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.status() == psutil.STATUS_ZOMBIE
    assert taken(run_folder, monkeypatch) == 0
    child.communicate()


def test_a_holder_that_is_stopped_is_alive(
    start: Start, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = ready(start())
    assert process.ask("acquire", "run", 0) == "ok"
    process.send(signal.SIGSTOP)
    with pytest.raises(CheckpointError, match=f"process {process.pid} on "):
        taken(run_folder, monkeypatch)
    process.send(signal.SIGCONT)
    assert process.ask("check") == "ok"


def test_a_holder_on_another_machine_is_dead_after_some_beats_that_did_not_come(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run_folder, **ELSEWHERE)
    assert taken(run_folder, monkeypatch) == lock.PATIENCE * lock.BEAT_SECONDS == 20


def test_a_holder_on_another_machine_is_alive_as_soon_as_it_beats(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run_folder, **ELSEWHERE)
    at = {3: lambda: leave(run_folder, **ELSEWHERE, beat=1), 4: lambda: pytest.fail("it has beaten")}
    with pytest.raises(CheckpointError, match="process 4711 on elsewhere"):
        taken(run_folder, monkeypatch, at)
    assert locks() == {"lock-000001"}


def test_whoever_waits_for_one_that_gives_it_back_gets_it_and_for_one_that_is_replaced_is_refused(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(run_folder, **ELSEWHERE)
    assert taken(run_folder, monkeypatch, {2: lambda: Path("run/lock-000001").unlink()}) == 2 * lock.POLL_SECONDS
    leave(run_folder, **ELSEWHERE)
    with pytest.raises(CheckpointError, match=f"process {os.getpid()} on "):
        taken(run_folder, monkeypatch, {2: lambda: leave(run_folder, 2)})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", bytes(100), b"\xff\xfe"])
def test_a_lock_that_nobody_can_read_is_that_of_a_dead_holder(
    content: bytes, run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run/lock-000001").write_bytes(content)
    assert taken(run_folder, monkeypatch) == 20
    assert lock_files() == set()


# A holder that lost it.


def test_a_holder_that_was_paused_and_taken_over_finds_out_and_leaves_the_lock_alone(
    start: Start, run_folder: RunFolder
) -> None:
    first, second = [ready(one) for one in [start("a"), start("b")]]
    assert first.ask("acquire", "run", 0) == "ok"
    assert f"process {first.pid} on " in second.ask("acquire", "run", 0), "it beats"
    first.send(signal.SIGSTOP)
    assert second.ask("acquire", "run", 0) == "ok"
    first.send(signal.SIGCONT)
    assert first.ask("lost") == "ok"
    said = first.ask("check")
    assert said.startswith("Another process has taken over this job")
    assert f"process {second.pid} on {socket.gethostname()}, since " in said
    assert first.ask("release") == "ok"
    assert second.ask("check") == "ok"
    assert locks() == {"lock-000002"}


def test_a_lock_that_is_removed_by_hand_is_lost(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    lost = threading.Event()
    with locked(run_folder, lost) as held:
        Path("run/lock-000001").unlink()
        assert lost.wait(LONG)
        with pytest.raises(LockLostError, match=r"lock was removed: .*/run/lock-000001\."):
            held.check()
    assert lock_files() == set()


def test_whoever_takes_over_late_does_not_remove_the_lock_of_a_later_one(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lock.create_file

    def paused(fs: Any, path: str, content: bytes) -> None:
        real(fs, path, content)
        leave(run_folder, 2, **ELSEWHERE)  # it took this one for dead

    monkeypatch.setattr(lock, "create_file", paused)
    with locked(run_folder) as held, pytest.raises(LockLostError, match="process 4711 on elsewhere"):
        held.check()
    assert locks() == {"lock-000002"}


def test_nobody_writes_a_part_for_a_holder_that_lost_it(run_folder: RunFolder) -> None:
    store = CheckpointStore(run_folder, "id", "digest")
    table = pa.table({POSITION: [0], "id": ["a"], "result": [1], FAILURE: pa.nulls(1, FAILURE_TYPE)})
    with locked(run_folder) as held:
        store.begin("run", 1, {}, held.fence)
        store.flush([table], 0)
        before = run_folder.files("parts")
        leave(run_folder, 2, **ELSEWHERE)
        with pytest.raises(LockLostError, match="process 4711 on elsewhere"):
            store.for_worker("w").flush([table], 0)
    assert run_folder.files("parts") == before


# What is left behind.


def test_what_was_half_written_harms_nobody_and_is_tidied_up(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftovers = {".lock-000009.0123456789abcdef.tmp", ".lock-000001.4711.tmp"}
    for name in leftovers:
        Path("run", name).write_bytes(b"{")
    assert taken(run_folder, monkeypatch) == 0
    assert lock_files() == leftovers
    run_folder.tidy()
    assert lock_files() == set()


def test_one_that_tidies_up_does_not_confuse_those_who_ask(
    run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between another one's writing a file and giving it the lock's name, the winner tidies up."""
    real = Path.hardlink_to

    def late(self: Path, target: Path) -> None:
        leave(run_folder)
        run_folder.tidy()
        real(self, target)

    monkeypatch.setattr(Path, "hardlink_to", late)
    with pytest.raises(CheckpointError, match=RUNNING), locked(run_folder):
        pass


@pytest.mark.parametrize("path", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_one_message(path: str) -> None:
    Path("file").touch()
    with (
        pytest.raises(CheckpointError, match=rf"^\S*{path} cannot be reached: \w+: ") as refused,
        locked(RunFolder(path)),
    ):
        pass
    assert refused.value.code == "storage.unwritable"


# A whole run.


class Overtaken(SwarmJob):
    """While a row is at work, another process takes the run over."""

    input_columns = ("text",)
    output_columns = ("upper",)
    where: str = FOLDER
    seconds: float = 0.0

    def transform_item(self, text: str) -> str:
        if text == "row 5":
            folder = RunFolder(self.where)
            folder.save("run.json", {**(folder.load("run.json") or {}), "number": 2, "state": "theirs"})
            leave(folder, 2, **ELSEWHERE)
        time.sleep(self.seconds)
        return text.upper()


def overtaken(**options: Any) -> dict[str, Any]:
    write("in.parquet", {"text": [f"row {number}" for number in range(20)]})
    return {"job": f"{__file__}:Overtaken", "input": "in.parquet", "output": "out.parquet", **options}


def check_that_it_is_theirs() -> None:
    assert not Path("out.parquet").exists()
    assert list(Path(FOLDER, "parts").iterdir()) == []
    assert lock_files(FOLDER) == {"lock-000002"}
    record = json.loads(Path(FOLDER, "run.json").read_text())
    assert (record["number"], record["state"]) == (2, "theirs")


def test_a_run_that_is_taken_over_stops_with_a_message_and_finalizes_nothing(command: Command) -> None:
    spec = overtaken()
    ran = command("job", "submit", spec["job"], "--input", spec["input"], "--output", spec["output"], env=FINDING_THIS)
    assert ran.returncode == 1
    assert "Another process has taken over this job, as this one gave no sign of life: process 4711 on " in ran.stderr
    assert "the other process continues" in ran.stderr
    assert "Traceback" not in ran.stderr
    check_that_it_is_theirs()


def test_a_run_that_is_taken_over_after_its_last_row_finalizes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CheckpointStore.flush

    def flush(self: CheckpointStore, *arguments: Any) -> Any:
        report = real(self, *arguments)
        leave(self.folder, 2, **ELSEWHERE)
        return report

    monkeypatch.setattr(CheckpointStore, "flush", flush)
    with pytest.raises(LockLostError, match="process 4711 on elsewhere"):
        run(make_spec(overtaken(job_kwargs={"where": "nowhere"})))
    assert not Path("out.parquet").exists()
    assert lock_files(FOLDER) == {"lock-000002"}


def test_a_run_whose_lock_is_lost_stops_at_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when it writes: rows that come later are not even asked for."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    spec = overtaken(max_concurrency=1, checkpoint_interval=1000, job_kwargs={"seconds": 0.01})
    write("in.parquet", {"text": [f"row {number % 10}" for number in range(100_000)]})
    begun = time.monotonic()
    with pytest.raises(LockLostError, match="process 4711 on elsewhere"):
        run(make_spec(spec))
    assert time.monotonic() - begun < LONG
    check_that_it_is_theirs()
