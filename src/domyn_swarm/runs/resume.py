"""Going on with a run, from what its folder says of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.submission import Placement, Submission
from domyn_swarm.engine.recording.run_record import origin_of
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import make_spec
from domyn_swarm.runs import trust
from domyn_swarm.runs.control import refuse_if_on
from domyn_swarm.runs.state import Status, status_of
from domyn_swarm.runs.submit import checked, send

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.runs.find import Run


def resumed(run: Run, changes: Mapping[str, Any], *, trusted: bool = False) -> Status:
    """Resume a run, where it was, or where `changes` of its placement say. One that is done stays as it is.

    That imports the job that the folder names: if it is another user's, only when it is `trusted`.

    Raises:
        CheckpointError: it goes on already.
        ConfigurationError: the folder is another user's, or does not say what the run was.
    """
    refuse_if_on(run)
    status = status_of(run)
    if status.state == "done":
        return status
    if status.state == "gone":
        raise ConfigurationError(f"The folder of {run.name} is gone: {run.folder.path}.", "Submit the job again.")
    if not trusted:
        trust.check_may_execute(run)
    submission = Submission.load(run.folder)
    given = {name: value for name, value in changes.items() if value is not None}
    placement = msgspec.structs.replace(_placement(run, submission), **given)
    spec, home = _spec_of(run, given)
    where = submission.folder if submission else home
    # Modules are looked for, and relative paths meant, from where the command was given.
    with contextlib.chdir(where) if Path(where).is_dir() else contextlib.nullcontext():
        ready = checked(spec, placement)
        return status if ready.nothing_to_do else status_of(send(ready))


def _placement(run: Run, submission: Submission | None) -> Placement:
    """Where it was. A server that somebody else's folder names would get this user's token, and is left out."""
    if submission is None:
        return Placement()
    if submission.placement.ray_address and not trust.may_act(run, submission):
        return msgspec.structs.replace(submission.placement, ray_address=None)
    return submission.placement


def _spec_of(run: Run, given: Mapping[str, Any]) -> tuple[JobSpec, str]:
    """What the run is to do, and the folder that its relative paths are meant from.

    A run that nobody sent anywhere has them as they were typed.
    """
    options = run.folder.load("spec.json")
    if options is None:
        raise ConfigurationError(f"{run.folder.path} holds no spec.json that can be read.", "Submit the job again.")
    options |= {"resume": True} | {name: value for name, value in given.items() if name in options}
    spec = make_spec(options)
    return spec, origin_of(run.folder, spec) or str(Path.cwd())
