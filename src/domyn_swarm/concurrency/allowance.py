"""What an endpoint says that it still takes: `x-ratelimit-remaining` and `-reset`, as requests of one client.

Some give everything back at one moment, others bit by bit, and both say when all of it is back. Where that moment moves
with each request, it is bit by bit, and nobody has to wait for it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_SECONDS = 60.0
"""No word of an endpoint's holds for longer."""
SLACK_SECONDS = 0.01
"""By so much later than stated a request is sent: neither clock nor network is exact."""
MOVED_SECONDS = 1.5
"""So much the moment at which all is back may move by rounding."""
STEADY_REQUESTS = 8
"""So many requests after which that moment would have moved."""


class Ticket(NamedTuple):
    """A request that was sent: when, and the how many-th it was."""

    at: float
    number: int


class _Stated(NamedTuple):
    """What an answer stated at a moment: the number of the last request that is allowed `until` then.

    Each further one is allowed `each` seconds after the one before (infinity: none is).
    """

    at: float
    last: int
    until: float
    each: float


class Allowance:
    """The last word of one endpoint. `clock` is in seconds; not for several threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stated: _Stated | None = None
        self._by = 0
        self._first, self._unit = Ticket(-math.inf, 0), ""  # when all is back, as was said first, and what is counted
        self._sooner_at, self._sooner = -math.inf, math.inf  # when a refused request was to be sent again
        self._each = math.inf  # seconds after which one request is given back, if that is how it goes

    def __bool__(self) -> bool:
        return self._stated is not None

    def stated(self, ticket: Ticket, remaining: int, seconds: float, unit: str) -> None:
        """With the answer to `ticket`, it said how many more requests it takes in the next `seconds`.

        `unit` is what it counts.
        """
        if ticket.number < self._by:
            return
        self._by = ticket.number
        full = Ticket(ticket.at + seconds, ticket.number)
        self._learn_each(full, unit)
        if ticket.at < self._sooner_at:
            self._is_sooner_than(full.at)
        until = ticket.at + min(seconds, MOST_SECONDS) + SLACK_SECONDS
        self._stated = _Stated(ticket.at, ticket.number + remaining, until, self._each)

    def refused(self, after: float) -> None:
        """A request was refused, and may be sent again `after` so many seconds."""
        self._sooner_at, self._sooner = self._clock() + after, after
        if self._is_sooner_than(self._first.at):
            self._stated = None

    def allows_at(self, number: int) -> float:
        """The moment from which a request may be sent when `number` of them have been; -infinity: now."""
        stated = self._stated
        if stated is None or (beyond := number - stated.last) < 0:
            return -math.inf
        if stated.until <= self._clock():
            self._stated = None
            return -math.inf
        return min(stated.until, stated.at + (beyond + 1) * stated.each)

    def forget(self) -> None:
        """Requests are counted anew."""
        self._stated, self._by = None, 0
        self._first = Ticket(-math.inf, 0)

    def _learn_each(self, full: Ticket, unit: str) -> None:
        """Find out whether the moment at which all is back is later with each request, and by how much."""
        if unit != self._unit:
            self._each = math.inf
        if unit != self._unit or self._first.at <= self._clock():
            self._first, self._unit = full, unit
            return
        sent, later = full.number - self._first.number, full.at - self._first.at
        if later > max(MOVED_SECONDS, (self._first.at - self._clock()) / 20):
            self._each = later / max(sent, 1)
        elif sent > STEADY_REQUESTS:
            self._each = math.inf

    def _is_sooner_than(self, full_at: float) -> bool:
        """Whether a refused request may be sent again before all is back, so that it is given back bit by bit."""
        if self._sooner_at + MOVED_SECONDS >= full_at:
            return False
        self._each = min(self._each, self._sooner)
        return True
