"""1,000 random servers on simulated time: rows fail only where they must, and the pace is found and kept.

A few of them in the default tier, all of them under `stress`.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from domyn_swarm.concurrency.pace import Pace
from domyn_swarm.errors import EndpointError
from tests.simulated_servers import Limit, Server, best_seconds, limited, run, troubled
from tests.test_slots import on_simulated_time

QUICK = [1, 5, 57, 184, 216, 217, 376, 404, 674, 995]
"""Among them one of each kind that earlier versions were slow with, or asked too often."""


def check_pace(seed: int) -> None:
    """A rate limit and nothing else: no row fails, few requests are refused, hardly any time is lost."""
    server, rows, concurrency = limited(seed)
    outcome = on_simulated_time(run([server], rows, concurrency))
    assert outcome.failed == 0, seed
    assert outcome.requests <= 1.2 * rows, (seed, outcome, server)
    assert best_seconds(server, rows) >= 0.9 * outcome.seconds, (seed, outcome, server)


def check_trouble(seed: int) -> None:
    """Rate limits, errors, replicas that go, come back and lie: no row fails that a patient client would get."""
    random.seed(seed)  # waits before another try are random
    servers, rows, concurrency = troubled(seed)
    outcome = on_simulated_time(run(servers, rows, concurrency))
    assert outcome.failed == 0, (seed, outcome, servers)


@pytest.mark.parametrize("seed", QUICK)
def test_a_rate_limit_fails_no_row_and_costs_little(seed: int) -> None:
    check_pace(seed)


@pytest.mark.parametrize("seed", range(1, 11))
def test_servers_in_trouble_fail_no_row_that_a_patient_client_would_get(seed: int) -> None:
    check_trouble(seed)


@pytest.mark.parametrize("waits", [31, 42, 51])
def test_failures_of_replicas_asked_only_while_the_good_one_failed_are_theirs(waits: int) -> None:
    """Three that lie, and one that fails 30 % of requests: after three failures in a row the others are asked."""
    servers, rows, concurrency = troubled(446)
    random.seed(waits)
    assert on_simulated_time(run(servers, rows, concurrency)).failed == 0


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_of_1000_rate_limits_none_fails_a_row_and_none_costs_much(first: int) -> None:
    for seed in range(first, first + 250):
        check_pace(seed)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_1000_groups_of_servers_in_trouble_fail_no_row_that_a_patient_client_would_get() -> None:
    for seed in range(1000):
        check_trouble(seed)


class Moody(Server):
    """Refuses at random, whatever the pace is."""

    share = 0.1
    after: float | None = 0.0

    def _refuses(self) -> bool:
        return self._random.random() < self.share

    def _refusal(self) -> EndpointError:
        return EndpointError("429", status=429, retry_after=self.after, condition="busy")


@pytest.mark.parametrize(
    ("share", "after", "rows", "most"),
    [
        (0.1, 0.0, 40, 10), (0.3, 0.0, 40, 15), (0.5, 0.0, 40, 60), (0.02, 0.0, 3000, 100), (0.1, 0.0, 3000, 60),
        (0.5, None, 40, 300), (0.1, None, 3000, 60), (0.1, 1.0, 3000, 400),
    ],
)  # fmt: skip
def test_refusals_that_have_nothing_to_do_with_the_pace_do_not_slow_it_down_for_good(
    share: float, after: float | None, rows: int, most: float
) -> None:
    server = Moody(1, 0.05)
    server.share, server.after = share, after
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


def test_a_call_refused_late_in_a_run_does_not_count_the_time_before() -> None:
    """Calls of a job's own client have no pace until one is refused; nothing is known of how many there were."""
    now = 3600.0
    pace = Pace(lambda: now)
    now += 3600
    pace.refused(None, 1.0)
    assert 1 <= pace.wait() < 1.1
    until = now + 30
    for _ in range(100):
        now += pace.wait() + 1e-6
        pace.sent()
    assert now < until
