"""Refusals as errors: the command line in this process, which raises what a command would show."""

from __future__ import annotations

import functools
import logging
from typing import Any

import typer

from domyn_swarm.cli.main import app
from domyn_swarm.errors import SwarmError


def refusal(*arguments: str) -> SwarmError:
    """The error with which `domyn-swarm job submit ARGUMENTS` is refused."""
    logger = logging.getLogger("domyn_swarm")
    level = logger.level
    try:
        _command_line().main(["job", "submit", *arguments], prog_name="domyn-swarm", standalone_mode=False)
    except SwarmError as error:
        return error
    finally:
        logger.setLevel(level)
    raise AssertionError(f"not refused: {' '.join(arguments)}")


@functools.cache
def _command_line() -> Any:
    """Building it takes longer than most commands."""
    return typer.main.get_command(app)
