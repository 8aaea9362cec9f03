"""How long calls in flight may go on once a run has to end, and what is said meanwhile."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from domyn_swarm.concurrency.stop import Stop

TELL_SECONDS = 5.0
"""Between two lines of the countdown."""

logger = logging.getLogger("domyn_swarm")


class Grace:
    """`seconds` from now for calls in flight, or fewer when `stop` has a deadline, which may also come later."""

    def __init__(self, seconds: float, stop: Stop) -> None:
        self._since = self._told = time.monotonic()
        self._ends = self._since + seconds
        self._stop = stop
        self._calls: int | None = None

    def left(self) -> float:
        """Seconds that are left, 0 when there are none."""
        ends = min(self._ends, self._stop.deadline)
        return max(0.0, ends - time.monotonic())

    def waits_for(self, calls: int) -> bool:
        """Whether there is time left for so many calls. Says how it goes, now and then."""
        if not (left := self.left()):
            return False
        now = time.monotonic()
        if calls and (self._calls is None or now - self._told >= TELL_SECONDS):
            logger.info("waiting for %s in flight, %s left", _calls(calls), f"{left:.0f} s")
            self._told = now
            self._calls = calls
        return True

    def over(self, calls: int) -> None:
        """So many calls have not ended: say what becomes of them."""
        if calls:
            logger.warning(
                "%s in flight dropped after %s: their rows are not done, and are computed when the run is resumed",
                _calls(calls), f"{time.monotonic() - self._since:.0f} s",
            )  # fmt: skip


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"
