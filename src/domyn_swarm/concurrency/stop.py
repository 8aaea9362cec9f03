"""The word to stop, as it passes between threads and layers."""

from __future__ import annotations

import math
import threading
import time


class Flag(threading.Event):
    """An event that a loop may look at for each row: `on` is an attribute, where `is_set` is a call."""

    on = False

    def set(self) -> None:
        """Say so to all who look or wait."""
        self.on = True
        super().set()

    def clear(self) -> None:
        """Take it back."""
        self.on = False
        super().clear()


class Stop(Flag):
    """Set when a run has to end. `time_is_up` says that a batch system will end it soon, whatever it does.

    No call in flight is waited for beyond `deadline`, as `time.monotonic()` has it. `reason` is the error that the run
    ends with, if nobody asked for its end.
    """

    time_is_up = False
    reason: Exception | None = None
    deadline = math.inf

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for calls in flight."""
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    @property
    def at_once(self) -> bool:
        """Whether no call is waited for any more."""
        return self.deadline <= time.monotonic()
