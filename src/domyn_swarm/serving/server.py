"""One model server over a run: started, watched, restarted when it ends or hangs, and given up at some point."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domyn_swarm.serving import health
from domyn_swarm.serving.command import HOST, ServerCommand
from domyn_swarm.serving.log import start_log, tail_of
from domyn_swarm.serving.ports import is_free
from domyn_swarm.serving.process import ServerProcess
from domyn_swarm.storage.texts import now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from domyn_swarm.serving.states import State

LOOK_SECONDS = 0.2
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 1.0, 60.0
"""Before a restart, at first and at most."""
BUDGET_SECONDS = 3600.0
STOP_SECONDS = 10.0
"""For a server to end by itself when it is stopped."""
MOST_MOVES = 3
"""Other ports that a server is given when its own turns out to be taken."""

logger = logging.getLogger("domyn_swarm")


@dataclass(frozen=True)
class Settings:
    """How a server is started: its command, its environment, its GPUs, and where it logs to.

    It has `timeout` seconds to become ready, and may be restarted `restarts` times an hour.
    """

    command: ServerCommand
    env: Mapping[str, str]
    gpus: list[str] | None
    log: Path
    mark: str
    timeout: float
    restarts: int


class Signals:
    """What the servers of a run tell each other: that it is over, and that one of them has been ready.

    `changed` is called whenever the state of a server has changed; `move` gives a free port.
    """

    def __init__(self, changed: Callable[[], None], move: Callable[[], int]) -> None:
        self.over = threading.Event()
        self.one_is_ready = threading.Event()
        self.changed, self.move = changed, move


class ModelServer:
    """The server `name`, in a thread of its own from `start` to `stop`."""

    def __init__(self, name: str, port: int, settings: Settings, signals: Signals) -> None:
        self.name = name
        self.state: State = "starting"
        self.detail = ""
        """Why it is in its state, as far as that is not obvious."""
        self.since, self.began = time.monotonic(), now()
        self.starts = 0
        self.port = port
        self.log = settings.log
        self.gpus = settings.gpus
        self._settings = settings
        self._signals = signals
        self._restarts: deque[float] = deque()
        self._moves = 0
        self._thread = threading.Thread(target=self._run, name=f"domyn-swarm-{name}", daemon=True)
        self._process: ServerProcess | None = None
        self._lock = threading.Lock()  # of the process: it is not started once the run is over

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Start it, and see to it from now on."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Say to the process that it is over. `stop` waits for its end."""
        with self._lock:
            self._signals.over.set()
            if self._process is not None:
                self._process.ask_to_stop(STOP_SECONDS)

    def stop(self) -> None:
        """Return when nothing is left of it."""
        self.ask_to_stop()
        if self._process is not None:
            self._process.stop(STOP_SECONDS)
        self._thread.join(health.CHECK_SECONDS + 1)
        if self.state != "dead":
            self._is("stopped")

    def _run(self) -> None:
        while (why := self._lived()) is not None:
            if not self._signals.one_is_ready.is_set():  # a command that cannot work is not tried again and again
                if self._moved():
                    continue
                self._is("dead", why)
                while not self._signals.one_is_ready.wait(LOOK_SECONDS):
                    if self._signals.over.is_set():
                        return
            if not self._may_restart():
                logger.warning("model server %s stays down after %d restarts: %s", self.name, self.starts - 1, why)
                self._is("dead", why)
                return
            wait = min(FIRST_WAIT_SECONDS * 2 ** (len(self._restarts) - 1), MOST_WAIT_SECONDS)
            logger.warning("model server %s %s; it is restarted in %.0f s (%s)", self.name, why, wait, self.log)
            self._is("restarting", why)
            if self._signals.over.wait(wait):
                return

    def _lived(self) -> str | None:
        """As `_live`. What keeps a process from being started may be gone at the next try."""
        try:
            return self._live()
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word would be waited for for ever
            return f"could not be started: {type(error).__name__}: {error}"

    def _live(self) -> str | None:
        """Start the server, and return when it has ended or was ended: why; None when the run is over."""
        start_log(self.log, f"{now()} {self.name}, start {self.starts + 1}, port {self.port}: {self._settings.command}")
        words = self._settings.command.at(self.port)
        with self._lock:
            if self._signals.over.is_set():
                return None
            self.starts += 1
            process = ServerProcess(words, self._settings.env, self.log, self._settings.mark)
            self._process = process
        why = self._until_ready(process) or self._while_well(process)
        if self._signals.over.is_set():
            return None
        process.stop(STOP_SECONDS)
        return why

    def _until_ready(self, process: ServerProcess) -> str:
        """Why it did not become ready; nothing when it is."""
        deadline = time.monotonic() + self._settings.timeout
        error = ""
        while not self._signals.over.wait(LOOK_SECONDS):
            if (status := process.poll()) is not None:
                return _ended(status, "before it was ready")
            found = health.readiness(self.port)
            if not found.error:
                self._has_health = found.has_health
                logger.info("model server %s is ready after %.0f s: %s", self.name, self.seconds, self.url)
                self._is("ready")
                self._signals.one_is_ready.set()
                return ""
            error = found.error
            if time.monotonic() >= deadline:
                return f"was not ready within {self._settings.timeout:g} s ({error})"
        return ""

    def _while_well(self, process: ServerProcess) -> str:
        """Why it is not well any more; nothing when the run is over."""
        patience = health.HUNG_SECONDS if self._has_health else health.BUSY_SECONDS
        well = checked = time.monotonic()
        while not self._signals.over.wait(LOOK_SECONDS):
            if (status := process.poll()) is not None:
                return _ended(status)
            if time.monotonic() - checked < health.CHECK_SECONDS:
                continue
            error = health.health(self.port, has_health=self._has_health)
            checked = time.monotonic()
            if not error:
                well = checked
            elif checked - well >= patience:
                return f"has been unwell for {checked - well:.0f} s ({error})"
        return ""

    _has_health = False

    @property
    def seconds(self) -> float:
        """For how long it has been in its state."""
        return time.monotonic() - self.since

    def _moved(self) -> bool:
        """Whether it ended because its port was taken, and has another one now."""
        if self._moves >= MOST_MOVES or is_free(self.port):
            return False
        self._moves += 1
        taken, self.port = self.port, self._signals.move()
        logger.info("port %d is taken: model server %s starts on %d", taken, self.name, self.port)
        return True

    def _may_restart(self) -> bool:
        while self._restarts and time.monotonic() - self._restarts[0] > BUDGET_SECONDS:
            self._restarts.popleft()
        if len(self._restarts) >= self._settings.restarts:
            return False
        self._restarts.append(time.monotonic())
        return True

    def _is(self, state: State, detail: str = "") -> None:
        self.state, self.detail, self.since, self.began = state, detail, time.monotonic(), now()
        self._signals.changed()

    @property
    def last_words(self) -> str:
        """The last lines of its log, indented."""
        return "\n".join(f"  {line}" for line in tail_of(self.log).lines)


def _ended(status: int, when: str = "") -> str:
    if status > 128:
        try:
            how = f"was ended by {signal.Signals(status - 128).name}"
            how += " (by the system, if memory ran out)" if status - 128 == signal.SIGKILL else ""
        except ValueError:
            how = f"exited with status {status}"
    else:
        how = f"exited with status {status}"
    return f"{how} {when}".rstrip()
