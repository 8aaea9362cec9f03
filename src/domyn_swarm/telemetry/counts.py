"""What a run counts while it goes. Counts add up over processes, and their difference is what happened in between."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXAMPLES = 5
"""Rows of each kind of failure that are shown."""
REASONS = 3
"""Kinds of failures that a summary names."""
_BUCKETS_PER_DOUBLING = 8


class _Part(Protocol):
    def combined(self, other: Self, sign: int) -> Self: ...


Key = TypeVar("Key")
Part = TypeVar("Part", bound=_Part)


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
class Flow:
    """What a node passed on: rows in batches, their bytes in memory where that is known.

    `seconds` are its own, without the nodes that it pulls from, in all processes together; `memory` is the most that
    one of these processes had resident while it was at work. `schema` and `sample` show the first rows, as text.
    """

    rows: int = 0
    batches: int = 0
    bytes: int = 0
    seconds: float = 0.0
    memory: int = 0
    schema: dict[str, str] = field(default_factory=dict)
    sample: list[dict[str, str]] = field(default_factory=list)

    def combined(self, other: Flow, sign: int) -> Flow:
        """The sum (`sign` 1) or the difference (-1); what does not add up is the first's, or the most."""
        return Flow(
            self.rows + sign * other.rows, self.batches + sign * other.batches, self.bytes + sign * other.bytes,
            self.seconds + sign * other.seconds, max(self.memory, other.memory),
            self.schema or other.schema, self.sample or other.sample,
        )  # fmt: skip


@dataclass(slots=True)
class Failed:
    """Rows that failed alike, and examples of them: id, message, tries, and where in the code, as text."""

    count: int = 0
    examples: list[tuple[str, str, int, str]] = field(default_factory=list)

    def combined(self, other: Failed, sign: int) -> Failed:
        """The sum (`sign` 1) or the difference (-1) of the counts, and examples of both."""
        more = [one for one in other.examples if one not in self.examples] if sign > 0 else []
        return Failed(self.count + sign * other.count, (self.examples + more)[:EXAMPLES])


class Reason(msgspec.Struct, frozen=True):
    """Why rows failed: how many, the error's type, and the first line of one of their messages."""

    count: int
    type: str
    message: str


def reasons_of(failures: Mapping[tuple[str, str], Failed]) -> tuple[Reason, ...]:
    """The most frequent reasons, by the error's type and the shape of its message."""
    most = sorted(failures.items(), key=lambda kind: -kind[1].count)[:REASONS]
    return tuple(
        Reason(failed.count, error, (failed.examples[0][1] if failed.examples else shape).partition("\n")[0])
        for (error, shape), failed in most
        if failed.count
    )


@dataclass(slots=True)
class StepCounts:
    """What a step came to: its calls of models, seconds and tokens of their answers, and rows in which it failed.

    A call that was tried again counts once.
    """

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0

    def combined(self, other: StepCounts, sign: int) -> StepCounts:
        """The sum (`sign` 1) or the difference (-1)."""
        return StepCounts(
            self.calls + sign * other.calls, self.failed + sign * other.failed,
            self.seconds + sign * other.seconds, self.tokens_in + sign * other.tokens_in,
            self.tokens_out + sign * other.tokens_out,
        )  # fmt: skip


@dataclass(slots=True)
class Counts:
    """Rows that finished, and the requests that were made for them.

    `in_flight` and `limit` (calls that may be in flight) are of the moment: they add up over processes, not over time.
    `answered_by` counts answers by the model that they name and its fingerprint; `model_changes` how often an endpoint
    named another than the time before. `flows` are those of nodes by name, `failures` rows that failed by the error's
    type and the shape of its message, `steps` calls and failures by step.
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
    model_changes: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    flows: dict[str, Flow] = field(default_factory=dict)
    failures: dict[tuple[str, str], Failed] = field(default_factory=dict)
    steps: dict[str, StepCounts] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return self._combined(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._combined(other, -1)

    def _combined(self, other: Counts, sign: int) -> Counts:
        return Counts(
            **{name: getattr(self, name) + sign * getattr(other, name) for name in _NUMBERS},
            latencies=_latencies(self.latencies, other.latencies, sign),
            answered_by=_answers(self.answered_by, other.answered_by, sign),
            flows=_by_key(self.flows, other.flows, sign, Flow),
            failures=_by_key(self.failures, other.failures, sign, Failed),
            steps=_by_key(self.steps, other.steps, sign, StepCounts),
        )

    def copy(self) -> Counts:
        """A copy that stays as it is. Safe to take from another thread than the one that counts."""
        return self + Counts()


_NUMBERS = tuple(one.name for one in dataclasses.fields(Counts) if one.type == "int")


def _latencies(one: Latencies, other: Latencies, sign: int) -> Latencies:
    result = Latencies(dict(one))
    for bucket, count in dict(other).items():
        result[bucket] += sign * count
        if not result[bucket]:
            del result[bucket]
    return result


def _answers(one: Counter[str], other: Counter[str], sign: int) -> Counter[str]:
    result = Counter(dict(one))
    for name, count in dict(other).items():
        result[name] += sign * count
        if not result[name]:
            del result[name]
    return result


def _by_key(one: dict[Key, Part], other: dict[Key, Part], sign: int, nothing: Callable[[], Part]) -> dict[Key, Part]:
    if not one and not other:  # the most frequent case by far
        return {}
    first, second = dict(one), dict(other)
    return {key: (first.get(key) or nothing()).combined(second.get(key) or nothing(), sign) for key in first | second}
