"""Resume a run from what is stored in its folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.submission import Placement, Submission
from domyn_swarm.engine.recording.run_record import origin_of
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import RESUMED, make_spec
from domyn_swarm.runs import trust
from domyn_swarm.runs.control import ensure_not_running
from domyn_swarm.runs.state import Status, status_of
from domyn_swarm.runs.submit import prepare, submit_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.runs.find import Run


def resume(run: Run, changes: Mapping[str, Any], *, trusted: bool = False) -> Status:
    """Resume a run with its previous placement, updated by `changes`. A run that is done is left unchanged.

    This imports the job named in the folder; for a folder of another user only if `trusted`.

    Raises:
        CheckpointError: it is already running.
        ConfigurationError: the folder belongs to another user, or it or its spec.json is missing.
    """
    ensure_not_running(run)
    status = status_of(run)
    if status.state == "done":
        return status
    if status.state == "gone":
        raise ConfigurationError(
            f"The folder of {run.name} no longer exists: {run.folder.path}.",
            "Submit the job again.",
            code="run.gone",
            path=run.folder.path,
        )
    if not trusted:
        trust.check_may_execute(run)
    submission = Submission.load(run.folder)
    given = {name: value for name, value in changes.items() if value is not None}
    placement = msgspec.structs.replace(_placement(run, submission), **given)
    spec, home = _spec_of(run, given)
    where = submission.folder if submission else home
    # Modules and relative paths are resolved against the directory of the original command.
    with contextlib.chdir(where) if Path(where).is_dir() else contextlib.nullcontext():
        prepared = prepare(spec, placement)
        return status if prepared.nothing_to_do else status_of(submit_run(prepared))


def _placement(run: Run, submission: Submission | None) -> Placement:
    """The run's placement, without a Ray address from another user's folder: it would receive this user's token."""
    if submission is None:
        return Placement()
    if submission.placement.ray_address and not trust.may_act(run, submission):
        return msgspec.structs.replace(submission.placement, ray_address=None)
    return submission.placement


def _spec_of(run: Run, given: Mapping[str, Any]) -> tuple[JobSpec, str]:
    """The run's spec, and the folder that its relative paths refer to.

    The spec of a run that was started in a terminal has relative paths as they were typed.
    """
    options = run.folder.load("spec.json")
    if options is None:
        raise ConfigurationError(
            f"{run.folder.path} has no readable spec.json.",
            "Submit the job again.",
            code="spec.unreadable",
            path=run.folder.path,
        )
    options |= {**RESUMED} | {name: value for name, value in given.items() if name in options}
    spec = make_spec(options)
    return spec, origin_of(run.folder, spec) or str(Path.cwd())
