"""Slots for calls in flight: how many there are, which calls hold one, which wait for one.

Whoever makes calls takes a slot for as long as it has calls to make. A call that only waits (to be tried again, for
somebody else's answer) gives its slot back meanwhile, so that waiting rows do not keep others from being called.
Calls find the slots of their run in a context variable, so code that knows nothing of them needs nothing.

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

_CURRENT: ContextVar[ConcurrencyLimiter] = ContextVar("slots")
_ROW: ContextVar[Row] = ContextVar("row")


class Row:
    """Whoever holds one slot, with all tasks that it starts: how many of them wait for something else.

    `held` are the bytes of large answers that came for the row in hand; those of the calls that a row makes at once,
    each with a slot of its own, count for the `whole` row.
    """

    away = held = 0

    def __init__(self, whole: Row | None = None) -> None:
        self.whole = whole or self


class Halted(BaseException):
    """The run ends while a call waits: its row has neither an output nor a failure, and is the next run's."""


class ConcurrencyLimiter:
    """`limit` slots, or as many as turn out to be good for the server (None), `most` of them.

    `spawn` is called when a slot is free and no call waits for it; it returns whether something took the slot.
    `hurry` is set when the run ends, and no call should wait any longer.
    """

    def __init__(self, limit: int | None, spawn: Callable[[], bool], hurry: asyncio.Event, most: int = MOST) -> None:
        self._adaptive = AdaptiveLimit(most=most) if limit is None else None
        self.limit = self._adaptive.limit if self._adaptive else limit or 1
        self.taken = 0
        self.crowded = False
        """Whether whoever has a slot should hand it over: to a call that comes back, or because there are fewer."""
        self.answers = ByteBudget(answer_bytes())
        self._spawn = spawn
        self._hurry = hurry
        self._returning: deque[asyncio.Future[None]] = deque()
        self._resting: deque[asyncio.Future[None]] = deque()

    @property
    def adaptive(self) -> bool:
        """Whether the limit moves."""
        return self._adaptive is not None

    def enter(self) -> None:
        """Make these the slots of the current context and of all tasks that it starts."""
        _CURRENT.set(self)

    def enter_row(self, whole: Row | None = None) -> Row:
        """Make the current context, and all tasks that it starts, one holder of one slot; a part of the row `whole`."""
        row = Row(whole)
        _ROW.set(row)
        return row

    def fill(self) -> None:
        """Spawn for all slots."""
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
        """Give a slot back."""
        self.taken -= 1
        self._hand_out()

    async def take(self, *, returning: bool = False) -> None:
        """Wait for a slot; calls that had one before come first, and wait no more once it is time to hurry."""
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
                self.taken += 1  # whoever is cancelled gives back a slot that it is thought to have
            raise

    def let_all_in(self) -> None:
        """Let all calls that wait continue: the run ends, and they find out."""
        for turn in [*self._returning, *self._resting]:
            self._grant(turn)
        self._returning.clear()
        self._resting.clear()
        self.crowded = False

    @contextlib.asynccontextmanager
    async def given_back(self) -> AsyncIterator[None]:
        """The time in which a call gives its slot back. Of several at once in one row, the first and last count."""
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
        """Wait without a slot, or `keeping` it.

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
        while self.taken < self.limit and self._spawn():
            self.taken += 1

    def _grant(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_result(None)
            self.taken += 1


async def pause(seconds: float, *, keeping: bool = False) -> None:
    """Wait, giving back the slot of the call that waits unless it is `keeping` it.

    Raises:
        Halted: the run is about to end.
    """
    if (limiter := _CURRENT.get(None)) is not None:
        await limiter.pause(seconds, keeping=keeping)
    else:
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def given_back() -> AsyncIterator[None]:
    """The time in which a call waits for something else than its own request, without its slot."""
    if (limiter := _CURRENT.get(None)) is None:
        yield
        return
    async with limiter.given_back():
        yield


async def reserve(size: int) -> None:
    """Wait until an answer of `size` bytes may be read. They count until the row's output is on its way to the disk.

    Whoever has part of a row's answers does not wait for the rest: rows would wait for one another.
    """
    row, limiter = _ROW.get(None), _CURRENT.get(None)
    if row is None or limiter is None:
        return
    row = row.whole
    first = not row.held
    row.held += size
    if not first:
        limiter.answers.overdraw(size)
        return
    try:
        await limiter.answers.reserve(size)
    except BaseException:
        row.held -= size
        raise


def rejected() -> None:
    """Tell whoever makes the calls that the server asked for fewer."""
    if (limiter := _CURRENT.get(None)) is not None:
        limiter.rejected()


def current_row() -> Row | None:
    """The row that this is called for."""
    return _ROW.get(None)


def current() -> ConcurrencyLimiter | None:
    """The slots of the run that this is called in."""
    return _CURRENT.get(None)
