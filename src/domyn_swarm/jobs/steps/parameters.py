"""What the parameters of steps mean, and which columns a run reads and makes: decided from options and the input."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.errors import ConfigurationError, DataError, opt
from domyn_swarm.jobs.steps.names import name_in, names_in
from domyn_swarm.jobs.steps.step import kind_of_model, models_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from domyn_swarm.jobs.steps.step import Step, StepGraph
    from domyn_swarm.jobspec import JobSpec


class Parameters:
    """The parameters of the steps of `graph`. `fields` are those that are set, the same for all rows."""

    def __init__(self, graph: StepGraph, fields: Mapping[str, Any]) -> None:
        self.graph = graph
        self.fields = {name: self._converted(name, value) for name, value in fields.items()}

    def columns(self, spec: JobSpec) -> tuple[list[str], list[str]]:
        """The input columns that the wanted steps need, and those steps.

        Raises:
            ConfigurationError: an option names what is no step, or no parameter of one.
        """
        outputs = self._outputs(spec)
        self._check_models(spec)
        external = _external(self.graph, self.graph.needed(outputs))
        for name in spec.input_columns:
            if name not in external or name in self.fields:
                known = [one for one in external if one not in self.fields]
                raise ConfigurationError(
                    f"no step of {self.graph.file} takes {name!r}.",
                    _nearest(name, known, "They take"),
                    code="step.no_parameter",
                    option="input_columns",
                    column=name,
                    choices=tuple(known),
                )
        needed = [name for name, step in external.items() if name not in self.fields and name not in step.optional]
        return list(dict.fromkeys([*needed, *spec.input_columns])), outputs

    def check_columns(self, schema: Mapping[str, str], spec: JobSpec) -> None:
        """Refuse an input that lacks what a step takes, or has a column with the name of a step.

        Raises:
            DataError: it does.
        """
        steps = self.graph.needed(spec.output_columns)
        external = _external(self.graph, steps)
        for name in spec.input_columns:
            if name not in schema:
                raise DataError(
                    f"{external[name].where} takes {name!r}, which is no column of the input, no step and no field.",
                    f"{self._variants(name)}{_nearest(name, [*schema, *self.graph.steps], 'Columns and steps')} A "
                    f"""field is set with {opt("job_kwargs")} '{{"{name}": ...}}'.""",
                    code="step.parameter",
                    column=name,
                    step=external[name].name,
                    choices=(*schema, *self.graph.steps),
                )
        for step in steps:
            if step.name in schema:
                raise DataError(
                    f"{step.where} has the name of a column of the input, so {step.name!r} would mean two things.",
                    f"Rename the step, or leave the column out: {opt('backend_read_kwargs')} "
                    "'{\"columns\": [...]}' names those to read.",
                    code="step.is_column",
                    column=step.name,
                    step=step.name,
                )

    def check_fields(self, selectors: Iterable[str]) -> None:
        """Refuse fields that are no parameter; `selectors` are names by which modifiers select variants.

        Raises:
            ConfigurationError: there is one.
        """
        known = {*_external(self.graph, self.graph.steps.values()), *selectors}
        for name in self.fields:
            if name not in known:
                what = "is a step of" if name in self.graph.steps else "is no parameter of a step of"
                raise ConfigurationError(
                    f"{name!r} {what} {self.graph.file}.",
                    _nearest(name, sorted(known), "Fields"),
                    code="job.unknown_field",
                    option="job_kwargs",
                    choices=tuple(sorted(known)),
                )

    def _outputs(self, spec: JobSpec) -> list[str]:
        for option, names in _names_of_steps(spec):
            for name in names:
                if name not in self.graph.steps:
                    raise ConfigurationError(
                        f"{self.graph.file} has no step {name!r}.",
                        _nearest(name, self.graph.steps, "Steps"),
                        code="step.unknown",
                        option=option,
                        step=name,
                        choices=tuple(self.graph.steps),
                    )
        wanted = spec.output_columns or self.graph.sinks()
        return [*wanted, *(name for name in dict.fromkeys(spec.keep) if name not in wanted)]

    def _check_models(self, spec: JobSpec) -> None:
        """Refuse an option for a model that no step asks."""
        names = {name for _, name in models_of(self.graph.steps.values())}
        if unknown := [name for name in names_in(spec) if name not in names]:
            options = ("endpoints", "models", "api_key_files")
            raise ConfigurationError(
                f"no step of {self.graph.file} asks a model named {unknown[0]!r}.",
                _nearest(unknown[0], sorted(names), "Models"),
                code="model.not_asked",
                option=next(option for option in options if unknown[0] in map(name_in, getattr(spec, option))),
                choices=tuple(sorted(names)),
            )

    def _variants(self, name: str) -> str:
        """What to do about a step of which no variant is selected; empty where there is none."""
        variants = [one for one in vars(self.graph.module) if one.startswith(f"{name}__")]
        return f"None of {', '.join(variants)} is selected. " if variants else ""

    def _converted(self, name: str, value: Any) -> Any:
        """The field's value as its annotation has it.

        Raises:
            ConfigurationError: it is of another type.
        """
        step = _external(self.graph, self.graph.steps.values()).get(name)
        if step is None:
            return value
        try:
            return msgspec.convert(value, step.takes[name])
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                f"{name!r} of {step.where} cannot be {value!r}: {error}.",
                "Fix the JSON.",
                code="job.fields",
                option="job_kwargs",
                step=step.name,
            ) from None
        except TypeError:  # an annotation that says nothing about JSON
            return value


def _names_of_steps(spec: JobSpec) -> Iterable[tuple[str, Sequence[str]]]:
    return [(option, getattr(spec, option)) for option in ("output_columns", "keep", "recompute")]


def _external(graph: StepGraph, steps: Iterable[Step]) -> dict[str, Step]:
    """Parameters of `steps` that are no steps and no models, each with the first step that cannot do without it."""
    found: dict[str, Step] = {}
    for step in steps:
        for name, hint in step.takes.items():
            if name in graph.steps or kind_of_model(hint):
                continue
            if name not in found or (name in found[name].optional and name not in step.optional):
                found[name] = step
    return found


def _nearest(name: str, known: Iterable[str], what: str) -> str:
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, 2, 0.6)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"{meant}{what}: {', '.join(names) or 'none'}."
