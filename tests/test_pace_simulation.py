"""1,000 random servers on simulated time: rows fail only where they must, and the pace is found and kept.

A few of them in the default tier, all of them under `stress`.
"""

from __future__ import annotations

import asyncio

import pytest

from domyn_swarm.errors import EndpointError
from tests.simulated_servers import Limit, Server, best_seconds, limited, run, troubled
from tests.test_slots import on_simulated_time

QUICK, ALL = range(1, 11), range(500)


def check_pace(seed: int) -> None:
    """A rate limit and nothing else: no row fails, few requests are refused, hardly any time is lost."""
    server, rows, concurrency = limited(seed)
    outcome = on_simulated_time(run([server], rows, concurrency))
    assert outcome.failed == 0, seed
    assert outcome.requests <= 1.2 * rows, (seed, outcome, server)
    assert best_seconds(server, rows) >= 0.9 * outcome.seconds, (seed, outcome, server)


def check_trouble(seed: int) -> None:
    """Rate limits, errors, replicas that go, come back and lie: no row fails that a patient client would get."""
    servers, rows, concurrency = troubled(seed)
    outcome = on_simulated_time(run(servers, rows, concurrency))
    assert outcome.failed == 0, (seed, outcome, servers)


@pytest.mark.parametrize("seed", QUICK)
def test_a_rate_limit_fails_no_row_and_costs_little(seed: int) -> None:
    check_pace(seed)


@pytest.mark.parametrize("seed", QUICK)
def test_servers_in_trouble_fail_no_row_that_a_patient_client_would_get(seed: int) -> None:
    check_trouble(seed)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_of_500_rate_limits_none_fails_a_row_and_hardly_any_costs_much() -> None:
    slow, dear = [], []
    for seed in ALL:
        server, rows, concurrency = limited(seed)
        outcome = on_simulated_time(run([server], rows, concurrency))
        assert outcome.failed == 0, seed
        assert outcome.requests <= 1.3 * rows, (seed, outcome, server)
        slow += [seed] * (best_seconds(server, rows) < 0.9 * outcome.seconds)
        dear += [seed] * (outcome.requests > 1.2 * rows)
    assert len(slow) <= len(ALL) / 50, slow
    assert len(dear) <= len(ALL) / 50, dear


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_500_groups_of_servers_in_trouble_fail_no_row_that_a_patient_client_would_get() -> None:
    for seed in ALL:
        check_trouble(seed)


class Moody(Server):
    """Refuses at random, whatever the pace is, and says to come again at once."""

    share = 0.1

    def _refuses(self) -> bool:
        return self._random.random() < self.share

    def _refusal(self) -> EndpointError:
        return EndpointError("429", status=429, retry_after=0.0, condition="busy")


@pytest.mark.parametrize(
    ("share", "rows", "most"), [(0.1, 40, 10), (0.3, 40, 15), (0.5, 40, 60), (0.02, 3000, 100), (0.1, 3000, 60)]
)
def test_refusals_that_have_nothing_to_do_with_the_pace_do_not_slow_it_down_for_good(
    share: float, rows: int, most: float
) -> None:
    server = Moody(1, 0.05)
    server.share = share
    outcome = on_simulated_time(run([server], rows, 32))
    assert outcome.failed == 0
    assert outcome.seconds < most


@pytest.mark.parametrize("window", [0, 10])
def test_a_limit_is_kept_by_what_the_headers_say_is_left(window: float) -> None:
    """Given back at once when a window ends, or bit by bit, for which nobody has to wait until all of it is there."""
    limit = Limit(1, 60, window, level=window or 60)
    server = Server(1, 0.1, limit, "headers")
    best = best_seconds(server, 300)
    outcome = on_simulated_time(run([server], 300, 16))
    assert outcome.requests <= 360
    assert best >= 0.9 * outcome.seconds


def test_a_limit_that_is_raised_is_found() -> None:
    server = Server(1, 0.1, Limit(2, 2, level=2), "nothing")

    async def work() -> float:
        async def raised() -> None:
            await asyncio.sleep(60)
            assert server.limit
            server.limit.rate = server.limit.burst = 20

        task = asyncio.create_task(raised())
        outcome = await run([server], 2000, 32)
        await task
        return outcome.seconds

    assert on_simulated_time(work()) < 300  # 1,000 at the old limit
