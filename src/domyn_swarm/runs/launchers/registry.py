"""The installed launchers. Only the selected one is imported."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from domyn_swarm.runs.launchers.base import Launcher

GROUP = "domyn_swarm.launchers"
"""Entry-point group: name -> module."""


def launcher_names() -> list[str]:
    """The names of all installed launchers, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load_launcher(name: str) -> Launcher:
    """Import the launcher `name`.

    Raises:
        ConfigurationError: no launcher has that name; the message lists the installed ones.
    """
    entry = next(iter(entry_points(group=GROUP, name=name)), None)
    if entry is None:
        raise ConfigurationError(
            f"unknown launcher {name!r}.",
            f"Available: {', '.join(launcher_names())}.",
            code="launcher.unknown",
            option="run_on",
            choices=tuple(launcher_names()),
        )
    return cast("Launcher", importlib.import_module(entry.value))
