"""The RUN argument: a run's name, with shell completion, or its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

HELP = "Name of a run, its output or its folder, or @last for the newest"


def complete(incomplete: str) -> list[str]:
    """Names of runs with this prefix. Reads only the index, and returns nothing when that fails."""
    from domyn_swarm.runs.index import names_for_completion  # noqa: PLC0415 - keeps --help light

    return [*names_for_completion(incomplete), *(["@last"] if incomplete and "@last".startswith(incomplete) else [])]


def run_argument(metavar: str = "RUN", help_text: str = HELP) -> typer.models.ArgumentInfo:
    """A typer argument for a run."""
    argument: typer.models.ArgumentInfo = typer.Argument(metavar=metavar, help=help_text, autocompletion=complete)
    return argument


RunName = Annotated[str, run_argument()]
RunNames = Annotated[list[str], run_argument("RUN...", "Names, outputs or folders of runs, or @last")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def folder_of(run: str) -> RunFolder:
    """The folder of a run, given by its name or its path.

    Raises:
        ConfigurationError: no such run exists.
    """
    from domyn_swarm.runs.find import folder_of as found  # noqa: PLC0415

    return found(run)


def path_of(run: str) -> str:
    """The path of a run's folder; `run` unchanged when it is not a known name."""
    from domyn_swarm.runs.find import known_path  # noqa: PLC0415

    return known_path(run) or run
