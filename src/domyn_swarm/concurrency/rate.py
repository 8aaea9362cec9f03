"""What is known of the rate that an endpoint admits, and the pace that follows from it.

An *event* is a refusal after requests were admitted. After it the endpoint is held, and then a *probe* is sent. The
requests from one probe that was admitted to the next, over the time between them, are the least that the rate is: the
allowance was used up at both. The pace at which a request was refused is the most, unless a burst had been left.
The pace starts a little below the middle of the two and climbs a little beyond the most, evenly on a logarithmic scale.
If nothing is refused then, it climbs faster and faster.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from domyn_swarm.concurrency.allowance import Ticket

MARGIN = 0.04
"""By that share the pace starts below what is thought to be the rate, and climbs beyond the most."""
CLIMB_REQUESTS, CLIMB_HOLDS = 24, 6.0
"""A climb takes so many requests at least. The pace grows by a factor of e in so many times the seconds for which the
endpoint may have been held in vain, or more, so that this does not happen often."""
LONG_CLIMB, NEAR_MOST = 8, 0.8
"""A pace that is refused only after so many requests is near the rate: it starts so far from the least to the most."""
MEASURED_REQUESTS = 10
"""The least is measured over so many requests, if so many were admitted."""
EMPTY = 1.5
"""When an endpoint admitted nothing while a bucket would have had so many requests, it admits by windows."""
FIRST_SECONDS, SHORTEST_SECONDS = 0.01, 1e-3
SLOWEST, MOST_GROWTH = 1 / 120, 20.0
USED_UP = 3.0
"""The pace climbs to no more than so many times what was really sent."""
FALLEN, CHANCE_MARKS = 0.4, 3
"""If what is admitted falls with the pace, to that share, requests are refused by chance and not for the pace."""
BLOCK_REQUESTS, MORE_REFUSED = 20, 0.15
"""Where requests are refused by chance: how many are looked at together, and how much more is a limit after all."""
FIRST_HOLD_SECONDS, MOST_HOLD_SECONDS, MOST_HOLD_AT_ONCE = 0.25, 10.0, 1.0
"""How long to wait before the next probe at first, at most, and at most where the endpoint asks for no wait."""
DRY_AT_ONCE, DRY_BY_CHANCE = 3, 8
"""So many probes in a row may be refused before waits get longer, there and where requests are refused by chance."""


class _Mark(NamedTuple):
    """A probe: when it was sent, how many requests had been sent with it, and how many admitted before."""

    at: float
    number: int
    admitted: int


class Rate:
    """The pace of one endpoint in requests per second, by what it refuses. `started`: when the first one was sent."""

    def __init__(self, started: float) -> None:
        self.known = False
        """Whether something was refused."""
        self._started = _Mark(started, 0, 0)
        self._refused = 0
        self._start = 1.0  # the pace at which the climb started
        self._growth, self._climb = 0.0, 1.0  # the logarithm of how much the pace grows, in so many requests
        self._least, self._most = 0.0, math.inf
        self._marks: deque[_Mark] = deque(maxlen=16)
        self._was_long = False  # whether many were admitted before the last event
        self._dry = 0  # probes in a row that were refused
        self._event_at = self._refused_at = 0.0  # when the request of the last event was sent, and the last probe
        self._best = 0.0  # the most that was ever admitted
        self._by_chance: float | None = None  # the share that is refused, where the pace makes no difference to it
        self._block = (0, 0)  # the last request, and how many were refused by then, that were looked at

    def restart(self, started: float) -> None:
        """Requests are counted anew."""
        self._started, self._refused, self._block = _Mark(started, 0, 0), 0, (0, 0)
        self._marks.clear()

    def refused_late(self, number: int) -> None:
        """A request was refused that was sent before the last event was known."""
        self._refused += 1
        if self._marks and number < self._marks[-1].number:  # it was thought to have been admitted
            self._marks[-1] = self._marks[-1]._replace(admitted=self._marks[-1].admitted - 1)

    def refused(self, ticket: Ticket) -> None:
        """The pace was too fast, or the probe came too early."""
        self._refused += 1
        self._refused_at = ticket.at
        if not self.known:
            self.known = True
            seconds = max(ticket.at - self._started.at, FIRST_SECONDS)
            self._start = self._most = max(ticket.number, 1) / seconds
        elif self._marks and ticket.number <= self._marks[-1].number:
            self._marks.pop()
            self._dry += 1
            return
        elif self._marks:
            self._check_chance(ticket)
            pace = self.at(ticket)
            if self._by_chance is not None:
                self._start = pace
            else:
                self._most = pace
                self._was_long = ticket.number - self._marks[-1].number > LONG_CLIMB
        self._dry, self._event_at = 0, ticket.at

    def probed(self, probe: Ticket) -> None:
        """The first request after a hold was sent: if it is admitted, the bounds of the rate are known."""
        mark = _Mark(*probe, probe.number - 1 - self._refused)
        measured = (one for one in reversed(self._marks) if mark.admitted - one.admitted >= MEASURED_REQUESTS)
        since = next(measured, self._marks[0] if self._marks else self._started)
        self._marks.append(mark)
        if self._by_chance is not None:
            return
        admitted, seconds = max(mark.admitted - since.admitted, 1), mark.at - since.at
        in_vain = mark.at - self._refused_at  # or a part of it: it might have been admitted before
        self._least = max(admitted / max(seconds, SHORTEST_SECONDS), SLOWEST)
        most = self._most
        if admitted >= MEASURED_REQUESTS and (self._refused_at - self._event_at) * most > EMPTY:
            most = min(most, admitted / max(seconds - in_vain, SHORTEST_SECONDS))
        most = max(most, self._least)
        near = NEAR_MOST if self._was_long else 0.5
        self._start = self._least ** (1 - near) * most**near * (1 - MARGIN)
        self._growth = math.log(most * (1 + MARGIN) / self._start)
        self._climb = max(CLIMB_REQUESTS, CLIMB_HOLDS * in_vain * self._start / self._growth)

    def at(self, ticket: Ticket) -> float:
        """The pace when `ticket` was sent."""
        if not self._marks:
            return self._start
        since = self._marks[-1]
        sent = max(0, ticket.number - since.number)
        climbed = sent / self._climb
        pace = self._start * math.exp(min(self._growth * max(climbed, climbed**2), MOST_GROWTH))
        used = sent / max(ticket.at - since.at, SHORTEST_SECONDS)  # a pace that is not used up is not too slow either
        return min(pace, max(self._start, USED_UP * used))

    def hold(self, after: float | None) -> float:
        """Seconds to hold on our own account after a refusal: longer when the last hold was not enough."""
        each = 1 / self._start
        if self._by_chance is not None:
            usual = DRY_BY_CHANCE
        elif after is None and not self._dry:
            return each / 4
        else:
            usual = DRY_AT_ONCE if after == 0 else int(after is not None)
        if self._dry <= usual:
            return 0.0
        first = max(FIRST_HOLD_SECONDS, each / 2)
        most = MOST_HOLD_AT_ONCE if after == 0 else max(MOST_HOLD_SECONDS, each)
        return min(most, first * 2.0 ** min(self._dry - usual, 10))

    def _check_chance(self, ticket: Ticket) -> None:
        """Whether requests are refused whatever the pace is, and as many as before: if more, there is a limit, too."""
        if self._by_chance is None:
            if len(self._marks) < CHANCE_MARKS:
                return
            if self._least > FALLEN * self._best:
                self._best = max(self._best, self._least)
                return
            first, last = self._marks[0], self._marks[-1]
            self._by_chance = 1 - (last.admitted - first.admitted) / (last.number - first.number)
            self._start, self._growth, self._climb = max(self._start, self._best), math.log(2), CLIMB_REQUESTS
            self._block = ticket.number, self._refused
        elif ticket.number - self._block[0] >= BLOCK_REQUESTS:
            share = (self._refused - self._block[1]) / (ticket.number - self._block[0])
            self._block = ticket.number, self._refused
            if share > self._by_chance + MORE_REFUSED:
                self._by_chance, self._best = None, 0.0
                self._marks = deque([self._marks[-1]], self._marks.maxlen)
