"""One of several endpoints that serve the same model: how it does, how fast it may be asked, and which one is next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from domyn_swarm.concurrency.pace import Pace
from domyn_swarm.endpoint.conditions import allowances_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.endpoint.client import Reply
    from domyn_swarm.errors import EndpointError

TROUBLED_AFTER = 3
"""Failures in a row, of whatever requests, after which they are the replica's and not the requests'."""
GONE_STATUS = frozenset({0, 502, 503, 504})
"""What a request ends with when nobody is there: no answer at all, or a proxy's word for it."""
FIRST_REST_SECONDS, MOST_REST_SECONDS = 0.25, 10.0
LOOK_AGAIN_AFTER = 64
"""Answers without limits in their headers, after which headers are looked at again."""


class Transport(Protocol):
    """What sends a request to one endpoint: an `EndpointClient`, or a test's stand-in."""

    base_url: str

    async def send(self, path: str, body: bytes) -> Reply:
        """The answer to a POST; raises EndpointError when there is none."""

    async def models(self) -> Sequence[Any]:
        """The models that it lists; raises EndpointError."""


class Spell:
    """Failures of a replica in a row. `is_replicas`: they have turned out to be its own, whatever it was asked."""

    is_replicas = False


class Replica:
    """One of the endpoints, and how it does. `clock` is in seconds."""

    def __init__(self, client: Transport, clock: Callable[[], float]) -> None:
        self.client = client
        self.pace = Pace(clock)
        self.in_flight = 0
        self.model: str | None = None  # that answered last
        self.named: tuple[Any, Any] | None = None  # what the answer said of it
        self.aside: asyncio.Event | None = None
        """Set aside until it answers a probe; the event tells that it was probed at least once."""
        self.busy_with: EndpointError | None = None
        """What it said when it refused last, for whoever has to give up on it."""
        self.spent: EndpointError | None = None
        """No request can succeed here any more, and why."""
        self.has_answered = False
        self.turned_away = 0  # requests in a row that were refused for what is no request's fault
        self.rests_until = 0.0
        self.spell = Spell()
        self._clock = clock
        self._failures = 0  # in a row, of those that another try may cure
        self._absences = 0  # in a row, of those that say that nobody is there
        self._unlimited = 0  # answers to come whose headers are not looked at
        self._tokens_each = 0.0

    @property
    def troubled(self) -> bool:
        """Whether it has failed several times in a row, whatever it was asked."""
        return self._failures >= TROUBLED_AFTER

    @property
    def may_recover(self) -> bool:
        """Whether it is well, or away and expected back."""
        return self.spent is None and (self.aside is not None or not self.troubled)

    def is_good(self, now: float) -> bool:
        """Whether there is nothing against asking it, but for its pace."""
        return self.aside is None and self.spent is None and not self.troubled and self.rests_until <= now

    def answered(self) -> bool:
        """All is well; whether it was not before."""
        recovered = bool(self._failures or self._absences)
        if recovered:
            self._failures = self._absences = 0
            self.spell = Spell()
        self.rests_until = 0.0
        return recovered

    def is_there(self) -> None:
        """It has answered a probe, which says nothing of requests."""
        self.aside = None
        self._absences = 0

    def failed(self, error: EndpointError) -> bool:
        """Rest a while, because what fails fast has few requests in flight; whether it seems to be gone."""
        if error.retryable:
            self._failures += 1
            self.rest(max(error.retry_after or 0.0, FIRST_REST_SECONDS * 2.0 ** min(self._failures - 1, 10)))
        self._absences = self._absences + 1 if error.status in GONE_STATUS else 0
        return self._absences >= TROUBLED_AFTER

    def rest(self, seconds: float = FIRST_REST_SECONDS) -> None:
        """Let others be asked first for so long."""
        self.rests_until = max(self.rests_until, self._clock() + min(seconds, MOST_REST_SECONDS))

    def heard(self, ticket: Ticket, headers: Mapping[str, str], tokens: int | None) -> None:
        """Take note of what an answer's headers say of limits; `tokens` is what the answer has cost, if it says so."""
        if self._unlimited:
            self._unlimited -= 1
            return
        left = allowances_of(headers)
        if not left:
            self._unlimited = LOOK_AGAIN_AFTER
            return
        if tokens:
            self._tokens_each += (tokens - self._tokens_each) / 8 if self._tokens_each else tokens
        least: tuple[int, float, str] | None = None
        for unit, allowance in left.items():
            each = max(1.0, self._tokens_each) if unit == "tokens" else 1.0
            requests = int(allowance.remaining / each)
            if least is None or requests < least[0]:
                least = requests, allowance.seconds, unit
        if least is not None:
            self.pace.allowance.stated(ticket, *least)


def next_of(replicas: Sequence[Replica], turn: int, now: float) -> tuple[Replica | None, float]:
    """The replica for the next request, or None and the seconds until there may be one.

    Of those that are well, the one with the fewest requests in flight whose pace allows one more. Resting ones have to
    do when none is. One in trouble is tried with a single request when it has rested, unless there is no other at all.
    """
    if len(replicas) == 1 and (only := replicas[0]).is_good(now):
        wait = only.pace.wait()
        return (None, wait) if wait else (only, 0.0)
    at = turn % len(replicas)
    asked = [one for one in (*replicas[at:], *replicas[:at]) if one.is_good(now)]
    if len(asked) < len(replicas):
        asked = _with_trouble([*replicas[at:], *replicas[:at]], asked, now)
    soonest = float("inf")
    best: Replica | None = None
    for one in asked:
        if wait := one.pace.wait():
            soonest = min(soonest, wait)
        elif best is None or one.in_flight < best.in_flight:
            best = one
    return best, soonest


def _with_trouble(replicas: Sequence[Replica], well: list[Replica], now: float) -> list[Replica]:
    """Those of `replicas` that may be asked when not all are well."""
    left = [one for one in replicas if one.spent is None]
    there = [one for one in left if one.aside is None]
    if len(well) == len(there):
        return well
    if not any(one.may_recover for one in left):
        return there
    for one in there:
        if one.troubled and one.rests_until <= now and not one.in_flight and not one.pace.wait():
            return [one]
    return well or [one for one in there if not one.troubled]
