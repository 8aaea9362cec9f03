"""How a run is asked to end: by SIGINT and SIGTERM, and by SIGUSR1, with which batch systems say that time is up."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIME_UP = getattr(signal, "SIGUSR1", None)
"""None on systems without it."""

logger = logging.getLogger("domyn_swarm")


class Stop(threading.Event):
    """Set when a run has to end. `time_is_up` says that a batch system will end it soon, whatever it does."""

    time_is_up = False


@contextlib.contextmanager
def on_signals(stop: threading.Event | None) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`; the next one, or the first without `stop`, is a KeyboardInterrupt."""

    def handle(number: int, _frame: Any) -> None:
        if stop is None or stop.is_set():
            raise KeyboardInterrupt
        logger.warning("%s: finishing the calls in flight; once more to stop at once", signal.Signals(number).name)
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
        stop.set()

    with _handling([TIME_UP] if TIME_UP else [], handle):
        yield


@contextlib.contextmanager
def _handling(numbers: list[signal.Signals], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Only the main thread is told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
