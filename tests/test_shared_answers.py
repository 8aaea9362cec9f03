"""What `SingleFlight` promises: equal requests are sent once, and nobody gets anything but an answer to its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm.concurrency import slots as module
from domyn_swarm.concurrency.slots import ConcurrencyLimiter
from domyn_swarm.endpoint.load_balancer import Answer
from domyn_swarm.endpoint.single_flight import SingleFlight
from tests.test_slots import nobody, now, on_simulated_time, settled


class Server:
    """Counts what it is asked, and answers when it is let: `ask` makes what `once` calls."""

    def __init__(self, *, open_: bool = True) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    def ask(self, name: str = "", error: BaseException | None = None) -> Callable[[], Coroutine[Any, Any, Answer]]:
        async def asked() -> Answer:
            self.asked.append(name)
            await self.gate.wait()
            if error is not None:
                raise error
            return answer(name)

        return asked


def answer(text: str) -> Answer:
    return Answer({"text": text, "tokens": [1, 2.5, None]}, 0.25, 3)


def size_of(text: str) -> int:
    """The bytes that the answer is kept in."""
    return len(msgspec.json.encode(answer(text)))


def started(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(work)


# Asked once.


def test_equal_requests_in_flight_are_asked_once_and_all_but_the_first_are_told_that_it_was_shared() -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=False)
        requests = [started(shared.once("chat", b"{}", server.ask(f"{number}"), Answer)) for number in range(5)]
        await settled()
        assert server.asked == ["0"]
        server.gate.set()
        assert await asyncio.gather(*requests) == [(answer("0"), False)] + [(answer("0"), True)] * 4

    on_simulated_time(work())


def test_an_answer_that_is_there_is_taken_without_asking_again() -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server()
        assert await shared.once("chat", b"{}", server.ask("first"), Answer) == (answer("first"), False)
        for _ in range(3):
            assert await shared.once("chat", b"{}", server.ask("again"), Answer) == (answer("first"), True)
        assert server.asked == ["first"]

    on_simulated_time(work())


@pytest.mark.parametrize(
    ("path", "body"), [("chat", b"{} "), ("chat", b""), ("chats", b"{}"), ("", b"chat{}"), ("cha", b"t{}")]
)
@pytest.mark.parametrize("open_", [True, False], ids=["one after the other", "at the same time"])
def test_another_path_or_another_body_is_another_request(path: str, body: bytes, open_: bool) -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=open_)
        one = started(shared.once("chat", b"{}", server.ask("one"), Answer))
        await settled()
        other = started(shared.once(path, body, server.ask("other"), Answer))
        await settled()
        server.gate.set()
        assert await asyncio.gather(one, other) == [(answer("one"), False), (answer("other"), False)]

    on_simulated_time(work())


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_a_path_may_be_long(length: int) -> None:
    """As where it names a deployment and a version of the API."""

    async def work() -> None:
        shared, server = SingleFlight(), Server()
        assert await shared.once("p" * length, b"{}", server.ask("one"), Answer) == (answer("one"), False)
        assert await shared.once("p" * length, b"{}", server.ask("two"), Answer) == (answer("one"), True)
        assert await shared.once("p" * length + "q", b"{}", server.ask("other"), Answer) == (answer("other"), False)

    on_simulated_time(work())


@pytest.mark.parametrize("under_way", [True, False])
def test_whoever_changes_its_answer_changes_nobody_elses(under_way: bool) -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=not under_way)
        requests = [started(shared.once("chat", b"{}", server.ask("same"), Answer)) for _ in range(3)]
        await settled()
        server.gate.set()
        first, *others = [found for found, _ in await asyncio.gather(*requests)]
        first.body.clear()
        later, _ = await shared.once("chat", b"{}", server.ask("same"), Answer)
        assert [*others, later] == [answer("same")] * 3

    on_simulated_time(work())


# Failures.


def test_a_failure_is_shared_with_those_who_wait_for_it_and_then_forgotten() -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=False)
        requests = [started(shared.once("chat", b"{}", server.ask("bad", OSError("gone")), Answer)) for _ in range(3)]
        await settled()
        server.gate.set()
        failures = await asyncio.gather(*requests, return_exceptions=True)
        assert [repr(failure) for failure in failures] == ["OSError('gone')"] * 3
        assert server.asked == ["bad"]
        assert await shared.once("chat", b"{}", server.ask("good"), Answer) == (answer("good"), False)
        assert server.asked == ["bad", "good"]

    on_simulated_time(work())


def test_a_failure_that_nobody_else_waits_for_is_reported_to_the_asker_alone() -> None:
    """And not once more when it is forgotten, as errors that nobody took are."""

    async def work() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        shared, server = SingleFlight(), Server()
        with pytest.raises(OSError, match="gone"):
            await shared.once("chat", b"{}", server.ask("bad", OSError("gone")), Answer)
        del shared
        await settled()
        assert complaints == []

    on_simulated_time(work())


# Cancellations.


def test_when_the_asker_is_cancelled_those_who_wait_are_and_the_next_one_asks_again() -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=False)
        asker, *waiters = [started(shared.once("chat", b"{}", server.ask("first"), Answer)) for _ in range(3)]
        await settled()
        asker.cancel()
        await asyncio.wait([asker, *waiters])
        assert [task.cancelled() for task in (asker, *waiters)] == [True, True, True]
        server.gate.set()
        assert await shared.once("chat", b"{}", server.ask("second"), Answer) == (answer("second"), False)

    on_simulated_time(work())


def test_when_one_who_waits_is_cancelled_the_asker_and_the_others_who_wait_know_nothing_of_it() -> None:
    async def work() -> None:
        shared, server = SingleFlight(), Server(open_=False)
        asker, one, other = [started(shared.once("chat", b"{}", server.ask("first"), Answer)) for _ in range(3)]
        await settled()
        one.cancel()
        await settled()
        assert (asker.done(), one.cancelled(), other.done()) == (False, True, False)
        server.gate.set()
        assert await asker == (answer("first"), False)
        assert await other == (answer("first"), True)
        assert server.asked == ["first"]

    on_simulated_time(work())


# Places.


def test_whoever_waits_for_somebody_elses_answer_lends_its_place_to_others_and_takes_it_again() -> None:
    async def work() -> None:
        places = ConcurrencyLimiter(2, nobody, asyncio.Event())
        places.enter()
        await places.take()
        await places.take()
        shared, server = SingleFlight(), Server(open_=False)
        requests = [started(shared.once("chat", b"{}", server.ask("same"), Answer)) for _ in range(2)]
        await settled()
        assert places.taken == 1
        server.gate.set()
        await asyncio.gather(*requests)
        assert places.taken == 2
        await shared.once("chat", b"{}", server.ask("same"), Answer)
        assert places.taken == 2
        assert module.current() is places

    on_simulated_time(work())


# Memory.


def test_beyond_its_room_the_answer_goes_that_was_not_asked_for_the_longest() -> None:
    async def work() -> None:
        shared, server = SingleFlight(3 * size_of("a")), Server()

        async def is_kept(name: str) -> bool:
            found, known = await shared.once("chat", name.encode(), server.ask(name), Answer)
            assert found == answer(name)
            return known

        assert [await is_kept(name) for name in "abc"] == [False, False, False]
        assert await is_kept("a")
        assert not await is_kept("d")  # b goes: a was asked for after it
        assert [await is_kept(name) for name in "acd"] == [True, True, True]
        assert not await is_kept("b")  # a goes
        assert server.asked == ["a", "b", "c", "d", "b"]

    on_simulated_time(work())


def test_an_answer_larger_than_all_the_room_is_handed_over_and_not_kept() -> None:
    async def work() -> None:
        shared, server = SingleFlight(size_of("small")), Server()
        assert await shared.once("chat", b"large", server.ask("large" * 99), Answer) == (answer("large" * 99), False)
        assert await shared.once("chat", b"large", server.ask("large" * 99), Answer) == (answer("large" * 99), False)
        assert await shared.once("chat", b"small", server.ask("small"), Answer) == (answer("small"), False)
        assert await shared.once("chat", b"small", server.ask("small"), Answer) == (answer("small"), True)

    on_simulated_time(work())


Request = tuple[float, int, int, bool]
"""Seconds after the last one, which body, the seconds that its answer takes, and whether it fails."""


@given(
    requests=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 1.0, 3.0]), st.integers(0, 5), st.integers(0, 3), st.booleans()),
        max_size=30,
    ),
    room=st.integers(0, 400),
)
def test_whatever_comes_when_everybody_gets_the_answer_to_its_own_request_within_the_room(
    requests: list[Request], room: int
) -> None:
    async def work() -> None:
        shared = SingleFlight(room)
        under_way: set[int] = set()

        async def one(body: int, seconds: int, fails: bool) -> None:
            async def ask() -> Answer:
                assert body not in under_way, "it was asked for already"
                under_way.add(body)
                await asyncio.sleep(seconds)
                under_way.discard(body)
                if fails:
                    raise OSError(f"{body}")
                return answer(f"{body}")

            start = now()
            try:
                found, known = await shared.once("chat", b"%d" % body, ask, Answer)
            except OSError as error:
                assert str(error) == f"{body}"  # noqa: PT017 - whether it fails is left to chance
            else:
                assert found == answer(f"{body}")
                assert known or now() == start + seconds
            assert sum(map(len, shared._answers.values())) == room - shared._bytes_left <= room

        tasks = []
        for gap, body, seconds, fails in requests:
            await asyncio.sleep(gap)
            tasks.append(started(one(body, seconds, fails)))
        await asyncio.gather(*tasks)
        assert shared._under_way == {}

    on_simulated_time(work())
