"""Placement options of `job submit` and `job resume`, and what they print about the run."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.checkpoint.submission import LaunchOptions, Placement
from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.options import typer_option
from domyn_swarm.report.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.runs.state import Status
    from domyn_swarm.runs.submit import PreparedRun
    from domyn_swarm.telemetry.counts import Reason

MESSAGE_CHARS = 200
"""Of a reason's message that a summary shows."""


RunOn = Annotated[str | None, typer_option(LaunchOptions, "run_on")]
Detach = Annotated[bool, typer_option(LaunchOptions, "detach")]
JobName = Annotated[str | None, typer_option(LaunchOptions, "job_name")]
SlurmArgs = Annotated[str | None, typer_option(LaunchOptions, "slurm_args")]
Requeue = Annotated[bool | None, typer_option(LaunchOptions, "requeue")]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="URL", show_default=False, help="Ray cluster to resume on"),
]


def placement_of(spec: JobSpec, run_on: str | None, slurm_args: str | None, requeue: bool | None) -> Placement:
    """The placement that the flags select."""
    default = Placement()
    return Placement(
        run_on=run_on or default.run_on, slurm_args=slurm_args or default.slurm_args, requeue=bool(requeue),
        ray_address=spec.ray_address,
    )  # fmt: skip


def check_here(spec: JobSpec, placement: Placement) -> None:
    """Refuse placement options that do not apply to a run in this terminal.

    Raises:
        ConfigurationError: the message names the flag.
    """
    if placement != Placement(ray_address=spec.ray_address):
        from domyn_swarm.runs.launchers.registry import load_launcher  # noqa: PLC0415

        load_launcher(placement.run_on).check(placement)


def check_name(spec: JobSpec, job_name: str | None) -> None:
    """Refuse a name that the run cannot use.

    Raises:
        ConfigurationError: the name is invalid, belongs to another run, or the run already has a name.
    """
    if job_name is not None:
        from domyn_swarm.runs.submit import check_name_for  # noqa: PLC0415

        check_name_for(spec, job_name)


def is_detached(placement: Placement, *, detach: bool) -> bool:
    """Whether the run executes outside this terminal."""
    return detach or placement.run_on != Placement().run_on


def prepare(spec: JobSpec, placement: Placement) -> PreparedRun:
    """Check and plan the run with this placement, without starting it.

    Raises:
        SwarmError: it cannot run.
    """
    from domyn_swarm.runs import submit  # noqa: PLC0415

    return submit.prepare(spec, placement)


def shown(prepared: PreparedRun, job_name: str | None) -> str:
    """The command or script that would be submitted."""
    from domyn_swarm.runs import submit  # noqa: PLC0415

    return submit.shown(prepared, job_name)


def submit_detached(prepared: PreparedRun, job_name: str | None) -> Status:
    """Submit the run and return its status. A run with nothing left to do is not submitted."""
    from domyn_swarm.runs import submit  # noqa: PLC0415
    from domyn_swarm.runs.find import Run, name_in  # noqa: PLC0415
    from domyn_swarm.runs.state import status_of  # noqa: PLC0415

    if prepared.nothing_to_do:
        folder = prepared.plan.store.folder
        return status_of(Run(name_in(folder), folder))
    return status_of(submit.submit_run(prepared, job_name))


def print_submission(status: Status, *, as_json: bool) -> None:
    """Print the run's name, and the commands that manage it."""
    from domyn_swarm.runs.state import ACTIVE  # noqa: PLC0415

    if as_json:
        print_json(status)
        return
    lines = {"name": status.name, "state": state_shown(status), "folder": status.path}
    name = quote(status.name)
    if status.state in ACTIVE:
        lines["follow"] = f"domyn-swarm job logs -f {name}"
        lines["status"] = f"domyn-swarm job status {name}"
        lines["cancel"] = f"domyn-swarm job cancel {name}"
    elif status.state == "done":
        lines["output"] = f"{status.output} (every row is done, nothing to do)"
    else:
        lines["status"] = f"domyn-swarm job status {name}"
    typer.echo(aligned(lines))


def state_shown(status: Status) -> str:
    """`running (process 12 on host)`."""
    return f"{status.state} ({status.detail})" if status.detail else status.state


def shown_reasons(reasons: Sequence[Reason]) -> str:
    """The reasons for which rows failed, a line for each."""
    return "\n".join(one_line(f"{one.count:,}: {one.type}: {one.message[:MESSAGE_CHARS]}") for one in reasons)


def shown_tokens(tokens_in: int, tokens_out: int) -> str:
    """`1,234 in, 567 out`; nothing without any."""
    return f"{tokens_in:,} in, {tokens_out:,} out" if tokens_in or tokens_out else ""


def aligned(lines: Mapping[str, str], width: int = 11) -> str:
    """Names and values in two columns; further lines of a value are indented below the first."""
    return "\n".join(
        f"{name:<{width}}{value.replace(chr(10), chr(10) + ' ' * width)}" for name, value in lines.items() if value
    )
