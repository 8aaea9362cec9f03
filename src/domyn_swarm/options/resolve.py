"""Resolve a run's options from all sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.loading import job_fields, load_job_class
from domyn_swarm.jobspec import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec


def spec_for(job: str, given: Mapping[str, Any]) -> JobSpec:
    """The JobSpec from `given` options, job kwargs, the environment and the job class's defaults, in this precedence.

    Raises:
        ConfigurationError: the job does not exist, or an option is invalid.
    """
    job_class = load_job_class(job)
    return resolve(job, given, {**job_class.defaults, **_from_environment()}, job_fields(job_class))


def _from_environment() -> dict[str, Any]:
    """Options from environment variables. Flags and job kwargs override them."""
    urls = os.environ.get("ENDPOINT", "").split()
    return {"endpoints": urls} if urls else {}
