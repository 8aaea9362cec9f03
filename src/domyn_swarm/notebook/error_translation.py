"""Errors as somebody reads them who types Python: options by their names, and no frames of ours before their own."""

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
    "Give it on the command line.": "Give it to plan().",
}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def in_python(method: Callable[P, R]) -> Callable[P, R]:
    """`method`, with errors that are worded for Python. An interrupt is one of ours; others' show no frames of ours."""

    @functools.wraps(method)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True  # IPython leaves this frame out
        try:
            return method(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted.", "What a run had finished is kept.") from None
        except SwarmError as error:
            error.message, error.hint = worded(error.message), worded(error.hint)
            error.args = (error.message, error.hint, *error.args[2:])
            raise
        except Exception as error:
            error.__traceback__ = beyond_ours(error) or error.__traceback__
            raise

    return told


def worded(text: str) -> str:
    """The text with options by their names: `--id-column` is `id_column`, `--no-resume` is `resume=False`."""
    for command, python in AGAIN.items():
        text = text.replace(command, python)
    return FLAG.sub(lambda flag: _names().get(flag[0], flag[0]), text)


@functools.cache
def _names() -> dict[str, str]:
    """Flag -> what to write in Python."""
    names: dict[str, str] = {}
    for field in JobSpec.__struct_fields__:
        for flag in option_of(field).extra["flags"]:
            yes, _, no = flag.partition("/")
            names |= {yes: f"{field}=True", no: f"{field}=False"} if no else {yes: field}
    return names
