"""What `run_calls` promises: bounded concurrency, nobody held back, failures that stay with their row, clean ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import math
import os
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.engine.calls.chunks import Chunk, Finished
from domyn_swarm.engine.calls.limits import Limits, concurrency_for
from domyn_swarm.engine.calls.outputs import Failure
from domyn_swarm.engine.calls.worker_pool import run_calls
from domyn_swarm.errors import JobError
from tests.conftest import write

LONG = 30.0  # seconds that no test takes unless a promise is broken

Steps = Callable[[Any], Generator[threading.Event | float, None, Any]]


@pytest.fixture(params=["async", "plain"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each promise holds for `async def` and for plain `def` calls."""
    return request.param


def made(kind: str, steps: Steps) -> Callable[[Any], Any]:
    """A call of that kind from a generator, which yields what it waits for: an event, or some seconds."""

    def plain(payload: Any) -> Any:
        call = steps(payload)
        try:
            while True:
                what = next(call)
                if isinstance(what, float):
                    time.sleep(what)
                else:
                    assert what.wait(LONG)
        except StopIteration as end:
            return end.value

    async def awaited(payload: Any) -> Any:
        call = steps(payload)
        try:
            while True:
                what = next(call)
                while isinstance(what, threading.Event) and not what.is_set():  # noqa: ASYNC110 - shared with threads
                    await asyncio.sleep(0.001)
                await asyncio.sleep(what if isinstance(what, float) else 0)
        except StopIteration as end:
            return end.value

    return plain if kind == "plain" else awaited


def at_once(kind: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A call of that kind that never waits."""

    async def awaited(payload: Any) -> Any:
        return function(payload)

    return function if kind == "plain" else awaited


def chunk(payloads: Iterable[Any], source: Any = "chunk") -> Chunk:
    entries = [(f"key {payload}", payload) for payload in payloads]
    return Chunk(source, iter(entries), len(entries))


async def nothing() -> None:
    pass


def started(
    chunks: Iterable[Chunk], call: Callable[[Any], Any], concurrency: int = 4, *, retries: int = 0,
    timeout: float | None = None, stop: Stop | None = None, opened: Any = nothing, closed: Any = nothing,
) -> Iterator[Finished | None]:  # fmt: skip
    limits = Limits(concurrency, retries, timeout)
    return run_calls(chunks, call, limits, stop=stop or Stop(), opened=opened, closed=closed)


def gathered(results: Iterable[Finished | None], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Outputs by key; `into` holds those that came before an error."""
    found = {} if into is None else into
    for _, keys, outputs, _ in filter(None, results):
        assert len(keys) == len(outputs)
        assert not found.keys() & set(keys)
        found |= zip(keys, outputs, strict=True)
    return found


def threads_gone(before: set[threading.Thread]) -> bool:
    """Whether all threads that were not there before have ended, or do soon."""
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    return set(threading.enumerate()) <= before


class AtOnceError(Exception):
    """An error that asks to be tried again without a wait."""

    retry_after = 0.0


# Every payload, once, with its key.


@given(
    sizes=st.lists(st.integers(0, 20), max_size=8),
    concurrency=st.integers(1, 16),
    failing=st.sets(st.integers(0, 160)),
    kind=st.sampled_from(["async", "async that waits", "plain"]),
)
def test_every_payload_is_called_once_and_its_output_comes_with_its_key_and_source(
    sizes: list[int], concurrency: int, failing: set[int], kind: str
) -> None:
    numbers = itertools.count()
    payloads = {source: [next(numbers) for _ in range(size)] for source, size in enumerate(sizes)}
    calls: list[int] = []

    def steps(number: int) -> Generator[float, None, int]:
        calls.append(number)
        yield 0.0
        if number in failing:
            raise AtOnceError(f"no {number}")
        return number * 2

    def function(number: int) -> int:
        calls.append(number)
        if number in failing:
            raise AtOnceError(f"no {number}")
        return number * 2

    call = made("async", steps) if kind == "async that waits" else at_once(kind, function)
    results = started((chunk(payloads[source], source) for source in payloads), call, concurrency)
    found = [
        (source, *pair) for source, keys, outs, _ in filter(None, results) for pair in zip(keys, outs, strict=True)
    ]

    assert Counter(calls) == Counter(range(sum(sizes)))
    assert sorted(found, key=lambda row: int(row[1][4:])) == [
        (source, f"key {number}", Failure("AtOnceError", f"no {number}", 1) if number in failing else number * 2)
        for source in payloads
        for number in payloads[source]
    ]


def test_without_chunks_nothing_is_opened() -> None:
    events: list[str] = []

    async def opened() -> None:
        events.append("opened")

    assert list(started([], at_once("async", str), opened=opened, closed=opened)) == []
    assert events == []


def test_an_empty_chunk_is_nothing_special(kind: str) -> None:
    chunks = [chunk([]), chunk([1]), chunk([]), chunk([])]
    assert gathered(started(chunks, at_once(kind, str))) == {"key 1": "1"}


def test_it_works_where_the_callers_thread_has_a_running_event_loop(kind: str) -> None:
    async def notebook() -> dict[str, Any]:
        return gathered(started([chunk([1, 2])], at_once(kind, str)))

    assert asyncio.run(notebook()) == {"key 1": "1", "key 2": "2"}


def test_concurrency_is_32_for_async_calls_and_one_per_core_for_plain_ones_unless_it_is_named() -> None:
    assert concurrency_for(at_once("async", str), None) == 32
    assert concurrency_for(at_once("plain", str), None) == os.cpu_count()
    assert concurrency_for(at_once("async", str), 7) == 7
    assert concurrency_for(at_once("plain", str), 7) == 7


# As many as allowed, and nobody waits for anybody.


@pytest.mark.parametrize("size", [1, 3, 50])
def test_as_many_calls_as_allowed_are_in_flight_and_never_more(kind: str, size: int) -> None:
    lock = threading.Lock()
    now: set[int] = set()
    most = 0
    five = threading.Event()

    def steps(number: int) -> Generator[threading.Event | float, None, None]:
        nonlocal most
        with lock:
            now.add(number)
            most = max(most, len(now))
        if len(now) == 5:
            five.set()
        yield five
        yield 0.001
        with lock:
            now.remove(number)

    chunks = (chunk(range(start, start + size)) for start in range(0, 50, size))
    assert len(gathered(started(chunks, made(kind, steps), 5))) >= 50
    assert most == 5


def test_a_slow_row_holds_back_nobody(kind: str) -> None:
    others: list[int] = []
    all_others = threading.Event()

    def steps(number: int) -> Generator[threading.Event, None, str]:
        if number == 0:
            yield all_others
            return "last"
        others.append(number)
        if len(others) == 99:
            all_others.set()
        return "early"

    chunks = [chunk(range(start, start + 10)) for start in range(0, 100, 10)]
    found = gathered(started(chunks, made(kind, steps), 2))
    assert found == {"key 0": "last"} | {f"key {number}": "early" for number in range(1, 100)}


def test_calls_that_never_wait_let_results_out_while_they_run(kind: str) -> None:
    seen = threading.Event()

    def function(number: int) -> bool:
        return number < 90 or seen.wait(LONG)  # not awaited: this blocks the event loop

    results = started([chunk(range(100))], at_once(kind, function), 1)
    first = next(filter(None, results))
    assert len(first[1]) == 90
    seen.set()
    assert gathered(results) == {f"key {number}": True for number in range(90, 100)}


def test_chunks_are_pulled_only_as_calls_finish_however_fast_those_are(kind: str) -> None:
    pulled = 0
    received = 0

    def source() -> Iterator[Chunk]:
        nonlocal pulled
        for start in range(0, 2000, 10):
            pulled += 1
            yield chunk(range(start, start + 10))

    for result in started(source(), at_once(kind, str), 4):
        received += len(result[1]) if result else 0
        assert pulled * 10 - received <= 70  # waiting: 4 + 9 rows; in hand: 4 chunks at most; being fed: one
        time.sleep(0.001)
    assert received == 2000


def test_chunks_are_not_pulled_ahead_of_calls_that_are_slow(kind: str) -> None:
    pulled = 0
    go = threading.Event()

    def source() -> Iterator[Chunk]:
        nonlocal pulled
        for start in range(0, 1000, 10):
            pulled += 1
            yield chunk(range(start, start + 10))

    def steps(number: int) -> Generator[threading.Event, None, int]:
        yield go
        return number

    results = started(source(), made(kind, steps), 4)
    assert [next(results), next(results), next(results)] == [None, None, None]
    assert pulled == 2
    go.set()
    assert len(gathered(results)) == 1000


def test_an_output_that_was_handed_on_is_kept_nowhere_while_the_next_call_is_made(kind: str) -> None:
    class Output:
        """What a weak reference can point to."""

    let_go, outputs = threading.Event(), list[weakref.ref[Output]]()

    def steps(payload: int) -> Iterator[Any]:
        if payload:
            yield let_go
        output = Output()
        outputs.append(weakref.ref(output))
        return output

    results = started([chunk(range(2))], made(kind, steps), 1)
    while not outputs or outputs[0]() is not None:
        next(results)
    let_go.set()
    assert len(list(filter(None, results))) == 1


def test_none_comes_now_and_then_while_nothing_finishes(kind: str) -> None:
    go = threading.Event()

    def steps(number: int) -> Generator[threading.Event, None, int]:
        yield go
        return number

    results = started([chunk([7])], made(kind, steps))
    since = time.monotonic()
    assert [next(results) for _ in range(6)] == [None] * 6
    assert time.monotonic() - since >= 0.4  # POLL_SECONDS each, but for the first ones: it does not spin
    go.set()
    assert gathered(results) == {"key 7": 7}


# Failures.


def test_a_call_that_keeps_failing_is_tried_again_as_often_as_said_and_then_is_a_failure(kind: str) -> None:
    calls: list[int] = []

    def function(number: int) -> None:
        calls.append(number)
        raise AtOnceError(f"attempt {len(calls)}")

    assert gathered(started([chunk([1])], at_once(kind, function), retries=3)) == {
        "key 1": Failure("AtOnceError", "attempt 4", 4)
    }
    assert calls == [1, 1, 1, 1]


def test_a_call_that_succeeds_at_its_last_attempt_has_an_output(kind: str) -> None:
    calls: list[int] = []

    def function(number: int) -> str:
        calls.append(number)
        if len(calls) < 3:
            raise AtOnceError
        return "well"

    assert gathered(started([chunk([1])], at_once(kind, function), retries=2)) == {"key 1": "well"}


def test_an_error_that_says_so_is_not_tried_again(kind: str) -> None:
    class HopelessError(Exception):
        retryable = False

    def function(_: int) -> None:
        raise HopelessError("never")

    assert gathered(started([chunk([1])], at_once(kind, function), retries=9)) == {
        "key 1": Failure("HopelessError", "never", 1)
    }


def test_the_waits_between_attempts_grow(kind: str) -> None:
    times: list[float] = []

    def function(_: int) -> None:
        times.append(time.monotonic())
        raise ValueError

    gathered(started([chunk([1])], at_once(kind, function), retries=3))
    first, second, third = (later - earlier for earlier, later in itertools.pairwise(times))
    assert (first >= 0.049, second >= 0.099, third >= 0.199) == (True, True, True)


def test_an_error_sets_the_wait_before_the_next_attempt(kind: str) -> None:
    class BusyError(Exception):
        retry_after = 0.5

    times: list[float] = []

    def function(_: int) -> str:
        times.append(time.monotonic())
        if len(times) == 1:
            raise BusyError
        return "well"

    assert gathered(started([chunk([1])], at_once(kind, function), retries=1)) == {"key 1": "well"}
    assert times[1] - times[0] >= 0.499


@pytest.mark.parametrize("wait", ["soon", math.nan, math.inf, -5, 10**400, None, dt.timedelta(1)], ids=type)
def test_a_wait_that_is_no_number_of_seconds_is_as_if_there_were_none(kind: str, wait: Any) -> None:
    calls: list[int] = []

    def function(number: int) -> str:
        calls.append(number)
        if len(calls) == 1:
            error = ValueError()
            error.retry_after = wait  # type: ignore[attr-defined]
            raise error
        return "well"

    assert gathered(started([chunk([1])], at_once(kind, function), retries=1)) == {"key 1": "well"}


def test_many_attempts_without_a_wait_are_quick_and_all_made(kind: str) -> None:
    calls: list[int] = []

    def function(number: int) -> None:
        calls.append(number)
        raise AtOnceError

    found = gathered(started([chunk([1])], at_once(kind, function), retries=2000))
    assert (found["key 1"].attempts, len(calls)) == (2001, 2001)


class Odd(BaseException):
    """An error that `except Exception` does not catch (pytest's own outcomes are such)."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Odd], ids=lambda error: error.__name__)
def test_whatever_a_call_raises_is_its_rows_failure(kind: str, error: type[BaseException]) -> None:
    tried: set[int] = set()

    def function(number: int) -> str:
        if number == 1 or (number == 2 and number in tried):
            raise error("mine")
        if number == 2:
            tried.add(number)
            raise AtOnceError
        return "well"

    found = gathered(started([chunk([0, 1, 2, 3])], at_once(kind, function), 1, retries=1))
    name = error.__name__
    assert found == {
        "key 0": "well", "key 1": Failure(name, "mine", 2), "key 2": Failure(name, "mine", 2), "key 3": "well",
    }  # fmt: skip


def test_an_error_that_cannot_say_what_it_is_is_its_rows_failure(kind: str) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            return self.args[5]

    def function(number: int) -> str:
        if number == 1:
            raise MuteError
        return "well"

    found = gathered(started([chunk([1, 2])], at_once(kind, function), 1))
    assert (found["key 1"].type, found["key 2"]) == ("MuteError", "well")


def test_an_async_call_that_hangs_is_cancelled_when_its_time_is_up_and_is_a_failure() -> None:
    ended: list[int] = []

    async def call(number: int) -> str:
        try:
            await asyncio.sleep(LONG if number == 1 else 0)
        finally:
            ended.append(number)
        return "well"

    assert gathered(started([chunk([1, 2])], call, retries=1, timeout=0.25)) == {
        "key 1": Failure("TimeoutError", "no output after 0.25 s", 2),
        "key 2": "well",
    }
    assert sorted(ended) == [1, 1, 2]


def test_a_timeout_of_the_calls_own_keeps_its_message() -> None:
    async def call(_: int) -> None:
        raise TimeoutError("the printer did not answer")

    assert gathered(started([chunk([1])], call, timeout=LONG)) == {
        "key 1": Failure("TimeoutError", "the printer did not answer", 1)
    }


# Stopping.


def test_when_stopped_no_call_starts_and_those_in_flight_are_finished_and_kept(kind: str) -> None:
    calls: list[int] = []
    stop = Stop()

    def steps(number: int) -> Generator[threading.Event | float, None, int]:
        calls.append(number)
        if len(calls) == 3:
            stop.set()
        yield stop
        yield 0.3
        return number

    chunks = (chunk(range(start, start + 10)) for start in range(0, 100, 10))
    found = gathered(started(chunks, made(kind, steps), 3, stop=stop))
    assert found == {"key 0": 0, "key 1": 1, "key 2": 2}
    assert sorted(calls) == [0, 1, 2]


def test_when_stopped_calls_that_never_wait_stop_in_mid_chunk_though_nobody_pulls(kind: str) -> None:
    stop = Stop()
    calls = 0

    def function(_: int) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.001)
        if calls == 5:
            stop.set()

    results = started([chunk(range(100_000))], at_once(kind, function), 1, stop=stop)
    next(results)
    time.sleep(0.1)
    assert len(gathered(results)) <= 5
    assert calls == 5


def test_when_stopped_before_the_start_nothing_is_called(kind: str) -> None:
    stop = Stop()
    stop.set()
    calls: list[int] = []
    assert gathered(started([chunk([1]), chunk([2])], at_once(kind, calls.append), stop=stop)) == {}
    assert calls == []


def test_when_stopped_a_row_that_waits_to_be_tried_again_is_left_to_the_next_run(kind: str) -> None:
    class BusyError(Exception):
        retry_after = 600.0

    stop = Stop()
    calls: list[int] = []

    def function(number: int) -> None:
        calls.append(number)
        raise BusyError("later")

    results = started([chunk([1])], at_once(kind, function), retries=5, stop=stop)
    assert next(results) is None
    while not calls:
        next(results)
    stop.set()
    assert gathered(results) == {}
    assert calls == [1]


def test_when_stopped_a_call_that_hangs_is_waited_for_a_few_seconds_and_given_up(kind: str) -> None:
    stop, forever = Stop(), threading.Event()
    closed: list[str] = []
    before = set(threading.enumerate())

    def steps(number: int) -> Generator[threading.Event, None, int]:
        if number == 1:
            stop.set()
        yield forever if number == 0 else stop
        return number

    async def close() -> None:
        closed.append("closed")

    since = time.monotonic()
    assert gathered(started([chunk(range(9))], made(kind, steps), 2, stop=stop, closed=close)) == {"key 1": 1}
    assert 4 < time.monotonic() - since < 50
    assert closed == ["closed"]
    forever.set()  # the thread of a plain call cannot be cancelled
    assert threads_gone(before)


def test_when_stopped_while_it_opens_the_opening_is_cancelled_and_nothing_is_called() -> None:
    stop = Stop()
    calls: list[int] = []
    before = set(threading.enumerate())

    async def opened() -> None:
        stop.set()
        await asyncio.sleep(LONG * 10)

    assert gathered(started([chunk([1])], at_once("async", calls.append), stop=stop, opened=opened)) == {}
    assert calls == []
    assert set(threading.enumerate()) == before


# Opening and closing.


class Resource:
    """What a job opens and closes, with a diary; `open` or `close` may fail."""

    def __init__(self, *, opens: bool = True, closes: bool = True) -> None:
        self.diary: list[str] = []
        self._opens, self._closes = opens, closes

    async def open(self) -> None:
        self.diary.append("open")
        if not self._opens:
            raise ConnectionError("no opening")

    async def close(self) -> None:
        self.diary.append("close")
        if not self._closes:
            raise ConnectionError("no closing")

    def call(self, payload: Any) -> Any:
        self.diary.append("call")
        if isinstance(payload, BaseException):
            raise payload
        return payload


def test_it_is_opened_before_the_first_call_and_closed_after_the_last(kind: str) -> None:
    resource = Resource()
    call = at_once(kind, resource.call)
    gathered(started([chunk([1]), chunk([2, 3])], call, opened=resource.open, closed=resource.close))
    assert resource.diary == ["open", "call", "call", "call", "close"]


def test_an_error_in_opening_is_raised_and_nothing_is_called(kind: str) -> None:
    resource = Resource(opens=False)
    results = started([chunk([1])], at_once(kind, resource.call), opened=resource.open, closed=resource.close)
    with pytest.raises(ConnectionError, match="no opening"):
        gathered(results)
    assert resource.diary == ["open"]


def test_an_error_in_closing_is_raised_after_everything_came_out(kind: str) -> None:
    resource = Resource(closes=False)
    found: dict[str, Any] = {}
    results = started([chunk([1, 2])], at_once(kind, resource.call), opened=resource.open, closed=resource.close)
    with pytest.raises(ConnectionError, match="no closing"):
        gathered(results, found)
    assert found == {"key 1": 1, "key 2": 2}


def test_it_is_closed_when_the_consumer_stops_pulling(kind: str) -> None:
    resource = Resource()
    endless = (chunk([number]) for number in itertools.count())
    results = started(endless, at_once(kind, resource.call), opened=resource.open, closed=resource.close)
    next(filter(None, results))
    results.close()  # type: ignore[attr-defined]
    assert resource.diary.count("close") == 1


# Endings that nobody planned.


def test_a_consumer_that_stops_pulling_leaves_no_thread_and_no_call_behind(kind: str) -> None:
    before = set(threading.enumerate())
    calls: list[int] = []

    def function(number: int) -> int:
        calls.append(number)
        time.sleep(0.01)
        return number

    results = started([chunk(range(100_000))], at_once(kind, function))
    next(filter(None, results))
    results.close()  # type: ignore[attr-defined]
    assert threads_gone(before)
    assert len(calls) < 10_000  # a few dozen; all of them would take minutes


def test_when_the_source_breaks_what_was_called_comes_out_before_the_error(kind: str) -> None:
    calls: list[int] = []
    three, broken = threading.Event(), threading.Event()

    def steps(number: int) -> Generator[threading.Event | float, None, int]:
        calls.append(number)
        if len(calls) == 3:
            three.set()
        yield broken
        yield 0.2
        return number

    def source() -> Iterator[Chunk]:
        yield chunk(range(100_000))
        assert three.wait(LONG)
        broken.set()
        raise OSError("the disk is gone")

    found: dict[str, Any] = {}
    with pytest.raises(OSError, match="the disk is gone"):
        gathered(started(source(), made(kind, steps), 3), found)
    assert found == {f"key {number}": number for number in calls}
    assert 3 <= len(calls) < 100_000


def test_when_the_source_breaks_at_once_nothing_is_opened(kind: str) -> None:
    resource = Resource()

    def source() -> Iterator[Chunk]:
        raise OSError("the disk is gone")
        yield

    results = started(source(), at_once(kind, resource.call), opened=resource.open, closed=resource.close)
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
    assert resource.diary == []


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_call_ends_the_run_after_what_finished_came_out(kind: str, error: type[BaseException]) -> None:
    before = set(threading.enumerate())
    resource = Resource()
    payloads = itertools.chain(range(50), [error("the end")], range(51, 100_000))
    entries = [(number, payload) for number, payload in enumerate(payloads)]

    def function(payload: Any) -> Any:
        time.sleep(0.001)
        return resource.call(payload)

    found: dict[Any, Any] = {}
    chunks = [Chunk("chunk", iter(entries), len(entries))]
    with pytest.raises(error, match="the end"):
        gathered(started(chunks, at_once(kind, function), opened=resource.open, closed=resource.close), found)
    assert found.items() >= {number: number for number in range(47)}.items()
    assert {number: output for number, output in found.items() if isinstance(output, Failure)} == {}
    assert resource.diary.count("close") == 1
    assert resource.diary.count("call") < 50_000
    assert threads_gone(before)


def test_an_exit_in_one_call_makes_no_failure_of_the_others_in_flight() -> None:
    async def call(number: int) -> int:
        await asyncio.sleep(0.05 if number == 3 else LONG)
        raise SystemExit(9)

    found: dict[str, Any] = {}
    with pytest.raises(SystemExit):
        gathered(started([chunk(range(8))], call), found)
    assert found == {}


class Breaking(SwarmJob):
    """Removes the folder that its results go to."""

    output_columns = ("same",)

    async def transform_item(self, number: int) -> int:
        await asyncio.sleep(0.001)
        if number == 100:
            shutil.rmtree(".domyn-swarm/out.parquet/parts")
        return number


def test_a_run_that_cannot_write_makes_no_more_calls_though_its_error_is_still_held() -> None:
    write("in.parquet", {"number": range(100_000)})
    options = {"input": "in.parquet", "output": "out.parquet", "output_columns": ["same"], "checkpoint_interval": 0.2}
    with pytest.raises(JobError, match="FileNotFoundError"):
        run(make_spec({**options, "job": "tests.test_pool:Breaking", "input_columns": ["number"]}))
    assert [thread for thread in threading.enumerate() if thread.name == "domyn-swarm-calls"] == []
