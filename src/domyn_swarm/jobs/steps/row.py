"""One row on its way through the steps: what is known of it, what failed, and what that means for the rest."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from domyn_swarm.concurrency.resources import exhausted
from domyn_swarm.concurrency.retry import is_retryable
from domyn_swarm.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.engine.calls.outputs import Failure
    from domyn_swarm.jobs.steps.compiled import Compiled, CompiledStep


class _Missing:
    """A value that is not known yet. None is a value like any other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


class StepRow:
    """A row's values by their places in the compiled steps, and the errors of steps that failed.

    A row that is tried again keeps what it has: no step that finished is called twice.
    """

    __slots__ = ("_compiled", "_raised", "errors", "values")

    def __init__(self, compiled: Compiled, values: list[Any]) -> None:
        self.values = values
        self.errors: dict[int, Exception] = {}
        self._compiled = compiled
        self._raised: CompiledStep | None = None

    def tried_again(self) -> None:
        """Forget the errors of steps for which another try may help."""
        self._raised = None
        self.errors = {at: error for at, error in self.errors.items() if not is_retryable(error)}

    def failed(self, step: CompiledStep, error: Exception) -> None:
        """Take down that `step` failed. A plain function would fail again; so may others, as the error says.

        Raises:
            JobError: what ends the run.
            ExhaustedError: this process or its machine has run out of something.
        """
        if isinstance(error, JobError) or exhausted(error) is not None:
            raise error
        if not step.is_async and getattr(error, "retryable", None) is None:
            with contextlib.suppress(AttributeError):  # an exception without a dict
                error.retryable = False  # type: ignore[attr-defined]
        self.errors[step.at] = error

    def can_run(self, step: CompiledStep) -> bool:
        """Whether all that `step` needs is known, and it has not failed."""
        values = self.values
        return step.at not in self.errors and not any(values[at] is MISSING for at in step.needs)

    def raise_failure(self) -> None:
        """Raise the error for which another try may help, if there is one, else the first in the steps' order."""
        at = min(self.errors, key=lambda at: (not is_retryable(self.errors[at]), at))
        self._raised = self._compiled.step_at(at)
        raise self.errors[at]

    def explained(self, failure: Failure) -> Failure:
        """`failure` with the step that it is of, and with the values of output columns that do not depend on it."""
        values = self._compiled.kept(self.values)
        for at in self.errors:
            self._compiled.counts[self._compiled.step_at(at).name].failed += 1
        if self._raised is None:
            return replace(failure, values=values, lost=frozenset())
        others = [self._compiled.step_at(at).name for at in sorted(self.errors) if at != self._raised.at]
        more = f" ({_and(others)} failed, too)" if others else ""
        return replace(
            failure, message=f"{self._raised.name}: {failure.message}{more}", values=values, lost=frozenset()
        )


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
