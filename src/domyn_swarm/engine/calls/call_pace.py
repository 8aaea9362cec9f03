"""Conditions that a job's own calls meet: a rate limit or a spent quota of a client that the job brought along.

They are seen by the errors that calls raise. A rate limit holds all calls and costs no row a try; what no row can
succeed under ends the run. Requests sent with `ask` have a pace for each endpoint before it comes to this.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from domyn_swarm.concurrency.pace import Pace
from domyn_swarm.concurrency.retry import backoff, is_retryable
from domyn_swarm.endpoint.conditions import asked_by, condition_of_error
from domyn_swarm.errors import ConditionError, opt

if TYPE_CHECKING:
    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.concurrency.slots import ConcurrencyLimiter
    from domyn_swarm.endpoint.tries import Tries

LOOK_SECONDS = 0.1
RESUME = "Once that has changed, the same command resumes the run."


class CallPace:
    """The pace of all calls of a run, once some call was refused. For calls on the event loop and in threads."""

    def __init__(self, limiter: ConcurrencyLimiter, patience: float) -> None:
        self.engaged = False
        self._limiter = limiter
        self._patience = patience
        self._pace = Pace(time.monotonic)
        self._lock = threading.Lock()
        self._line = asyncio.Lock()

    def turn(self) -> Ticket | float:
        """A ticket when a call may start now, else the seconds until one may."""
        with self._lock:
            wait = self._pace.wait()
            return min(wait, LOOK_SECONDS) if wait else self._pace.sent()

    async def wait_for_turn(self) -> Ticket:
        """A ticket, as soon as a call may start; in the order in which it was asked for."""
        async with self._line:
            while isinstance(turn := self.turn(), float):
                await self._limiter.pause(turn, keeping=True)
            return turn

    def admitted(self) -> None:
        """A call was let in."""
        with self._lock:
            self._pace.admitted()

    def meets(self, error: BaseException, ticket: Ticket | None, tries: Tries) -> bool:
        """Whether `error` is a condition under which the row is called again, for which all calls are held now.

        Raises:
            ConditionError: no call can succeed, or none is let in for longer than a row may be tried.
        """
        condition = condition_of_error(error)
        if condition == "spent":
            raise ConditionError(_words(error), RESUME, code="condition.no_credit")
        if condition != "busy" or not is_retryable(error):
            return False
        tries.refused()
        asked = asked_by(error)
        with self._lock:
            if asked is not None or not self._limiter.adaptive:
                self._pace.refused(ticket, asked)
                self.engaged = True
            held, dry_since = self._pace.held, self._pace.dry_since
        limit = f"{opt('retry_timeout', self._patience)} allows: {_words(error)}"
        if held > self._patience:
            raise ConditionError(
                f"The server asks to wait for {held:,.0f} s, more than {limit}", RESUME, code="condition.busy"
            )
        if dry_since is not None and time.monotonic() - dry_since > self._patience:
            raise ConditionError(f"Every call has been refused for longer than {limit}", RESUME, code="condition.busy")
        return not tries.is_singled_out

    async def pause(self, error: BaseException, tries: Tries) -> None:
        """Let fewer calls be in flight where their number adapts, and nothing says how long to wait."""
        if not self.engaged:
            self._limiter.rejected()
            await self._limiter.pause(backoff(tries.refusals, error))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
