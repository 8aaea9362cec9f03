"""Endpoints that serve the same model, as one: a request goes to the least loaded of them, and again if that can help.

An endpoint that fails several times in a row is set aside and asked for its models until it answers; the rows meanwhile
go to the others, or wait if there are none. What is no row's fault (a rate limit, no credit, an endpoint that is gone)
costs no row a try. Nothing here knows what a request is about.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from domyn_swarm.concurrency import slots
from domyn_swarm.endpoint.answer_counts import count_answer
from domyn_swarm.endpoint.answers import error_in, fault_of
from domyn_swarm.endpoint.conditions import condition_of, retry_after_of
from domyn_swarm.endpoint.ends import Ends
from domyn_swarm.endpoint.failures import Failures
from domyn_swarm.endpoint.probes import Probes
from domyn_swarm.endpoint.replica import Replica, Spell, next_of
from domyn_swarm.endpoint.single_flight import SingleFlight
from domyn_swarm.endpoint.tries import Tries
from domyn_swarm.errors import EndpointError
from domyn_swarm.telemetry import trace
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.endpoint.client import Reply
    from domyn_swarm.endpoint.rate_limit import Rates
    from domyn_swarm.endpoint.replica import Transport

LOOK_SECONDS, TURN_SECONDS = 0.5, 0.1

Judge: TypeAlias = Callable[[dict[str, Any]], None]


class Answer(msgspec.Struct, frozen=True):
    """What came back: the JSON object, the seconds that it took, and how many requests were needed."""

    body: dict[str, Any]
    seconds: float
    attempts: int


class LoadBalancer:
    """Requests over `clients`, which are open. `retries` and `retry_timeout` (seconds) bound the tries of one request.

    All may be away for `absence` seconds, by default for as long as a request may be tried. `counts` tells what
    happened so far; `clock` is in seconds.
    """

    def __init__(
        self, clients: Sequence[Transport], rates: Rates, *, retries: int, retry_timeout: float, dedupe: bool,
        absence: float | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.counts = Counts()
        self._clock = clock
        self._replicas = [Replica(client, clock) for client in clients]
        self._rates = rates
        self._retries = retries
        self._retry_timeout = retry_timeout
        self._shared = SingleFlight() if dedupe else None
        self._line = asyncio.Lock()  # those who may not send yet, in the order in which they came
        self._turn = 0
        self._ends = Ends(self._replicas, retry_timeout, clock, retry_timeout if absence is None else absence)
        self._probes = Probes()
        self._failures = Failures(self._replicas, self._ends, self._probes, retry_timeout, clock)

    async def post(
        self, path: str, payload: dict[str, Any], judge: Judge | None = None, model: str | None = None
    ) -> Answer:
        """The answer to a POST of `payload` to `path` (`chat/completions`).

        `model` is the one that this request names and others do not: that it is unknown is the request's failure.

        `judge` is called with the body of an answer, and raises an EndpointError if a row cannot have it. Such an
        answer has been paid for and says nothing against the endpoint; if the error is `retryable` there is another
        try.

        Raises:
            EndpointError: there is none, after as many tries as are allowed and can help.
            JobError: no request of this run can succeed.
            ConditionError: no endpoint is there any more, or lets any request in.
        """
        body = msgspec.json.encode(payload)
        if self._shared is None:
            return await self._persist(path, body, judge, model)
        answer, shared = await self._shared.once(path, body, lambda: self._persist(path, body, judge, model), Answer)
        if shared:
            self.counts.shared += 1
            trace.shared(path, body, answer.body)
        found: Answer = answer
        return found

    def pick(self) -> Transport:
        """An endpoint for a request that somebody else sends: the least loaded, if any is up."""
        self._turn += 1
        best, _ = next_of(self._replicas, self._turn, self._clock())
        return (best or self._replicas[self._turn % len(self._replicas)]).client

    async def close(self) -> None:
        """Stop asking replicas that were set aside."""
        await self._probes.close()

    async def _persist(self, path: str, body: bytes, judge: Judge | None, model: str | None) -> Answer:
        tries = Tries(self._retries, self._retry_timeout, self._clock, model)
        exchange = trace.exchange(path, body)
        while True:
            replica, ticket, estimate = await self._admitted(len(body))
            tries.sent += 1
            this = trace.Attempt(time.time(), url=replica.client.base_url)
            exchange.attempts.append(this)
            try:
                reply = await self._send(replica, path, body, exchange)
            except EndpointError as error:
                this.seconds, this.status, this.error = self._clock() - ticket.at, error.status, error.message
                self._rates.settle(len(body), estimate, 0)
                await self._failures.handle(replica, ticket, error, tries)
                self.counts.retries += 1
            else:
                this.seconds = seconds = self._clock() - ticket.at
                used = self._answered(replica, reply.body, seconds, own_model=model is not None)
                replica.heard(ticket, reply.headers, used)
                self._rates.settle(len(body), estimate, used)
                if (unfit := _judged(judge, reply.body)) is None:
                    return Answer(reply.body, seconds, tries.sent)
                this.error = unfit.message
                tries.charge(Spell(), seconds)
                await self._failures.wait_for_another_try(replica, unfit, tries)
                self.counts.retries += 1

    async def _admitted(self, size: int) -> tuple[Replica, Ticket, float]:
        """A replica for a request of `size` bytes that may be sent now, and the tokens that it is thought to cost."""
        self._turn += 1
        if self._rates.unlimited and not self._line.locked():
            replica, _ = next_of(self._replicas, self._turn, self._clock())
            if replica is not None:
                return replica, replica.pace.sent(), 0.0
        async with self._line:
            estimate: float | None = None
            since = self._clock()
            while True:
                await self._until_one_is_back()
                replica, wait = next_of(self._replicas, self._turn, self._clock())
                if replica is None:
                    self._ends.check_hold()
                    self._ends.check_silence(since)
                    await slots.pause(min(wait, TURN_SECONDS), keeping=True)  # it may be sooner after all
                elif estimate is None:  # takes time, after which another replica may be the next
                    estimate = await self._rates.admit(size)
                else:
                    return replica, replica.pace.sent(), estimate

    async def _send(self, replica: Replica, path: str, body: bytes, exchange: trace.Exchange) -> Reply:
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        replica.in_flight += 1
        try:
            reply = await replica.client.send(path, body)
        finally:
            replica.in_flight -= 1
            counts.in_flight -= 1
        exchange.response = msgspec.json.encode(reply.body)  # an answer or not: `job row` shows what came back
        if (fault := fault_of(path, reply.body)) is not None:
            error = error_in(reply.body)
            asked = retry_after_of(reply.headers, fault, error) if error else None
            raise EndpointError(
                fault,
                status=200,
                retry_after=asked,
                condition=condition_of(200, error, fault, asked) if error else "",
                code="request.refused",
            )
        return reply

    def _answered(self, replica: Replica, answer: dict[str, Any], seconds: float, *, own_model: bool) -> int | None:
        """Count an answer; the tokens that it says it used, None when it does not say."""
        replica.pace.admitted()
        replica.has_answered, replica.turned_away = True, 0
        if replica.answered():  # those that still fail do so on their own account
            for one in self._replicas:
                one.spell.is_replicas = one.spell.is_replicas or one.troubled
        self._ends.answered()
        return count_answer(self.counts, replica, answer, seconds, own_model=own_model)

    async def _until_one_is_back(self) -> None:
        gone_since = self._clock()
        while all(one.aside or one.spent for one in self._replicas):
            self._ends.check_absence(gone_since)
            await slots.pause(min(LOOK_SECONDS, self._retry_timeout / 10), keeping=True)


def _judged(judge: Judge | None, answer: dict[str, Any]) -> EndpointError | None:
    try:
        if judge is not None:
            judge(answer)
    except EndpointError as error:
        return error
    return None
