"""A Ray cluster for the time of a run: connecting to it, the actors that hold the job, the line back to the driver."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from domyn_swarm.data.backends.base import Monitor, Session, WorkerFactory
from domyn_swarm.data.backends.ray_relay import POLL_SECONDS, ControlChannel, pump
from domyn_swarm.errors import ConfigurationError, JobError
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from domyn_swarm.concurrency.stop import Stop

PIECES_IN_FLIGHT = 2
PIECES_PER_WORKER = 4
"""What each gets of few rows, so that a slow piece at the end keeps one worker busy and not the others idle."""
MIN_PIECE_ROWS = 64
"""Fewer rows are not worth the start of another process."""
WIND_UP_SECONDS = 10
NODE_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "resources": {"node:__internal_head__": 0.001}}
"""For tasks that execute a node and mostly wait: they hold no CPU, and no machine that is lost takes them."""
CONNECT_SECONDS = 10
CONNECT_TRIES = 2
_LOSSES = (RayActorError, ObjectLostError)

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class Shares:
    """How rows are shared out: to so many workers, in pieces of at most so many rows.

    Files come in row groups of any size, and the calls in flight are shared out over the workers before the first row
    is read: a worker that gets none would take its share of them with it.
    """

    workers: int
    rows: int

    @classmethod
    def of(cls, pending: int, make_worker: WorkerFactory) -> Shares:
        """For that many rows, on the cluster as it is now: a worker for each CPU that gets a piece and has a call."""
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        return cls.among(min(cpus, make_worker.concurrency or cpus), pending, make_worker.batch)

    @classmethod
    def among(cls, most: int, pending: int, batch: int) -> Shares:
        """For `pending` rows, at most `most` workers, and calls that take `batch` rows each."""
        rows = max(MIN_PIECE_ROWS, pending // (most * PIECES_PER_WORKER))
        rows = max(1, rows // batch) * batch
        return cls(max(1, min(most, math.ceil(pending / rows))), rows)

    def cut(self, blocks: Iterable[tuple[ray.ObjectRef[Any], int]]) -> Iterator[tuple[ray.ObjectRef[Any], int, int]]:
        """Blocks and their rows as pieces: a block, the first row, and how many at most."""
        return ((block, at, self.rows) for block, rows in blocks for at in range(0, rows, self.rows))


class ActorPool:
    """The actors, and the calls to them that have not returned."""

    def __init__(self, make_worker: WorkerFactory, monitor: Monitor, workers: int) -> None:
        self.lost = False
        self._make_worker = make_worker
        self._monitor = monitor
        self._reported = Counts()
        self._last_report = 0.0
        self._calls: dict[ray.ObjectRef[Any], Any] = {}
        self._counts: dict[Any, Counts] = {}  # of actors that are gone, too: what they did, they did
        self._handed: Counter[Any] = Counter()  # pieces to each actor
        self._size = workers
        self._actors = [self._spawn() for _ in range(workers)]

    def _spawn(self) -> Any:
        # Parts bear this name: no two workers of a run may share one, in whatever pass they work.
        worker = uuid.uuid4().hex[:12]
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 8, "scheduling_strategy": "SPREAD"}
        return ray.remote(_Actor).options(**options).remote(self._make_worker, worker, self._size)

    def feed(self, block: ray.ObjectRef[Any], start: int, rows: int) -> bool:
        """Hand rows of a block to the actor with the fewest pieces, once one has room; false: the run has to stop."""
        while True:
            self._look()
            if self._monitor.stopped():
                return False
            actor = self._with_capacity()
            if actor is not None:
                self._calls[actor.add.remote(block, start, rows)] = actor
                self._handed[actor] += 1
                return True
            ray.wait(list(self._calls), timeout=POLL_SECONDS)

    def _with_capacity(self) -> Any | None:
        """The actor with the fewest pieces on their way to it, and of those the one that had the fewest."""
        load = Counter(self._calls.values())
        actor = min(self._actors, key=lambda one: (load[one], self._handed[one]))
        return actor if load[actor] < PIECES_IN_FLIGHT else None

    def finish(self) -> list[Any]:
        """Wait until all rows are through, and every actor has said how it went."""
        self._wait()
        self._calls = {actor.finish.remote(): actor for actor in self._actors}
        reports = self._wait()
        self._report()
        return reports

    def _wait(self) -> list[Any]:
        results = []
        while self._calls:
            results += self._look()
            ray.wait(list(self._calls), timeout=POLL_SECONDS)
        return results

    def _look(self) -> list[Any]:
        """The results of calls that returned; passes on how far the actors are."""
        done = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)[0] if self._calls else []
        results = []
        for call in done:
            actor = self._calls.pop(call, None)
            try:
                results.append(ray.get(call))
            except _LOSSES as error:
                self._lose(actor, error)
        if time.monotonic() - self._last_report >= POLL_SECONDS:
            self._report()
            self._check()
        return results

    def _check(self) -> None:
        """Raise what ended an actor; no other call might report it for long."""
        for actor in self._actors:
            with contextlib.suppress(*_LOSSES, GetTimeoutError):
                ray.get(actor.check.remote(), timeout=10)

    def _lose(self, actor: Any, error: Exception) -> None:
        """Go on without what died: with fewer actors, or with a new one if it was the last.

        Raises:
            JobError: it could not even be made, so no other will be.
        """
        if isinstance(error, RayActorError) and error.actor_init_failed:
            raise JobError(
                f"No worker can be made: {_what_was_raised(str(error))}",
                "The job and what it imports have to be there on every machine of the cluster, as modules or files.",
                code="cluster.no_worker",
            )
        self.lost = True
        logger.warning("lost a worker or its rows, which are computed again: %s", str(error).partition("\n")[0])
        if isinstance(error, RayActorError) and actor in self._actors:
            self._actors.remove(actor)
            self._calls = {call: owner for call, owner in self._calls.items() if owner is not actor}
            if not self._actors:
                self._actors.append(self._spawn())

    def _report(self) -> None:
        self._last_report = time.monotonic()
        if self._monitor.stopped():
            patience = self._monitor.patience()
            for actor in self._actors:
                actor.stop.remote(patience)
        for actor in self._actors:
            with contextlib.suppress(RayError):
                self._counts[actor] = ray.get(actor.counts.remote(), timeout=10)
        now = sum(self._counts.values(), Counts())
        self._monitor.advanced(now - self._reported)
        self._reported = now

    def drain(self) -> None:
        """The run has broken: let the actors make durable what they have, if that can be done soon."""
        with contextlib.suppress(RayError):
            for actor in self._actors:
                actor.stop.remote(0.0)
            calls = [actor.finish.remote() for actor in self._actors]
            ray.wait(calls, num_returns=len(calls), timeout=WIND_UP_SECONDS)
            self._report()

    def dismiss(self) -> None:
        """End the actors, whatever they do."""
        for actor in self._actors:
            ray.kill(actor)


class _Actor:
    """A worker as an actor: it is made where it runs."""

    def __init__(self, make_worker: WorkerFactory, name: str, workers: int) -> None:
        self._worker = make_worker(name, workers)

    def add(self, block: pa.Table, start: int, rows: int) -> None:
        self._worker.add(block.slice(start, rows))

    def counts(self) -> Counts:
        return self._worker.counts()

    def check(self) -> None:
        self._worker.check()

    def stop(self, seconds: float) -> None:
        self._worker.stop(seconds)

    def finish(self) -> Any:
        return self._worker.finish()


def _what_was_raised(text: str) -> str:
    """The error without its traceback, whose lines are indented, and without what follows its first line."""
    lines = text.strip().split("\n")
    traced = max((number for number, line in enumerate(lines) if line.startswith(" ")), default=-1)
    return lines[min(traced + 1, len(lines) - 1)]


@contextlib.contextmanager
def session(address: str | None, stop: Stop, advanced: Callable[[Counts], None]) -> Iterator[Session]:
    """Connect to `address`, or $RAY_ADDRESS, or a local Ray that ends with the session.

    While it is open, `advanced` receives progress, and `stop` reaches the cluster.
    """
    owned = _connect(address)
    relay = ControlChannel()
    ended = threading.Event()
    thread = threading.Thread(target=pump, args=(relay, stop, advanced, ended), daemon=True)
    thread.start()
    try:
        yield Session([_adapter()], relay)
    except RayTaskError as error:
        raise cast("Any", error).cause from error
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(RayError, ConnectionError):  # as when the cluster has gone
            relay.close()
        if owned:
            ray.shutdown()


def _adapter() -> Any:
    """Hamilton's adapter for Ray, which executes each node as a task of NODE_OPTIONS."""
    # Workers import this module, too, and need no Hamilton.
    from hamilton.base import DictResult  # noqa: PLC0415
    from hamilton.plugins.h_ray import RayGraphAdapter, raify  # noqa: PLC0415

    class Adapter(RayGraphAdapter):  # type: ignore[misc]  # Hamilton is not typed
        def do_remote_execute(self, *, execute_lifecycle_for_node: Any, node: Any, **kwargs: Any) -> Any:
            return ray.remote(raify(execute_lifecycle_for_node)).options(**NODE_OPTIONS).remote(**kwargs)

    return Adapter(DictResult())


def check_address(address: str | None) -> None:
    """Refuse a cluster that nobody answers for, before anything is written: Ray itself would end the process.

    Raises:
        ConfigurationError: it is no address, or there is no answer.
    """
    cluster = _chosen(address)
    if cluster in ("local", "auto"):
        return
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{cluster} cannot be used: {error}.",
            "Is the cluster up? An address is auto, host:6379 or ray://host:10001.",
            code="cluster.unreachable",
            option="ray_address",
        ) from None


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _connect(address: str | None) -> bool:
    """Whether Ray was connected to here, so that it has to be left again."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = _chosen(address)
    # A Ray that nobody else knows of need not warn of how it tells who may use it.
    local: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR} if address == "local" else {}
    if local:
        logger.info("starting a local Ray; RAY_ADDRESS or the option ray_address names a cluster")
    for tries_left in reversed(range(CONNECT_TRIES)):
        try:
            ray.init(address, **{"log_to_driver": False, "logging_level": logging.WARNING, **local})
            break
        except (ConnectionError, ValueError, RuntimeError) as error:
            # What listens at a client's address starts a process for each client, which now and then dies at once.
            if tries_left and isinstance(error, ConnectionAbortedError):
                logger.warning("%s: %s; trying again", address, str(error).partition("\n")[0])
                continue
            raise ConfigurationError(
                f"{address} cannot be used: {error}",
                "Is the cluster up?",
                code="cluster.unreachable",
                option="ray_address",
            ) from None
    return True
