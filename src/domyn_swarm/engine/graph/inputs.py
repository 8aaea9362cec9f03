"""What the graph is given: the options by their names, and the objects that are described here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.engine.calls.pipeline import batch_rows
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobs.base import SwarmJob

OBJECTS = {
    "spec": "All options, for nodes that use many of them or pass them to the job.",
    "job": "The job, an instance of the class with its fields set.",
    "read_batch_size": "Rows that are read at a time: as many as one call takes, many if it takes one.",
    "run_dir": "Path or URL of the run's folder; a temporary one without checkpointing.",
    "run_storage": "The filesystem's options for the run's folder.",
    "stop": "Set when the run is asked to stop: no further call starts. Only while a run executes.",
    "meter": "Counts finished rows and requests, and ends the run when too many rows fail. Only while a run executes.",
    "reporter": "Writes the run's record: `spec.json`, `run.json`, the report. Only while a run executes.",
    "monitor": "`meter` and `stop` for a node that an engine executes elsewhere. Only while a run executes.",
}
"""The inputs that are not options."""
OFFERED = (*OBJECTS, *JobSpec.__struct_fields__)
"""What any node may take."""


def inputs_of(spec: JobSpec, job: SwarmJob) -> dict[str, Any]:
    """What every graph is given: the options by their names, the spec, the job."""
    options = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return {**options, "spec": spec, "job": job, "read_batch_size": batch_rows(spec, job)}


def planning_inputs(spec: JobSpec, job: SwarmJob, run_dir: str) -> Mapping[str, Any]:
    """What the graph is given before a run: everything but what only a run has."""
    return {**inputs_of(spec, job), "run_dir": run_dir, "run_storage": spec.run_storage if spec.checkpointing else {}}
