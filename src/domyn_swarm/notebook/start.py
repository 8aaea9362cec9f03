"""`domyn_swarm.plan`: create a plan from a job and an input."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, cast

import msgspec

from domyn_swarm.data.memory import TAKEN, InMemoryInput
from domyn_swarm.engine.graph.coercion import is_frame, table_of
from domyn_swarm.engine.graph.overrides import Overrides
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobs.loading import reference_to
from domyn_swarm.notebook.error_translation import in_python
from domyn_swarm.notebook.plan import Plan, listed
from domyn_swarm.notebook.scratch import Scratch
from domyn_swarm.option_groups import DEFAULT_JOB
from domyn_swarm.options.resolve import spec_for

if TYPE_CHECKING:
    from collections.abc import Mapping


@in_python
def plan(
    job: str | type[SwarmJob] | SwarmJob = DEFAULT_JOB,
    *,
    input: Any,  # noqa: A002 - the option's name
    output: str | None = None,
    **options: Any,
) -> Plan:
    """Create a plan for a job over an input. Nothing is read, written or called yet.

    Args:
        job: A class, an instance with its fields set, or a reference as on the command line (`module:Class` or
            `path/to/file.py:Class`).
        input: A path, glob or URL as for `--input`, or a frame in memory: pandas, polars, an Arrow table, a Ray
            Dataset, or a dict of columns.
        output: The output path, as for `--output`. None: `run` returns the output as a frame, and checkpoints are in
            a temporary folder that is removed with the plan.
        **options: The fields of `JobSpec`: `data_backend`, `input_columns`, `model`, `limit`, `job_kwargs`, ...

    Raises:
        ConfigurationError: an option is unknown, of the wrong type, or contradicts another one.
    """
    scratch = Scratch()
    given = listed(options)
    if isinstance(job, SwarmJob):
        given["job_kwargs"] = {**_fields(job), **given.get("job_kwargs", {})}
        job = type(job)
    given["input"], held = _input(input, given)
    if output is None:
        given = {**scratch.options(), **given}
    else:
        given["output"] = os.fspath(output)
    spec = spec_for(job if isinstance(job, str) else reference_to(job), given)
    return Plan(spec, Overrides(held=held), scratch, job if isinstance(job, type) else None)


def _input(value: Any, given: Mapping[str, Any]) -> tuple[str, InMemoryInput | None]:
    """The JobSpec's `input`, and the rows if they are in memory."""
    if is_frame(value):
        if given.get("backend_read_kwargs"):
            raise ConfigurationError(
                "the input is a frame in memory and is not read.",
                "Select its rows and columns beforehand.",
                code="option.invalid",
                option="backend_read_kwargs",
            )
        held = InMemoryInput.of(table_of(value))
        return held.files.pattern, held
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigurationError(
            f"a {type(value).__name__} is neither a path nor a frame.",
            f"Pass a path, a glob, a URL, {TAKEN}.",
            code="input.type",
            option="input",
        )
    return os.fspath(value), None


def _fields(job: SwarmJob) -> dict[str, Any]:
    """The fields of a job that are not their defaults, as job kwargs.

    Raises:
        ConfigurationError: the class has its own `__init__`, so its arguments are unknown.
    """
    if "__dataclass_fields__" not in vars(type(job)):
        raise ConfigurationError(
            f"{type(job).__name__} has its own __init__, so its arguments are unknown.",
            "Pass the class, and the arguments as job_kwargs.",
            code="job.arguments",
        )
    fields = dataclasses.fields(cast("Any", job))
    values = {field.name: getattr(job, field.name) for field in fields if field.init}
    return {name: msgspec.to_builtins(value) for name, value in values.items() if not _is_default(job, name, value)}


def _is_default(job: SwarmJob, name: str, value: Any) -> bool:
    field = next(field for field in dataclasses.fields(cast("Any", job)) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return field.default is not dataclasses.MISSING and bool(value == field.default)
