"""What becomes of a request that failed: another try here or elsewhere, its own failure, or the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domyn_swarm.concurrency import slots
from domyn_swarm.concurrency.retry import backoff, is_overload
from domyn_swarm.endpoint.replica import GONE_STATUS
from domyn_swarm.errors import EndpointError, opt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.endpoint.ends import Ends
    from domyn_swarm.endpoint.probes import Probes
    from domyn_swarm.endpoint.replica import Replica
    from domyn_swarm.endpoint.tries import Tries


class Failures:
    """Failures of requests to `replicas`. `patience` is how long one request may be tried; times are in seconds."""

    def __init__(
        self, replicas: Sequence[Replica], ends: Ends, probes: Probes, patience: float, clock: Callable[[], float]
    ) -> None:
        self._replicas = replicas
        self._ends = ends
        self._probes = probes
        self._patience = patience
        self._clock = clock

    async def handle(self, replica: Replica, ticket: Ticket, error: EndpointError, tries: Tries) -> None:
        """Return when it is time for another try. Raises `error` when there will be none, or what ends the run."""
        if error.condition == "spent":
            self._ends.retire(replica, error)
            return
        if error.condition == "busy":
            await self._busy(replica, ticket, error, tries)
            return
        replica.pace.admitted()
        if self._ends.turns_away(replica, error, tries):
            await self._try_elsewhere(replica, error, tries)
        else:
            tries.charge(replica.spell, self._clock() - ticket.at)
            await self._judge(replica, error, tries)
            await self.wait_for_another_try(replica, error, tries)

    async def _judge(self, replica: Replica, error: EndpointError, tries: Tries) -> None:
        """Find out whether a failure is the replica's, whatever it is asked, before it counts as the request's."""
        gone = replica.failed(error)
        if replica.troubled and any(one.may_recover for one in self._replicas if one is not replica):
            replica.spell.is_replicas = True
        if gone or (error.status in GONE_STATUS and error.retryable and tries.are_used_up):
            await self._probes.judge(replica, error)

    def _another_is_good(self, replica: Replica) -> bool:
        now = self._clock()
        return any(one is not replica and one.is_good(now) for one in self._replicas)

    async def _busy(self, replica: Replica, ticket: Ticket, error: EndpointError, tries: Tries) -> None:
        """Hold the endpoint, or let the limit of calls in flight see to it where that adapts.

        Raises:
            ConditionError: no endpoint has let anything in for as long as a request may be tried.
            EndpointError: others were let in, and this request was not, for as long.
        """
        replica.busy_with = error
        tries.refused()
        crowd = slots.current()
        if error.retry_after is None and crowd is not None and crowd.adaptive and not replica.pace.is_needed(
            ticket, replica.in_flight
        ):  # fmt: skip
            crowd.rejected()
            await slots.pause(backoff(tries.refusals, error))
        else:
            replica.pace.refused(ticket, error.retry_after)
        self._ends.check_dry()
        if tries.is_singled_out:
            raise self._final(error, tries)

    async def _try_elsewhere(self, replica: Replica, error: EndpointError, tries: Tries) -> None:
        """Return when it is time for another try, after a refusal that has nothing to do with the request."""
        tries.refused()
        if tries.is_singled_out:
            raise self._final(error, tries)
        if replica.spent is None and not self._another_is_good(replica):
            await slots.pause(backoff(tries.refusals, error))

    async def wait_for_another_try(self, replica: Replica, error: EndpointError, tries: Tries) -> None:
        """Return when it is time for it. Raises `error` when there will be none, Halted when the run ends before."""
        wait = 0.0 if self._another_is_good(replica) else backoff(max(tries.charged, 1), error)
        in_time = tries.take(wait)
        if is_overload(error):
            slots.rejected()
        if error.retryable and not tries.are_used_up and in_time:
            await slots.pause(wait, keeping=not wait)
            return
        if error.retryable and not in_time:
            error = _too_late(error, wait, self._patience)
        raise self._final(error, tries)

    @staticmethod
    def _final(error: EndpointError, tries: Tries) -> EndpointError:
        error.retryable = False  # whoever makes the calls need not try on
        error.attempts = tries.sent
        return error


def _too_late(error: EndpointError, wait: float, most: float) -> EndpointError:
    return EndpointError(
        f"{error.text.rstrip('.')}. Another try would come in {wait:,.0f} s, more than "
        f"{opt('retry_timeout', most)} allows.",
        status=error.status,
        code="request.refused",
    )
