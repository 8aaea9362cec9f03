"""Resolve a run's options from all sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from domyn_swarm.declared import nearest
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobs.field_options import FieldOptions, as_data
from domyn_swarm.jobs.loading import is_module, job_fields, load_job_class
from domyn_swarm.jobs.steps.names import name_in
from domyn_swarm.jobspec import OPTION_FIELDS_OF_THE_RUN, make_spec, option_names
from domyn_swarm.options.named import with_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec


def spec_for(job: str, given: Mapping[str, Any]) -> JobSpec:
    """The JobSpec from `given` options, job kwargs, the environment and the job class's defaults, in this precedence.

    Raises:
        ConfigurationError: the job does not exist, or an option is invalid.
    """
    job_class = load_job_class(job)
    of_steps = is_module(job)
    given = with_named(given, of_steps=of_steps)
    from_environment = _from_environment()
    if from_environment and resolve(job, given, job_class.defaults, job_fields(job_class)).serve:
        from_environment = {}  # the run has servers of its own
    defaults = {**job_class.defaults, **from_environment}
    if of_steps and (urls := given.get("endpoints")) and all(map(name_in, urls)):  # the others keep theirs
        given["endpoints"] = [*defaults.get("endpoints", []), *urls]
    return resolve(job, given, defaults, job_fields(job_class))


def resolve(job: str, flags: Mapping[str, Any], defaults: Mapping[str, Any], job_fields: frozenset[str]) -> JobSpec:
    """Merge options: flags override job kwargs, and job kwargs override the job class's defaults.

    A job kwarg that names an option, and not a field of the job, sets that option (`{"max_concurrency": 8}`). A flag
    that names a field of the job, and not an option, sets that field (`--prompt`).

    Raises:
        ConfigurationError: as `make_spec`, and when `defaults` or `flags` hold an unknown option.
    """
    if unknown := sorted(defaults.keys() - option_names()):
        raise ConfigurationError(
            f"Job {job!r}: its defaults hold {unknown[0]!r}, which is not an option.",
            f"Options: {', '.join(sorted(option_names()))}.",
            code="job.defaults",
            path=job,
        )
    given = {name: value for name, value in flags.items() if value is not None}
    fields = _fields_among(job, given, job_fields)
    if isinstance(schema := fields.get("schema"), str):
        from domyn_swarm.jobs.json_schema import file_as_data  # noqa: PLC0415 - only for schemas

        fields["schema"] = file_as_data(schema)
    kwargs = as_data({**(given.get("job_kwargs") or {}), **fields})
    options = option_names() - job_fields
    from_kwargs = {name: kwargs.pop(name) for name in list(kwargs) if name in options}
    return make_spec({**defaults, **from_kwargs, **given, "job": job, "job_kwargs": kwargs})


def _fields_among(job: str, given: dict[str, Any], job_fields: frozenset[str]) -> dict[str, Any]:
    """Take the options that are fields of the job out of `given`."""
    known = option_names() | set(OPTION_FIELDS_OF_THE_RUN)
    others = [name for name in given if name not in known]
    for name in others:
        if name in job_fields:
            continue
        if name in FieldOptions.__struct_fields__:
            raise ConfigurationError(
                f"Job {job!r} has no field {name!r}.",
                f"Leave {opt(name)} out, or use a chat job.",
                code="job.unknown_field",
                option=name,
                choices=tuple(sorted(job_fields)),
            )
        raise ConfigurationError(
            f"Unknown option {name!r}.",
            nearest(name, known | job_fields),
            code="option.unknown",
            choices=tuple(sorted(known | job_fields)),
        )
    return {name: given.pop(name) for name in others}


def _from_environment() -> dict[str, Any]:
    """Options from environment variables. Flags and job kwargs override them."""
    urls = os.environ.get("ENDPOINT", "").split()
    return {"endpoints": urls} if urls else {}
