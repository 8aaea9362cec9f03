"""What `Rates` promises: no minute has more than is allowed, hardly less is used, and turns come in order.

Time is simulated, so minutes take no time.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domyn_swarm.endpoint.rate_limit import Rates
from tests.test_slots import now, on_simulated_time, settled

MINUTE = 60.0
MOMENT = 1e-6  # what floats may be off by

Admission = tuple[float, float]
"""When something was sent, and how much of it."""


def most_in_a_minute(admissions: Sequence[Admission]) -> float:
    """The most that any window of 60 seconds holds."""
    ordered = sorted(admissions)
    sums = [0.0, *itertools.accumulate(amount for _, amount in ordered)]
    starts = [when for when, _ in ordered]
    ends = [bisect_left(starts, start + MINUTE - MOMENT) for start in starts]
    return max((sums[end] - sums[first] for first, end in enumerate(ends)), default=0.0)


def simulated(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    on_simulated_time(run())


def rates(max_rpm: float | None = None, max_tpm: float | None = None) -> Rates:
    """Rates on the clock of the running loop."""
    return Rates(max_rpm, max_tpm, clock=asyncio.get_running_loop().time)


async def waited(limits: Rates, size: int) -> float:
    """The seconds that a request of `size` bytes had to wait."""
    start = now()
    await limits.admit(size)
    return now() - start


# How much.

Arrivals = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0, 0.5, 7.0, 59.0, 200.0]), st.integers(1, 40)), max_size=12)
"""Seconds that pass, and how many requests come then at once."""


@given(arrivals=Arrivals, max_rpm=st.integers(1, 300) | st.floats(1, 300))
@example(arrivals=[(0.0, 200)], max_rpm=90)  # one and a half a second
@example(arrivals=[(0.0, 3), (59.0, 3), (59.0, 3)], max_rpm=1)
def test_no_minute_has_more_requests_than_allowed_however_they_come(
    arrivals: list[tuple[float, int]], max_rpm: float
) -> None:
    sent: list[Admission] = []

    async def work() -> None:
        limits = rates(max_rpm=max_rpm)

        async def request() -> None:
            await limits.admit(100)
            sent.append((now(), 1))

        tasks = []
        for gap, count in arrivals:
            await asyncio.sleep(gap)
            tasks += [asyncio.create_task(request()) for _ in range(count)]
        await asyncio.gather(*tasks)

    simulated(work)
    assert len(sent) == sum(count for _, count in arrivals)
    assert most_in_a_minute(sent) <= math.ceil(max_rpm)


@given(
    arrivals=Arrivals, sizes=st.lists(st.integers(1, 100), min_size=1, max_size=9), max_tpm=st.integers(6000, 20_000)
)
def test_no_minute_has_more_tokens_than_allowed_when_requests_are_worth_less_than_a_second(
    arrivals: list[tuple[float, int]], sizes: list[int], max_tpm: int
) -> None:
    sent: list[Admission] = []

    async def work() -> None:
        limits = rates(max_tpm=max_tpm)

        async def request(size: int) -> None:
            tokens = await limits.admit(size)
            sent.append((now(), tokens))
            await asyncio.sleep(1)
            limits.settle(size, tokens, round(tokens))

        tasks, turn = [], itertools.cycle(sizes)
        for gap, count in arrivals:
            await asyncio.sleep(gap)
            tasks += [asyncio.create_task(request(next(turn))) for _ in range(count)]
        await asyncio.gather(*tasks)

    simulated(work)
    assert most_in_a_minute(sent) <= max_tpm + MOMENT


@pytest.mark.parametrize("sizes", [[5000, *[10] * 700], [3000, 3000, *[10] * 700]], ids=["first", "two"])
def test_no_minute_has_more_tokens_than_allowed_when_some_request_is_worth_most_of_a_minute(sizes: list[int]) -> None:
    sent: list[Admission] = []

    async def work() -> None:
        limits = rates(max_tpm=6000)
        for size in sizes:
            tokens = await limits.admit(size)
            sent.append((now(), tokens))

    simulated(work)
    assert most_in_a_minute(sent) <= 6000 + MOMENT


@given(sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30), max_tpm=st.integers(60, 20_000))
def test_large_requests_make_a_minute_larger_by_one_of_them_at_most(sizes: list[int], max_tpm: int) -> None:
    sent: list[Admission] = []

    async def work() -> None:
        limits = rates(max_tpm=max_tpm)
        for size in sizes:
            tokens = await limits.admit(size)
            sent.append((now(), tokens))

    simulated(work)
    assert most_in_a_minute(sent) <= max_tpm + max(sizes)


def sent_in(minutes: int, limits: Callable[[], Rates], size: int, workers: int = 8) -> int:
    """Requests of `size` bytes in so many minutes, when there is always one more; each uses a token for a byte."""
    counted = 0

    async def work() -> None:
        used = limits()

        async def worker() -> None:
            nonlocal counted
            while True:
                tokens = await used.admit(size)
                if now() >= minutes * MINUTE:
                    return
                counted += 1
                used.settle(size, tokens, size)

        await asyncio.gather(*(worker() for _ in range(workers)))

    simulated(work)
    return counted


@pytest.mark.parametrize("max_rpm", [20, 60, 90, 600, 6000])
def test_in_the_long_run_95_of_100_allowed_requests_are_sent(max_rpm: int) -> None:
    assert 0.95 * 10 * max_rpm <= sent_in(10, lambda: rates(max_rpm=max_rpm), 100) <= 10 * max_rpm


@pytest.mark.parametrize(("max_rpm", "least"), [(1, 59), (2, 119), (3, 179), (10, 599)])
def test_of_few_allowed_requests_all_are_sent(max_rpm: int, least: int) -> None:
    """In an hour, both ends of which may have one."""
    assert least <= sent_in(60, lambda: rates(max_rpm=max_rpm), 100) <= 60 * max_rpm + 1


@pytest.mark.parametrize(("max_tpm", "size"), [(6000, 10), (6000, 60), (6000, 1000), (100_000, 1500)])
def test_in_the_long_run_95_of_100_allowed_tokens_are_used(max_tpm: int, size: int) -> None:
    assert 0.95 * 20 * max_tpm <= sent_in(20, lambda: rates(max_tpm=max_tpm), size) * size <= 20 * max_tpm + size


def test_of_two_limits_the_tighter_one_counts() -> None:
    assert 95 * 10 <= sent_in(10, lambda: rates(max_rpm=100, max_tpm=1_000_000), 100) <= 1000
    assert 95 * 10 <= sent_in(10, lambda: rates(max_rpm=1_000_000, max_tpm=10_000), 100) <= 1000 + 1


def test_without_limits_nobody_waits() -> None:
    async def work() -> None:
        limits = rates()
        for _ in range(1000):
            admission = limits.admit(10**9)
            with pytest.raises(StopIteration):  # it does not even let others have a turn
                admission.send(None)
        limits.settle(10**9, 0, 10**12)
        assert await waited(limits, 10**9) == 0

    simulated(work)


@pytest.mark.parametrize("allowed", [{"max_rpm": 600}, {"max_tpm": 60_000}])
def test_a_second_worth_goes_at_once_and_no_more_piles_up_in_an_idle_hour(allowed: dict[str, float]) -> None:
    async def work() -> None:
        limits = rates(**allowed)
        for _ in range(2):
            assert [await waited(limits, 100) for _ in range(10)] == [0.0] * 10
            assert 0.09 < await waited(limits, 100) < 0.11
            await asyncio.sleep(3600)

    simulated(work)


# In which order.


@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=40),
    max_rpm=st.none() | st.integers(10, 600),
    max_tpm=st.none() | st.integers(600, 60_000),
)
def test_turns_come_in_the_order_of_calls_small_requests_do_not_overtake_large_ones(
    sizes: list[int], max_rpm: int | None, max_tpm: int | None
) -> None:
    async def work() -> None:
        limits = rates(max_rpm, max_tpm)
        order: list[int] = []

        async def request(number: int, size: int) -> None:
            await limits.admit(size)
            order.append(number)

        await asyncio.gather(*(request(number, size) for number, size in enumerate(sizes)))
        assert order == list(range(len(sizes)))

    simulated(work)


def test_turns_come_in_the_order_of_calls_though_it_turns_out_that_those_before_were_cheap() -> None:
    async def work() -> None:
        limits = rates(max_tpm=6000)
        order: list[str] = []

        async def request(name: str) -> None:
            await limits.admit(1000)
            order.append(name)

        tokens = await limits.admit(1000)
        early = [asyncio.create_task(request(f"early {number}")) for number in range(3)]
        await settled()
        limits.settle(1000, tokens, 0)
        late = asyncio.create_task(request("late"))
        await asyncio.gather(*early, late)
        assert order == ["early 0", "early 1", "early 2", "late"]

    simulated(work)


def test_whoever_is_cancelled_while_it_waits_uses_nothing_up() -> None:
    async def work() -> None:
        limits = rates(max_rpm=60)
        assert await waited(limits, 1) == 0
        given_up = [asyncio.create_task(limits.admit(1)) for _ in range(30)]
        await settled()
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        assert await waited(limits, 1) < 1.1

    simulated(work)


# What was really used.


def test_what_was_estimated_too_high_is_given_back() -> None:
    async def work() -> None:
        limits = rates(max_tpm=6000)  # 100 at once
        tokens = await limits.admit(100)
        assert tokens == 100
        limits.settle(100, tokens, 10)
        assert await waited(limits, 90) == 0
        assert await waited(limits, 90) > 0.5

    simulated(work)


def test_what_was_estimated_too_low_is_paid_by_those_that_follow() -> None:
    async def work() -> None:
        limits = rates(max_tpm=6000)
        tokens = await limits.admit(100)
        limits.settle(100, tokens, 1000)
        assert 9 < await waited(limits, 1) < 10  # 900 tokens at a little less than 100 a second

    simulated(work)


def test_a_request_that_failed_costs_no_tokens_and_teaches_nothing() -> None:
    async def work() -> None:
        limits = rates(max_tpm=6000)
        for _ in range(1000):
            start = now()
            tokens = await limits.admit(100)
            assert (tokens, now() - start) == (100, 0)
            limits.settle(100, tokens, 0)

    simulated(work)


def test_what_is_given_back_does_not_pile_up() -> None:
    async def work() -> None:
        limits = rates(max_tpm=6000)
        for _ in range(10):
            limits.settle(100, 1000, 100)
        assert await waited(limits, 100) == 0
        assert await waited(limits, 100) > 0.5

    simulated(work)


@pytest.mark.parametrize("tokens_per_byte", [0.05, 0.25, 3.0])
def test_it_learns_how_many_tokens_a_byte_costs(tokens_per_byte: float) -> None:
    async def work() -> None:
        limits = rates(max_tpm=1e12)
        assert await limits.admit(1000) == 1000
        for size in range(500, 1000):
            tokens = await limits.admit(size)
            limits.settle(size, tokens, round(size * tokens_per_byte))
        assert await limits.admit(10_000) == pytest.approx(10_000 * tokens_per_byte, rel=0.02)

    simulated(work)


def test_one_request_that_cost_much_is_not_taken_for_the_rule() -> None:
    async def work() -> None:
        limits = rates(max_tpm=1e12)
        limits.settle(1000, 1000, 11_000)
        assert await limits.admit(1000) == pytest.approx(1200)

    simulated(work)


def test_an_empty_request_is_possible() -> None:
    async def work() -> None:
        limits = rates(60, 6000)
        tokens = await limits.admit(0)
        assert tokens == 0
        limits.settle(0, tokens, 7)

    simulated(work)


def used_by_a_crowd(tokens_per_byte: float, max_tpm: int, workers: int) -> list[Admission]:
    """Tokens as they were really used in 20 minutes of requests of 1000 bytes that take a second each."""
    used: list[Admission] = []

    async def work() -> None:
        limits = rates(max_tpm=max_tpm)

        async def worker() -> None:
            while now() < 20 * MINUTE:
                tokens = await limits.admit(1000)
                cost = round(1000 * tokens_per_byte)
                used.append((now(), cost))
                await asyncio.sleep(1)
                limits.settle(1000, tokens, cost)

        await asyncio.gather(*(worker() for _ in range(workers)))

    simulated(work)
    return used


@pytest.mark.parametrize("workers", [1, 64])
@pytest.mark.parametrize("tokens_per_byte", [0.1, 0.3, 1.0])
def test_no_minute_uses_more_tokens_than_allowed_though_the_first_estimates_were_far_too_high(
    tokens_per_byte: float, workers: int
) -> None:
    """But for what is in flight for a second, and a large request: 400 here of 6000, and 1000."""
    assert most_in_a_minute(used_by_a_crowd(tokens_per_byte, 6000, workers)) <= 6000 + 1400


def test_high_first_estimates_are_forgotten_soon() -> None:
    used = used_by_a_crowd(0.1, 6000, 64)
    assert sum(cost for when, cost in used if 2 * MINUTE <= when < 20 * MINUTE) >= 0.95 * 18 * 6000
