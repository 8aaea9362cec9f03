"""How fast an endpoint may be asked, learnt from what it refuses and from what it says about its limits.

As long as nothing is refused there is no pace; only the first moments of a run start gently, so that a small limit
costs a few refusals and not one for each call in flight. A refusal holds the endpoint for as long as it asked. From
then on requests are spaced. What was admitted between two refusals, over the time between them, is the rate that the
endpoint admits: at both moments its allowance was used up. The pace starts a little below that rate, stays near it,
and then climbs faster and faster until something is refused again, like TCP CUBIC (RFC 9438).
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from domyn_swarm.concurrency.allowance import Allowance, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_AT_ONCE, DOUBLING_SECONDS, GENTLE_SECONDS = 8, 0.1, 1.0
"""A run starts with so many requests at once, and the number doubles in that time, for at most so long."""
BACK_OFF, PLATEAU_SECONDS, PLATEAU_REQUESTS, PLATEAU_HOLDS, MOST_PLATEAU_SECONDS = 0.09, 4.0, 8, 12, 30.0
"""The pace starts by that share below the measured rate, and takes that long (the longest counts) to reach it."""
MEASURED_REQUESTS = 10
FIRST_RATE, SEARCH_SECONDS, SEARCH_AGAIN_SECONDS = 1.0, 0.5, 2.0
"""Where little is known of the rate the pace doubles in that time, until something is refused again."""
NO_SEARCH_EVENTS = 4
SLOWEST = 1 / 120
FIRST_HOLD_SECONDS, MOST_HOLD_SECONDS = 0.25, 10.0
MOST_HOLD_AT_ONCE = 1.0
"""Where an endpoint asks for no wait; many round down to whole seconds."""
SLACK_SECONDS = 0.01
"""By so much longer an endpoint is left alone than it asked: neither clock nor network is exact."""
CATCH_UP_SECONDS = 0.02
"""Timers are late; by so much the next requests may follow faster."""
STEADY, MOST_STEADY = 0.1, 2
"""A rate that is found again, to that share, is probed less often: the time doubles, so many times at most."""
USED_UP = 3.0
"""The pace climbs to no more than so many times what was really sent."""
EVENTS, EVENTS_AT_ONCE, FEW_ADMITTED, DECLINE = 12, 4, 12, 0.7
"""Refusals after which it is known whether slowing down has made a difference: it has not when so few were admitted
between them on average, and the pace has been cut to that share. Fewer are enough where the endpoint asks for no wait.
"""
MOST_DRY_AT_ONCE = 3
AFFORDABLE = 0.9
"""If that share is admitted, and the endpoint asks for no wait for the rest, the pace stays."""
MOST_DRY_BY_CHANCE = 8
BLOCK_REQUESTS, MORE_REFUSED = 20, 0.15
"""Where requests are refused by chance: how many are looked at together, and how much more is a limit after all."""


class _Mark(NamedTuple):
    """A moment at which the endpoint's allowance was used up: what it had admitted by then, and the rate that gave."""

    at: float
    number: int
    admitted: int
    rate: float


class Pace:
    """The pace of one endpoint. `clock` is in seconds; not for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gentle = True
        self._held_until = self._next_at = -math.inf
        self._rate: float | None = None  # what was measured last; None: nothing was refused yet
        self._climbs_from, self._climbs_at = 0.0, 0  # when, and at which request
        self._number = self._refused = self._answered = 0
        self._settled_at = -math.inf  # refusals of requests that were sent before belong to an event that is known
        self._searching = 0.0  # seconds in which the pace doubles, 0 when the rate is known
        self._no_search = 0  # events to come in which it is not searched again
        self._steady = 0  # events in a row that found the same rate
        self._dry = 0  # events in a row between which nothing was admitted
        self._marks: deque[_Mark] = deque(maxlen=16)
        self._runs: deque[int] = deque(maxlen=EVENTS)  # requests that were admitted between two events
        self._by_chance: float | None = None  # the share that is refused, where the pace makes no difference to it
        self._at_once = 0  # refusals that asked for no wait; -1 once one did
        self._block = (0, 0)  # the last request, and how many were refused by then, that were looked at
        self._told_hold = 0.0  # seconds for which it asked when it refused last
        self._strikes = self._struck_at = 0
        self._trial_until = 0  # the number of the last request of a trial
        self._echo = 0.0  # seconds until a refusal is known
        self._probing = False
        self.allowance = Allowance(clock)
        """What the endpoint says that it still takes."""
        self.dry_since: float | None = None
        """Since when everything has been refused."""
        self._started = clock()

    @property
    def engaged(self) -> bool:
        """Whether something was refused, so that there is a pace."""
        return self._rate is not None

    @property
    def held(self) -> float:
        """Seconds for which the endpoint has asked to be left alone."""
        return max(0.0, self._held_until - self._clock())

    def restart(self) -> None:
        """The endpoint was away, and is back: ask it gently."""
        self._gentle, self._started, self._number, self._refused, self._answered = True, self._clock(), 0, 0, 0
        self._marks.clear()
        self.allowance.forget()

    def wait(self) -> float:
        """Seconds until the next request may be sent; 0 when it may be sent now."""
        if not self._gentle and self._rate is None and not self.allowance:
            return 0.0
        now = self._clock()
        until = max(self._held_until, self._next_at)
        if self._gentle:
            until = max(until, self._gentle_until(now))
        until = max(until, self.allowance.allows_at(self._number))
        return max(0.0, until - now)

    def sent(self) -> Ticket:
        """A request is sent now."""
        now = self._clock()
        self._number += 1
        if self._trial_until and self._number > self._trial_until:
            self._trial_until = 0
            self._climbs_from, self._climbs_at = now, self._number
            self._runs.clear()
        if self._rate is not None:
            gap = 1 / self._rate_at(now)
            if self._probing:  # what becomes of the first one after a hold should be known before the next
                self._probing, gap = False, max(gap, 2 * self._echo + CATCH_UP_SECONDS)
            is_late = now - self._next_at <= CATCH_UP_SECONDS
            self._next_at = (self._next_at if is_late else now) + gap
        return Ticket(now, self._number)

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
        self._refused += 1
        self._at_once = -1 if after or self._at_once < 0 else self._at_once + (after == 0)
        pace = self._rate_at(now if ticket is None else ticket.at)
        self.dry_since = self.dry_since if self.dry_since is not None else now
        if after:
            self._held_until = max(self._held_until, now + after + SLACK_SECONDS)
        if ticket is None:
            ticket = Ticket(now, self._number) if self._rate is None else Ticket(-math.inf, 0)
        if ticket.at < self._settled_at:
            if self._marks and ticket.number < self._marks[-1].number:  # it was thought to have been admitted
                self._marks[-1] = self._marks[-1]._replace(admitted=self._marks[-1].admitted - 1)
            return
        self._echo += (now - ticket.at - self._echo) / 4 if self._echo else now - ticket.at
        if self._at_once > 0 and after == 0 and self._is_affordable(ticket):
            self._settled_at = now
            return
        self._measure(ticket, pace)
        self._told_hold = after or 0.0
        self._held_until = max(self._held_until, now + self._own_hold(after))
        self._settled_at = now
        self._probing = True
        self._next_at = self._held_until

    def _is_affordable(self, ticket: Ticket) -> bool:
        """Whether so few are refused that the pace may stay where it is."""
        if not self._marks or self._trial_until:
            return False
        known, admitted = self._marks[-1], ticket.number - self._refused
        if admitted - known.admitted < AFFORDABLE * (ticket.number - known.number):
            return False
        self._marks.append(_Mark(*ticket, admitted, known.rate))
        self._dry = 0
        return True

    def _measure(self, ticket: Ticket, pace: float) -> None:
        """Learn from a refusal: what was admitted since the last ones is less than the rate, the pace is more."""
        admitted = max(0, ticket.number - self._refused)
        self._check_chance(ticket)
        if not self._marks:
            self._searching, self._dry = SEARCH_SECONDS, 0
            self._cut(ticket, admitted, max(admitted / max(ticket.at - self._started, 1.0), FIRST_RATE))
            return
        run = admitted - self._marks[-1].admitted
        if run <= 0:
            self._dry += 1
            return
        was_dry, self._dry = self._dry > 0, 0
        self._runs.append(run)
        since = next((one for one in reversed(self._marks) if admitted - one.admitted >= MEASURED_REQUESTS), None)
        since = since or self._marks[0]
        least = (admitted - since.admitted) / max(ticket.at - since.at, 1e-3)
        most = self._most(pace, least, was_dry=was_dry)
        if self._is_chance(ticket, pace):
            self._searching = SEARCH_SECONDS
            self._marks.append(_Mark(*ticket, admitted, pace))
        else:
            self._cut(ticket, admitted, max(most, least))

    def _most(self, pace: float, least: float, *, was_dry: bool) -> float:
        """The most that the rate may be, given the pace at which it was exceeded, and the least that it is."""
        searching, self._searching = self._searching, 0.0
        if searching == SEARCH_SECONDS:
            self._runs.clear()
        if was_dry:  # nothing of what was allowed was left unused
            self._searching = SEARCH_AGAIN_SECONDS if searching == SEARCH_SECONDS else 0.0
            return min(pace, least * 1.15)
        if searching:
            return pace
        self._no_search = max(0, self._no_search - 1)
        if (
            least < 0.35 * pace and self._told_hold * pace > 2 and not self._no_search
        ):  # the hold may have been too long
            self._searching, self._no_search = SEARCH_AGAIN_SECONDS, NO_SEARCH_EVENTS
        return min(pace, 2 * least)

    def _cut(self, ticket: Ticket, admitted: int, rate: float) -> None:
        rate = max(rate, SLOWEST)
        steady = self._rate is not None and 1 - STEADY / 4 < rate / self._rate < 1 + STEADY
        self._steady = min(self._steady + 1, MOST_STEADY) if steady else 0
        self._rate = rate
        self._marks.append(_Mark(*ticket, admitted, self._rate))
        self._climbs_from, self._climbs_at = self._clock(), self._number

    def _is_chance(self, ticket: Ticket, pace: float) -> bool:
        """Whether requests are refused whatever the pace is: they are at a quarter of it just as much.

        That is tried out when a lower pace has made no difference.
        """
        runs = list(self._runs)
        if self._trial_until:
            if ticket.number <= self._trial_until:
                known = self._marks[-min(EVENTS_AT_ONCE, len(self._marks))]
                let_in = ticket.number - self._refused - known.admitted
                self._by_chance = 1 - let_in / (ticket.number - known.number)
                self._block = ticket.number, self._refused
                self._rate = max(mark.rate for mark in self._marks)
                self._climbs_from, self._climbs_at = self._clock(), self._number
            self._trial_until = 0
        elif self._by_chance is None and self._makes_no_difference(runs, pace):
            self._trial_until = self._number + max(4, 2 * sum(runs) // len(runs))
        return self._by_chance is not None

    def _makes_no_difference(self, runs: list[int], pace: float) -> bool:
        if self._at_once >= EVENTS_AT_ONCE <= len(runs):
            few = sum(runs[-EVENTS_AT_ONCE:]) < EVENTS_AT_ONCE * FEW_ADMITTED / 2
            return few or pace < DECLINE * self._marks[-EVENTS_AT_ONCE].rate
        half = EVENTS // 2
        return (
            len(runs) == EVENTS
            and pace < DECLINE * self._marks[1 - EVENTS].rate
            and sum(runs) < EVENTS * FEW_ADMITTED
            and sum(runs[half:]) < 1.5 * sum(runs[:half])
        )

    def _check_chance(self, ticket: Ticket) -> None:
        """Whether as many are refused by chance as were before: if it is more, there is a limit, too."""
        if self._by_chance is None or ticket.number - self._block[0] < BLOCK_REQUESTS:
            return
        share = (self._refused - self._block[1]) / (ticket.number - self._block[0])
        self._block = ticket.number, self._refused
        if share > self._by_chance + MORE_REFUSED:
            self._by_chance = None
            self._runs.clear()

    def _own_hold(self, after: float | None) -> float:
        """Seconds to hold on our own account: until one more should be let in, longer when that was not enough."""
        at_once = after == 0 and self._at_once > 0
        if self._by_chance is not None:
            usual = MOST_DRY_BY_CHANCE
        else:
            usual = MOST_DRY_AT_ONCE if at_once else int(after is not None)
        if self._dry > usual:
            first = max(FIRST_HOLD_SECONDS, 1 / (self._rate or 1.0) if not self._searching else 0.0)
            most = MOST_HOLD_AT_ONCE if at_once else max(MOST_HOLD_SECONDS, first)
            return min(most, first * 2.0 ** min(self._dry - max(usual, 1), 10))
        return 0.0 if after is not None or self._rate is None else min(1 / self._rate, 2.0)

    def _rate_at(self, now: float) -> float:
        rate = self._rate or SLOWEST
        if self._trial_until:
            return rate / 4
        sent = self._number - self._climbs_at
        if self._searching:  # it doubles in that time as long as so many are sent
            return rate + sent * math.log(2) / self._searching
        since = max(0.0, now - max(self._climbs_from, self._held_until))
        hold = max(0.0, self._held_until - self._climbs_from)
        plateau = max(PLATEAU_SECONDS, PLATEAU_REQUESTS / rate, min(PLATEAU_HOLDS * hold, MOST_PLATEAU_SECONDS))
        beyond = since / (plateau * 2.0**self._steady) - 1
        if beyond <= 0:
            return rate * (1 + BACK_OFF / (1 + self._steady) * beyond**3)
        used = sent / (now - self._climbs_from)  # a pace that is not used up is not found too slow either
        return min(rate * (1 + BACK_OFF * beyond**3), max(rate, USED_UP * used))

    def _gentle_until(self, now: float) -> float:
        """When the next of the first requests may be sent: so many at once, then more by time and by answers."""
        beyond = self._number - 2 * self._answered
        if now - self._started >= GENTLE_SECONDS:
            self._gentle = False
        elif beyond >= FIRST_AT_ONCE:
            return self._started + min(DOUBLING_SECONDS * math.log2((beyond + 1) / FIRST_AT_ONCE), GENTLE_SECONDS)
        return now
