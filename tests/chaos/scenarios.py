"""What happens to jobs: each scenario is a function that raises `Broken` when a law does not hold.

They take a `Stage`: where to work, on which backend, how often, and the figures that the command prints.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.chaos.damages import DAMAGES
from tests.chaos.laws import Broken, check_each_once, check_output, durable_in, require, shown
from tests.chaos.runs import INTERVAL, LATENCY, OLD_SECONDS, ROWS_A_SECOND, Job, Life, new_job, texts_of
from tests.servers.chaos import Chaos, chaos

MEAN_LIFE, LONGEST_LIFE = 0.75, 1.5
"""Seconds that a life lasts once it asks."""
LATE = OLD_SECONDS + 1.5
STOP_SECONDS = 15.0
HANGING = "0.003"
"""Share of the requests that are never answered where calls in flight are to be abandoned."""
SLOWER_START, MORE_SECONDS = 1.5, 2.0
"""How much longer than another start one may take that takes over a lock, on a machine that does other things, too."""
TMPFS_MB = 8
ROOM_BYTES = 600_000
"""What the filler leaves to a job that needs more."""
LONG_TEXT = 800
"""Letters of a row, which come back in its answer: half as many bytes in a part."""
REFUSED = 2
FOREIGN = "foreign"
WAYS = (*DAMAGES, FOREIGN)
"""In which a part is ruined: by what happens to its bytes, or by another run's part in its place."""


@dataclass
class Figures:
    """What happened, for the command's line: signals sent, requests at the endpoint, rows asked again, parts left."""

    signals: int = 0
    requests: int = 0
    repeated: int = 0
    parts: int = 0

    def add(self, job: Job, copied_from: Job | None = None) -> None:
        """Count a job that is over, however it ended; of a copy, what it has done itself."""
        self.signals += job.signals
        self.parts += len(job.parts())
        if copied_from is None:
            self.requests += job.server.count()
            self.repeated += job.ledger.repeated
        else:
            self.repeated += job.ledger.repeated - copied_from.ledger.repeated


@dataclass
class Stage:
    """Where one scenario is played on one backend. `rows` is None for as many as the scenario needs."""

    folder: Path
    backend: str
    kills: int = 30
    terms: int = 10
    pairs: int = 5
    ways: tuple[str, ...] = WAYS
    rows: int | None = None
    seed: int = 0
    figures: Figures = field(default_factory=Figures)

    def chance(self, scenario: str) -> random.Random:
        """Random moments, the same ones for the same seed."""
        return random.Random(f"{self.seed} {scenario} {self.backend}")

    @contextlib.contextmanager
    def job(self, rows: int, name: str = "job", size: int = 0, out: Path | None = None) -> Iterator[Job]:
        """A job of `rows` rows, unless told otherwise, with an endpoint of its own; counted when it is over."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        texts = texts_of(self.rows or rows, size, self.seed)
        with endpoint(folder / "requests.jsonl") as server, new_job(folder, texts, self.backend, server, out) as job:
            try:
                yield job
            finally:
                self.figures.add(job)


@contextlib.contextmanager
def endpoint(log: Path, *options: str) -> Iterator[Chaos]:
    """The server that all jobs here ask: a process of its own."""
    with chaos("--latency", str(LATENCY), *options, log=log) as server:
        yield server


def kill(stage: Stage) -> None:
    """One job dies by kill -9 again and again: in its start, in mid-run, once late, once when all rows have been asked.

    The late one shows that a life loses only what is young, however long it was.
    """
    chance = stage.chance("kill")
    with stage.job(_rows_for(stage.kills) + int(LATE * ROWS_A_SECOND)) as job:
        start_seconds = 0.0
        for number in range(stage.kills):
            last = number == stage.kills - 1
            life = job.start()
            if last:
                life.wait_for_requests(len(job.texts) - len(job.ledger.durable))
                time.sleep(chance.uniform(0, INTERVAL))
            elif number % 5 == 4:
                time.sleep(chance.uniform(0, start_seconds))
            elif life.wait_for_requests(1):
                start_seconds = start_seconds or time.monotonic() - life.started
                time.sleep(LATE if number == 1 else chance.uniform(0, LONGEST_LIFE))
            kill_life(job, life, may_be_done=last)
        job.completed(job.start())


def _rows_for(lives: int) -> int:
    """Rows that so many lives of random length do not get through."""
    return int((lives + 6) * MEAN_LIFE * ROWS_A_SECOND)


def kill_life(job: Job, life: Life, *, may_be_done: bool = False) -> None:
    """kill -9, and what holds after it."""
    alive = life.kill()
    job.signals += 1
    require(alive or may_be_done, f"ended with {life.process.returncode} before it was killed: {life.tail}")
    life.expect(life.process.returncode, *([-signal.SIGKILL] if alive else [0]))
    job.lived(life)


def term(stage: Stage) -> None:
    """One job is asked to stop again and again; every other time some of its calls will never be answered.

    What it has asked is durable when it ends, but for those calls: they are given some seconds, and then given up.
    """
    chance = stage.chance("term")
    with stage.job(_rows_for(stage.terms)) as job, _hanging(job) as hanging:
        for number in range(stage.terms):
            stuck = number % 2 == 1
            life = job.start(server=hanging if stuck else None)
            require(life.wait_for_requests(1), f"ended before it asked: {life.tail}")
            time.sleep(chance.uniform(0, LONGEST_LIFE))
            _terminate(job, life)
        job.completed(job.start())


@contextlib.contextmanager
def _hanging(job: Job) -> Iterator[Chaos]:
    """Another server, which writes the same log, and lets a few requests hang for good."""
    with endpoint(job.server.log, "--share", f"hang={HANGING}") as server:
        yield server


def _terminate(job: Job, life: Life) -> None:
    """SIGTERM, and what holds after it."""
    status = life.terminate(STOP_SECONDS)
    job.signals += 1
    life.expect(status, 130, 0)
    lost = job.lived(life)
    never = {row for row, line in job.requests(life.seen) if line["did"] == "hang"}
    require(lost <= never, f"{shown(lost - never)} answered, and not durable after SIGTERM")
    if status == 130:
        kept = f"{len(set(job.asked(life)) - never):,} rows of this run are kept in "
        require(kept in life.said, f"it does not say {kept!r}: {life.tail}")
        require("Run the same command again" in life.said, f"it does not say how to go on: {life.tail}")


def damage(stage: Stage) -> None:
    """Half of a job, and then copies of it, in each of which one part is ruined in another way."""
    broken = []
    with stage.job(2 * int(LONGEST_LIFE * ROWS_A_SECOND)) as job:
        _half(job, len(job.texts) // 2)
        require(len(job.parts()) >= 3, "there are too few parts to damage one: give more --rows")
        ruins: dict[str, Callable[[Path], object]] = dict(DAMAGES)
        if FOREIGN in stage.ways:
            ruins[FOREIGN] = partial(shutil.copyfile, _part_of_another_run(stage, job))
        for way in stage.ways:
            with job.copy(stage.folder / way.replace(" ", "-")) as copied:
                try:
                    _damaged(copied, ruins[way])
                except Broken as error:
                    broken.append(f"{way}: {error}")
                finally:
                    stage.figures.add(copied, copied_from=job)
    require(not broken, "\n".join(broken))


def _half(job: Job, requests: int) -> None:
    """Let the job ask so many rows, and stop it."""
    life = job.start()
    require(life.wait_for_requests(requests), f"ended before it was stopped: {life.tail}")
    _terminate(job, life)


def _part_of_another_run(stage: Stage, job: Job) -> Path:
    """A part of the same schema, input and rows, with answers to another prompt: only its origin tells."""
    folder = stage.folder / "other"
    folder.mkdir()
    with new_job(folder, [f"Once more: {text}" for text in job.texts], job.backend, job.server) as other:
        shutil.rmtree(other.home / "in")
        shutil.copytree(job.home / "in", other.home / "in")
        life = other.start("--job-kwargs", '{"prompt": "Once more: {item}"}', "--limit", "100")
        life.expect(life.finish(), 0)
        part = other.parts()[0]
        require(len(durable_in([part], other.texts)) > 0, "the other run's part is empty")
        return part


def _damaged(job: Job, ruin: Callable[[Path], object]) -> None:
    """Ruin one part and resume."""
    parts = job.parts()
    victim = parts[len(parts) // 2]
    intact = durable_in([part for part in parts if part != victim], job.texts)
    hurt = job.ledger.durable - intact
    require(hurt, "the part to ruin has no rows of its own")
    ruin(victim)
    ruined = victim.read_bytes()
    job.ledger.durable, job.ledger.lost = intact, job.ledger.lost + len(hurt)
    life = job.start()
    job.completed(life)
    check_each_once(job.asked(life), set(range(len(job.texts))) - intact)
    aside = [path for path in (job.run_dir / "damaged").glob("*") if path.name.startswith(victim.name)]
    require(any(path.read_bytes() == ruined for path in aside), f"{victim.name} is not in damaged/")
    require(victim.name in life.said, f"no warning names {victim.name}: {life.tail}")


def lock(stage: Stage) -> None:
    """While a run is there, another is refused and writes nothing; when it is killed, the next takes over at once."""
    with stage.job(4 * ROWS_A_SECOND) as job:
        holder = job.start()
        require(holder.wait_for_requests(1), f"ended before it asked: {holder.tail}")
        usual = time.monotonic() - holder.started
        holder.wait_for_requests(ROWS_A_SECOND)
        _refused(job, holder)
        kill_life(job, holder)
        successor = job.start()
        require(successor.wait_for_requests(1), f"ended before it asked: {successor.tail}")
        taken = time.monotonic() - successor.started
        most = usual * SLOWER_START + MORE_SECONDS
        require(taken <= most, f"took over after {taken:.1f} s; a start without a lock took {usual:.1f} s")
        job.completed(successor)


def _refused(job: Job, holder: Life) -> None:
    """Give the command again while `holder` is there, but stands still, so that nothing but the other could write."""
    holder.freeze()
    try:
        before = _content(job.home)
        second = job.start()
        second.expect(second.finish(), REFUSED)
        require(job.asked(second) == [], "a run that was refused has asked")
        require(_content(job.home) == before, "a run that was refused has written")
    finally:
        holder.thaw()
    for name in (f"process {holder.pid} ", socket.gethostname()):
        require(name in second.said, f"the refusal does not name {name.strip()!r}: {second.tail}")


def _content(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below `folder`: when it was written, and a digest of what is in it."""
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def twice(stage: Stage) -> None:
    """Two runs of one job start in the same instant: one of them does it, and the other is refused."""
    for number in range(stage.pairs):
        with stage.job(3 * ROWS_A_SECOND, f"pair-{number}") as job:
            both = [job.start(), job.start()]
            statuses = [life.finish() for life in both]
            require(sorted(statuses) == [0, REFUSED], f"exit statuses {statuses}: {both[0].tail} {both[1].tail}")
            refused = both[statuses.index(REFUSED)]
            require("Another process is running this job" in refused.said, f"no reason is given: {refused.tail}")
            winner = both[statuses.index(0)]
            job.completed(winner)
            check_each_once(job.ledger.asked, range(len(job.texts)))


def full(stage: Stage) -> None:
    """The disk is full in mid-run: the job stops and says so; once there is space the same command goes on."""
    disk = stage.folder / "disk"
    with _tmpfs(disk), stage.job(4 * ROWS_A_SECOND, size=LONG_TEXT, out=disk) as job:
        filler = disk / "filler"
        statistics = os.statvfs(disk)
        filler.write_bytes(bytes(statistics.f_bavail * statistics.f_frsize - ROOM_BYTES))
        life = job.start()
        life.expect(life.finish(), 1)
        job.lived(life)
        kept = f"{len(job.ledger.durable):,} rows of this run are kept"
        for wanted in ("No space left", str(job.run_dir.relative_to(disk)), kept, "Run the same command again"):
            require(wanted in life.said, f"it does not say {wanted!r}: {life.tail}")
        require(job.ledger.durable, "there was no room for a single part")
        filler.unlink()
        job.completed(job.start())
        check_output(job.output, job.texts)


@contextlib.contextmanager
def _tmpfs(folder: Path) -> Iterator[None]:
    """A disk of TMPFS_MB megabytes at `folder`, which goes with all that is on it."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MB}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
    except OSError as error:
        raise Broken(f"no tmpfs can be mounted ({error}); --no-mount leaves this scenario out") from error
    require(done.returncode == 0, f"no tmpfs can be mounted ({done.stderr.strip()}); --no-mount leaves this out")
    try:
        yield
    finally:
        if subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def engines(stage: Stage, backends: Sequence[str]) -> None:
    """One job changes its engine each time that it is cut: by kill -9, by SIGTERM, and so on in turn."""
    chance = stage.chance("engines")
    with stage.job(_rows_for(len(backends))) as job:
        for number, backend in enumerate(backends[:-1]):
            job.backend = backend
            life = job.start()
            require(life.wait_for_requests(1), f"{backend} ended before it asked: {life.tail}")
            time.sleep(chance.uniform(MEAN_LIFE, LONGEST_LIFE))
            if number % 2:
                _terminate(job, life)
            else:
                kill_life(job, life)
        job.backend = backends[-1]
        job.completed(job.start())


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "kill": kill, "term": term, "damage": damage, "lock": lock, "twice": twice, "full": full,
}  # fmt: skip
"""Those that are played on each backend; `engines` is played once, on all of them in turn."""


def leave_no_process() -> None:
    """Make SIGTERM an ordinary exit, so that processes are ended and disks unmounted on the way out."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
