"""What a run would compute of each step of a job whose columns change one by one, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from domyn_swarm.checkpoint.done_rows import DoneRows
    from domyn_swarm.checkpoint.part import Marks
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec


class StepPlan(msgspec.Struct, frozen=True):
    """One column that is stored: rows whose value is kept, and those whose value is to be computed.

    `why` says what has changed about the step, and is empty if nothing has: then rows are new, or have failed.
    """

    step: str
    kept: int
    to_compute: int
    why: str = ""


def step_plans(
    job: SwarmJob, spec: JobSpec, before: Mapping[str, Any], now: Mapping[str, Any], done: DoneRows, rows: int
) -> Sequence[StepPlan]:
    """The stored columns of `rows` rows, given the identities of the run before and of this one."""
    reasons = job.why_anew(spec, before, now) if before else dict.fromkeys(job.why_anew(spec, now, now), "")
    finished = _first(done.finished, rows)
    kept = {name: int((finished | _first(done.kept.get(name), rows)).sum()) for name in reasons}
    return [StepPlan(name, kept[name], rows - kept[name], reasons[name]) for name in reasons]


def _first(marks: Marks | None, rows: int) -> Marks:
    """The first `rows` of `marks`, and False for those beyond."""
    made = np.zeros(rows, dtype=np.bool_)
    if marks is not None:
        made[: len(marks)] = marks[:rows]
    return made
