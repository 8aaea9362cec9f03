"""Bounded concurrency over a stream of chunks: as many calls in flight as allowed, whatever each of them takes.

The calls run on an event loop in a thread of their own, so the thread that pulls results can read and write parquet
meanwhile, and a caller that has a running event loop itself (a notebook) needs nothing special. Workers draw rows from
the chunk in hand one by one; a row costs no task, no lock and no queue, and a slow row holds back nobody. A call that
waits to be tried again lends its place to another worker (see `domyn_swarm.concurrency.slots`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from domyn_swarm.concurrency.adaptive import MOST
from domyn_swarm.concurrency.resources import exhausted
from domyn_swarm.concurrency.retry import backoff, is_overload, is_retryable
from domyn_swarm.concurrency.slots import ConcurrencyLimiter, Halted
from domyn_swarm.endpoint.tries import Tries
from domyn_swarm.engine.calls.call_pace import CallPace
from domyn_swarm.engine.calls.grace import Grace
from domyn_swarm.engine.calls.outputs import Failure
from domyn_swarm.errors import JobError
from domyn_swarm.telemetry import trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator

    from domyn_swarm.concurrency.allowance import Ticket
    from domyn_swarm.concurrency.slots import Row
    from domyn_swarm.concurrency.stop import Stop
    from domyn_swarm.telemetry.trace import Log

Finished: TypeAlias = tuple[Any, list[Any], list[Any], dict[Any, str]]
"""Calls of one chunk that finished: the chunk's source, the calls' keys, as many outputs, and what happened on the way.

The last of these has the keys of those calls of which there is something to tell.
"""

ASYNC_CONCURRENCY = 32
POLL_SECONDS = 0.1
CLOSE_SECONDS = 5.0
"""For calls that were cancelled, and for the job to close."""
OBJECTS_PER_COLLECTION = 50_000
WORKERS_PER_PLACE = 8
"""Calls may wait to be tried again without a place, but not so many that a server in trouble is flooded."""

_ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit, JobError)
"""What a call may raise that is no row's failure, but the end of the run."""


@dataclass(eq=False)
class Chunk:
    """Calls to make: `entries` yields (key, payload) once for each. Results gather in `keys` and `outputs`.

    `traces` has what happened in calls by key, where there is something to tell: as text, made at once, because what
    it is made of is many objects. One call for many rows (no key) tells no bodies, which each row would keep.
    """

    source: Any
    entries: Iterator[tuple[Any, Any]]
    size: int
    keys: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    traces: dict[Any, str] = field(default_factory=dict)
    taken: int = 0
    held: deque[int] = field(default_factory=deque)

    def take(self) -> tuple[list[Any], list[Any], dict[Any, str]]:
        """What finished since the last call, which is forgotten here.

        `outputs` grows last, so its length is safe to read from any thread; each of these steps is one step to others.
        """
        count = len(self.outputs)
        keys, outputs = self.keys[:count], self.outputs[:count]
        del self.keys[:count]
        del self.outputs[:count]
        self.taken += count
        traces = {key: self.traces.pop(key) for key in keys if key in self.traces} if self.traces else {}
        return keys, outputs, traces


@dataclass(frozen=True)
class Limits:
    """How calls are made. `concurrency` counts calls in flight; None, for async calls, finds out how many are good.

    `most` bounds what is found out. `timeout` is in seconds for one call, `grace` for those in flight when the run has
    to end. With `trace` it is kept what happened in each. Rate limits that last longer than `patience` (seconds) end
    the run.
    """

    concurrency: int | None
    retries: int = 0
    timeout: float | None = None
    trace: bool = True
    grace: float = 5.0
    most: int = MOST
    patience: float = 600.0


def concurrency_for(call: Callable[..., Any], wanted: int | Literal["auto"] | None) -> int | None:
    """The calls in flight, None to find out. By default many for calls that wait, one per core for those that work."""
    if wanted == "auto":
        return None
    return wanted or (ASYNC_CONCURRENCY if inspect.iscoroutinefunction(call) else os.cpu_count() or 1)


def run_calls(
    chunks: Iterable[Chunk],
    call: Callable[[Any], Any],
    limits: Limits,
    *,
    stop: Stop,
    opened: Callable[[], Awaitable[None]],
    closed: Callable[[], Awaitable[None]],
) -> Generator[Finished | None, None, None]:
    """Make every call of `chunks` and yield them as they finish; None about every POLL_SECONDS in which none did.

    A call that raises is tried again `limits.retries` times if that can help (`domyn_swarm.concurrency.retry`); then
    its output is a `Failure`. When `stop` is set no further call starts, those in flight get `limits.grace` seconds (or
    until the deadline of a `Stop`), and the stream ends. When `chunks` breaks it is the same, and then its error is
    raised: what finished comes out first.

    `opened` and `closed` run on the event loop before the first and after the last call, if there is any.

    Raises:
        BaseException: whatever `chunks`, `opened` or `closed` raises, and what a call raises to end the run: JobError,
            SystemExit, KeyboardInterrupt.
        ExhaustedError: a call found that this process or its machine has run out of something.
    """
    chunks = iter(chunks)
    if (first := next(chunks, None)) is None:
        return
    pool = _WorkerPool(call, limits, stop, opened, closed)
    try:
        yield from pool.results(itertools.chain([first], chunks))
    finally:
        pool.dismiss()


class _WorkerPool:
    """The workers, the chunks that wait for them, and the thread that they live in."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        limits: Limits,
        stop: Stop,
        opened: Callable[[], Awaitable[None]],
        closed: Callable[[], Awaitable[None]],
    ) -> None:
        self._call = call
        self._limits = limits
        self._stop = stop
        self._opened = opened
        self._closed = closed
        self._chunk = Chunk(None, iter(()), 0)
        self._waiting: deque[Chunk] = deque()
        self._ended = False  # no further chunk will come
        self._halted = threading.Event()  # no further call may start
        self._cancelled = False
        self._error: BaseException | None = None
        self._wanted = threading.Event()  # the pool wants a chunk, or is done
        self._lock = threading.Lock()
        self._loop = _new_loop()
        self._more = asyncio.Event()  # look for a chunk again
        self._more_for_threads = threading.Condition()
        self._hurry = asyncio.Event()  # the same as `_halted`, for those who wait to try again
        self._places = ConcurrencyLimiter(limits.concurrency, self._hire, self._hurry, limits.most)
        self._pace = CallPace(self._places, limits.patience)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._opening = True
        self._starving = 0  # workers that wait for a chunk
        self._exhausted = False  # there is no row left to draw
        self._all_left = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="domyn-swarm-calls", daemon=True)
        self._thread.start()

    # The thread that pulls results.

    def results(self, chunks: Iterator[Chunk]) -> Iterator[Finished | None]:
        underway: deque[Chunk] = deque()
        broken: Exception | None = None
        while self._thread.is_alive():
            self._wanted.clear()
            fed = False
            try:
                fed = self._feed(chunks, underway)
            except Exception as error:  # noqa: BLE001 - raised when what finished is out
                broken = error
            yield from self._finished(underway)
            if broken or self._stop.is_set() or self._halted.is_set():
                break
            if not fed and not self._wanted.wait(POLL_SECONDS):
                yield None
        self._halt()
        yield from self._in_grace(underway)
        self._cancel()
        self._thread.join(1.0)
        yield from self._finished(underway)
        if cause := broken or self._error:
            raise cause

    def _finished(self, underway: deque[Chunk]) -> Iterator[Finished]:
        for chunk in list(underway):
            held = sum(chunk.held.popleft() for _ in range(len(chunk.held)))
            keys, outputs, traces = chunk.take()
            if chunk.taken == chunk.size:
                underway.remove(chunk)
            if outputs:
                yield chunk.source, keys, outputs, traces
            if held:  # whoever pulls has handed the outputs on
                self._on_loop(partial(self._places.answers.release, held))

    def _in_grace(self, underway: deque[Chunk]) -> Iterator[Finished | None]:
        """What the calls in flight still make of their rows; there are none before the job is open."""
        grace = Grace(self._limits.grace, self._stop)
        while self._thread.is_alive() and not self._opening and grace.waits_for(len(self._tasks)):
            self._thread.join(POLL_SECONDS)
            yield from self._finished(underway)
            yield None
        if self._thread.is_alive() and not self._opening:
            grace.over(len(self._tasks))

    def _feed(self, chunks: Iterator[Chunk], underway: deque[Chunk]) -> bool:
        """Whether another chunk was fed: one at a time, so that a fast pool cannot keep results from being pulled."""
        if self._ended or sum(chunk.size for chunk in list(self._waiting)) >= self._places.limit:
            return False
        chunk = None if self._stop.is_set() else next(chunks, None)
        if chunk is None:
            self._ended = True
        else:
            underway.append(chunk)
            self._waiting.append(chunk)
        self._wake()
        return chunk is not None

    def dismiss(self) -> None:
        """End the thread, whatever it does: the consumer has what it wants, or broke."""
        self._halt()
        self._cancel()
        self._thread.join(CLOSE_SECONDS)

    def _halt(self) -> None:
        self._ended = True
        self._halted.set()
        self._wake()
        self._on_loop(self._hurry.set)
        self._on_loop(self._places.let_all_in)

    def _wake(self) -> None:
        self._on_loop(self._more.set)
        with self._more_for_threads:
            self._more_for_threads.notify_all()

    def _cancel(self) -> None:
        self._cancelled = True
        self._on_loop(lambda: [task.cancel() for task in list(self._tasks)])

    def _on_loop(self, step: Callable[[], Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody left to tell
            self._loop.call_soon_threadsafe(step)

    # The thread of the event loop.

    def _main(self) -> None:
        try:
            with _rare_collections(), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                self._run(runner)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that pulls
            self._error = error
        finally:
            self._wanted.set()

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._work_all())
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
        finally:
            # From here on the runner cancels what is left, after an interrupt in a call.
            self._cancelled = True
            self._halt()

    async def _work_all(self) -> None:
        self._tasks = {task for task in [asyncio.current_task()] if task}
        self._places.enter()
        await self._opened()
        self._tasks, self._opening = set(), False
        try:
            if inspect.iscoroutinefunction(self._call):
                self._places.fill()
            else:
                for _ in range(self._places.limit):
                    self._start(self._work_in_thread())
            if self._tasks:  # none when the run was stopped while it opened
                await self._all_left.wait()
            if self._error is not None:
                raise self._error
        finally:
            await self._closed()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self._tasks.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._error = self._error or error
            self._halt()
            self._wanted.set()
        if not self._tasks:
            self._all_left.set()

    def _hire(self) -> bool:
        """Whether another worker started, which is worth it as long as there are rows."""
        if (
            self._exhausted
            or self._starving
            or self._halted.is_set()
            or len(self._tasks) >= WORKERS_PER_PLACE * self._places.limit
        ):
            return False
        self._start(self._work())
        return True

    async def _advance(self, seen: Chunk) -> Chunk | None:
        """The chunk after `seen`, once there is one; None when there will be none."""
        while self._chunk is seen:
            if self._waiting:
                self._chunk = self._waiting.popleft()
            elif self._ended:
                self._exhausted = True
                return None
            else:
                await self._starve()
        self._wanted.set()
        # Calls that never wait would keep the loop to themselves for good.
        await asyncio.sleep(0)
        return self._chunk

    async def _starve(self) -> None:
        self._more.clear()
        self._wanted.set()
        self._starving += 1
        async with self._places.given_back():
            await self._more.wait()
            self._starving -= 1

    async def _work(self) -> None:
        """Draw rows and call, with a place of our own."""
        row = self._places.enter_row()
        try:
            await self._work_through(row)
        finally:
            self._places.answers.release(row.held)
            self._places.release()

    async def _work_through(self, row: Row) -> None:
        places, stopped, halted = self._places, self._stop.is_set, self._halted.is_set
        call = self._timed if self._limits.timeout else self._call
        call = self._counted(call) if places.adaptive else call
        log = trace.start() if self._limits.trace else None
        chunk: Chunk | None = self._chunk
        while chunk is not None:
            keys, outputs = chunk.keys, chunk.outputs
            for key, payload in chunk.entries:
                if stopped() or halted():
                    return
                try:
                    output = await self._output(call, payload, log)
                except Halted:
                    return
                if log:
                    chunk.traces[key] = trace.encoded(log, bodies=key is not None)
                    log = trace.start()  # what the row left running adds to the old one
                if row.held:
                    chunk.held.append(row.held)
                    row.held = 0
                keys.append(key)
                outputs.append(output)
                if places.crowded:
                    places.release()
                    await places.take()
            chunk = await self._advance(chunk)

    def _counted(self, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def counted(payload: Any) -> Any:
            output = await call(payload)
            self._places.completed()
            return output

        return counted

    async def _timed(self, payload: Any) -> Any:
        try:
            async with asyncio.timeout(self._limits.timeout) as limit:
                return await self._call(payload)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no output after {self._limits.timeout:g} s") from None
            raise

    async def _output(self, call: Callable[[Any], Awaitable[Any]], payload: Any, log: Log | None) -> Any:
        ticket = await self._pace.wait_for_turn() if self._pace.engaged else None
        try:
            output = await call(payload)
        except BaseException as error:  # noqa: BLE001 - a row's error is its failure, whatever it is
            return await self._again(call, payload, error, log, ticket)
        if ticket is not None:
            self._pace.admitted()
        return output

    async def _again(
        self, call: Callable[[Any], Awaitable[Any]], payload: Any, error: BaseException, log: Log | None,
        ticket: Ticket | None,
    ) -> Any:  # fmt: skip
        attempts, tries = 1, self._tries()
        while True:
            if self._is_condition(error, ticket, tries, log):
                await self._pace.pause(error, tries)
            elif self._is_final(error, attempts, tries, log):
                return Failure.of(error, attempts)
            else:
                if is_overload(error):
                    self._places.rejected()
                await self._places.pause(backoff(attempts - tries.refusals, error))
            if self._stop.is_set():
                raise Halted
            ticket = await self._pace.wait_for_turn() if self._pace.engaged else None
            attempts += 1
            try:
                output = await call(payload)
            except BaseException as next_error:  # noqa: BLE001
                error = next_error
            else:
                if ticket is not None:
                    self._pace.admitted()
                return output

    def _tries(self) -> Tries:
        return Tries(self._limits.retries, self._limits.patience, time.monotonic)

    def _is_condition(self, error: BaseException, ticket: Ticket | None, tries: Tries, log: Log | None) -> bool:
        """Whether it is everybody's, so that it costs the row no try. Raises what ends the run."""
        if (
            not isinstance(error, Exception)
            or isinstance(error, JobError)
            or not self._pace.meets(error, ticket, tries)
        ):
            return False
        if log is not None:
            trace.failed(log, error)
        return True

    def _is_final(self, error: BaseException, attempts: int, tries: Tries, log: Log | None) -> bool:
        """Whether the row has failed for good. Raises one that is not the row's own: no further call starts."""
        if isinstance(error, Halted):
            raise error
        if isinstance(error, _ENDINGS) or (self._cancelled and isinstance(error, asyncio.CancelledError)):
            self._halt()
            raise error
        if (ran_out := exhausted(error)) is not None:
            self._halt()
            raise ran_out from error
        if log is not None:
            trace.failed(log, error)
        return tries.is_singled_out or attempts - tries.refusals > self._limits.retries or not is_retryable(error)

    async def _work_in_thread(self) -> None:
        done = self._loop.create_future()

        def work() -> None:
            error: BaseException | None = None
            try:
                self._work_blocking()
            except BaseException as caught:  # noqa: BLE001
                error = caught
            self._on_loop(lambda: _settle(done, error))

        # A daemon thread, because a call that hangs must not keep the process from ending.
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:  # the limit of threads: those that run do the work
            if len(self._tasks) == 1:
                raise
            return
        await done

    def _work_blocking(self) -> None:
        log = trace.start() if self._limits.trace else None
        chunk: Chunk | None = self._chunk
        while chunk is not None:
            for key, payload in chunk.entries:
                if self._stop.is_set() or self._halted.is_set():
                    return
                try:
                    output = self._call_blocking(payload, log)
                except Halted:
                    return
                with self._lock:
                    if log:
                        chunk.traces[key] = trace.encoded(log, bodies=key is not None)
                        log = trace.start()
                    chunk.keys.append(key)
                    chunk.outputs.append(output)
            chunk = self._advance_in_thread(chunk)

    def _advance_in_thread(self, seen: Chunk) -> Chunk | None:
        """The same as `_advance`. Threads do not ask the loop, which may be gone before them."""
        with self._more_for_threads:
            while self._chunk is seen:
                if self._waiting:
                    self._chunk = self._waiting.popleft()
                elif self._ended:
                    return None
                else:
                    self._wanted.set()
                    self._more_for_threads.wait()
        self._wanted.set()
        return self._chunk

    def _call_blocking(self, payload: Any, log: Log | None) -> Any:
        attempts, tries = 0, self._tries()
        while True:
            ticket = self._turn_blocking() if self._pace.engaged else None
            attempts += 1
            try:
                output = self._call(payload)
            except BaseException as error:  # noqa: BLE001
                wait = 0.0
                if not self._is_condition(error, ticket, tries, log):
                    if self._is_final(error, attempts, tries, log):
                        return Failure.of(error, attempts)
                    wait = backoff(attempts - tries.refusals, error)
                if self._halted.wait(wait) or self._stop.is_set():
                    raise Halted from None
            else:
                if ticket is not None:
                    self._pace.admitted()
                return output

    def _turn_blocking(self) -> Ticket:
        while isinstance(turn := self._pace.turn(), float):
            if self._halted.wait(turn) or self._stop.is_set():
                raise Halted
        return turn


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """The cyclic garbage collector at rest most of the time.

    It would go through the objects of all calls in flight again and again: a quarter of the CPU with 512 requests.
    """
    youngest, *older = gc.get_threshold()
    gc.set_threshold(max(youngest, OBJECTS_PER_COLLECTION) if youngest else 0, *older)
    try:
        yield
    finally:
        gc.set_threshold(youngest, *older)


def _new_loop() -> asyncio.AbstractEventLoop:
    """An event loop of uvloop's where there is one: a request costs a third less on it."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
