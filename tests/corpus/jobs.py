"""The job that files are run through."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from domyn_swarm import SwarmJob

OUTPUT = "domyn_swarm_corpus_echo"
CALLS_LEFT = "CORPUS_CALLS_LEFT"
"""How many calls there may be before `END` comes, in the environment."""
END = "CORPUS_END"
"""`kill`, or else an interrupt."""


class Echo(SwarmJob):
    """What a row's item looks like, as text: the same whatever engine has read it."""

    output_columns = (OUTPUT,)

    async def transform_item(self, item: Any) -> str:
        if (left := int(os.environ.get(CALLS_LEFT, "-1"))) == 0:
            os.kill(os.getpid(), signal.SIGKILL if os.environ.get(END) == "kill" else signal.SIGINT)
        os.environ[CALLS_LEFT] = str(left - 1)
        return repr(item)


class KillsItsDriver(Echo):
    """The echo of a worker that kills the process whose number the file `driver` holds, after `calls` calls."""

    driver: str
    calls: int = 0

    async def transform_item(self, item: Any) -> str:
        if self.calls == 0:
            with contextlib.suppress(FileNotFoundError):
                os.kill(int(Path(self.driver).read_text()), signal.SIGKILL)
        self.calls -= 1
        return repr(item)
