"""Errors for Python users: interruptions as errors of this package, and no internal traceback frames."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from domyn_swarm.errors import Interrupted, SwarmError, beyond_ours

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


def in_python(method: Callable[P, R]) -> Callable[P, R]:
    """`method` with errors for Python; KeyboardInterrupt becomes Interrupted, others lose internal frames."""

    @functools.wraps(method)
    def translated(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True  # IPython leaves this frame out
        try:
            return method(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted.", "Finished rows are kept.") from None
        except SwarmError:
            raise
        except Exception as error:
            error.__traceback__ = beyond_ours(error) or error.__traceback__
            raise

    return translated
