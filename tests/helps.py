"""The help of every command, recorded in `helps.txt`. `python -m tests.helps` updates it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

from tests.reader import commands

FILE = Path(__file__).with_suffix(".txt")
COLUMNS = 80


def help_of(path: str, columns: int) -> str:
    """What `domyn-swarm PATH --help` prints on a terminal of that width."""
    command = dict(commands())[f"domyn-swarm {path}".strip()]
    with mock.patch.dict(os.environ, COLUMNS=str(columns)):
        context = command.context_class(command, info_name=f"domyn-swarm {path}".strip())
        with context:
            shown: str = command.get_help(context)
    return shown


def all_of_them() -> str:
    """The help of every command, groups before their members."""
    paths = [path.removeprefix("domyn-swarm").strip() for path, _ in commands()]
    texts = (f"$ domyn-swarm {path} --help".replace("  ", " ") + f"\n{help_of(path, COLUMNS)}" for path in paths)
    return "\n\n".join(text.rstrip() for text in texts) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(FILE.parent / "toy"))  # as in the tests, a backend among those that are registered
    FILE.write_text(all_of_them(), encoding="utf-8")
