"""The line between a run's driver and its cluster: how it goes, one way, and whether to stop, the other.

It is an actor, and with that a process to start for every run: the less this module imports, the sooner it is there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from domyn_swarm.helpers.counts import Counts

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

POLL_SECONDS = 0.3


class Relay:
    """What driver and cluster tell each other: how it goes, and whether to stop."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._stopped = False

    def advanced(self, more: Counts) -> None:
        """Called from the cluster: what happened since the last time."""
        self._counts += more

    def stop(self) -> None:
        """Called from the driver: the run has to end."""
        self._stopped = True

    def stopped(self) -> bool:
        """Whether it has."""
        return self._stopped

    def take(self) -> Counts:
        """What has come together since the last time."""
        taken, self._counts = self._counts, Counts()
        return taken


class RelayMonitor:
    """The cluster's end of the relay."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def advanced(self, more: Counts) -> None:
        """What happened since the last time."""
        self._relay.advanced.remote(more)

    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(ray.get(self._relay.stopped.remote()))


def pump(relay: Any, stop: threading.Event, advanced: Callable[[Counts], None], ended: threading.Event) -> None:
    """Pass on, in the driver, what comes from either end, until the session has ended."""
    told = False
    while True:
        last = ended.wait(POLL_SECONDS)
        with contextlib.suppress(RayError):
            if stop.is_set() and not told:
                ray.get(relay.stop.remote())
                told = True
            advanced(ray.get(relay.take.remote()))
        if last:
            return
