"""What `AdaptiveLimit` finds out about servers of all kinds, none of which is real, in minutes that take no time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm.concurrency.adaptive import FIRST, LEAST, MOST, AdaptiveLimit

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stress) for seed in range(1, 4))]
LATENCY = 0.1  # seconds that a call takes on average
REFUSAL = 0.002  # seconds that a refusal takes
MINUTE = 60.0

Kind = Literal["rejects", "slows down"]
Good = Callable[[float], float]


@dataclass
class Observed:
    """What came of a run: calls that came through and that did not, and where the limit was, by the second."""

    done: int = 0
    rejected: int = 0
    limits: list[int] = field(default_factory=list)

    def at(self, second: int) -> int:
        return self.limits[second]


class Server:
    """A server for which `good(now)` calls at once are good: it refuses more than that, or takes longer for all.

    Latencies are lognormal: most are short and a few are long, as with answers of a language model.
    """

    def __init__(self, kind: Kind, good: Good, seed: int = 0, latency: float = LATENCY) -> None:
        self._kind = kind
        self._good = good
        self._random = random.Random(seed)
        self._latency = latency
        self.busy = 0

    def accept(self, now: float) -> float | None:
        """The seconds that a call will take; None when it is refused."""
        good = self._good(now)
        if self._kind == "rejects" and self.busy >= good:
            return None
        self.busy += 1
        seconds = self._latency * self._random.lognormvariate(-0.245, 0.7)  # whose mean is 1
        return seconds * max(1.0, self.busy / good) if self._kind == "slows down" else seconds


def observed(server: Server, seconds: float = MINUTE, fixed: int | None = None) -> Observed:
    """Keep as many calls in flight as the limit allows, or as many as `fixed`, from events by time."""
    now = 0.0
    limit = AdaptiveLimit(lambda: now)
    result = Observed()
    events: list[tuple[float, int, bool]] = []  # when a call ends, a number for order, and whether it came through
    numbers = itertools.count()
    while True:
        while len(events) < (fixed or limit.limit):
            took = server.accept(now)
            heapq.heappush(events, (now + (REFUSAL if took is None else took), next(numbers), took is not None))
        now, _, through = heapq.heappop(events)
        while len(result.limits) <= min(now, seconds):
            result.limits.append(limit.limit)
        if now > seconds:
            return result
        if through:
            server.busy -= 1
            result.done += 1
            limit.completed()
        else:
            result.rejected += 1
            limit.rejected()


@cache
def steady(good: float) -> Good:
    return lambda now: good


def halved_for_a_while(now: float) -> float:
    """200 calls are good, and 100 from second 20 to second 40."""
    return 100 if 20 <= now < 40 else 200


def gone_for_a_while(now: float) -> float:
    """200 calls are good, and none from second 20 to second 30."""
    return 0 if 20 <= now < 30 else 200


@cache
def a_minute(kind: Kind, good: Good, seed: int) -> Observed:
    """What is observed in a minute of that server."""
    return observed(Server(kind, good, seed))


@cache
def with_fixed_200() -> int:
    """Calls in a minute when 200 are in flight at a server that takes just as many."""
    return observed(Server("slows down", steady(200)), fixed=200).done


def test_the_minute_of_a_server_that_takes_200_calls_has_120_000_of_them() -> None:
    assert with_fixed_200() == pytest.approx(MINUTE * 200 / LATENCY, rel=0.02)
    beyond = observed(Server("rejects", steady(200)), seconds=5, fixed=201)
    assert beyond.done == pytest.approx(5 * 200 / LATENCY, rel=0.05)
    assert beyond.rejected > 1000


# One limit that stays.


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["rejects", "slows down"])
def test_nobody_has_to_know_that_200_calls_are_good_to_make_nine_tenths_of_them(kind: Kind, seed: int) -> None:
    found = a_minute(kind, steady(200), seed)
    assert found.done >= 0.9 * with_fixed_200()
    assert 160 <= found.at(60) <= 320


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_refuses_is_asked_too_much_less_than_once_in_a_hundred_calls(seed: int) -> None:
    found = a_minute("rejects", steady(200), seed)
    assert 0 < found.rejected < 0.01 * found.done


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("good", [1, 3])
def test_a_server_that_takes_hardly_any_calls_gets_as_many_as_it_takes(good: int, seed: int) -> None:
    found = a_minute("rejects", steady(good), seed)
    assert found.done >= 0.9 * MINUTE * good / LATENCY
    assert good <= found.at(60) <= good + 1
    assert found.rejected < 400


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("good", [1, 3])
def test_a_server_that_slows_down_early_is_not_buried(good: int, seed: int) -> None:
    found = a_minute("slows down", steady(good), seed)
    assert found.done >= 0.9 * MINUTE * good / LATENCY
    assert max(found.limits) <= 64


@pytest.mark.parametrize("seed", SEEDS)
def test_without_any_limit_it_reaches_4096_within_a_minute_of_one_second_calls_and_stays_there(seed: int) -> None:
    found = observed(Server("rejects", steady(float("inf")), seed, latency=1))
    assert found.at(60) == max(found.limits) == MOST == 4096
    assert found.limits == sorted(found.limits)


# A limit that moves.


@pytest.mark.parametrize("seed", SEEDS)
def test_it_follows_the_limit_of_a_server_that_refuses_down_and_up_again(seed: int) -> None:
    found = a_minute("rejects", halved_for_a_while, seed)
    assert 160 < found.at(19) <= 210
    assert 85 <= found.at(39) <= 135
    assert 160 < found.at(60) <= 210


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["rejects", "slows down"])
def test_a_limit_that_moves_costs_no_more_than_a_tenth_either(kind: Kind, seed: int) -> None:
    """The most that can be had: 200 calls for 40 seconds, and 100 for 20."""
    found = a_minute(kind, halved_for_a_while, seed)
    assert found.done >= 0.9 * with_fixed_200() * 5 / 6
    assert found.at(60) > 160


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_refuses_everything_for_ten_seconds_gets_its_calls_again_within_a_minute(seed: int) -> None:
    found = observed(Server("rejects", gone_for_a_while, seed), seconds=90)
    assert min(found.limits) >= 1
    assert found.at(90) > 160


@pytest.mark.parametrize("seed", SEEDS)
def test_a_server_that_refuses_everything_at_first_gets_its_calls_within_a_minute(seed: int) -> None:
    found = observed(Server("rejects", lambda now: 0 if now < 10 else 200, seed), seconds=70)
    assert min(found.limits) >= 1
    assert found.at(70) > 160


def test_while_everything_is_refused_one_call_at_a_time_still_tries() -> None:
    limit = AdaptiveLimit(lambda: 0.0)
    assert {limit.rejected() for _ in range(10_000)} >= {16, 14, 1}
    assert limit.limit == 1


# Whatever happens.


Report = tuple[bool, int, float]
"""Whether calls came through, how many, and the seconds that passed before each."""


@given(
    reports=st.lists(
        st.tuples(
            st.booleans(), st.integers(1, 200), st.sampled_from([0.0, 1e-12, 0.001, 1.0, 1e6]) | st.floats(0, 1e9)
        ),
        max_size=40,
    )
)
def test_the_limit_is_between_1_and_4096_whatever_the_calls_and_the_clock_do(reports: list[Report]) -> None:
    now = 0.0
    limit = AdaptiveLimit(lambda: now)
    assert (limit.limit, LEAST, FIRST, MOST) == (16, 1, 16, 4096)
    for through, count, seconds in reports:
        for _ in range(count):
            now += seconds
            said = limit.completed() if through else limit.rejected()
            assert said == limit.limit
            assert isinstance(said, int)
            assert 1 <= said <= 4096


@given(seed=st.integers(0, 2**32), share=st.floats(0, 1), latency=st.sampled_from([1e-6, 0.1, 60.0]))
def test_the_limit_is_between_1_and_4096_when_any_call_may_be_refused(seed: int, share: float, latency: float) -> None:
    chance = random.Random(seed)
    now = 0.0
    limit = AdaptiveLimit(lambda: now)
    for _ in range(10_000):
        now += chance.expovariate(limit.limit / latency)
        said = limit.rejected() if chance.random() < share else limit.completed()
        assert 1 <= said <= 4096


@pytest.mark.parametrize("refused", [0.5, 0.2])
def test_a_server_that_refuses_many_calls_for_no_reason_is_asked_for_few(refused: float) -> None:
    chance = random.Random(1)
    limit = AdaptiveLimit(lambda: 0.0)
    for _ in range(20_000):
        _ = limit.rejected() if chance.random() < refused else limit.completed()
    assert limit.limit <= 16


def test_one_refusal_among_many_calls_cuts_the_limit_by_a_fourteenth_and_those_that_follow_it_at_once_do_not() -> None:
    """All of them were in flight when the first one was refused; the limit has been cut for them already."""
    now = 0.0
    limit = AdaptiveLimit(lambda: now)
    while limit.limit < MOST:
        now += 1 / limit.limit
        limit.completed()
    for _ in range(5 * MOST):  # measures, and has nowhere to go
        now += 1 / limit.limit
        limit.completed()
    assert limit.rejected() == 3809
    assert {limit.rejected() for _ in range(3808)} == {3809}
