"""RUN on the command line: a name, which shells complete, or a run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

HELP = "A run's name, or its folder: <checkpoint-dir>/<tag>, local or a URL"


def complete(incomplete: str) -> list[str]:
    """Names of runs that begin so. Only the index is read; whatever is wrong with it, a shell hears nothing of it."""
    from domyn_swarm.runs.index import names_at_a_glance  # noqa: PLC0415 - keeps --help light

    return names_at_a_glance(incomplete)


def run_argument(metavar: str = "RUN", help_text: str = HELP) -> typer.models.ArgumentInfo:
    """An argument that is a run."""
    argument: typer.models.ArgumentInfo = typer.Argument(metavar=metavar, help=help_text, autocompletion=complete)
    return argument


RunName = Annotated[str, run_argument()]
RunNames = Annotated[list[str], run_argument("RUN...", "Names of runs, or their folders")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def folder_of(run: str) -> RunFolder:
    """The folder of the run that is called `run`, or that is there.

    Raises:
        ConfigurationError: there is none.
    """
    from domyn_swarm.runs.find import folder_of as found  # noqa: PLC0415

    return found(run)


def path_of(run: str) -> str:
    """The path of that folder; as it was typed where it names none."""
    from domyn_swarm.runs.find import known_path  # noqa: PLC0415

    return known_path(run) or run
