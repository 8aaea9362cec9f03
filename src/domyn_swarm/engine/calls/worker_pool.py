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
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from domyn_swarm.concurrency.slots import ConcurrencyLimiter
from domyn_swarm.concurrency.stop import Flag
from domyn_swarm.engine.calls.attempts import Attempts
from domyn_swarm.engine.calls.chunks import ChunkQueue
from domyn_swarm.engine.calls.grace import Grace
from domyn_swarm.engine.calls.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator

    from domyn_swarm.concurrency.stop import Stop
    from domyn_swarm.engine.calls.chunks import Chunk, Finished
    from domyn_swarm.engine.calls.limits import Limits

POLL_SECONDS = 0.1
CLOSE_SECONDS = 5.0
"""For calls that were cancelled, and for the job to close."""
OBJECTS_PER_COLLECTION = 50_000
WORKERS_PER_SLOT = 8
"""Calls may wait to be tried again without a slot, but not so many that a server in trouble is flooded."""


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
    """The thread in which calls are made, seen from the one that pulls results."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        limits: Limits,
        stop: Stop,
        opened: Callable[[], Awaitable[None]],
        closed: Callable[[], Awaitable[None]],
    ) -> None:
        self._limits = limits
        self._stop = stop
        self._halted = Flag()  # no further call may start
        self._loop = _CallLoop(call, limits, stop, self._halted, self.halt, opened, closed)
        self._chunks, self._limiter = self._loop.chunks, self._loop.limiter
        self._loop.thread.start()

    def results(self, chunks: Iterator[Chunk]) -> Iterator[Finished | None]:
        underway: deque[Chunk] = deque()
        broken: Exception | None = None
        while self._loop.thread.is_alive():
            self._chunks.wanted.clear()
            fed = False
            try:
                fed = self._feed(chunks, underway)
            except Exception as error:  # noqa: BLE001 - raised when what finished is out
                broken = error
            yield from self._finished(underway)
            if broken or self._stop.is_set() or self._halted.is_set():
                break
            if not fed and not self._chunks.wanted.wait(POLL_SECONDS):
                yield None
        self.halt()
        yield from self._in_grace(underway)
        self._loop.cancel()
        self._loop.thread.join(1.0)
        yield from self._finished(underway)
        if cause := broken or self._loop.error:
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
                self._loop.call(partial(self._limiter.answers.release, held))

    def _in_grace(self, underway: deque[Chunk]) -> Iterator[Finished | None]:
        """What the calls in flight still make of their rows; there are none before the job is open."""
        loop, grace = self._loop, Grace(self._limits.grace, self._stop)
        while loop.thread.is_alive() and not loop.opening and grace.waits_for(len(loop.tasks)):
            loop.thread.join(POLL_SECONDS)
            yield from self._finished(underway)
            yield None
        if loop.thread.is_alive() and not loop.opening:
            grace.over(len(loop.tasks))

    def _feed(self, chunks: Iterator[Chunk], underway: deque[Chunk]) -> bool:
        """Whether another chunk was fed: one at a time, so that fast calls cannot keep results from being pulled."""
        if self._chunks.closed or self._chunks.waiting_rows >= self._limiter.limit:
            return False
        if self._stop.is_set() or (chunk := next(chunks, None)) is None:
            self._chunks.close()
            return False
        underway.append(chunk)
        self._chunks.put(chunk)
        return True

    def dismiss(self) -> None:
        """End the thread, whatever it does: the consumer has what it wants, or broke."""
        self.halt()
        self._loop.cancel()
        self._loop.thread.join(CLOSE_SECONDS)

    def halt(self) -> None:
        """Let no further call start, from any thread."""
        self._halted.set()
        self._chunks.close()
        self._loop.call(self._loop.hurry.set)
        self._loop.call(self._limiter.let_all_in)


class _CallLoop:
    """The event loop on which calls are made, in a thread of its own, and the workers on it."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        limits: Limits,
        stop: Stop,
        halted: Flag,
        halt: Callable[[], None],
        opened: Callable[[], Awaitable[None]],
        closed: Callable[[], Awaitable[None]],
    ) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.opening = True
        self.error: BaseException | None = None
        self.hurry = asyncio.Event()  # the same as `halted`, for those who wait to try again
        self.chunks = ChunkQueue(self.call)
        self.limiter = ConcurrencyLimiter(limits.concurrency, self._spawn, self.hurry, limits.most)
        self.thread = threading.Thread(target=self._main, name="domyn-swarm-calls", daemon=True)
        self._is_async = inspect.iscoroutinefunction(call)
        self._halted, self._halt = halted, halt
        self._opened, self._closed = opened, closed
        self._loop = _new_loop()
        self._all_left = asyncio.Event()
        self._attempts = Attempts(call, limits, self.limiter, stop, halted, halt)
        self._workers = Workers(self.chunks, self._attempts, self.limiter, stop, halted)

    def call(self, step: Callable[[], Any]) -> None:
        """Call `step` on the loop, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to call
            self._loop.call_soon_threadsafe(step)

    def cancel(self) -> None:
        """Cancel the calls in flight, from any thread."""
        self._attempts.cancelled = True
        self.call(lambda: [task.cancel() for task in list(self.tasks)])

    def _main(self) -> None:
        try:
            with _rare_collections(), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                self._run(runner)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that pulls
            self.error = error
        finally:
            self.chunks.wanted.set()

    def _run(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._work_all())
        except asyncio.CancelledError:
            if not self._attempts.cancelled:
                raise
        finally:
            # From here on the runner cancels what is left, after an interrupt in a call.
            self._attempts.cancelled = True
            self._halt()

    async def _work_all(self) -> None:
        self.tasks = {task for task in [asyncio.current_task()] if task}
        self.limiter.enter()
        await self._opened()
        self.tasks, self.opening = set(), False
        try:
            if self._is_async:
                self.limiter.fill()
            else:
                for _ in range(self.limiter.limit):
                    self._start(self._work_in_thread())
            if self.tasks:  # none when the run was stopped while it opened
                await self._all_left.wait()
            if self.error is not None:
                raise self.error
        finally:
            await self._closed()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._left)

    def _left(self, worker: asyncio.Task[None]) -> None:
        self.tasks.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self.error = self.error or error
            self._halt()
            self.chunks.wanted.set()
        if not self.tasks:
            self._all_left.set()

    def _spawn(self) -> bool:
        """Whether another worker started, which is worth it as long as there are rows."""
        if (
            self.chunks.exhausted
            or self.chunks.starving
            or self._halted.is_set()
            or len(self.tasks) >= WORKERS_PER_SLOT * self.limiter.limit
        ):
            return False
        self._start(self._workers.work())
        return True

    async def _work_in_thread(self) -> None:
        done = self._loop.create_future()

        def work() -> None:
            error: BaseException | None = None
            try:
                self._workers.work_blocking()
            except BaseException as caught:  # noqa: BLE001
                error = caught
            self.call(lambda: _settle(done, error))

        # A daemon thread, because a call that hangs must not keep the process from ending.
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:  # the limit of threads: those that run do the work
            if len(self.tasks) == 1:
                raise
            return
        await done


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
