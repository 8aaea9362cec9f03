"""Requests and tokens a minute, kept below what is allowed.

A bucket holds one second's worth, so that no minute sees more than is allowed, not even the first. What a request costs
in tokens is known only from its answer, so it pays an estimate before and the difference after. That is also why this
is no library: those that are kept up (aiolimiter, limits) take what is asked for and have no way to settle.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_TOKENS_PER_BYTE = 1.0
MEMORY = 50
"""Requests over which the cost of a byte is averaged."""


class Bucket:
    """A token bucket that fills with `per_minute`; it may go below zero, and then everybody waits until it is even."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max(1.0, per_minute / 60)
        self._rate = max(per_minute - self._most, per_minute / 2) / 60
        self._level = self._most
        self._clock = clock
        self._then = clock()

    def take(self, amount: float) -> float:
        """Take `amount` out; the seconds to wait before it may be used. Turns come in the order of calls."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._then) * self._rate)
        self._then = now
        self._level -= amount
        return max(0.0, -self._level / self._rate)

    def give(self, amount: float) -> None:
        """Put back what was taken too much, or take what was missing."""
        self._level += amount


class Rates:
    """At most `max_rpm` requests and `max_tpm` tokens a minute; None is no limit."""

    def __init__(
        self, max_rpm: float | None, max_tpm: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = Bucket(max_rpm, clock) if max_rpm else None
        self._tokens = Bucket(max_tpm, clock) if max_tpm else None
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE

    async def admit(self, size: int) -> float:
        """Wait until a request of `size` bytes may be sent; the tokens that it is thought to cost."""
        tokens = size * self._tokens_per_byte
        wait = self._requests.take(1) if self._requests else 0.0
        if self._tokens:
            wait = max(wait, self._tokens.take(tokens))
        if wait:
            await asyncio.sleep(wait)
        return tokens

    def settle(self, size: int, estimated: float, used: int) -> None:
        """A request of `size` bytes used so many tokens."""
        if self._tokens:
            self._tokens.give(estimated - used)
            if used:
                self._tokens_per_byte += (used / max(size, 1) - self._tokens_per_byte) / MEMORY
