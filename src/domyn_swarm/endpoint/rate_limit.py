"""Requests and tokens a minute, kept below what is allowed.

A bucket holds one second's worth, so that no minute sees more than is allowed, not even the first; a single request
that is worth more than a second's tokens may come on top. What a request costs in tokens is known only from its answer,
so it pays an estimate before and the difference after. That is also why this is no library: those that are kept up
(aiolimiter, limits) take what is asked for and have no way to settle.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from domyn_swarm.concurrency import slots

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_TOKENS_PER_BYTE = 1.0
MEMORY = 50
"""Requests over which the cost of a byte is averaged."""


LOOK_SECONDS = 1.0


class Bucket:
    """A bucket that fills with `per_minute`; it may go below zero, and then everybody waits until it is even."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._most = max(1.0, per_minute / 60)
        self._rate = (
            per_minute - (self._most - 1)
        ) / 60  # a full bucket and what flows in make no more than a minute's
        self._level = self._most
        self._clock = clock
        self._then = clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount` may be taken, or as much of it as the bucket can hold."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._then) * self._rate)
        self._then = now
        seconds = (min(amount, self._most) - self._level) / self._rate
        return seconds if seconds > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount` out; a negative one puts it back."""
        self._level -= amount


class Rates:
    """At most `max_rpm` requests and `max_tpm` tokens a minute; None is no limit. Requests are let in as they come."""

    def __init__(
        self, max_rpm: float | None, max_tpm: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = Bucket(max_rpm, clock) if max_rpm else None
        self._tokens = Bucket(max_tpm, clock) if max_tpm else None
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE
        self._turn = asyncio.Lock()

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to wait for."""
        return self._requests is None and self._tokens is None

    async def admit(self, size: int) -> float:
        """Wait until a request of `size` bytes may be sent; the tokens that it is thought to cost."""
        if self.unlimited:
            return 0.0
        async with self._turn:
            while wait := self._wait(size):
                await slots.pause(min(wait, LOOK_SECONDS), keeping=True)  # answers may put something back meanwhile
            tokens = size * self._tokens_per_byte
            if self._requests:
                self._requests.take(1)
            if self._tokens:
                self._tokens.take(tokens)
        return tokens

    def settle(self, size: int, estimated: float, used: int | None) -> None:
        """A request of `size` bytes used so many tokens; None: nobody knows, so the estimate stands."""
        if self._tokens is None or used is None:
            return
        self._tokens.take(used - estimated)
        if used:
            self._tokens_per_byte += (used / max(size, 1) - self._tokens_per_byte) / MEMORY

    def _wait(self, size: int) -> float:
        wait = self._requests.wait(1) if self._requests else 0.0
        return max(wait, self._tokens.wait(size * self._tokens_per_byte)) if self._tokens else wait
