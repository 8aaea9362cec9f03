"""How a run is asked to end: by SIGINT and SIGTERM, and by SIGUSR1, with which batch systems say that time is up."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from domyn_swarm.concurrency.stop import Stop

TIME_UP = getattr(signal, "SIGUSR1", None)
"""None on systems without it."""
TIME_UP_SECONDS = 30.0
"""Most that calls in flight get when time is up: a batch system may give a minute for everything."""

logger = logging.getLogger("domyn_swarm")


def _grace_before_limit() -> float:
    """Seconds for calls in flight when a batch system has said that time is up: half of what is left, if it is known.

    The other half is for the last parts, and for slow filesystems. `SLURM_JOB_END_TIME` is in seconds since 1970.
    """
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, (float(os.environ["SLURM_JOB_END_TIME"]) - time.time()) / 2)
    return TIME_UP_SECONDS


@contextlib.contextmanager
def on_signals(stop: Stop | None) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`, the second lets it wait for no call any more, and what finished is kept.

    The third one, or the first without `stop`, is a KeyboardInterrupt, whatever is running.
    """

    def handle(number: int, _frame: Any) -> None:
        name = signal.Signals(number).name
        if stop is None or stop.at_once:
            raise KeyboardInterrupt
        if stop.is_set():
            logger.warning("%s again: dropping the calls in flight, writing what has finished", name)
            stop.hurry(0)
        else:
            logger.warning("%s: finishing the calls in flight; once more to stop at once", name)
            stop.set()

    with _handling([signal.SIGINT, signal.SIGTERM], handle):
        yield


@contextlib.contextmanager
def on_time_up(stop: Stop) -> Iterator[None]:
    """SIGUSR1 sets `stop`, too, at whatever step the run is, and breaks nothing off.

    What is being planned is planned, and ends before its first call. Rows stop coming. An output that is being written
    is written: most often it takes less than the time that is left, and with the next run it would begin anew.
    """

    def handle(_number: int, _frame: Any) -> None:
        if not stop.time_is_up:
            logger.warning("time is up: finishing what is in flight")
        stop.time_is_up = True
        stop.hurry(_grace_before_limit())
        stop.set()

    with _handling([TIME_UP] if TIME_UP else [], handle):
        yield


@contextlib.contextmanager
def _handling(numbers: list[signal.Signals], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
