"""One job as the processes of its lives: started, killed, stopped, frozen, and held against the laws after each."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.chaos.laws import Broken, Ledger, check_age, check_output, durable_in, require
from tests.servers.chaos import Chaos

CONCURRENCY = 8
LATENCY = 0.02
ROWS_A_SECOND = int(CONCURRENCY / LATENCY)
"""No job is faster; most are not much slower."""
INTERVAL = 0.15
"""--checkpoint-interval: what a life may lose at its end, in seconds."""
GRACE = 5
"""--grace: seconds for calls that hang when a life is asked to end."""
OLD_SECONDS = INTERVAL + 2.0
"""No row may be lost that was asked so long before: a busy machine may be two seconds late with a part."""
FILES = 8
"""Files of the input, so that each worker of an engine gets some."""
END_SECONDS = 300.0
LEFT_SECONDS = 20.0
"""How long an engine's own processes may outlive a run that ended by itself."""
SETTLED_SECONDS = 0.2
SETTINGS = {
    "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}',
}  # fmt: skip
NOT_OURS = ("ENDPOINT", "RAY_ADDRESS", "DOMYN_SWARM_API_KEY", "OPENAI_API_KEY")


class Life:
    """One run of a job's command: the process, and all that it starts, which is a session of its own.

    What it says goes to files, because pipes stay open for as long as anything that it started.
    """

    def __init__(
        self, command: Sequence[str], cwd: Path, log: Path, server: Chaos, environment: dict[str, str]
    ) -> None:
        self.seen = server.count()
        self.started = time.monotonic()
        self.ended_at = 0.0
        self.frozen = 0.0
        self._frozen_at = 0.0
        self._server = server
        self._log = log
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as said:
            self.process = subprocess.Popen(
                command, cwd=cwd, stdout=said, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    def wait_for_requests(self, count: int, seconds: float = END_SECONDS) -> bool:
        """Return when the endpoint has got that many since the life began; whether it has, and not ended before."""
        deadline = time.monotonic() + seconds
        while self._server.count() < self.seen + count:
            if self.process.poll() is not None:
                return False
            require(time.monotonic() < deadline, f"no {count} requests within {seconds:g} s: {self.tail}")
            time.sleep(0.01)
        return True

    def kill(self) -> bool:
        """kill -9: the process first, then, as a machine that dies would, all that it had started.

        Returns whether it was alive.
        """
        alive = self.process.poll() is None
        self.ended_at = time.time()
        self.end()
        return alive

    def terminate(self, within: float) -> int:
        """Ask it to stop. Its exit status, once it has ended by itself."""
        self.signal(signal.SIGTERM)
        return self.finish(within)

    def finish(self, seconds: float = END_SECONDS) -> int:
        """Its exit status, once it has ended by itself."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Broken(f"not done after {seconds:g} s: {self.tail}") from None
        self._left()
        return status

    def expect(self, status: int, *wanted: int) -> None:
        """Require one of these exit statuses."""
        require(status in wanted, f"exit status {status}, expected {' or '.join(map(str, wanted))}: {self.tail}")
        require("Traceback" not in self.said, f"it ended in a traceback: {self.tail}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the clock for all of its processes: what changes now, others have changed."""
        self._frozen_at = time.time()
        for pid in self._session():
            _signal(pid, signal.SIGSTOP)
            while not _stands_still(pid):  # a thread that writes ends its system call first
                time.sleep(0.001)

    def thaw(self) -> None:
        """Let them go on."""
        for pid in self._session():
            _signal(pid, signal.SIGCONT)
        self.frozen += time.time() - self._frozen_at

    def end(self) -> None:
        """Whatever it does, end it and all that it has started; then wait until its last requests are written down."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        while left := self._session():
            for pid in left:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.ended_at = self.ended_at or time.time()
        settle(self._server)

    @property
    def tail(self) -> str:
        """The last of what it said, for a message."""
        return f"it said:\n{self.said[-1500:].strip()}" if self.said else "it said nothing"

    def _left(self) -> None:
        """A run that ended by itself leaves nothing behind."""
        self.ended_at = time.time()
        deadline = time.monotonic() + LEFT_SECONDS
        while (left := self._session()) and time.monotonic() < deadline:
            time.sleep(0.02)
        names = ", ".join(filter(None, map(_name, left)))
        self.end()
        require(not left, f"processes outlived the run by {LEFT_SECONDS:g} s: {names}")

    def _session(self) -> list[int]:
        """The processes of its session. Only descendants are in it, and nobody else's."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._owns(entry)]

    def _owns(self, entry: Path) -> bool:
        state, _parent, _group, session = _stat(entry)[:4]
        return int(session) == self.pid and state not in "ZX"


def _stands_still(pid: int) -> bool:
    """Whether all of its threads are stopped, or gone."""
    return all(_stat(thread)[0] in "TtZX" for thread in Path(f"/proc/{pid}/task").glob("*"))


def _stat(entry: Path) -> list[str]:
    """State, parent, group and session of a process or thread, and more; one that is gone is dead and nobody's."""
    with contextlib.suppress(OSError):
        return (entry / "stat").read_text().rpartition(")")[2].split()
    return ["X", "0", "0", "0"]


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0].strip()
    return ""


def settle(server: Chaos) -> int:
    """How many requests there were, once those that were on the line are written down."""
    count, since = server.count(), time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS:
        time.sleep(0.01)
        if (now := server.count()) != count:
            count, since = now, time.monotonic()
    return count


class Job:
    """One input, one output, one command that is given again and again, and the ledger of its lives.

    `home` is where it runs, and `out` where output and run's folder are, which is `home` too unless told otherwise.
    """

    def __init__(
        self, folder: Path, texts: Sequence[str], backend: str, server: Chaos, out: Path | None = None
    ) -> None:
        self.folder, self.texts, self.backend, self.server = folder, texts, backend, server
        self.home = folder / "home"
        self.output = (out or self.home) / "out.parquet"
        self.run_dir = self.output.parent / ".domyn-swarm" / "out.parquet"
        self.ledger = Ledger()
        self.signals = 0
        self.lives: list[Life] = []
        self._numbers = {text: row for row, text in enumerate(texts)}
        self._ray: Path | None = None

    def __enter__(self) -> Job:
        # Ray's own folder, apart from others' that run beside; short, because sockets' paths have to be.
        self._ray = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
        return self

    def __exit__(self, *_: object) -> None:
        for life in self.lives:
            life.end()
        if self._ray is not None:
            shutil.rmtree(self._ray, ignore_errors=True)

    def write_input(self) -> None:
        """The input, in some files."""
        (self.home / "in").mkdir(parents=True)
        size = -(-len(self.texts) // FILES)
        for number in range(FILES):
            texts = self.texts[number * size : (number + 1) * size]
            if texts:
                pq.write_table(pa.table({"item": texts}), self.home / "in" / f"{number}.parquet")

    def copy(self, folder: Path) -> Job:
        """The job as it stands now, once more in another folder, with a history of its own from here on."""
        shutil.copytree(self.home, folder / "home")
        copied = Job(folder, self.texts, self.backend, self.server)
        copied.ledger = Ledger(self.ledger.durable, list(self.ledger.asked), self.ledger.lost)
        return copied

    def start(self, *options: str, server: Chaos | None = None) -> Life:
        """Give the command: the same each time, but for `options` and which endpoint is asked."""
        output = os.path.relpath(self.output, self.home)
        command = [
            str(Path(sys.executable).with_name("domyn-swarm")), "job", "submit", "--input", "in",
            "--input-column", "item", "--output", output, "--endpoint", (server or self.server).url,
            "--data-backend", self.backend, "--max-concurrency", str(CONCURRENCY),
            "--checkpoint-interval", str(INTERVAL), "--grace", str(GRACE), *options,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        environment |= {**SETTINGS, "RAY_TMPDIR": str(self._ray)}
        log = self.folder / "lives" / f"{len(self.lives):03}.txt"
        life = Life(command, self.home, log, self.server, environment)
        self.lives.append(life)
        return life

    def parts(self) -> list[Path]:
        """The parts, as they are now."""
        return sorted((self.run_dir / "parts").glob("*.parquet"))

    def durable(self) -> frozenset[int]:
        """The rows that are done, every part read."""
        return durable_in(self.parts(), self.texts)

    def requests(self, since: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """Rows and the endpoint's lines of them, from the request with that number on."""
        return [(self._numbers[line["text"]], line) for line in self.server.requests()[since:]]

    def asked(self, life: Life) -> list[int]:
        """The rows that were asked for since `life` began."""
        return [row for row, _ in self.requests(life.seen)]

    def lived(self, life: Life) -> frozenset[int]:
        """Enter a life that is over into the ledger; the rows that it lost, none of which may be old."""
        requests = self.requests(life.seen)
        lost = self.ledger.lived([row for row, _ in requests], self.durable())
        arrivals = [(row, line["at"]) for row, line in requests if line["did"] == "answer"]
        check_age(lost, arrivals, life.ended_at, OLD_SECONDS + life.frozen)
        if self.output.exists():
            check_output(self.output, self.texts)
        return lost

    def completed(self, life: Life) -> None:
        """Let the last life finish, and hold all of them against the laws."""
        life.expect(life.finish(), 0)
        self.lived(life)
        self.ledger.ended(len(self.texts))
        check_output(self.output, self.texts)


@contextlib.contextmanager
def new_job(folder: Path, texts: Sequence[str], backend: str, server: Chaos, out: Path | None = None) -> Iterator[Job]:
    """A job that has not run yet, none of whose processes outlives it."""
    with Job(folder, texts, backend, server, out) as job:
        job.write_input()
        yield job


def texts_of(rows: int, size: int = 0, seed: int = 0) -> list[str]:
    """Texts that differ, with `size` letters each that cannot be packed."""
    chance = random.Random(seed)
    filling = (chance.randbytes(size // 2).hex() for _ in range(rows))
    return [f"row {row} {filled}".strip() for row, filled in enumerate(filling)]
