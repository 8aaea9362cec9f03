"""Safe terminal output: untrusted text cannot move the cursor, rewrite lines, or set the title.

Ids, names, paths, logs and messages of servers are untrusted. Escaping them at each print call would miss some, so the
streams do it. The progress bar, which uses control characters on purpose, writes to the underlying stream.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # text direction
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]"  # line separators, annotations, invisible tags
)


def escaped(text: str) -> str:
    r"""`text` with control characters, except tabs and line feeds, as JSON escapes (`\u001b`).

    Valid JSON stays equivalent JSON.
    """
    return _CONTROL.sub(_json_escape, text)


def one_line(text: str) -> str:
    """As `escaped`, with line feeds and tabs escaped too, for table cells."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class _Escaping(io.TextIOBase):
    """A stream that escapes what is written to it.

    It has no `buffer`, because writes to that would bypass the escaping.
    """

    above: ClassVar[Callable[[str], None] | None] = None
    """Prints lines above what is redrawn in place on the terminal; None when nothing is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        shown = escaped(text.replace("\r\n", "\n"))
        above = _Escaping.above
        if above is None or not self.isatty():
            self._stream.write(shown)
            return len(text)
        lines, newline, self._rest = (self._rest + shown).rpartition("\n")
        if newline:
            above(lines + newline)
        return len(text)

    def complete(self) -> None:
        """Write the beginning of a line that was kept until its end."""
        rest, self._rest = self._rest, ""
        self._stream.write(rest)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors


def guard(*, pipes: bool = False) -> None:
    """From now on escape what this process prints to a terminal, and with `pipes` wherever it prints.

    What a pipe or a file gets is shown on a terminal in the end (`| less -R`, `> status.txt; cat status.txt`).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Escaping) and (pipes or stream.isatty()):
            setattr(sys, name, _Escaping(stream))


COLOURS = {"red": 31, "green": 32, "yellow": 33, "grey": 90}


def coloured(word: str, colour: str, rest: str = "") -> None:
    """Print `word` in a colour, and the rest of the line. Without colour on no terminal, and where none is wanted."""
    stream = sys.stdout
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        stream.write(f"{word}{rest}\n")
        return
    stream.flush()
    unguarded(stream).write(f"\x1b[{COLOURS[colour]}m{escaped(word)}\x1b[0m{escaped(rest)}\n")


def print_above(above: Callable[[str], None] | None) -> None:
    """Let lines that this process prints to a terminal be printed by `above` from now on; None ends that."""
    _Escaping.above = above
    if above is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Escaping):
                stream.complete()


def unguarded(stream: TextIO) -> TextIO:
    """The underlying stream, for output with control characters. Never write untrusted text to it."""
    return stream._stream if isinstance(stream, _Escaping) else stream  # noqa: SLF001 - of this module
