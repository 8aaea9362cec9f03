"""The wording of refusals, recorded in `wording.txt`: the one test of prose. `python -m tests.wording` updates it."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from domyn_swarm.edges import on_command_line
from tests.refused import refusal

if TYPE_CHECKING:
    from domyn_swarm.errors import SwarmError
    from tests.test_refusals import Refused

FILE = Path(__file__).with_suffix(".txt")
FOREIGN = ("no JSON", "compression", "write kwarg", "that exits", "syntax error", "whose import", "lies to be CSV")
FOREIGN_CODES = ("job.fields", "job.import", "storage.unknown", "storage.options")
"""Messages that quote a library or Python, whose wording depends on the version."""


def is_recorded(case: Refused) -> bool:
    """Whether all of the message is ours."""
    return case.code not in FOREIGN_CODES and not any(words in case.what for words in FOREIGN)


def entry(case: Refused, error: SwarmError) -> str:
    """The case with its code and its message, on the command line and in Python where that differs."""
    command_line, python = on_command_line(error), str(error)
    shown = [command_line] if python == command_line else [command_line, "Python:", python]
    texts = [text.replace(str(Path.cwd()), ".").replace(str(FILE.parent), "tests") for text in shown]
    return "\n".join([f"# {case.what} [{error.code}]", *texts])


@functools.cache
def recorded() -> set[str]:
    """The recorded entries."""
    return set(FILE.read_text(encoding="utf-8").rstrip("\n").split("\n\n"))


def main() -> None:
    """Record the wording of today."""
    from tests.test_refusals import REFUSED, write_files

    sys.path.insert(0, str(FILE.parent / "toy"))  # as in the tests, a backend among those that an error lists
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_files()
        entries = [entry(case, refusal(*case.arguments)) for case in REFUSED if is_recorded(case)]
    FILE.write_text("\n\n".join(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
