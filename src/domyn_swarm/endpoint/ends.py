"""When no request of a run can succeed any more, so that the run should end: what the endpoints said tells."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from domyn_swarm.errors import ConditionError, JobError, opt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domyn_swarm.endpoint.replica import Replica
    from domyn_swarm.endpoint.tries import Tries
    from domyn_swarm.errors import EndpointError

KEY_OR_ADDRESS = frozenset({401, 405, 410, *range(300, 400)})
"""What a server says of the key, or of the address, whatever it is asked."""
UNKNOWN = 404
"""The address, or a model that a request names."""
FORBIDDEN = 403
"""The key, or what a text is about."""
TURNED_AWAY = 3
"""So many requests in a row are refused by an endpoint that has answered before it is asked no more."""
FORBIDDEN_AT_FIRST, REFUSED_IN_A_ROW = 10, 100
"""How many requests end a run when they are refused in a row: before there was an answer, and later."""
RESUME = "Once that has changed, the same command resumes the run."

logger = logging.getLogger("domyn_swarm")


class Ends:
    """Checks that raise when it is time to end. `patience` is how long one request may be tried, in seconds.

    All endpoints may be away for `absence` seconds.
    """

    def __init__(
        self, replicas: Sequence[Replica], patience: float, clock: Callable[[], float], absence: float
    ) -> None:
        self._replicas = replicas
        self._patience = patience
        self._absence = absence
        self._clock = clock
        self._answers = False
        self._refused = 0  # in a row
        self._answered_at = clock()

    def answered(self) -> None:
        """An endpoint has answered."""
        self._answers = True
        self._refused = 0
        self._answered_at = self._clock()

    def turns_away(self, replica: Replica, error: EndpointError, tries: Tries) -> bool:
        """Whether `replica` refused a request, whose tries are `tries`, for what is not the request's fault.

        Raises:
            JobError: no request of this run will fare better.
        """
        if error.status == UNKNOWN and tries.own_model is not None and tries.own_model in error.text:
            return False  # a model that only this request names
        if error.status in KEY_OR_ADDRESS or (error.status == UNKNOWN and not replica.has_answered):
            replica.turned_away += not tries.turned_away  # one request tells one thing, however often it is sent
            tries.turned_away = True
            replica.rest()
            if not replica.has_answered or replica.turned_away >= TURNED_AWAY:
                self.retire(replica, error)
            return True
        if error.status in (UNKNOWN, FORBIDDEN):
            self._refused += 1
            if self._refused >= (REFUSED_IN_A_ROW if self._answers else FORBIDDEN_AT_FIRST):
                raise _refuses_all(replica, error)
        return False

    def retire(self, replica: Replica, error: EndpointError) -> None:
        """`replica` is asked no more in this run.

        Raises:
            ConditionError: no endpoint has credit left.
            JobError: no endpoint takes requests.
        """
        is_known, replica.spent = replica.spent is not None, error
        if all(one.spent for one in self._replicas):
            if error.condition == "spent":
                raise ConditionError(
                    f"{self._urls} has no credit left: {error.text}", RESUME, code="condition.no_credit"
                )
            raise _refuses_all(replica, error)
        if not is_known:
            logger.warning("%s is asked no more in this run: %s", replica.client.base_url, error.message)

    def check_hold(self) -> None:
        """Raises ConditionError when each endpoint asks to be left alone for longer than a request may be tried."""
        left = [one for one in self._replicas if one.spent is None]
        if not left or any(one.aside is not None or one.pace.held <= self._patience for one in left):
            return
        soonest = min(left, key=lambda one: one.pace.held)
        raise ConditionError(
            f"{soonest.client.base_url} asks to wait for {soonest.pace.held:,.0f} s, more than "
            f"{opt('retry_timeout', self._patience)} allows: {_words(soonest.busy_with)}",
            RESUME,
            code="condition.busy",
        )

    def check_dry(self) -> None:
        """Raises ConditionError when no endpoint has let anything in for as long as a request may be tried."""
        since = [one.pace.dry_since for one in self._replicas if one.spent is None]
        if all(at is not None and self._clock() - at > self._patience for at in since):
            said = next((one.busy_with for one in self._replicas if one.busy_with), None)
            raise ConditionError(
                f"{self._urls} has refused every request for {self._patience:g} s: {_words(said)}",
                RESUME,
                code="condition.busy",
            )

    def check_silence(self, since: float) -> None:
        """Raises ConditionError when those that are there have failed in all they were asked, and the others are away.

        `since` is when the request that waits began to.
        """
        if self._clock() - max(since, self._answered_at) >= self._absence and all(
            one.aside or one.troubled or one.spent for one in self._replicas
        ):
            raise self._nobody()

    def check_absence(self, since: float) -> None:
        """Raises ConditionError when all have been away `since`, for as long as they may be."""
        if self._clock() - since >= self._absence:
            raise self._nobody()

    def _nobody(self) -> ConditionError:
        return ConditionError(
            f"No endpoint has answered for {self._absence:g} s: {self._urls}.",
            f"Bring it back. {RESUME}",
            code="condition.no_endpoint",
        )

    @property
    def _urls(self) -> str:
        return ", ".join(one.client.base_url for one in self._replicas)


def _words(error: EndpointError | None) -> str:
    return error.text if error else ""


def _refuses_all(replica: Replica, error: EndpointError) -> JobError:
    return JobError(
        f"{replica.client.base_url} refuses every request: {error.text}",
        "Check the key, the model and the address: every request would fail the same way.",
        code="endpoint.refusing",
    )
