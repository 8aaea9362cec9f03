"""`domyn-swarm`: the root command, and how errors are reported."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import Any

import typer

from domyn_swarm import __version__
from domyn_swarm.cli import checkpoint, endpoint, init, job
from domyn_swarm.cli.completion import in_bash
from domyn_swarm.cli.doctor import doctor
from domyn_swarm.cli.help import DOCUMENTATION, App
from domyn_swarm.concurrency.address_space import save_address_space
from domyn_swarm.edges import on_command_line
from domyn_swarm.endpoint.keys import hide_keys
from domyn_swarm.errors import Interrupted, JobError, SwarmError
from domyn_swarm.report import terminal

app = App(
    name="domyn-swarm",
    help="Run a function, most often an LLM call, over every row of a parquet dataset.",
    epilog=f"Start with: domyn-swarm job submit --help\n\n{DOCUMENTATION}",
    pretty_exceptions_enable=False,
)
app.add_typer(job.app, name="job")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(init.app, name="init")
app.command("doctor")(doctor)


UsageError: Any = typer.BadParameter.__base__
"""What typer raises for an invalid flag. The package that defines the class depends on the typer version."""


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log more and show tracebacks."),
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
    """Run the command line; a SwarmError is printed as one message and sets the exit status."""
    ending = _Ending()
    atexit.register(ending)  # registered first, so that it is called last
    try:
        sys.exit(_status())
    except SystemExit as error:
        ending.status = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise


def _status() -> int:
    """Run the command line and return its exit status."""
    if os.environ.get("_DOMYN_SWARM_COMPLETE") == "complete_bash":
        sys.stdout.write(in_bash(app))
        return 0
    terminal.guard(pipes=True)
    hide_keys()
    save_address_space()
    try:
        return int(app(standalone_mode=False) or 0)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx else "domyn-swarm"
        typer.echo(f"Error: {error.format_message()}\nSee {command} --help.", err=True)
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # before or after the run, which handles signals itself
        typer.echo("Interrupted.", err=True)
        return Interrupted.exit_status
    except SwarmError as error:
        cause = error.__cause__ or (error if error.exit_status == JobError.exit_status else None)
        if cause is not None:
            logging.getLogger("domyn_swarm").debug("caused by", exc_info=cause)
        typer.echo(f"{'Error: ' if error.exit_status in (1, 2) else ''}{on_command_line(error)}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a call that hangs in a thread must not keep the process alive.
        os._exit(error.exit_status)


class _Ending:
    """Ends the process after threads were joined and exit handlers called, before the interpreter shuts down.

    During the interpreter's shutdown, an Arrow thread that releases a Python object aborts the process or hangs.
    """

    status = 1
    """The status of an uncaught exception."""

    def __call__(self) -> None:
        logging.shutdown()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            os._exit(self.status or _UNWRITTEN)
        os._exit(self.status)


_UNWRITTEN = 120
"""Python's exit status when buffered output cannot be written."""
