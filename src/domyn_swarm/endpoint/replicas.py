"""Endpoints that serve the same model, as one: a request goes to the least loaded of them, and again if that can help.

An endpoint that fails several times in a row is set aside and asked for its models until it answers; the rows meanwhile
go to the others, or wait if there are none. Nothing here knows what a request is about.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from domyn_swarm.endpoint.answers import fault_of
from domyn_swarm.endpoint.shared import SharedAnswers
from domyn_swarm.errors import ConditionError, EndpointError, JobError
from domyn_swarm.helpers import places, trace
from domyn_swarm.helpers.counts import Counts
from domyn_swarm.helpers.retry import backoff, is_overload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.endpoint.client import EndpointClient
    from domyn_swarm.endpoint.rates import Rates

ASIDE_AFTER = 3
GONE_STATUS = frozenset({0, 502, 503, 504})
"""What a request ends with when nobody is there: no answer at all, or a proxy's word for it."""
REFUSED_AT_FIRST = {401: 1, 403: 10, 404: 1}
"""After how many of these, and no answer yet, it is plain that no row will fare better. 403 may be about a text."""
REFUSED_IN_A_ROW = 100
FIRST_REST_SECONDS, MOST_REST_SECONDS = 0.25, 10.0
FIRST_PROBE_SECONDS, MOST_PROBE_SECONDS = 0.25, 10.0
LOOK_SECONDS = 0.5

Judge: TypeAlias = Callable[[dict[str, Any]], None]

logger = logging.getLogger("domyn_swarm")


class Answer(msgspec.Struct, frozen=True):
    """What came back: the JSON object, the seconds that it took, and how many requests were needed."""

    body: dict[str, Any]
    seconds: float
    attempts: int


class Replica:
    """One of the endpoints, and how it does."""

    def __init__(self, client: EndpointClient) -> None:
        self.client = client
        self.in_flight = 0
        self.aside = False
        self.rests_until = 0.0
        self._failures = 0  # in a row, of those that another try may mend
        self._absences = 0  # in a row, of those that say that nobody is there

    def answered(self) -> None:
        """All is well."""
        self._failures = self._absences = 0
        self.rests_until = 0.0

    def failed(self, error: EndpointError) -> bool:
        """Rest a while, because what fails fast has few requests in flight; whether it seems to be gone."""
        if error.retryable:
            self._failures += 1
            rest = max(error.retry_after or 0.0, FIRST_REST_SECONDS * 2.0 ** min(self._failures - 1, 10))
            self.rests_until = max(self.rests_until, time.monotonic() + min(rest, MOST_REST_SECONDS))
        self._absences = self._absences + 1 if error.status in GONE_STATUS else 0
        return self._absences >= ASIDE_AFTER


class Replicas:
    """Requests over `clients`, which are open. `retries` and `retry_timeout` (seconds) bound the tries of one request.

    `counts` tells what happened so far.
    """

    def __init__(
        self, clients: Sequence[EndpointClient], rates: Rates, *, retries: int, retry_timeout: float, dedupe: bool
    ) -> None:
        self.counts = Counts()
        self._replicas = [Replica(client) for client in clients]
        self._rates = rates
        self._retries = retries
        self._retry_timeout = retry_timeout
        self._shared = SharedAnswers() if dedupe else None
        self._turn = 0
        self._refused = 0  # in a row
        self._probes: set[asyncio.Task[None]] = set()

    async def post(self, path: str, payload: dict[str, Any], judge: Judge | None = None) -> Answer:
        """The answer to a POST of `payload` to `path` (`chat/completions`).

        `judge` is called with the body of an answer, and raises an EndpointError if a row cannot have it. Such an
        answer has been paid for and says nothing against the endpoint; if the error is `retryable` there is another
        try.

        Raises:
            EndpointError: there is none, after as many tries as are allowed and can help.
            JobError: no request of this run can succeed, or no endpoint is there any more.
        """
        body = msgspec.json.encode(payload)
        if self._shared is None:
            return await self._persist(path, body, judge)
        answer, shared = await self._shared.once(path, body, lambda: self._persist(path, body, judge), Answer)
        if shared:
            self.counts.shared += 1
            trace.shared(path, body, answer.body)
        found: Answer = answer
        return found

    def pick(self) -> EndpointClient:
        """An endpoint for a request that somebody else sends: the least loaded, if any is up."""
        return (self._least_loaded() or self._replicas[0]).client

    async def close(self) -> None:
        """Ask no longer for those that were set aside."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    async def _persist(self, path: str, body: bytes, judge: Judge | None) -> Answer:
        deadline = time.monotonic() + self._retry_timeout
        exchange = trace.exchange(path, body)
        attempt = 0
        while True:
            attempt += 1
            replica, estimate = await self._admitted(len(body))
            started = time.monotonic()
            this = trace.Attempt(time.time(), url=replica.client.base_url)
            exchange.attempts.append(this)
            try:
                answer = await self._send(replica, path, body)
            except EndpointError as error:
                this.seconds, this.status, this.error = time.monotonic() - started, error.status, error.message
                self._rates.settle(len(body), estimate, 0)
                self._failed(replica, error)
                await self._wait_for_another_try(error, attempt, deadline)
            else:
                this.seconds = seconds = time.monotonic() - started
                exchange.response = msgspec.json.encode(answer)
                self._rates.settle(len(body), estimate, self._answered(replica, answer, seconds))
                if (unfit := _judged(judge, answer)) is None:
                    return Answer(answer, seconds, attempt)
                this.error = unfit.message
                await self._wait_for_another_try(unfit, attempt, deadline)

    async def _admitted(self, size: int) -> tuple[Replica, float]:
        """A replica for a request of `size` bytes that may be sent now; an outage keeps no request waiting in line."""
        while True:
            await self._until_one_is_back()
            estimate = await self._rates.admit(size)
            if (replica := self._least_loaded()) is not None:
                return replica, estimate
            self._rates.settle(size, estimate, 0)

    async def _send(self, replica: Replica, path: str, body: bytes) -> dict[str, Any]:
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        replica.in_flight += 1
        try:
            answer = await replica.client.post(path, body)
        finally:
            replica.in_flight -= 1
            counts.in_flight -= 1
        if (fault := fault_of(path, answer)) is not None:
            raise EndpointError(fault, status=200)
        return answer

    def _answered(self, replica: Replica, answer: dict[str, Any], seconds: float) -> int | None:
        """Count an answer; the tokens that it says it used, None when it does not say."""
        counts = self.counts
        replica.answered()
        self._refused = 0
        counts.answers += 1
        counts.latencies.record(seconds)
        used = [usage_of(answer, name) for name in ("prompt_tokens", "completion_tokens")]
        counts.tokens_in += used[0] or 0
        counts.tokens_out += used[1] or 0
        return None if used == [None, None] else sum(filter(None, used))

    def _failed(self, replica: Replica, error: EndpointError) -> None:
        if error.status in REFUSED_AT_FIRST:
            self._refused += 1
            few = REFUSED_AT_FIRST[error.status] if self.counts.answers == 0 else REFUSED_IN_A_ROW
            if self._refused >= few:
                raise JobError(
                    f"{replica.client.base_url} refuses every request: {error.message}",
                    "Look at the key, the model and the address; no other row would fare better.",
                )
        if replica.failed(error) and not replica.aside:
            replica.aside = True
            probe = asyncio.get_running_loop().create_task(self._probe(replica, error))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    async def _wait_for_another_try(self, error: EndpointError, attempt: int, deadline: float) -> None:
        """Return when it is time for it. Raises `error` when there will be none, Halted when the run ends before."""
        wait = backoff(attempt, error)
        in_time = time.monotonic() + wait <= deadline
        if is_overload(error):
            places.rejected()
        if error.retryable and attempt <= self._retries and in_time:
            self.counts.retries += 1
            await places.pause(wait)
            return
        if error.retryable and not in_time:
            error = _too_late(error, wait, self._retry_timeout)
        error.retryable = False  # whoever makes the calls need not try on
        error.attempts = attempt
        raise error

    def _least_loaded(self) -> Replica | None:
        """The next in turn of those with the fewest requests in flight; those that failed lately rest meanwhile."""
        self._turn += 1
        at, now = self._turn % len(self._replicas), time.monotonic()
        up = [one for one in (*self._replicas[at:], *self._replicas[:at]) if not one.aside]
        rested = [one for one in up if one.rests_until <= now]
        return min(rested or up, key=lambda one: one.in_flight, default=None)

    async def _until_one_is_back(self) -> None:
        gone_since = time.monotonic()
        while all(one.aside for one in self._replicas):
            if time.monotonic() - gone_since >= self._retry_timeout:
                urls = ", ".join(one.client.base_url for one in self._replicas)
                raise JobError(
                    f"No endpoint has answered for {self._retry_timeout:g} s: {urls}.", "Bring it back, then go on."
                )
            await places.pause(min(LOOK_SECONDS, self._retry_timeout / 10), keeping=True)

    async def _probe(self, replica: Replica, error: EndpointError) -> None:
        """Take `replica` back when it answers, whatever it says."""
        url, wait, told = replica.client.base_url, FIRST_PROBE_SECONDS, False
        while True:
            try:
                await replica.client.models()
                break
            except EndpointError as probed:
                if probed.status not in GONE_STATUS:
                    break
            except ConditionError:  # our own resources, which say nothing about the endpoint
                pass
            if not told:
                logger.warning("%s is set aside until it answers: %s", url, error.message)
                told = True
            await asyncio.sleep(wait)
            wait = min(2 * wait, MOST_PROBE_SECONDS)
        replica.answered()
        replica.aside = False
        if told:
            logger.info("%s is back", url)


def _judged(judge: Judge | None, answer: dict[str, Any]) -> EndpointError | None:
    try:
        if judge is not None:
            judge(answer)
    except EndpointError as error:
        return error
    return None


def usage_of(answer: dict[str, Any], name: str) -> int | None:
    """A number of tokens (`prompt_tokens`) in the answer's `usage`; None when it does not say."""
    usage = answer.get("usage")
    used = usage.get(name) if isinstance(usage, dict) else None
    return used if isinstance(used, int) else None


def _too_late(error: EndpointError, wait: float, most: float) -> EndpointError:
    return EndpointError(
        f"{error.message.rstrip('.')}. Another try would come in {wait:,.0f} s, and --retry-timeout is {most:g} s.",
        status=error.status,
    )
