"""Progress on a terminal: a bar with the rows, and a line with the requests, redrawn in place.

Lines are never wider than the terminal, whose size is read at each drawing: what matters least is left out. Whatever
else the process prints meanwhile appears above.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from domyn_swarm.report import terminal
from domyn_swarm.report.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.telemetry.counts import Counts

DRAW_SECONDS = 0.2
QUIET_SECONDS = 0.7
"""A run that has begun by then shows no preparation."""
MIN_BAR, MAX_BAR = 8, 40


class Bar(Rates):
    """Progress as the runner reports it, within `shown`."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = terminal.unguarded(sys.stderr)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._drawn = 0
        self._since = self._last = time.monotonic()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show that the run is being prepared until it has started; remove the bar at the end, whatever happens."""
        self._begin()
        try:
            yield
        finally:
            self.close()

    def started(self, total: int, done: int) -> None:
        """The run has begun: of `total` rows, `done` had finished before."""
        with self._lock:
            super().started(total, done)
        self._begin()

    def advanced(self, more: Counts) -> None:
        """Count rows and requests."""
        with self._lock:
            super().advanced(more)

    def finished(self) -> None:
        """Show the last figures, and remove the bar: a summary follows."""
        with self._lock:
            if self._thread is not None and not self._over.is_set():
                self._draw()
        self.close()

    def close(self) -> None:
        """Remove the bar. May be called again."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._erase()
            self._stream.flush()
        terminal.print_above(None)

    def lines(self, columns: int) -> list[str]:
        """What is shown, in lines of at most `columns` characters."""
        if not self._recent:
            seconds = time.monotonic() - self._since
            return [] if seconds < QUIET_SECONDS else _fitting(["preparing the run", f"{seconds:.0f} s"], columns)
        share = min(1.0, self.done / self.total) if self.total else 1.0
        rows, *others = self.row_pieces()
        figures = f"{share:>4.0%} {rows}"
        left = [self.left()] if self.counts.rows > 0 and self.done < self.total else []
        others = _that_fit([*others, *left], columns - len(figures))
        figures = ", ".join([figures, *others])
        width = min(MAX_BAR, columns - len(figures) - 1)
        bar = f"{self._bar(share, width)} {figures}" if width >= MIN_BAR else figures.lstrip()
        return [bar[:columns], *_fitting(self.request_pieces(), columns)]

    def _bar(self, share: float, width: int) -> str:
        is_unicode = (self._stream.encoding or "").lower().replace("-", "") == "utf8"
        done, left = "━╌" if is_unicode else "#-"
        full = int(share * width)
        return done * full + left * (width - full)

    def _begin(self) -> None:
        if self._thread is None and not self._over.is_set():
            terminal.print_above(self._print)
            self._thread = threading.Thread(target=self._run, name="domyn-swarm-bar", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(DRAW_SECONDS):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        lines = self.lines(self._columns())
        self._erase()
        self._stream.write("\n".join(lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
            self._stream.write(f"\r{up}\x1b[J")
            self._drawn = 0

    def _print(self, text: str) -> None:
        """Print whole lines above the bar, which is drawn again."""
        with self._lock:
            self._erase()
            self._stream.write(text)
            if not self._over.is_set():
                self._draw()

    def _columns(self) -> int:
        """The width that can be written without the cursor going to the next line."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max(20, (columns or 80) - 1)


def _that_fit(pieces: Sequence[str], columns: int) -> list[str]:
    """The pieces that fit in `columns` when each follows a comma. Failures go first, rates last."""
    rank = sorted(pieces, key=lambda piece: (not piece.endswith("failed"), not piece.endswith("left")))
    chosen: list[str] = []
    for piece in rank:
        if sum(len(one) + 2 for one in [*chosen, piece]) <= columns:
            chosen.append(piece)
    return [piece for piece in pieces if piece in chosen]


def _fitting(pieces: Sequence[str], columns: int) -> list[str]:
    """A line of the first pieces, as many as fit; no line without any."""
    shown = ""
    for piece in pieces:
        longer = f"{shown}, {piece}" if shown else piece
        if len(longer) > columns:
            break
        shown = longer
    return [shown] if shown else []
