"""What `ConcurrencyLimiter` promises: never more calls than slots, none lost or left empty; returning calls go first.

Time is simulated (`on_simulated_time`): seconds pass at once, and a wait that nothing ends is an error, no hang.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm.concurrency import slots as module
from domyn_swarm.concurrency.slots import ConcurrencyLimiter, Halted


class _Hasty(selectors.DefaultSelector):
    """Where a loop would sleep, its clock moves on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will ever happen")
        self.now += timeout
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on which `time` passes as fast as nothing is to be done. Not for other threads."""

    def __init__(self) -> None:
        self._hasty = _Hasty()
        super().__init__(self._hasty)

    def time(self) -> float:
        return self._hasty.now


def on_simulated_time(work: Coroutine[Any, Any, Any]) -> Any:
    """Run `work` to its end on a loop whose clock starts at 0."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


async def settled() -> None:
    """Let every task go as far as it can get in no time."""
    for _ in range(20):
        await asyncio.sleep(0)


def nobody() -> bool:
    """There is nobody to hire."""
    return False


class Moved:
    """Stands in for the limit that adapts: it is what the test sets it to."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def completed(self) -> int:
        return self.limit

    rejected = completed


def places_of(limit: int, hire: Callable[[], bool] = nobody) -> tuple[ConcurrencyLimiter, Callable[[int], None]]:
    """Places whose limit can be moved, and what moves it."""
    moved = Moved(limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AdaptiveLimit", lambda **_: moved)
        places = ConcurrencyLimiter(None, hire, asyncio.Event())

    def move(to: int) -> None:
        moved.limit = to
        places.completed()

    return places, move


# The laws, with a crowd that comes and goes.

Step = tuple[Literal["call", "pause", "wait"], float]


class Crowd:
    """Workers that draw rows one by one, as those of a run do. The laws are looked at whenever one of them moves.

    A row is a list of steps: seconds of a call that needs a place, of a pause, or of a wait for something else.
    """

    def __init__(self, limit: int, rows: list[list[Step]]) -> None:
        self.places, self.move = places_of(limit, self.hire)
        self.tasks: dict[asyncio.Task[None], bool] = {}  # and whether each of them has started
        self.working: set[asyncio.Task[Any] | None] = set()
        self.finished: list[int] = []
        self.most = 0
        self._rows = enumerate(rows)
        self._left = len(rows)
        self._taken_before = 0

    def hire(self) -> bool:
        if self.is_full():
            return False
        self.tasks[asyncio.get_running_loop().create_task(self._work())] = False
        return True

    def is_full(self) -> bool:
        return self._left == 0 or len(self.tasks) >= 8 * self.places.limit

    def look(self) -> None:
        places = self.places
        assert len(self.working) <= places.taken, "somebody works without a place"
        assert places.taken <= max(places.limit, self._taken_before), "a place was given away that there is not"
        assert places.taken >= places.limit or self.is_full(), "a place is free, and there is somebody for it"
        assert places.crowded or places.taken <= places.limit, "there are too many, and nobody is told"
        self._taken_before = places.taken
        self.most = max(self.most, len(self.working))

    async def run(self, *others: Coroutine[Any, Any, None]) -> None:
        """Work through all rows, while `others` interfere."""
        self.places.enter()
        self.places.fill()
        self.look()
        interference = [asyncio.create_task(other) for other in others]
        while self.tasks:
            await asyncio.wait(self.tasks)
        for task in interference:
            task.cancel()

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        self.tasks[me] = True
        self.working.add(me)
        self.look()
        try:
            for number, row in self._rows:
                self._left -= 1
                for what, seconds in row:
                    await self._step(me, what, seconds)
                    self.look()
                self.finished.append(number)
                if self.places.crowded:
                    await self._step_aside(me)
        finally:
            self.working.discard(me)
            del self.tasks[me]
            self.places.release()
            self.look()

    async def _step(self, me: asyncio.Task[Any], what: str, seconds: float) -> None:
        if what == "call":
            await asyncio.sleep(seconds)
            return
        self.working.discard(me)
        try:
            if what == "pause":
                await module.pause(seconds)
            else:
                async with module.given_back():
                    self.look()
                    await asyncio.sleep(seconds)
        finally:
            self.working.add(me)

    async def _step_aside(self, me: asyncio.Task[Any]) -> None:
        self.working.discard(me)
        self.places.release()
        self.look()
        try:
            await self.places.take()
        finally:
            self.working.add(me)


def times() -> st.SearchStrategy[float]:
    """Few different ones, so that much happens at the same moment."""
    return st.sampled_from([0.0, 1.0, 1.0, 2.0, 5.0])


def rows(most: int) -> st.SearchStrategy[list[list[Step]]]:
    steps = st.tuples(st.sampled_from(["call", "call", "pause", "wait"]), times())
    return st.lists(st.lists(steps, max_size=4), max_size=most)


@given(limit=st.integers(1, 5), rows=rows(30))
def test_as_many_have_a_place_as_there_are_and_never_more_while_calls_come_and_go(
    limit: int, rows: list[list[Step]]
) -> None:
    async def work() -> None:
        crowd = Crowd(limit, rows)
        await crowd.run()
        assert sorted(crowd.finished) == list(range(len(rows)))
        assert crowd.most <= limit
        assert (crowd.places.taken, crowd.places.crowded) == (0, False)

    on_simulated_time(work())


@given(limit=st.integers(1, 5), rows=rows(30), moves=st.lists(st.tuples(times(), st.integers(1, 9)), max_size=10))
def test_it_is_the_same_while_the_limit_moves(
    limit: int, rows: list[list[Step]], moves: list[tuple[float, int]]
) -> None:
    async def work() -> None:
        crowd = Crowd(limit, rows)

        async def move() -> None:
            for gap, to in moves:
                await asyncio.sleep(gap)
                crowd.move(to)
                crowd.look()

        await crowd.run(move())
        assert sorted(crowd.finished) == list(range(len(rows)))
        assert crowd.most <= max([limit, *(to for _, to in moves)])
        assert (crowd.places.taken, crowd.places.crowded) == (0, False)

    on_simulated_time(work())


@given(
    limit=st.integers(1, 4),
    rows=rows(30),
    moves=st.lists(st.tuples(times(), st.integers(1, 6)), max_size=5),
    cancels=st.lists(st.tuples(times(), st.integers(0, 100)), max_size=20),
)
def test_whoever_is_cancelled_takes_no_place_along_and_leaves_none_behind(
    limit: int, rows: list[list[Step]], moves: list[tuple[float, int]], cancels: list[tuple[float, int]]
) -> None:
    async def work() -> None:
        crowd = Crowd(limit, rows)

        async def move() -> None:
            for gap, to in moves:
                await asyncio.sleep(gap)
                crowd.move(to)

        async def cancel() -> None:  # whoever it hits: at work, in a pause, while it waits for a place, and twice
            for gap, which in cancels:
                await asyncio.sleep(gap)
                if started := [task for task, has_started in crowd.tasks.items() if has_started]:
                    started[which % len(started)].cancel()

        await crowd.run(move(), cancel())
        assert len(crowd.finished) >= len(rows) - len(cancels)
        assert crowd.places.taken == 0

    on_simulated_time(work())


# Who gets a place.


def test_filling_hires_for_every_place_and_no_more() -> None:
    hired = itertools.count(1)
    places, _ = places_of(3, lambda: bool(next(hired)))
    places.fill()
    assert (places.taken, next(hired)) == (3, 4)
    places.fill()
    assert (places.taken, next(hired)) == (3, 5)


def test_who_cannot_be_hired_has_no_place() -> None:
    answers = iter([True, True, False])
    places, _ = places_of(5, lambda: next(answers))
    places.fill()
    assert places.taken == 2


def test_a_place_that_is_free_is_taken_without_a_wait() -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(2, nobody, asyncio.Event())
        taking = places.take()
        with pytest.raises(StopIteration):
            taking.send(None)
        assert places.taken == 1

    on_simulated_time(work())


def test_a_call_that_comes_back_goes_before_workers_that_rest_however_long_these_have_waited() -> None:
    async def work() -> list[str]:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        order: list[str] = []

        async def take(name: str, returning: bool) -> None:
            await places.take(returning=returning)
            order.append(name)
            places.release()

        await places.take()
        waiting = []
        for name, returning in [("rests", False), ("rests too", False), ("returns", True), ("returns too", True)]:
            waiting.append(asyncio.create_task(take(name, returning)))
            await settled()
        assert order == []
        places.release()
        await asyncio.gather(*waiting)
        assert places.taken == 0
        return order

    assert on_simulated_time(work()) == ["returns", "returns too", "rests", "rests too"]


def test_nobody_is_hired_while_somebody_waits_for_a_place() -> None:
    async def work() -> None:
        hired: list[int] = []
        places = ConcurrencyLimiter(1, lambda: bool(hired.append(places.taken)), asyncio.Event())
        await places.take()
        back, rest = (asyncio.create_task(places.take(returning=returning)) for returning in (True, False))
        await settled()
        places.release()
        await back
        places.release()
        await rest
        assert hired == []
        places.release()
        assert hired == [0]

    on_simulated_time(work())


def test_workers_are_told_to_step_aside_while_a_call_wants_to_come_back() -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(2, nobody, asyncio.Event())
        await places.take()
        await places.take()
        assert not places.crowded
        back = asyncio.create_task(places.take(returning=True))
        await settled()
        assert places.crowded
        places.release()
        await back
        assert (places.taken, places.crowded) == (2, False)

    on_simulated_time(work())


def test_workers_that_rest_make_no_crowd() -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        resting = asyncio.create_task(places.take())
        await settled()
        assert not places.crowded
        resting.cancel()

    on_simulated_time(work())


def test_a_row_has_one_place_however_many_of_its_requests_wait_at_once() -> None:
    """With `asyncio.gather` a row may ask for several things, and all of them may be told to come back later."""

    async def work() -> None:
        others: list[asyncio.Task[None]] = []

        async def other_row() -> None:
            await asyncio.sleep(100)
            places.release()

        def hire() -> bool:
            if len(others) == 5:
                return False
            others.append(asyncio.create_task(other_row()))
            return True

        places = ConcurrencyLimiter(1, hire, asyncio.Event())
        places.enter()
        places.enter_row()
        places.taken = 1  # ours
        requests = [asyncio.create_task(module.pause(1)) for _ in range(3)]
        await settled()
        found = len(others), places.taken
        await asyncio.gather(*requests, *others)
        assert found == (1, 1)

    on_simulated_time(work())


# Cancelled while waiting.


@pytest.mark.parametrize("returning", [True, False])
def test_a_place_goes_to_the_next_when_the_first_in_the_queue_was_cancelled(returning: bool) -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        first = asyncio.create_task(places.take(returning=returning))
        second = asyncio.create_task(places.take(returning=returning))
        await settled()
        first.cancel()
        await asyncio.wait([first])
        places.release()  # of the one that was cancelled, which gives back as everybody does
        assert places.taken == 1
        places.release()
        await second
        assert (places.taken, places.crowded) == (1, False)

    on_simulated_time(work())


@pytest.mark.parametrize("returning", [True, False])
def test_a_place_that_was_granted_in_the_same_moment_as_the_cancellation_is_counted_once(returning: bool) -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        waiting = asyncio.create_task(places.take(returning=returning))
        await settled()
        places.release()  # grants it; it has not heard of it yet
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert places.taken == 1
        places.release()
        assert places.taken == 0

    on_simulated_time(work())


def test_a_pause_that_is_cancelled_ends_with_a_place_because_its_worker_goes_on() -> None:
    """As when a row's own timeout ends a pause: the worker has other rows, and needs a place for them."""

    async def work() -> None:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await places.pause(100)
        assert (now(), places.taken) == (3, 1)

    on_simulated_time(work())


# The limit moves.


def test_lowering_the_limit_makes_a_crowd_until_enough_have_stepped_aside() -> None:
    async def work() -> None:
        places, move = places_of(5)
        for _ in range(5):
            await places.take()
        move(3)
        assert (places.limit, places.taken, places.crowded) == (3, 5, True)
        places.release()
        assert places.crowded
        places.release()
        assert not places.crowded

    on_simulated_time(work())


def test_whoever_stepped_aside_comes_back_when_the_limit_rises_and_only_then_others_are_hired() -> None:
    async def work() -> None:
        hired: list[int] = []
        places, move = places_of(3, lambda: not hired.append(places.taken))
        places.fill()
        assert hired == [0, 1, 2]
        move(1)
        aside = []
        for _ in range(2):
            places.release()
            aside.append(asyncio.create_task(places.take()))
            await settled()
        assert (places.taken, places.crowded, [task.done() for task in aside]) == (1, False, [False, False])
        move(2)
        await settled()
        assert (places.taken, [task.done() for task in aside]) == (2, [True, False])
        move(4)
        await settled()
        assert (places.taken, [task.done() for task in aside]) == (4, [True, True])
        assert hired == [0, 1, 2, 3]

    on_simulated_time(work())


def test_a_limit_that_was_named_does_not_move_whatever_the_server_says() -> None:
    places = ConcurrencyLimiter(7, nobody, asyncio.Event())
    for _ in range(1000):
        places.completed()
        places.rejected()
    assert (places.limit, places.adaptive) == (7, False)


def test_without_a_named_limit_it_starts_with_16_and_follows_what_the_server_says() -> None:
    places = ConcurrencyLimiter(None, nobody, asyncio.Event())
    assert (places.limit, places.adaptive) == (16, True)
    for _ in range(1000):
        places.rejected()
    assert places.limit == 1


# Pauses.


def test_a_pause_lasts_as_long_as_it_was_asked_for_and_somebody_else_has_the_place_meanwhile() -> None:
    async def work() -> None:
        hired: list[float] = []

        async def other() -> None:
            hired.append(now())
            await asyncio.sleep(10)
            places.release()

        def hire() -> bool:
            if len(tasks) == 1:
                return False
            tasks.append(asyncio.create_task(other()))
            return True

        tasks: list[asyncio.Task[None]] = []
        places = ConcurrencyLimiter(1, hire, asyncio.Event())
        places.taken = 1  # ours
        await places.pause(4)
        assert hired == [0]
        assert now() == 10  # it is over at 4, and then waits for its place
        assert places.taken == 1

    on_simulated_time(work())


@pytest.mark.parametrize("seconds", [0, 2.5, 30, 1e6])
def test_a_pause_with_room_for_everybody_takes_its_seconds(seconds: float) -> None:
    async def work() -> float:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        await places.pause(seconds)
        assert places.taken == 1
        return now()

    assert on_simulated_time(work()) == pytest.approx(seconds)


def test_a_pause_ends_early_and_says_so_once_everybody_is_to_hurry() -> None:
    async def work() -> None:
        hurry = asyncio.Event()
        places = ConcurrencyLimiter(1, nobody, hurry)
        await places.take()
        pause = asyncio.create_task(places.pause(100))
        await asyncio.sleep(2)
        await places.take()  # somebody else has the place, and keeps it
        hurry.set()
        with pytest.raises(Halted):
            await pause
        with pytest.raises(Halted):
            await places.pause(100)
        assert now() == 2

    on_simulated_time(work())


# The end of a run.


def test_letting_all_in_frees_everybody_who_waits_though_nobody_leaves() -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(1, nobody, asyncio.Event())
        await places.take()
        waiting = [asyncio.create_task(places.take(returning=number % 2 == 0)) for number in range(10)]
        await settled()
        assert places.crowded
        places.let_all_in()
        await asyncio.gather(*waiting)
        assert (places.taken, places.crowded) == (11, False)
        for _ in range(11):
            places.release()
        assert (places.taken, places.crowded) == (0, False)

    on_simulated_time(work())


def test_calls_that_come_back_wait_no_more_once_everybody_is_to_hurry() -> None:
    async def work() -> None:
        hurry = asyncio.Event()
        places = ConcurrencyLimiter(1, nobody, hurry)
        await places.take()
        hurry.set()
        await asyncio.wait_for(places.take(returning=True), 1)
        async with places.given_back():
            assert places.taken == 1
        assert (now(), places.taken) == (0, 2)

    on_simulated_time(work())


# Code that knows nothing of places.


def test_outside_of_any_run_a_pause_is_a_sleep_and_the_rest_is_nothing() -> None:
    async def work() -> None:
        assert module.current() is None
        await module.pause(3)
        assert now() == 3
        async with module.given_back():
            pass
        module.rejected()
        assert now() == 3

    on_simulated_time(work())


def test_the_calls_of_a_run_find_its_places_and_nobody_else_does() -> None:
    async def work() -> None:
        outside = asyncio.Event()

        async def stranger() -> ConcurrencyLimiter | None:
            await outside.wait()
            return module.current()

        async def run() -> tuple[ConcurrencyLimiter, ConcurrencyLimiter | None]:
            places, move = places_of(2)
            places.enter()
            await places.take()
            async with module.given_back():
                assert places.taken == 0
            assert places.taken == 1
            await module.pause(5)
            assert (now(), places.taken) == (5, 1)
            move(2)
            moved = places._adaptive
            assert isinstance(moved, Moved)
            moved.limit = 1
            module.rejected()
            assert places.limit == 1

            async def call() -> ConcurrencyLimiter | None:
                return module.current()

            return places, await asyncio.create_task(call())

        before = asyncio.create_task(stranger())
        places, found = await asyncio.create_task(run())
        outside.set()
        assert found is places
        assert await before is None
        assert module.current() is None

    on_simulated_time(work())
