"""Which backends there are, and importing the one that is selected, and no other."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from domyn_swarm.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from domyn_swarm.data.backends import pandas_backend, polars_backend, ray_backend
    from domyn_swarm.data.backends.base import DataBackend, DistributedBackend

    # The type checker compares each module with the protocol here, and names the function that is missing.
    _CHECKED: tuple[DataBackend, ...] = (pandas_backend, polars_backend, ray_backend)
    _CHECKED_AS_DISTRIBUTED: tuple[DistributedBackend, ...] = (ray_backend,)

GROUP = "domyn_swarm.backends"
"""Entry-point group: name -> module. This package's own backends are registered the same way as anyone's."""


ALIASES = {"pd": "pandas", "pl": "polars"}
"""Other names that a backend goes by."""


def canonical(name: str) -> str:
    """The backend's own name."""
    return ALIASES.get(name, name)


def backend_names() -> list[str]:
    """The names of all installed backends, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def install_commands() -> dict[str, str]:
    """Each registered backend, with the command that installs its engine; empty where the engine is installed.

    An engine is an extra of the distribution that registers its backend, and has the backend's name.
    """
    found = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        extras = (entry.dist.metadata.get_all("Provides-Extra") if entry.dist else None) or ()
        is_missing = entry.name in extras and find_spec(entry.name) is None
        found[entry.name] = f"pip install '{entry.dist.name}[{entry.name}]'" if is_missing and entry.dist else ""
    return found


@cache  # looking through the metadata of all that is installed takes a tenth of a small run's CPU
def load_backend(name: str) -> DataBackend:
    """Import the backend `name`.

    Raises:
        ConfigurationError: no backend has that name; the message lists those that there are.
        MissingDependencyError: its library is not installed; the hint is the command that installs it.
    """
    name = canonical(name)
    entry = next(iter(entry_points(group=GROUP, name=name)), None)
    if entry is None:
        raise ConfigurationError(
            f"unknown backend {name!r}.",
            f"Known: {', '.join(backend_names())}.",
            code="backend.unknown",
            option="data_backend",
            choices=tuple(backend_names()),
        )
    try:
        return cast("DataBackend", importlib.import_module(entry.value))
    except ModuleNotFoundError as error:
        # Only the engine's own absence is a missing extra; anything else is a broken install and must show.
        if error.name != name:
            raise
        raise MissingDependencyError(
            f"the package {error.name!r} is not installed.",
            command=f"pip install 'domyn-swarm[{name}]'",
            option="data_backend",
        ) from None
