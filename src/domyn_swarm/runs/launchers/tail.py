"""Create and follow a run's log."""

from __future__ import annotations

import codecs
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.folder import is_shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.1
PIECE = 2**16


def make_log(path: str) -> None:
    """Create the log, readable only by this user unless its folder is shared, before it is opened for appending."""
    folder = Path(path).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o660 if is_shared(folder) else 0o600))


def follow_file(path: str, over: Callable[[], bool]) -> Iterator[str]:
    """The file's content, then new content until `over()` is true, then the rest. The file need not exist yet."""
    read, decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")  # a chunk may end within a character
    while True:
        last = over()  # checked before reading, so that everything printed until then is read
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                file.seek(read)
                while piece := file.read(PIECE):
                    yield decoder.decode(piece)
                read = file.tell()
        if last:
            return
        time.sleep(POLL_SECONDS)
