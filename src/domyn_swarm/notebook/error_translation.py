"""Translate errors for Python users: option names instead of flags, and no internal traceback frames."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from domyn_swarm.errors import Interrupted, SwarmError, beyond_ours
from domyn_swarm.jobspec import JobSpec, option_of

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

AGAIN = {
    "Run the same command again": "Run it again",
    "Run the same command without --no-resume": "Run it with resume=True",
    "Give it on the command line.": "Pass it to plan().",
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def in_python(method: Callable[P, R]) -> Callable[P, R]:
    """`method` with errors for Python; KeyboardInterrupt becomes Interrupted, others lose internal frames."""

    @functools.wraps(method)
    def translated(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True  # IPython leaves this frame out
        try:
            return method(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted.", "Finished rows are kept.") from None
        except SwarmError as error:
            error.message, error.hint = translate(error.message), translate(error.hint)
            error.args = (error.message, error.hint, *error.args[2:])
            raise
        except Exception as error:
            error.__traceback__ = beyond_ours(error) or error.__traceback__
            raise

    return translated


def translate(text: str) -> str:
    """Replace flags by Python options: `--id-column` by `id_column`, `--no-resume` by `resume=False`."""
    for command, python in AGAIN.items():
        text = text.replace(command, python)
    return FLAG.sub(lambda flag: _names().get(flag[0], flag[0]), text)


@functools.cache
def _names() -> dict[str, str]:
    """Flag -> Python option."""
    names: dict[str, str] = {}
    for field in JobSpec.__struct_fields__:
        for flag in option_of(field).extra["flags"]:
            yes, _, no = flag.partition("/")
            names |= {yes: f"{field}=True", no: f"{field}=False"} if no else {yes: field}
    return names
