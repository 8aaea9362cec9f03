"""`python -m domyn_swarm.jobs.run spec.json`: run a job from its JobSpec, on whatever machine this is.

The log goes to stderr, a line at a time, with the date. Stdout gets the result as JSON.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from domyn_swarm.edges import on_command_line
from domyn_swarm.endpoint.keys import hide_keys
from domyn_swarm.engine.runner import run
from domyn_swarm.errors import ConfigurationError, Interrupted, SwarmError, TimeUp
from domyn_swarm.jobspec import RESUMED, JobSpec, make_spec
from domyn_swarm.report import terminal
from domyn_swarm.report.progress import progress_here

logger = logging.getLogger("domyn_swarm")


def main(arguments: list[str]) -> int:
    """Run the spec in the file that `arguments` name; print the result as JSON; return the exit status.

    The last line of the log is the exit status, so that a run that ended differs from one that was killed.
    """
    terminal.guard()
    asked = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    hide_keys()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before the run, too, it is no death without a word
    status = SwarmError.exit_status
    try:
        status = _ran(asked)
    except KeyboardInterrupt:  # before the run, which has its own way to stop
        print("Interrupted.", file=sys.stderr)  # noqa: T201 - a command's message
        status = Interrupted.exit_status
    except Exception:
        logger.exception("Internal error:")
    finally:
        logger.info("exit status %d", status)
    return status


def _ran(asked: argparse.Namespace) -> int:
    try:
        progress = progress_here()
        with progress.shown():
            result = run(_spec(asked.spec, resume=asked.resume), progress)
    except SwarmError as error:
        print(on_command_line(error), file=sys.stderr, flush=True)  # noqa: T201 - a command's message
        if isinstance(error, TimeUp) and asked.when_time_is_up:
            subprocess.run(asked.when_time_is_up, shell=True, check=False)  # noqa: S602 - whoever started this says so
        return error.exit_status
    print(msgspec.json.encode(result).decode(), flush=True)  # noqa: T201 - a command's result
    return result.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m domyn_swarm.jobs.run", description="Run a job from its JobSpec.")
    parser.add_argument("spec", metavar="spec.json", help="the JobSpec, as a run's folder has it")
    parser.add_argument("--resume", action="store_true", help="go on from what the run's folder holds in any case")
    parser.add_argument(
        "--when-time-is-up", metavar="COMMAND", help="run this after SIGUSR1 ended a run that is worth going on with"
    )
    return parser


def _spec(path: str, *, resume: bool) -> JobSpec:
    try:
        options = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{path} is no readable JobSpec: {error}.",
            "Name the spec.json of a run.",
            code="spec.unreadable",
            path=path,
        ) from None
    return make_spec({**options, **RESUMED} if resume else options)


def _leave(status: int) -> NoReturn:
    """Not by sys.exit: a call that hangs in a thread must not keep the process from ending."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
