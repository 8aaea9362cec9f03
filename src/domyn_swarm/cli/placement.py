"""Where `job submit` and `job resume` send a run, and what they tell of it then."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.checkpoint.submission import Placement
from domyn_swarm.cli.files import print_json

if TYPE_CHECKING:
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.runs.state import Status
    from domyn_swarm.runs.submit import Ready


def _places(incomplete: str) -> list[str]:
    from domyn_swarm.runs.launchers.registry import launcher_names  # noqa: PLC0415 - keeps --help light

    return [name for name in launcher_names() if name.startswith(incomplete)]


RunOn = Annotated[
    str | None,
    typer.Option(
        "--run-on", metavar="PLACE", autocompletion=_places, show_default=False,
        help="Where the run goes on: local (the default), slurm, ray. Any but local implies --detach.",
    ),
]  # fmt: skip
Detach = Annotated[
    bool,
    typer.Option(
        "--detach/--no-detach",
        show_default=False,
        help="Let the run go on by itself, and return. Its log is in its folder. (default: --no-detach)",
    ),
]
JobName = Annotated[
    str | None,
    typer.Option(
        "--job-name", metavar="NAME", show_default=False, help="What the run is called (default: the output's name)"
    ),
]
SlurmArgs = Annotated[
    str | None,
    typer.Option(
        "--slurm-args", metavar="ARGS", show_default=False,
        help="Options for sbatch, as one text: '--time=2:00:00 --partition=cpu'",
    ),
]  # fmt: skip
Requeue = Annotated[
    bool | None,
    typer.Option(
        "--requeue/--no-requeue", show_default=False,
        help="On Slurm, queue the run again when its time is up, until it is done (default: --no-requeue)",
    ),
]  # fmt: skip
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="URL", show_default=False, help="Ray cluster that it goes on with"),
]


def placement_of(spec: JobSpec, run_on: str | None, slurm_args: str | None, requeue: bool | None) -> Placement:
    """Where the flags say."""
    default = Placement()
    return Placement(
        run_on=run_on or default.run_on, slurm_args=slurm_args or default.slurm_args, requeue=bool(requeue),
        ray_address=spec.ray_address,
    )  # fmt: skip


def check_here(spec: JobSpec, placement: Placement) -> None:
    """Refuse, for a run that stays in this terminal, what only makes sense elsewhere.

    Raises:
        ConfigurationError: the message names the flag.
    """
    if placement != Placement(ray_address=spec.ray_address):
        from domyn_swarm.runs.launchers.registry import load_launcher  # noqa: PLC0415

        load_launcher(placement.run_on).check(placement)


def check_name(spec: JobSpec, job_name: str | None) -> None:
    """Refuse a name that the run cannot have.

    Raises:
        ConfigurationError: it is none, it is another run's, or the run has one.
    """
    if job_name is not None:
        from domyn_swarm.runs.submit import check_name_for  # noqa: PLC0415

        check_name_for(spec, job_name)


def is_away(placement: Placement, *, detach: bool) -> bool:
    """Whether the run is to go on without this terminal."""
    return detach or placement.run_on != Placement().run_on


def checked(spec: JobSpec, placement: Placement) -> Ready:
    """What the run would do there.

    Raises:
        SwarmError: it cannot.
    """
    from domyn_swarm.runs import submit  # noqa: PLC0415

    return submit.checked(spec, placement)


def shown(ready: Ready, job_name: str | None) -> str:
    """What would be sent."""
    from domyn_swarm.runs import submit  # noqa: PLC0415

    return submit.shown(ready, job_name)


def sent(ready: Ready, job_name: str | None) -> Status:
    """Send the run; what is true of it then. A run that is done is sent nowhere."""
    from domyn_swarm.runs import submit  # noqa: PLC0415
    from domyn_swarm.runs.find import Run, name_in  # noqa: PLC0415
    from domyn_swarm.runs.state import status_of  # noqa: PLC0415

    if ready.nothing_to_do:
        folder = ready.plan.store.folder
        return status_of(Run(name_in(folder), folder))
    return status_of(submit.send(ready, job_name))


def tell_sent(status: Status, *, as_json: bool) -> None:
    """Say what the run is called, and how it is looked after."""
    from domyn_swarm.runs.state import GOING_ON  # noqa: PLC0415

    if as_json:
        print_json(status)
        return
    lines = {"name": status.name, "state": state_shown(status), "folder": status.path}
    name = quote(status.name)
    if status.state in GOING_ON:
        lines["follow"] = f"domyn-swarm job logs -f {name}"
        lines["status"] = f"domyn-swarm job status {name}"
        lines["cancel"] = f"domyn-swarm job cancel {name}"
    elif status.state == "done":
        lines["output"] = f"{status.output} (every row is done: there is nothing to do)"
    else:
        lines["look"] = f"domyn-swarm job status {name}"
    typer.echo(aligned(lines))


def state_shown(status: Status) -> str:
    """`running (process 12 on host)`."""
    return f"{status.state} ({status.detail})" if status.detail else status.state


def aligned(lines: dict[str, str]) -> str:
    """Names and values in two columns; a value's further lines stand below its first."""
    return "\n".join(
        f"{name:<11}{value.replace(chr(10), chr(10) + ' ' * 11)}" for name, value in lines.items() if value
    )
