"""One row's calls: the first, and those after a failure or a refusal, until there is an output or a `Failure`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from domyn_swarm.concurrency.resources import exhausted
from domyn_swarm.concurrency.retry import backoff, is_overload, is_retryable
from domyn_swarm.concurrency.slots import Halted
from domyn_swarm.endpoint.tries import Tries
from domyn_swarm.engine.calls.call_pace import CallPace
from domyn_swarm.engine.calls.outputs import Failure, explained
from domyn_swarm.errors import JobError
from domyn_swarm.telemetry import trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.concurrency.slots import ConcurrencyLimiter
    from domyn_swarm.concurrency.stop import Flag, Stop
    from domyn_swarm.engine.calls.limits import Limits
    from domyn_swarm.telemetry.trace import Log

_ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit, JobError)
"""What a call may raise that is no row's failure, but the end of the run."""


class Attempts:
    """Calls the job's method for one row, again where that can help. `halt` ends all calls of the run.

    Its methods raise Halted when no further call may start, and whatever a call raises to end the run.
    """

    def __init__(
        self,
        call: Callable[[Any], Any],
        limits: Limits,
        limiter: ConcurrencyLimiter,
        stop: Stop,
        halted: Flag,
        halt: Callable[[], None],
    ) -> None:
        self.limits = limits
        self.cancelled = False
        """Calls in flight are being cancelled: that they were is no failure of theirs."""
        self._call = call
        self._limiter = limiter
        self._stop = stop
        self._halted = halted
        self._halt = halt
        self._pace = CallPace(limiter, limits.patience)
        timed = self._timed if limits.timeout else call
        self._awaited = self._counted(timed) if limiter.adaptive else timed

    def _counted(self, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def counted(payload: Any) -> Any:
            output = await call(payload)
            self._limiter.completed()
            return output

        return counted

    async def _timed(self, payload: Any) -> Any:
        try:
            async with asyncio.timeout(self.limits.timeout) as limit:
                return await self._call(payload)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no output after {self.limits.timeout:g} s") from None
            raise

    async def output(self, payload: Any, log: Log | None) -> Any:
        """The output for `payload`, or the Failure that it ended with. `log` gets what happened on the way."""
        ticket = await self._pace.wait_for_turn() if self._pace.engaged else None
        try:
            output = await self._awaited(payload)
        except BaseException as error:  # noqa: BLE001 - a row's error is its failure, whatever it is
            return await self._again(payload, error, log, ticket)
        if ticket is not None:
            self._pace.admitted()
        return output

    async def _again(self, payload: Any, error: BaseException, log: Log | None, ticket: Ticket | None) -> Any:
        attempts, tries = 1, self._tries()
        while True:
            if self._is_condition(error, ticket, tries, log):
                await self._pace.pause(error, tries)
            elif self._is_final(error, attempts, tries, log):
                return explained(Failure.of(error, attempts), payload)
            else:
                if is_overload(error):
                    self._limiter.rejected()
                await self._limiter.pause(backoff(attempts - tries.refusals, error))
            if self._stop.is_set():
                raise Halted
            ticket = await self._pace.wait_for_turn() if self._pace.engaged else None
            attempts += 1
            try:
                output = await self._awaited(payload)
            except BaseException as next_error:  # noqa: BLE001
                error = next_error
            else:
                if ticket is not None:
                    self._pace.admitted()
                return output

    def _tries(self) -> Tries:
        return Tries(self.limits.retries, self.limits.patience, time.monotonic)

    def _is_condition(self, error: BaseException, ticket: Ticket | None, tries: Tries, log: Log | None) -> bool:
        """Whether it is everybody's, so that it costs the row no try. Raises what ends the run."""
        if (
            not isinstance(error, Exception)
            or isinstance(error, JobError)
            or not self._pace.meets(error, ticket, tries)
        ):
            return False
        if log is not None:
            trace.failed(log, error)
        return True

    def _is_final(self, error: BaseException, attempts: int, tries: Tries, log: Log | None) -> bool:
        """Whether the row has failed for good. Raises one that is not the row's own: no further call starts."""
        if isinstance(error, Halted):
            raise error
        if isinstance(error, _ENDINGS) or (self.cancelled and isinstance(error, asyncio.CancelledError)):
            self._halt()
            raise error
        if (ran_out := exhausted(error)) is not None:
            self._halt()
            raise ran_out from error
        if log is not None:
            trace.failed(log, error)
        return tries.is_singled_out or attempts - tries.refusals > self.limits.retries or not is_retryable(error)

    def output_blocking(self, payload: Any, log: Log | None) -> Any:
        """The same, for a plain function, in the thread that calls this."""
        attempts, tries = 0, self._tries()
        while True:
            ticket = self._turn_blocking() if self._pace.engaged else None
            attempts += 1
            try:
                output = self._call(payload)
            except BaseException as error:  # noqa: BLE001
                wait = 0.0
                if not self._is_condition(error, ticket, tries, log):
                    if self._is_final(error, attempts, tries, log):
                        return explained(Failure.of(error, attempts), payload)
                    wait = backoff(attempts - tries.refusals, error)
                if self._halted.wait(wait) or self._stop.is_set():
                    raise Halted from None
            else:
                if ticket is not None:
                    self._pace.admitted()
                return output

    def _turn_blocking(self) -> Ticket:
        while isinstance(turn := self._pace.turn(), float):
            if self._halted.wait(turn) or self._stop.is_set():
                raise Halted
        return turn
