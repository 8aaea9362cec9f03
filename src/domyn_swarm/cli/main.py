"""`domyn-swarm`: the root of the command line, and how errors leave it."""

from __future__ import annotations

import logging
import os
import sys

import typer

from domyn_swarm import __version__
from domyn_swarm.cli import endpoint, job
from domyn_swarm.errors import SwarmError

app = typer.Typer(
    name="domyn-swarm",
    help="Run a function, most often an LLM call, over every row of a parquet dataset.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(job.app, name="job")
app.add_typer(endpoint.app, name="endpoint")


@app.callback(invoke_without_command=True)
def root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log more, and show tracebacks."),
) -> None:
    """Set up logging."""
    if version:
        typer.echo(f"domyn-swarm {__version__}")
        raise typer.Exit
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("domyn_swarm").setLevel(level)


def main() -> None:
    """Run the command line; errors of ours become one message and their exit status."""
    try:
        app()
    except SwarmError as error:
        if logging.getLogger("domyn_swarm").level == logging.DEBUG and error.__cause__ is not None:
            logging.getLogger("domyn_swarm").debug("caused by", exc_info=error.__cause__)
        typer.echo(f"{'Error: ' if error.exit_status in (1, 2) else ''}{error}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a call that hangs in a thread must not keep the process from ending.
        os._exit(error.exit_status)
