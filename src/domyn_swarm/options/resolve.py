"""A run's options, from all the places that set them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.loading import job_fields, load_job_class
from domyn_swarm.jobspec import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec


def spec_for(job: str, given: Mapping[str, Any]) -> JobSpec:
    """`given` for this one run, over job kwargs, the environment, and the job class's own defaults.

    Raises:
        ConfigurationError: there is no such job, or an option cannot be as it is given.
    """
    job_class = load_job_class(job)
    return resolve(job, given, {**job_class.defaults, **_from_environment()}, job_fields(job_class))


def _from_environment() -> dict[str, Any]:
    """Options that the environment sets. They are no flags: what is given for one run wins, in job kwargs too."""
    urls = os.environ.get("ENDPOINT", "").split()
    return {"endpoints": urls} if urls else {}
