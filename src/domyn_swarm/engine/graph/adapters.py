"""Hamilton's adapters that a user names: trackers of lineage, telemetry, whatever wants to see each node."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import About, ConfigurationError, SwarmError
from domyn_swarm.jobs.working_folder import find_in_working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INVALID: About = {"code": "adapter.invalid", "option": "adapters"}


def load_adapters(references: Sequence[str]) -> list[Any]:
    """What the factories (`module:factory`, called without arguments) make.

    Raises:
        ConfigurationError: there is no such factory, it breaks, or makes no adapter that can go along with a run.
    """
    return [_load(reference) for reference in references]


@contextlib.contextmanager
def explaining_adapters(references: Sequence[str]) -> Iterator[None]:
    """An error in here that is none of our own is attributed to the adapters, if there are any.

    Raises:
        ConfigurationError: an adapter raised it.
    """
    try:
        yield
    except SwarmError:
        raise
    except Exception as error:
        if not references:
            raise
        raise ConfigurationError(
            f"{', '.join(references)}: {type(error).__name__}: {error}.",
            "It broke while the run was planned. Fix it, or leave it out.",
            **_INVALID,
        ) from error


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{reference!r} names no factory.", "Write module:factory.", **_INVALID)
    find_in_working_folder(module)
    try:
        adapter = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise ConfigurationError(
            f"{reference!r} cannot be made: {type(error).__name__}: {error}.",
            "It is a function or class of a module, called without arguments.",
            **_INVALID,
        ) from error
    _check(adapter, reference)
    return adapter


def _check(adapter: Any, reference: str) -> None:
    from hamilton.lifecycle import base  # noqa: PLC0415 - slow, and only needed here

    kind = type(adapter).__name__
    if not isinstance(adapter, base.LifecycleAdapter):
        raise ConfigurationError(
            f"{reference!r} makes a {kind}, no Hamilton adapter.", "See hamilton.lifecycle.", **_INVALID
        )
    if isinstance(adapter, base.BaseDoBuildResult) and not isinstance(
        adapter, (base.BaseDoNodeExecute, base.BaseDoRemoteExecute)
    ):
        raise ConfigurationError(
            f"{kind} makes another result, which the run does.",
            "Name a lifecycle adapter, which only has hooks.",
            **_INVALID,
        )
    if isinstance(adapter, (base.BaseDoNodeExecute, base.BaseDoRemoteExecute)):
        raise ConfigurationError(
            f"{kind} runs the nodes itself, which the run does.",
            "Name a lifecycle adapter, which only has hooks.",
            **_INVALID,
        )
