"""Large answers are read as there is memory for them, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from domyn_swarm.concurrency import memory
from domyn_swarm.concurrency.memory import ByteBudget, answer_bytes
from tests.test_slots import on_simulated_time, settled


def test_no_more_is_held_than_allowed_and_whoever_came_first_is_first() -> None:
    async def work() -> list[int]:
        budget, order, most = ByteBudget(100), [], 0

        async def hold(name: int, size: int) -> None:
            nonlocal most
            await budget.reserve(size)
            most = max(most, budget.held)
            order.append(name)
            await asyncio.sleep(1)
            budget.release(size)

        await asyncio.gather(*(hold(name, size) for name, size in enumerate([60, 60, 30, 250, 10])))
        assert budget.held == 0
        assert most == 250  # alone
        return order

    assert on_simulated_time(work()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("granted", [False, True])
def test_whoever_is_cancelled_while_it_waits_holds_nothing(granted: bool) -> None:
    async def work() -> None:
        budget = ByteBudget(100)
        await budget.reserve(100)
        waiting = asyncio.create_task(budget.reserve(50))
        await settled()
        if granted:
            budget.release(100)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if not granted:
            budget.release(100)
        assert budget.held == 0
        await budget.reserve(100)

    on_simulated_time(work())


def test_the_budget_is_a_share_of_what_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left = 2**31
    monkeypatch.setattr(memory, "memory_left", lambda: left)
    assert answer_bytes() == 2**26
    left = 0
    assert answer_bytes() == memory.LEAST_BYTES
