"""What one request has used up of its tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from domyn_swarm.endpoint.replica import Spell


class Tries:
    """The tries of one request: `retries` more than one, for `patience` seconds of tries and waits between them.

    `sent` counts requests. Failures count only as long as they may be the request's own; waiting for a rate limit, or
    for an endpoint to come back, does not count at all. `own_model` is a model that only this request names.
    """

    def __init__(self, retries: int, patience: float, clock: Callable[[], float], own_model: str | None = None) -> None:
        self.own_model = own_model
        self.sent = 0
        self.refusals = 0
        self.turned_away = False
        self._retries = retries
        self._patience = patience
        self._clock = clock
        self._spells: list[Spell] = []
        self._seconds = self._refused_since = 0.0

    @property
    def charged(self) -> int:
        """Failures that count."""
        return sum(not spell.is_replicas for spell in self._spells)

    @property
    def are_used_up(self) -> bool:
        """Whether as many have failed as may."""
        return self.charged > self._retries

    @property
    def is_singled_out(self) -> bool:
        """Whether rate limits have kept this request out for so long and so often that it must be the request."""
        return self.refusals > self._retries and self._clock() - self._refused_since > self._patience

    def charge(self, spell: Spell, seconds: float) -> None:
        """A try failed after so many seconds."""
        self._spells.append(spell)
        self._seconds += seconds

    def refused(self) -> None:
        """A rate limit refused the request, which is nobody's failure."""
        if not self.refusals:
            self._refused_since = self._clock()
        self.refusals += 1

    def take(self, wait: float) -> bool:
        """Whether another try in `wait` seconds comes in time; if so they are used up."""
        if self._seconds + wait > self._patience:
            return False
        self._seconds += wait
        return True
