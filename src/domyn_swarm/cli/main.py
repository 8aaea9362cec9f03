"""`domyn-swarm`: the root of the command line, and how errors leave it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import typer

from domyn_swarm import __version__, masking
from domyn_swarm.cli import checkpoint, endpoint, init, job
from domyn_swarm.cli.doctor import doctor
from domyn_swarm.endpoint.keys import VARIABLES
from domyn_swarm.errors import Interrupted, SwarmError
from domyn_swarm.report import terminal

app = typer.Typer(
    name="domyn-swarm",
    help="Run a function, most often an LLM call, over every row of a parquet dataset.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut off the names of flags
)
app.add_typer(job.app, name="job")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(init.app, name="init")
app.command("doctor")(doctor)


UsageError: Any = typer.BadParameter.__base__
"""What typer raises for a flag that it cannot take; the package that it takes this class from varies."""


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log more, and show tracebacks."),
) -> None:
    """Set up logging."""
    if version:
        typer.echo(f"domyn-swarm {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("domyn_swarm").setLevel(level)


def main() -> None:
    """Run the command line; errors of ours become one message and their exit status."""
    terminal.guard()
    for name in VARIABLES:
        masking.hide(os.environ.get(name, "").strip())
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "domyn-swarm"
        typer.echo(f"Error: {error.format_message()}\nSee {command} --help.", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # before or after the run, which has its own way to stop
        typer.echo("Interrupted.", err=True)
        sys.exit(Interrupted.exit_status)
    except SwarmError as error:
        if logging.getLogger("domyn_swarm").level == logging.DEBUG and error.__cause__ is not None:
            logging.getLogger("domyn_swarm").debug("caused by", exc_info=error.__cause__)
        typer.echo(f"{'Error: ' if error.exit_status in (1, 2) else ''}{error}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a call that hangs in a thread must not keep the process from ending.
        os._exit(error.exit_status)
