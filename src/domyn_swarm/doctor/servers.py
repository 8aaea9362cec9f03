"""Checks of what a run needs to start model servers: the command, and GPUs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from domyn_swarm.doctor.finding import Finding
from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.serving.command import read_command, search_path
from domyn_swarm.serving.gpus import VARIABLE, visible_gpus

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_serve(text: str) -> Iterator[Finding]:
    """Check the command of `--serve`, without starting it, and list the GPUs."""
    try:
        command = read_command(text)
        command.check()
        yield Finding("serve", "ok", f"{command} ({shutil.which(command.words[0], path=search_path())})")
    except ConfigurationError as error:
        yield Finding("serve", "failed", *error.rendered(COMMAND_LINE))
    if found := visible_gpus():
        yield Finding("gpus", "ok", f"{len(found)}: {', '.join(found)}")
    else:
        yield Finding("gpus", "warning", "no NVIDIA GPU", f"No action is needed on a CPU; {VARIABLE} may hide them.")
