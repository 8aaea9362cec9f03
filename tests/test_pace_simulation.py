"""1,000 random servers on simulated time: rows fail only where they must, and the pace is found and kept.

A few of them in the default tier, all of them under `stress`.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.simulated_servers import Limit, Server, best_seconds, limited, run, troubled
from tests.test_places import on_simulated_time

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


def test_refusals_that_have_nothing_to_do_with_the_pace_do_not_slow_it_down_for_good() -> None:
    class Moody(Server):
        def _refuses(self) -> bool:
            return self._random.random() < 0.1

    server = Moody(1, 0.05, says="milliseconds", limit=Limit(1e6, 1e6, level=1e6))
    outcome = on_simulated_time(run([server], 3000, 32))
    assert outcome.failed == 0
    assert outcome.seconds < 400


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
