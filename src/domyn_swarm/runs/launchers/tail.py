"""Reading a log that grows."""

from __future__ import annotations

import codecs
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.1
PIECE = 2**16


def followed(path: str, over: Callable[[], bool]) -> Iterator[str]:
    """What the file holds, then more as it comes until `over()`, then the rest. It need not be there yet."""
    read, decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
    while True:
        last = over()  # asked before reading, so that what was printed until then is read
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                file.seek(read)
                while piece := file.read(PIECE):
                    yield decoder.decode(piece)
                read = file.tell()
        if last:
            return
        time.sleep(POLL_SECONDS)
