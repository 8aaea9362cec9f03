"""A process for each engine that runs the echo job over files, so that an abort takes no other file along."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from domyn_swarm import make_spec, run
from domyn_swarm.errors import SwarmError

ROOT = Path(__file__).parents[2]
JOB = f"{Path(__file__).with_name('jobs.py')}:Echo"
ABORTED, BROKEN = -1, 1


@dataclass(frozen=True)
class Outcome:
    """How the job ended over one file: the exit status that the command would have, and what was said.

    `status` is ABORTED where the process died, BROKEN also for an error that is none of the tool's own.
    """

    status: int
    kind: str = ""
    message: str = ""
    notes: list[str] = field(default_factory=list)


class Engine:
    """The process of one engine, started again after an abort, and after a file that took longer than `seconds`."""

    def __init__(self, backend: str, seconds: float) -> None:
        self.backend = backend
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: dict[str, Any]) -> Outcome:
        """Run the echo job with the options in `task`."""
        process = self._process = self._process or self._started()
        assert process.stdin
        assert process.stdout
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{json.dumps({**task, 'data_backend': self.backend})}\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], self._seconds)[0]:
                process.kill()
            answer = process.stdout.readline()
        if answer:
            return Outcome(**json.loads(answer))
        self._process = None
        return Outcome(ABORTED, f"exit status {process.wait()}", "the process ended, or took too long and was ended")

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.corpus.engines", self.backend]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def close(self) -> None:
        """End the process."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
            self._process.wait()


class Notes(logging.Handler):
    """Keeps what a run says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


def outcome(task: dict[str, Any]) -> Outcome:
    """Run the echo job in this process."""
    notes = Notes()
    logger = logging.getLogger("domyn_swarm")
    logger.addHandler(notes)
    try:
        result = run(make_spec({"job": JOB, "retries": 0, **task}))
    except SwarmError as error:
        return Outcome(error.exit_status, type(error).__name__, str(error), notes.lines)
    except Exception as error:  # noqa: BLE001 - this is what the corpus looks for
        return Outcome(BROKEN, f"TRACEBACK {type(error).__name__}", traceback.format_exc(limit=-3), notes.lines)
    finally:
        logger.removeHandler(notes)
    return Outcome(result.exit_status, notes=notes.lines)


def serve(tasks: Iterator[str], answers: TextIO) -> None:
    """Answer each task, a line of JSON, with a line of JSON."""
    for line in tasks:
        answers.write(f"{json.dumps(vars(outcome(json.loads(line))))}\n")
        answers.flush()


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever an engine prints is no answer
    if sys.argv[1] == "ray":
        import ray

        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve(iter(sys.stdin), answers)
