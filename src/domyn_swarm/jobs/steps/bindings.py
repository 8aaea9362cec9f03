"""The endpoints behind the models of a job of steps: one for each name that has its own, one for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.endpoint.answer_counts import usage_of
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobs.base import MODEL, REVISION, of_model
from domyn_swarm.jobs.endpoint import EndpointJob
from domyn_swarm.jobs.steps import models
from domyn_swarm.jobs.steps.names import names_in, spec_for
from domyn_swarm.jobs.steps.step import models_of
from domyn_swarm.telemetry.counts import Counts, StepCounts
from domyn_swarm.telemetry.trace import enter_step

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Mapping, Sequence

    from domyn_swarm.endpoint.load_balancer import Answer, Judge
    from domyn_swarm.jobs.steps.step import Step
    from domyn_swarm.jobspec import JobSpec

_FACTS = (MODEL, REVISION)
REST = ""
"""The name of what serves the models that have no endpoint and no name of their own."""
_KINDS: Mapping[str, Callable[..., models.Model]] = {
    "Chat": models.Chat, "Completion": models.Completion, "Embedding": models.Embedding,
}  # fmt: skip


class Connection(EndpointJob):
    """Endpoints that several steps ask."""


def _asking(connection: Connection, step: str, counts: StepCounts) -> models.Ask:
    """Sends requests over `connection` in the name of `step`, and counts them."""

    async def ask(path: str, content: dict[str, Any], judge: Judge | None = None) -> Answer:
        enter_step(step)
        counts.calls += 1
        answer = await connection.ask(path, content, judge)
        counts.seconds += answer.seconds
        counts.tokens_in += usage_of(answer.body, "prompt_tokens") or 0
        counts.tokens_out += usage_of(answer.body, "completion_tokens") or 0
        return answer

    return ask


class Bindings:
    """Connections by the names of models.

    `steps` are those that the run needs, each of which may ask several models. `counts` has what each came to.
    """

    def __init__(self, steps: Sequence[Step], spec: JobSpec) -> None:
        self.counts = {step.name: StepCounts() for step in steps}
        self._asked = models_of(steps)
        self._steps = {step.name: step for step in steps}
        names = {name for _, name in self._asked}
        own = set(names_in(spec)) & names
        self._name = {name: name if name in own else REST for name in names}
        self._specs = {name: spec_for(spec, name) for name in sorted(set(self._name.values()))}
        self._connections = {name: Connection() for name in self._specs}

    def preflight(self) -> dict[str, Any]:
        """Look at all endpoints; the model that will answer as each name, and its revision.

        Raises:
            ConfigurationError: a model has no endpoint, or an endpoint cannot be used.
        """
        for (step, name), kind in self._asked.items():
            own = self._specs[self._name[name]]
            if not own.endpoints and not own.serve:
                raise ConfigurationError(
                    f"{opt('endpoints')} is missing: {self._steps[step].where} asks the model {name!r} ({kind}).",
                    f"Give {opt('endpoints')} URL for all models, or {name}=URL for this one; `demo` starts a server "
                    "to try it with.",
                    code="endpoint.missing",
                    option="endpoints",
                    step=step,
                )
        seen: dict[str, Mapping[str, Any]] = {}
        for name, connection in self._connections.items():
            try:
                seen[name] = connection.preflight(self._specs[name])
            except ConfigurationError as error:
                text = f"model {name!r}: {error.text}" if name else error.text
                raise type(error)(text, error.advice, **error.about) from error
        by_name = {
            of_model(fact, name): seen[own][fact]
            for name, own in self._name.items()
            for fact in _FACTS
            if fact in seen[own]  # servers that the run has yet to start tell none
        }
        return {**seen.get(REST, {}), **by_name}

    async def open(self, found: contextlib.AsyncExitStack) -> dict[tuple[str, str], models.Model]:
        """Connect; `found` disconnects. The models, by step and parameter.

        Raises:
            EndpointError: an endpoint lists no models, and none is named.
        """
        for name, connection in self._connections.items():
            await connection.open(self._specs[name])
            found.push_async_callback(connection.close)
        return {
            (step, name): _KINDS[kind](_asking(self._connections[self._name[name]], step, self.counts[step]), name)
            for (step, name), kind in self._asked.items()
        }

    def traffic(self) -> Counts | None:
        """What all connections and steps counted."""
        counts = [one for connection in self._connections.values() if (one := connection.traffic())]
        together = sum(counts, Counts(steps=self.counts).copy())  # what is given out must not count on
        together.limit = max((one.limit for one in counts), default=0)  # they share the calls that may be in flight
        return together
