"""How calls are made: how many at once, how often, and for how long."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from domyn_swarm.concurrency.adaptive import MOST

if TYPE_CHECKING:
    from collections.abc import Callable

ASYNC_CONCURRENCY = 32


@dataclass(frozen=True)
class Limits:
    """How calls are made. `concurrency` counts calls in flight; None, for async calls, finds out how many are good.

    `most` bounds what is found out. `timeout` is in seconds for one call, `grace` for those in flight when the run has
    to end. With `trace` it is kept what happened in each. Rate limits that last longer than `patience` (seconds) end
    the run.
    """

    concurrency: int | None
    retries: int = 0
    timeout: float | None = None
    trace: bool = True
    grace: float = 5.0
    most: int = MOST
    patience: float = 600.0


def concurrency_for(call: Callable[..., Any], wanted: int | Literal["auto"] | None) -> int | None:
    """The calls in flight, None to find out. By default many for calls that wait, one per core for those that work."""
    if wanted == "auto":
        return None
    return wanted or (ASYNC_CONCURRENCY if inspect.iscoroutinefunction(call) else os.cpu_count() or 1)
