"""What a run counts while it goes. Counts add up over processes, and their difference is what happened in between."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field

_BUCKETS_PER_DOUBLING = 8


class Latencies(Counter[int]):
    """How many requests took how long, in buckets that grow by 9 %: percentiles of any number of them, in no space."""

    def record(self, seconds: float) -> None:
        """Count a request that took `seconds`."""
        self[math.floor(math.log2(min(max(seconds, 1e-6), 1e9)) * _BUCKETS_PER_DOUBLING)] += 1

    def percentile(self, share: float) -> float | None:
        """Seconds within which `share` (0.95) of the requests were answered, to 5 %; None when there were none."""
        wanted = share * self.total()
        for bucket in sorted(self):
            wanted -= self[bucket]
            if wanted <= 0:
                middle: float = 2.0 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING)
                return middle
        return None


@dataclass(slots=True)
class Counts:
    """Rows that finished, and the requests that were made for them.

    `in_flight` and `limit` (calls that may be in flight) are of the moment: they add up over processes, not over time.
    """

    rows: int = 0
    failed: int = 0
    requests: int = 0
    answers: int = 0
    retries: int = 0
    shared: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    in_flight: int = 0
    limit: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def __add__(self, other: Counts) -> Counts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return Counts(**sums, latencies=_combined(self.latencies, other.latencies, 1))

    def __sub__(self, other: Counts) -> Counts:
        differences = {name: getattr(self, name) - getattr(other, name) for name in _NUMBERS}
        return Counts(**differences, latencies=_combined(self.latencies, other.latencies, -1))

    def copy(self) -> Counts:
        """A copy that stays as it is. Safe to take from another thread than the one that counts."""
        return self + Counts()


_NUMBERS = tuple(one.name for one in dataclasses.fields(Counts) if one.name != "latencies")


def _combined(one: Latencies, other: Latencies, sign: int) -> Latencies:
    result = Latencies(dict(one))
    for bucket, count in dict(other).items():
        result[bucket] += sign * count
        if not result[bucket]:
            del result[bucket]
    return result
