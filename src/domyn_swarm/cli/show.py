"""`domyn-swarm job show`: print a run's options as an option file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from domyn_swarm.cli.completion import among
from domyn_swarm.cli.names import RunName  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from domyn_swarm.options.write_file import Format


def show(
    run: RunName,
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="toml|yaml|json",
            help="File format; toml and yaml include the help of each option",
            autocompletion=among(("toml", "yaml", "json")),
        ),
    ] = "toml",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the options of RUN that are not defaults, as an option file that `job submit @FILE` accepts.

    Paths are absolute. API keys and other secrets are never stored, so they are not included.
    """
    from domyn_swarm.options import write_file  # noqa: PLC0415
    from domyn_swarm.runs.find import find  # noqa: PLC0415
    from domyn_swarm.runs.names import base_name  # noqa: PLC0415
    from domyn_swarm.storage.files import translating_io_errors  # noqa: PLC0415 - keeps --help light

    if kind not in (kinds := get_args(write_file.Format)):
        raise ConfigurationError(
            f"{kind!r} is not valid.",
            f"It takes: {', '.join(kinds)}.",
            code="option.invalid",
            option="format",
            choices=tuple(kinds),
        )
    with translating_io_errors(run):
        name, folder = find(run)
        options = write_file.options_of_run(folder)
    base = base_name(options["output"])
    if "/" not in name and not re.fullmatch(rf"{re.escape(base)}(-\d+)?", name):  # chosen by the user, not derived
        options["job_name"] = name
    heading = f"Options of {name}. Submit them again with: domyn-swarm job submit @FILE"
    form = cast("Format", "json" if as_json else kind)
    typer.echo(write_file.written(options, form, heading), nl=False)
