"""What is printed on a terminal: texts of others cannot move its cursor, rewrite lines, or set its title.

Ids, names, paths, messages of servers and logs are anybody's. Escaping them where each is printed would miss some, so
the streams themselves do it. What draws on a terminal on purpose (the progress bar) writes to the stream below.
"""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which order text is shown in
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]"  # line separators, annotations, invisible tags
)


def escaped(text: str) -> str:
    r"""`text` with its control characters as JSON spells them (`\u001b`), but for tabs and line feeds.

    JSON that is printed stays the same JSON.
    """
    return _CONTROL.sub(_spelled, text)


def one_line(text: str) -> str:
    """As `escaped`, with line feeds and tabs, too: for a cell of a table, where a line is an entry."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelled(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class _Escaping(io.TextIOBase):
    """A stream that escapes what is written to it.

    It has no `buffer`: whoever looks for one would write beside it.
    """

    def __init__(self, below: TextIO) -> None:
        self._below = below

    def write(self, text: str) -> int:
        self._below.write(escaped(text.replace("\r\n", "\n")))
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._below.flush()

    def isatty(self) -> bool:
        return self._below.isatty()

    def fileno(self) -> int:
        return self._below.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._below.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._below.errors


def guard() -> None:
    """Escape what this process prints from now on, where it prints to a terminal."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Escaping) and stream.isatty():
            setattr(sys, name, _Escaping(stream))


def unguarded(stream: TextIO) -> TextIO:
    """The stream below, for what draws on a terminal on purpose. It must be given no text of others."""
    return stream._below if isinstance(stream, _Escaping) else stream  # noqa: SLF001 - of this module
