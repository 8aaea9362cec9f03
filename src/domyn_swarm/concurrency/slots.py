"""Slots for calls in flight: how many there are, which calls hold one, which wait for one.

Whoever makes calls takes a place for as long as it has calls to make. A call that only waits (to be tried again, for
somebody else's answer) gives its place back meanwhile, so that waiting rows do not keep others from being called.
Calls find the places of their run in a context variable, so code that knows nothing of them needs nothing.

Everything happens on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING

from domyn_swarm.concurrency.adaptive import MOST, AdaptiveLimit
from domyn_swarm.concurrency.memory import ByteBudget, answer_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_CURRENT: ContextVar[ConcurrencyLimiter] = ContextVar("places")
_ROW: ContextVar[Row] = ContextVar("row")


class Row:
    """Whoever holds one place, with all tasks that it starts: how many of them wait for something else.

    `held` are the bytes of large answers that came for the row in hand.
    """

    away = held = 0


class Halted(BaseException):
    """The run ends while a call waits: its row has neither an output nor a failure, and is the next run's."""


class ConcurrencyLimiter:
    """`limit` places, or as many as turn out to be good for the server (None), `most` of them.

    `hire` is called when a place is free and nobody waits for it; it tells whether it found somebody who has it now.
    `hurry` is set when the run ends, and nobody should wait any longer.
    """

    def __init__(self, limit: int | None, hire: Callable[[], bool], hurry: asyncio.Event, most: int = MOST) -> None:
        self._adaptive = AdaptiveLimit(most=most) if limit is None else None
        self.limit = self._adaptive.limit if self._adaptive else limit or 1
        self.taken = 0
        self.crowded = False
        """Whether whoever has a place should hand it over: to a call that comes back, or because there are fewer."""
        self.answers = ByteBudget(answer_bytes())
        self._hire = hire
        self._hurry = hurry
        self._returning: deque[asyncio.Future[None]] = deque()
        self._resting: deque[asyncio.Future[None]] = deque()

    @property
    def adaptive(self) -> bool:
        """Whether the limit moves."""
        return self._adaptive is not None

    def enter(self) -> None:
        """Make these the places of the current context and of all tasks that it starts."""
        _CURRENT.set(self)

    def enter_row(self) -> Row:
        """Make the current context, and all tasks that it starts, one holder of one place."""
        row = Row()
        _ROW.set(row)
        return row

    def fill(self) -> None:
        """Hire for all places."""
        self._hand_out()

    def completed(self) -> None:
        """A call came through."""
        if self._adaptive:
            self._move_to(self._adaptive.completed())

    def rejected(self) -> None:
        """The server asked for fewer calls."""
        if self._adaptive:
            self._move_to(self._adaptive.rejected())

    def release(self) -> None:
        """Give a place back."""
        self.taken -= 1
        self._hand_out()

    async def take(self, *, returning: bool = False) -> None:
        """Wait for a place; calls that had one before come first, and wait no more once it is time to hurry."""
        if (returning and self._hurry.is_set()) or (self.taken < self.limit and not self._returning):
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._returning if returning else self._resting).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.taken += 1  # whoever is cancelled gives back a place that it is thought to have
            raise

    def let_all_in(self) -> None:
        """Let everybody who waits go on: the run ends, and they find out."""
        for turn in [*self._returning, *self._resting]:
            self._grant(turn)
        self._returning.clear()
        self._resting.clear()
        self.crowded = False

    @contextlib.asynccontextmanager
    async def given_back(self) -> AsyncIterator[None]:
        """The time in which a call gives its place back. Of several at once in one row, the first and last count."""
        row = _ROW.get(None) or Row()
        row.away += 1
        if row.away == 1:
            self.release()
        try:
            yield
        finally:
            row.away -= 1
            if row.away == 0:
                await self.take(returning=True)

    async def pause(self, seconds: float, *, keeping: bool = False) -> None:
        """Wait without a place, or `keeping` it.

        Raises:
            Halted: it is time to hurry.
        """
        async with contextlib.nullcontext() if keeping else self.given_back():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), seconds)
        if self._hurry.is_set():
            raise Halted

    def _move_to(self, limit: int) -> None:
        if limit != self.limit:
            self.limit = limit
            self._hand_out()

    def _hand_out(self) -> None:
        while self.taken < self.limit and (queue := self._returning or self._resting):
            self._grant(queue.popleft())
        self.crowded = bool(self._returning) or self.taken > self.limit
        while self.taken < self.limit and self._hire():
            self.taken += 1

    def _grant(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_result(None)
            self.taken += 1


async def pause(seconds: float, *, keeping: bool = False) -> None:
    """Wait, giving back the place of the call that waits unless it is `keeping` it.

    Raises:
        Halted: the run is about to end.
    """
    if (places := _CURRENT.get(None)) is not None:
        await places.pause(seconds, keeping=keeping)
    else:
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def given_back() -> AsyncIterator[None]:
    """The time in which a call waits for something else than its own request, without its place."""
    if (places := _CURRENT.get(None)) is None:
        yield
        return
    async with places.given_back():
        yield


async def reserve(size: int) -> None:
    """Wait until an answer of `size` bytes may be read. They count until the row's output is on its way to the disk.

    Whoever has part of a row's answers does not wait for the rest: rows would wait for one another.
    """
    row, slots = _ROW.get(None), _CURRENT.get(None)
    if row is None or slots is None:
        return
    first = not row.held
    row.held += size
    if not first:
        slots.answers.overdraw(size)
        return
    try:
        await slots.answers.reserve(size)
    except BaseException:
        row.held -= size
        raise


def rejected() -> None:
    """Tell whoever makes the calls that the server asked for fewer."""
    if (places := _CURRENT.get(None)) is not None:
        places.rejected()


def current() -> ConcurrencyLimiter | None:
    """The places of the run that this is called in."""
    return _CURRENT.get(None)
