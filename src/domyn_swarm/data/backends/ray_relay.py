"""The line between a run's driver and its cluster: how it goes, one way, and whether to stop, the other.

Both stand in the key-value store of the cluster's head, where Ray Serve and Ray Tune keep such things, too. It is not
part of Ray's public API; what is, an actor, would be another process to start for every run.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import TYPE_CHECKING

from ray import cloudpickle
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_get, _internal_kv_put

from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from domyn_swarm.concurrency.stop import Stop

NAMESPACE = "domyn_swarm"
POLL_SECONDS = 0.3


class ControlChannel:
    """What driver and cluster tell each other of one run. It travels; one process in the cluster tells how it goes."""

    def __init__(self) -> None:
        run = uuid.uuid4().hex
        self._advanced, self._stopped = f"{run}/advanced", f"{run}/stopped"
        self._counts = Counts()  # what this end has sent so far, or received

    def advanced(self, more: Counts) -> None:
        """Called from the cluster: what happened since the last time."""
        self._counts += more
        sent: bytes = cloudpickle.dumps(self._counts)  # type: ignore[no-untyped-call]
        _internal_kv_put(self._advanced, sent, namespace=NAMESPACE)

    def stopped(self) -> bool:
        """Whether the run was asked to stop."""
        return bool(_internal_kv_exists(self._stopped, namespace=NAMESPACE))

    def patience(self) -> float:
        """Seconds that calls in flight may have at most, as the driver said last."""
        return float(_internal_kv_get(self._stopped, namespace=NAMESPACE) or "inf")

    def stop(self, seconds: float) -> None:
        """Called from the driver: the run has to end, and calls in flight may have so many seconds at most."""
        _internal_kv_put(self._stopped, str(seconds).encode(), namespace=NAMESPACE)

    def take(self) -> Counts:
        """Called from the driver: what happened since the last time."""
        sent = _internal_kv_get(self._advanced, namespace=NAMESPACE)
        before, self._counts = self._counts, cloudpickle.loads(sent) if sent else Counts()
        return self._counts - before

    def close(self) -> None:
        """Called from the driver: the run has ended."""
        for key in (self._advanced, self._stopped):
            _internal_kv_del(key, namespace=NAMESPACE)


def pump(relay: ControlChannel, stop: Stop, advanced: Callable[[Counts], None], ended: threading.Event) -> None:
    """Pass on, in the driver, what comes from either end, until the session has ended."""
    sent: float | None = None  # the deadline
    while True:
        last = ended.wait(POLL_SECONDS)
        with contextlib.suppress(RayError, ConnectionError):
            if stop.is_set() and sent != stop.deadline:
                relay.stop(max(0.0, stop.deadline - time.monotonic()))
                sent = stop.deadline
            advanced(relay.take())
        if last:
            return
