"""Resolve a run's options from all sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.loading import is_module, job_fields, load_job_class
from domyn_swarm.jobs.steps.names import name_in
from domyn_swarm.jobspec import make_spec, option_names
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
    defaults = {**job_class.defaults, **_from_environment()}
    given = with_named(given, of_steps=of_steps)
    if of_steps and (urls := given.get("endpoints")) and all(map(name_in, urls)):  # the others keep theirs
        given["endpoints"] = [*defaults.get("endpoints", []), *urls]
    return resolve(job, given, defaults, job_fields(job_class))


def resolve(job: str, flags: Mapping[str, Any], defaults: Mapping[str, Any], job_fields: frozenset[str]) -> JobSpec:
    """Merge options: flags override job kwargs, and job kwargs override the job class's defaults.

    A job kwarg that names an option, and not a field of the job, sets that option (`{"max_concurrency": 8}`).

    Raises:
        ConfigurationError: as `make_spec`, and when `defaults` holds an unknown option.
    """
    if unknown := sorted(defaults.keys() - option_names()):
        raise ConfigurationError(
            f"Job {job!r}: its defaults hold {unknown[0]!r}, which is not an option.",
            f"Options: {', '.join(sorted(option_names()))}.",
            code="job.defaults",
            path=job,
        )
    kwargs = dict(flags.get("job_kwargs") or {})
    options = option_names() - job_fields
    from_kwargs = {name: kwargs.pop(name) for name in list(kwargs) if name in options}
    given = {name: value for name, value in flags.items() if value is not None}
    return make_spec({**defaults, **from_kwargs, **given, "job": job, "job_kwargs": kwargs})


def _from_environment() -> dict[str, Any]:
    """Options from environment variables. Flags and job kwargs override them."""
    urls = os.environ.get("ENDPOINT", "").split()
    return {"endpoints": urls} if urls else {}
