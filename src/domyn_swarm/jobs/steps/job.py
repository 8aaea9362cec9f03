"""The job that a module of functions is: its steps become columns."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from domyn_swarm.checkpoint.part import STEP_CODE
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.base import MODEL, SwarmJob, of_model
from domyn_swarm.jobs.steps import versions
from domyn_swarm.jobs.steps.names import spec_for
from domyn_swarm.jobs.steps.parameters import Parameters
from domyn_swarm.jobs.steps.step import models_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from domyn_swarm.jobs.steps.bindings import Bindings
    from domyn_swarm.jobs.steps.compiled import Compiled
    from domyn_swarm.jobs.steps.row import StepRow
    from domyn_swarm.jobs.steps.step import Step, StepGraph
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.telemetry.counts import Counts

WITH_MODELS: Mapping[str, Any] = {"retries": 5, "grace": 30.0}
"""Options that suit a job that sends requests."""


class StepsJob(SwarmJob):
    """A job whose work is the functions of `module`. `fields` are parameters of steps that are the same for all rows.

    Raises:
        ConfigurationError: the functions make no graph, or a field is none.
    """

    module: ClassVar[ModuleType]
    reference: ClassVar[str]

    def __init__(self, **fields: Any) -> None:
        from domyn_swarm.jobs.steps.read import read_steps, selectors_of  # noqa: PLC0415 - for jobs of steps only

        selectors = selectors_of(self.module)
        config = {name: value for name, value in fields.items() if selectors is None or name in selectors}
        self.graph: StepGraph = read_steps(self.module, config, self.reference)
        self._parameters = Parameters(self.graph, fields)
        self.fields = self._parameters.fields
        if selectors is not None:
            self._parameters.check_fields(selectors)
        self._missing: list[str] | None = None
        self._resources: contextlib.AsyncExitStack | None = None
        self._bindings: Bindings | None = None
        self._compiled: Compiled | None = None

    # What the job is

    def columns(self, spec: JobSpec) -> tuple[list[str], list[str]]:
        """The input columns that the wanted steps need, and those steps.

        Raises:
            ConfigurationError: an option names what is no step, or no parameter of one.
        """
        return self._parameters.columns(spec)

    def check_columns(self, schema: Mapping[str, str], spec: JobSpec) -> None:
        """Refuse an input that lacks what a step takes, or has a column with the name of a step.

        Raises:
            DataError: it does.
        """
        self._parameters.check_columns(schema, spec)

    def identity(self) -> Mapping[str, Any]:
        """The fields."""
        return self.fields

    def facts(self, spec: JobSpec) -> Mapping[str, Any]:
        """A digest of what each wanted step does, and the name of each model as far as options tell it."""
        steps = self.graph.needed(spec.output_columns)
        models = {of_model(MODEL, name): spec_for(spec, name).model for _, name in models_of(steps)}
        return {f"{STEP_CODE}{name}": digest for name, digest in self._codes(steps).items()} | models

    def _codes(self, steps: Sequence[Step]) -> dict[str, str]:
        from domyn_swarm.jobs.steps.digest import step_digest  # noqa: PLC0415 - only when a run is planned

        return {step.name: step_digest(step, self.module) for step in steps}

    def stored_columns(self, spec: JobSpec) -> list[str]:
        """The output columns, and those of steps that ask a model or are tagged `keep="true"`: what is dear."""
        steps = self.graph.needed(spec.output_columns)
        asking = {name for name, _ in models_of(steps)}
        more = [step.name for step in steps if step.name in asking or step.tags.get("keep") == "true"]
        return list(dict.fromkeys([*spec.output_columns, *more]))

    def versions(self, spec: JobSpec, before: Mapping[str, Any]) -> Mapping[str, str]:
        """Digests of what makes each stored column, and the names of models that count in them."""
        steps = self.graph.needed(spec.output_columns)
        fields = {name: spec.job_kwargs.get(name, value) for name, value in self.fields.items()}
        names = versions.names_of_models(steps, spec, before)
        anew = versions.times_anew(spec, before)
        made = versions.digests(steps, self._codes(steps), fields, names, anew)
        stored = {versions.version_of(name): made[name] for name in self.stored_columns(spec)}
        return stored | anew | {versions.named(name): model for name, model in names.items()}

    def why_anew(self, spec: JobSpec, before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, str]:
        """Why each stored column is not what it was before."""
        reasons = versions.why_changed(self.graph.needed(spec.output_columns), before, now)
        stored = set(self.stored_columns(spec))
        return {name: reason for name, reason in reasons.items() if name in stored}

    def output_types(self, spec: JobSpec) -> Mapping[str, Any]:
        """The types that annotations of steps declare, where they are plain."""
        from domyn_swarm.jobs.steps.types import arrow_type  # noqa: PLC0415 - needs pyarrow

        steps = self.graph.steps
        found = {name: arrow_type(steps[name].type) for name in self.stored_columns(spec)}
        return {name: dtype for name, dtype in found.items() if dtype is not None}

    def lost_with(self, spec: JobSpec) -> Mapping[str, frozenset[str]]:
        """A value that does not fit fails its step, and those that are made from it."""
        return {name: frozenset(self.graph.following(name)) for name in self.stored_columns(spec)}

    def will_compute(self, columns: Sequence[str]) -> None:
        """A model that only steps ask whose columns are kept need not be there."""
        self._missing = list(columns)

    # What it does

    def preflight(self, spec: JobSpec) -> Mapping[str, Any] | None:
        """Look at the endpoints of all models that will be asked. The same as of `EndpointJob`, for each name."""
        stored = self.stored_columns(spec)
        missing = stored if self._missing is None else self._missing
        known = set(stored) - set(missing)
        return self._bound(spec, self.graph.needed(missing, known)).preflight() or None

    async def open(self, spec: JobSpec) -> None:
        """Compile the steps for `spec`, and connect the models."""
        from domyn_swarm.jobs.steps.compiled import Compiled  # noqa: PLC0415 - only where rows run

        steps = self.graph.needed(spec.output_columns)
        self._bindings = self._bound(spec, steps)
        async with contextlib.AsyncExitStack() as resources:
            models = await self._bindings.open(resources)
            inputs = list(dict.fromkeys(spec.input_columns))
            fields = {name: value for name, value in self.fields.items() if name not in inputs}
            outputs, counts = self.stored_columns(spec), self._bindings.counts
            self._compiled = Compiled(steps, inputs, {**fields, **models}, outputs, counts)
            self._resources = resources.pop_all()

    async def close(self) -> None:
        """Disconnect the models."""
        if self._resources is not None:
            await self._resources.aclose()

    def traffic(self) -> Counts | None:
        """Requests, answers, tokens and latencies of all models so far, and calls and failures of each step."""
        return self._bindings.traffic() if self._bindings else None

    def payload(self, item: Any, known: Mapping[str, Any]) -> StepRow:
        """The row of `item`, which keeps what its steps have made when it is tried again. No `known` one is run."""
        return self._opened.row(item, known)

    async def transform_item(self, row: Any) -> Any:
        """Run the steps of a row.

        Raises:
            Exception: the error of a step.
        """
        return await self._opened.run(row)

    @property
    def _opened(self) -> Compiled:
        assert self._compiled is not None  # noqa: S101 - rows come after `open`
        return self._compiled

    def _bound(self, spec: JobSpec, steps: Sequence[Step]) -> Bindings:
        from domyn_swarm.jobs.steps.bindings import Bindings  # noqa: PLC0415 - the client is slow to import

        return Bindings(steps, spec)


def steps_class(module: ModuleType, reference: str, jobs: Sequence[str] = ()) -> type[StepsJob]:
    """The job class of a module of steps, which defines the classes `jobs` too.

    Raises:
        ConfigurationError: it has no public function.
    """
    from domyn_swarm.jobs.steps.read import asks_a_model, functions_of, parameters_of  # noqa: PLC0415

    if not functions_of(module):
        raise ConfigurationError(
            f"Job {reference!r}: the module defines no public function, so it has no steps.",
            f"Name a job of the module: {', '.join(f'{reference}:{job}' for job in jobs)}."
            if jobs
            else "Write a function for each column that it makes; or name a class: module:Class.",
            code="step.none",
            path=reference,
        )
    asks_models, parameters = asks_a_model(module), parameters_of(module)
    signature = inspect.Signature(
        [
            *(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in sorted(parameters)),
            inspect.Parameter("fields", inspect.Parameter.VAR_KEYWORD),
        ]
    )
    namespace = {
        "module": module, "reference": reference, "__module__": module.__name__, "__signature__": signature,
        "__doc__": module.__doc__, "times_itself": asks_models, "defaults": WITH_MODELS if asks_models else {},
    }  # fmt: skip
    return type(module.__name__.rpartition(".")[2], (StepsJob,), namespace)
