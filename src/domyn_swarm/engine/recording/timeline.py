"""The run over time, in a list that stays short however long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.report.model import Timeline
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_POINTS = 600
_SUMS = ("rows", "failed", "requests", "tokens")


class TimeSeries:
    """Takes down what happened since the last time. When it grows long, two entries become one, and so on."""

    def __init__(self) -> None:
        self.line = Timeline()
        self._before = Counts()
        self._every = 1
        self._asked = 0

    def note(self, seconds: float, now: Counts, memory: int, *, last: bool = False) -> None:
        """What `now` has been counted, `seconds` since the start; `memory` in bytes."""
        self._asked += 1
        if self._asked % self._every and not last:
            return
        since, self._before = now - self._before, now
        line, latencies = self.line, since.latencies
        line.seconds.append(round(seconds, 2))
        line.rows.append(since.rows)
        line.failed.append(since.failed)
        line.requests.append(since.requests)
        line.tokens.append(since.tokens_in + since.tokens_out)
        line.p50.append(latencies.percentile(0.5))
        line.p95.append(latencies.percentile(0.95))
        line.in_flight.append(now.in_flight)
        line.memory.append(memory)
        if len(line.seconds) >= MOST_POINTS:
            self._halve()

    def _halve(self) -> None:
        self._every *= 2
        line = self.line
        line.seconds = line.seconds[1::2]
        for name in _SUMS:
            setattr(line, name, _paired(getattr(line, name), sum))
        for name in ("p50", "p95"):
            setattr(line, name, _paired(getattr(line, name), _most))
        for name in ("in_flight", "memory"):
            setattr(line, name, _paired(getattr(line, name), max))


def _paired(values: Sequence[Any], together: Callable[[Sequence[Any]], Any]) -> list[Any]:
    return [together(values[at : at + 2]) for at in range(0, len(values) - 1, 2)]


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
