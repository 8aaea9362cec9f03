"""How many calls a server can take at once, found out by watching it.

Two things tell. *Throughput*: as many calls as allowed are always in flight, so calls a second are the limit over the
latency (Little's law), and a larger limit that does not bring more of them brings longer queues only. *Rejections*: a
server that answers 429 or 503, or not in time, has been asked too much.

The limit doubles as long as that pays, and then holds its place and looks around: now and then it tries a larger
one, which has to pay, and a smaller one, which must not cost. A rejection cuts it, once for all calls that were in
flight by then. Steering by the gradient of throughput is the idea of PCC Vivace (Dong et al., NSDI 2018), the cut that
of TCP.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, LEAST, MOST = 16, 1, 4096
CUT = 0.93
STEP, MOST_STEP, CAREFUL_STEP = 1.25, 2.0, 1.08
WORTHWHILE = 0.2
"""A step up has to bring this share of what it would if the server had no limit; a step down may cost as little."""
NOISE = 0.05
"""Throughput varies by so much anyway: what a step smaller than STEP brings cannot be seen, a rejection has to tell."""
HOLD_WINDOWS = 4


class AdaptiveLimit:
    """`limit` moves up to `most` as calls report how they went. Not for several threads; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._most = most
        self.limit = min(FIRST, most)
        self._clock = clock
        self._step = MOST_STEP
        self._base: tuple[int, float] | None = None  # the limit to return to, and its calls a second
        self._holds = 0
        self._through = True  # some call came through since the last cut
        self._queues = False  # a larger limit brought nothing: this one may be too large as well
        self._unsettled = self._left = self.limit
        self._since = clock()

    def completed(self) -> int:
        """A call came through; the limit from now on."""
        self._through = True
        return self._count()

    def _count(self) -> int:
        self._left -= 1
        if self._left:
            return self.limit
        if self._unsettled:  # the calls that started under the limit before are through
            self._unsettled = 0
            self._left = self._window()
            self._since = self._clock()
        else:
            seconds = max(self._clock() - self._since, 1e-9)
            self._decide(self._window() / seconds)
        return self.limit

    def rejected(self) -> int:
        """The server asked for fewer calls; the limit from now on."""
        if self._unsettled and self._base is None:  # one of those that were in flight at the last cut
            return self._count()
        through, self._through = self._through, False
        if self._base and self._base[0] < self.limit:  # the server's limit lies in between
            self._step = max(math.sqrt(self.limit / self._base[0]), CAREFUL_STEP)
            self._back_to(self._base[0])
        else:
            self._step = (
                CAREFUL_STEP if through else MOST_STEP
            )  # a server that is out says nothing of how many it takes
            self._back_to(int(self.limit * CUT))
        return self.limit

    def _window(self) -> int:
        """Calls that are measured: the smaller the step, the finer the difference to be seen."""
        return max(3 * self.limit, 24) if self._step >= MOST_STEP else max(4 * self.limit, 48)

    def _measure(self, limit: int) -> None:
        self.limit = min(max(limit, LEAST), self._most)
        self._left = self._unsettled = self.limit
        self._since = self._clock()

    def _decide(self, throughput: float) -> None:
        base, self._base = self._base, (self.limit, throughput)
        if base is None or base[0] == self.limit:
            self._hold_or_probe()
        elif self.limit > base[0]:
            self._judge_more(base, throughput)
        else:
            self._judge_less(base, throughput)

    def _hold_or_probe(self) -> None:
        if self._holds:
            self._holds -= 1
            self._left = self._window()
            self._since = self._clock()
            return
        down, self._queues = self._queues and self.limit > LEAST, False
        self._measure(int(self.limit / STEP) if down else max(self.limit + 1, int(self.limit * self._step)))

    def _judge_more(self, base: tuple[int, float], throughput: float) -> None:
        limit, before = base
        wanted = WORTHWHILE * (self.limit / limit - 1) if self._step >= STEP else -NOISE
        if throughput / before - 1 >= wanted:
            self._step = max(self._step, min(self._step**2, STEP))
            self._hold_or_probe()
        else:
            self._step = min(self._step, STEP)
            self._queues = True
            self._back_to(limit)

    def _judge_less(self, base: tuple[int, float], throughput: float) -> None:
        limit, before = base
        if 1 - throughput / before > WORTHWHILE * (1 - self.limit / limit):
            self._back_to(limit)
        else:
            self._queues = True
            self._holds = HOLD_WINDOWS

    def _back_to(self, limit: int) -> None:
        self._holds = HOLD_WINDOWS if self._step <= STEP else 0
        self._base = None
        self._measure(limit)
