"""How fast an endpoint may be asked, learnt from what it refuses and from what it says about its limits.

As long as nothing is refused there is no pace; only the first moments of a run start gently, so that a small limit
costs a few refusals and not one for each call in flight. A refusal holds the endpoint for as long as it asked, and a
single request then finds out whether it admits requests again. From then on requests are spaced, at the pace that
`Rate` finds.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from domyn_swarm.concurrency.allowance import SLACK_SECONDS, Allowance, Ticket
from domyn_swarm.concurrency.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_AT_ONCE, DOUBLING_SECONDS, GENTLE_SECONDS = 8, 0.1, 1.0
"""A run starts with so many requests at once, and the number doubles in that time, for at most so long."""
CATCH_UP_SECONDS = 0.02
"""Timers are late; by so much the next requests may follow faster."""


class Pace:
    """The pace of one endpoint. `clock` is in seconds; not for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held_until = self._next_at = -math.inf
        self._number = self._answered = 0
        self._probing = False  # whether the next request is the first after a hold
        self._settled_at = -math.inf  # refusals of requests that were sent before belong to an event that is known
        self._echo = 0.0  # seconds until a refusal is known
        self._strikes = self._struck_at = 0
        self._begin_gently()
        self._rate = Rate(self._started)
        self.allowance = Allowance(clock)
        """What the endpoint says that it still takes."""
        self.dry_since: float | None = None
        """Since when everything has been refused."""

    @property
    def engaged(self) -> bool:
        """Whether something was refused, so that there is a pace."""
        return self._rate.known

    @property
    def held(self) -> float:
        """Seconds for which the endpoint has asked to be left alone."""
        return max(0.0, self._held_until - self._clock())

    def restart(self) -> None:
        """The endpoint was away, and is back: ask it gently."""
        self._number = self._answered = 0
        self._begin_gently()
        self._settled_at = self._started
        self._rate.restart(self._started)
        self.allowance.forget()

    def wait(self) -> float:
        """Seconds until the next request may be sent; 0 when it may be sent now."""
        if not self._gentle and not self._rate.known and not self.allowance:
            return 0.0
        now = self._clock()
        until = max(self._held_until, self._next_at)
        if self.allowance:
            until = max(until, self.allowance.allows_at(self._number))
            if not self.allowance and not self._rate.known:  # it was used up, and all is back: nobody knows how much
                self._begin_gently()
        if self._gentle:
            until = max(until, self._gentle_until(now))
        return max(0.0, until - now)

    def sent(self) -> Ticket:
        """A request is sent now."""
        now = self._clock()
        self._number += 1
        ticket = Ticket(now, self._number)
        if self._rate.known:
            gap = 0.0
            if self._probing:  # what becomes of the first one after a hold should be known before the next
                self._probing, gap = False, 2 * self._echo + CATCH_UP_SECONDS
                self._rate.probed(ticket)
            gap = max(gap, 1 / self._rate.at(ticket))
            is_late = now - self._next_at <= CATCH_UP_SECONDS
            self._next_at = (self._next_at if is_late else now) + gap
        return ticket

    def admitted(self) -> None:
        """A request was let in, whatever came of it."""
        self._answered += 1
        self.dry_since = None

    def is_needed(self, ticket: Ticket, in_flight: int) -> bool:
        """Whether fewer calls at once do not help: again and again one is refused before a round of them was let in."""
        if self.engaged:
            return True
        if ticket.at >= self._settled_at:
            self._gentle = False
            self._strikes = self._strikes + 1 if ticket.number - self._struck_at <= max(in_flight, 1) else 0
            self._struck_at, self._settled_at = self._number, self._clock()
        return self._strikes > 2

    def refused(self, ticket: Ticket | None, after: float | None) -> None:
        """A request was refused, to be sent again `after` so many seconds (None: the endpoint did not say).

        The ticket of a request that was sent before there was a pace is None.
        """
        now = self._clock()
        self._gentle = False
        self.dry_since = self.dry_since if self.dry_since is not None else now
        if after:
            self.allowance.refused(after)
            self._held_until = max(self._held_until, now + after + SLACK_SECONDS)
        if ticket is None:
            if not self.engaged:
                self._rate.restart(now)
            ticket = Ticket(-math.inf, 0) if self.engaged else Ticket(now, self._number)
        if ticket.at < self._settled_at:
            self._rate.refused_late(ticket.number)
            return
        self._echo += (now - ticket.at - self._echo) / 4 if self._echo else now - ticket.at
        self._rate.refused(ticket)
        self._settled_at = now
        self._held_until = max(self._held_until, now + self._rate.hold(after))
        self._next_at, self._probing = self._held_until, True

    def _begin_gently(self) -> None:
        self._gentle, self._started, self._ahead = True, self._clock(), self._number - 2 * self._answered

    def _gentle_until(self, now: float) -> float:
        """When the next of the first requests may be sent: so many at once, then more by time and by answers."""
        beyond = self._number - 2 * self._answered - self._ahead
        if now - self._started >= GENTLE_SECONDS:
            self._gentle = False
        elif beyond >= FIRST_AT_ONCE:
            return self._started + min(DOUBLING_SECONDS * math.log2((beyond + 1) / FIRST_AT_ONCE), GENTLE_SECONDS)
        return now
