"""When no request of a run can succeed any more, so that the run should end: what the endpoints said tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domyn_swarm.errors import ConditionError, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domyn_swarm.endpoint.replica import Replica
    from domyn_swarm.errors import EndpointError

REFUSED_AT_FIRST = {401: 1, 403: 10, 404: 1}
"""After how many of these, and no answer yet, it is plain that no row will fare better. 403 may be about a text."""
REFUSED_IN_A_ROW = 100
RESUME = "Once that has changed, the same command resumes the run."


class Ends:
    """Checks that raise when it is time to end. `patience` is how long one request may be tried, in seconds."""

    def __init__(self, replicas: Sequence[Replica], patience: float, clock: Callable[[], float]) -> None:
        self._replicas = replicas
        self._patience = patience
        self._clock = clock
        self._answers = False
        self._refused = 0  # in a row
        self._answered_at = clock()

    def answered(self) -> None:
        """An endpoint has answered."""
        self._answers = True
        self._refused = 0
        self._answered_at = self._clock()

    def check_refusal(self, url: str, error: EndpointError) -> None:
        """Raises JobError when `error`, from `url`, is one that every request meets."""
        if error.status in REFUSED_AT_FIRST:
            self._refused += 1
            few = REFUSED_IN_A_ROW if self._answers else REFUSED_AT_FIRST[error.status]
            if self._refused >= few:
                raise JobError(
                    f"{url} refuses every request: {error.message}",
                    "Check the key, the model and the address: every request would fail the same way.",
                )

    def check_credit(self) -> None:
        """Raises ConditionError when no endpoint has credit left."""
        if all(one.spent for one in self._replicas):
            raise ConditionError(f"{self._urls} has no credit left: {_words(self._replicas[0].spent)}", RESUME)

    def check_hold(self) -> None:
        """Raises ConditionError when each endpoint asks to be left alone for longer than a request may be tried."""
        left = [one for one in self._replicas if one.spent is None]
        if not left or any(one.aside is not None or one.pace.held <= self._patience for one in left):
            return
        soonest = min(left, key=lambda one: one.pace.held)
        raise ConditionError(
            f"{soonest.client.base_url} asks to wait for {soonest.pace.held:,.0f} s, and --retry-timeout is "
            f"{self._patience:g} s: {_words(soonest.busy_with)}",
            RESUME,
        )

    def check_dry(self) -> None:
        """Raises ConditionError when no endpoint has let anything in for as long as a request may be tried."""
        since = [one.pace.dry_since for one in self._replicas if one.spent is None]
        if all(at is not None and self._clock() - at > self._patience for at in since):
            said = next((one.busy_with for one in self._replicas if one.busy_with), None)
            raise ConditionError(
                f"{self._urls} has refused every request for {self._patience:g} s: {_words(said)}", RESUME
            )

    def check_silence(self, since: float) -> None:
        """Raises ConditionError when those that are there have failed in all they were asked, and the others are away.

        `since` is when the request that waits began to.
        """
        if self._clock() - max(since, self._answered_at) >= self._patience and all(
            one.aside or one.troubled or one.spent for one in self._replicas
        ):
            raise self._nobody()

    def check_absence(self, since: float) -> None:
        """Raises ConditionError when all have been away `since`, for as long as a request may be tried."""
        if self._clock() - since >= self._patience:
            raise self._nobody()

    def _nobody(self) -> ConditionError:
        return ConditionError(
            f"No endpoint has answered for {self._patience:g} s: {self._urls}.", f"Bring it back. {RESUME}"
        )

    @property
    def _urls(self) -> str:
        return ", ".join(one.client.base_url for one in self._replicas)


def _words(error: EndpointError | None) -> str:
    return error.message if error else ""
