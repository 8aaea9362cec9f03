"""How errors are written where people meet them: on the command line, and for options from an option file.

`domyn_swarm.errors.PYTHON` is the edge of Python and notebooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.submission import LaunchOptions
from domyn_swarm.declared import option_of
from domyn_swarm.errors import Edge, SwarmError
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


class CommandLine(Edge):
    """`--id-column`, `--no-resume`; `job.toml: id_column` for options that a file gave."""

    again = "Run the same command again"

    def __init__(self, given_in: Mapping[str, str] | None = None) -> None:
        self._given_in = given_in or {}

    def option(self, name: str, value: object = None) -> str:
        """The flag, with its value."""
        if isinstance(value, bool):
            return flag(name, value=value)
        return flag(name) if value is None else f"{flag(name)} {value}"

    def subject(self, name: str) -> str:
        """The flag, or the option file and its key."""
        return f"{self._given_in[name]}: {name}" if name in self._given_in else flag(name)


COMMAND_LINE = CommandLine()


def flag(name: str, *, value: bool = True) -> str:
    """The flag for an option by its name in Python, which turns it on or off. Arguments (`OUTPUT`) are as they are."""
    if name.isupper():
        return name
    kind = LaunchOptions if name in LaunchOptions.__struct_fields__ else JobSpec
    plain = name.replace("_", "-")  # of an option that only one command has
    yes, _, no = next(iter(option_of(kind, name).flags), f"--{plain}/--no-{plain}").partition("/")
    return yes if value else no


def on_command_line(error: BaseException) -> str:
    """Message and hint of one of our errors as the command line shows them; the text of another error."""
    return error.shown(CommandLine(error.given_in)) if isinstance(error, SwarmError) else str(error)
