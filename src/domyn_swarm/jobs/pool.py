"""Bounded concurrency over a stream of chunks: as many calls in flight as allowed, whatever each of them takes.

The calls run on an event loop in a thread of their own, so the thread that pulls results can read and write parquet
meanwhile, and a caller that has a running event loop itself (a notebook) needs nothing special. Workers draw rows from
the chunk in hand one by one; a row costs no task, no lock and no queue, and a slow row holds back nobody.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from domyn_swarm.jobs.outputs import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

Finished: TypeAlias = tuple[Any, list[Any], list[Any]]
"""Calls of one chunk that finished: the chunk's source, the calls' keys, and as many outputs."""

ASYNC_CONCURRENCY = 32
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
FIRST_BACKOFF = 0.1
MOST_BACKOFF = 30.0


@dataclass(eq=False)
class Chunk:
    """Calls to make: `entries` yields (key, payload) once for each. Results gather in `keys` and `outputs`."""

    source: Any
    entries: Iterator[tuple[Any, Any]]
    size: int
    keys: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    taken: int = 0

    def take(self) -> tuple[list[Any], list[Any]]:
        """What finished since the last call, which is forgotten here.

        `outputs` grows last, so its length is safe to read from any thread; each of these steps is one step to others.
        """
        count = len(self.outputs)
        keys, outputs = self.keys[:count], self.outputs[:count]
        del self.keys[:count]
        del self.outputs[:count]
        self.taken += count
        return keys, outputs


@dataclass(frozen=True)
class Limits:
    """How calls are made. `concurrency` counts calls in flight, `timeout` is in seconds for one call."""

    concurrency: int
    retries: int = 0
    timeout: float | None = None


def concurrency_for(call: Callable[..., Any], wanted: int | None) -> int:
    """The calls in flight when the user names no number: many for calls that wait, one per core for those that work."""
    return wanted or (ASYNC_CONCURRENCY if inspect.iscoroutinefunction(call) else os.cpu_count() or 1)


def run_calls(
    chunks: Iterable[Chunk],
    call: Callable[[Any], Any],
    limits: Limits,
    *,
    stop: threading.Event,
    opened: Callable[[], Awaitable[None]],
    closed: Callable[[], Awaitable[None]],
) -> Iterator[Finished | None]:
    """Make every call of `chunks` and yield them as they finish; None about every POLL_SECONDS in which none did.

    A call that raises is tried again `limits.retries` times, unless the error says `retryable = False`; then its output
    is a `Failure`. When `stop` is set no further call starts, those in flight get GRACE_SECONDS, and the stream ends.

    `opened` and `closed` run on the event loop before the first and after the last call, if there is any.

    Raises:
        Exception: whatever `opened` raises.
    """
    chunks = iter(chunks)
    if (first := next(chunks, None)) is None:
        return
    crew = _Crew(call, limits, stop, opened, closed)
    try:
        yield from crew.results(itertools.chain([first], chunks))
    finally:
        crew.dismiss()


class _Crew:
    """The workers, the chunks that wait for them, and the thread that they live in."""

    def __init__(
        self,
        call: Callable[[Any], Any],
        limits: Limits,
        stop: threading.Event,
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
        self._halted = False  # no further call may start
        self._cancelled = False
        self._error: BaseException | None = None
        self._room = threading.Event()  # the crew wants a chunk, or is done
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._more = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._main, name="domyn-swarm-calls", daemon=True)
        self._thread.start()

    # The thread that pulls results.

    def results(self, chunks: Iterator[Chunk]) -> Iterator[Finished | None]:
        underway: deque[Chunk] = deque()
        while self._thread.is_alive():
            self._room.clear()
            fed = self._feed(chunks, underway)
            yield from _finished(underway)
            if self._stop.is_set():
                self._halted = True
                break
            if not fed and not self._room.wait(POLL_SECONDS):
                yield None
        self._thread.join(GRACE_SECONDS)
        self._cancel()
        self._thread.join(1.0)
        yield from _finished(underway)
        if self._error is not None:
            raise self._error

    def _feed(self, chunks: Iterator[Chunk], underway: deque[Chunk]) -> bool:
        """Whether another chunk was fed: one at a time, so that a fast crew cannot keep results from being pulled."""
        if self._ended or sum(chunk.size for chunk in list(self._waiting)) >= self._limits.concurrency:
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
        self._ended = True
        self._cancel()
        self._wake()
        self._thread.join(GRACE_SECONDS)

    def _cancel(self) -> None:
        if not self._thread.is_alive():
            return
        self._cancelled = True
        try:
            self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])
        except RuntimeError:  # the loop closed in between
            return

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._more.set)
        except RuntimeError:
            return

    # The thread of the event loop.

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._work_all())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that pulls
            self._error = error
        finally:
            self._room.set()

    async def _work_all(self) -> None:
        await self._opened()
        try:
            worker = self._work if inspect.iscoroutinefunction(self._call) else self._work_in_thread
            self._tasks = [asyncio.create_task(worker()) for _ in range(self._limits.concurrency)]
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                    raise result
        finally:
            await self._closed()

    async def _advance(self, seen: Chunk) -> Chunk | None:
        """The chunk after `seen`, once there is one; None when there will be none."""
        while self._chunk is seen:
            if self._waiting:
                self._chunk = self._waiting.popleft()
            elif self._ended:
                return None
            else:
                self._more.clear()
                self._room.set()
                await self._more.wait()
        self._room.set()
        # Calls that never wait would keep the loop to themselves for good.
        await asyncio.sleep(0)
        return self._chunk

    async def _work(self) -> None:
        call = self._timed if self._limits.timeout else self._call
        chunk: Chunk | None = self._chunk
        while chunk is not None:
            keys, outputs = chunk.keys, chunk.outputs
            for key, payload in chunk.entries:
                if self._halted:
                    return
                try:
                    output = await call(payload)
                except Exception as error:  # noqa: BLE001 - a row's error is its failure, whatever it is
                    output = await self._again(call, payload, error)
                except asyncio.CancelledError as error:
                    if self._cancelled:
                        raise
                    output = Failure.of(error)  # the job's own affair
                keys.append(key)
                outputs.append(output)
            chunk = await self._advance(chunk)

    async def _timed(self, payload: Any) -> Any:
        try:
            async with asyncio.timeout(self._limits.timeout) as limit:
                return await self._call(payload)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"no output after {self._limits.timeout:g} s") from None
            raise

    async def _again(self, call: Callable[[Any], Awaitable[Any]], payload: Any, error: Exception) -> Any:
        attempts = 1
        while attempts <= self._limits.retries and getattr(error, "retryable", True) and not self._stop.is_set():
            await asyncio.sleep(_backoff(attempts, error))
            attempts += 1
            try:
                return await call(payload)
            except Exception as next_error:  # noqa: BLE001
                error = next_error
        return Failure.of(error, attempts)

    async def _work_in_thread(self) -> None:
        done = self._loop.create_future()

        def work() -> None:
            error: BaseException | None = None
            try:
                self._work_blocking()
            except BaseException as caught:  # noqa: BLE001
                error = caught
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_settle, done, error)

        # A daemon thread, because a call that hangs must not keep the process from ending.
        threading.Thread(target=work, daemon=True).start()
        await done

    def _work_blocking(self) -> None:
        chunk: Chunk | None = self._chunk
        while chunk is not None:
            for key, payload in chunk.entries:
                if self._stop.is_set() or self._cancelled:
                    return
                output = self._call_blocking(payload)
                with self._lock:
                    chunk.keys.append(key)
                    chunk.outputs.append(output)
            chunk = asyncio.run_coroutine_threadsafe(self._advance(chunk), self._loop).result()

    def _call_blocking(self, payload: Any) -> Any:
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._call(payload)
            except Exception as error:  # noqa: BLE001
                if attempts > self._limits.retries or not getattr(error, "retryable", True) or self._stop.is_set():
                    return Failure.of(error, attempts)
                time.sleep(_backoff(attempts, error))


def _finished(underway: deque[Chunk]) -> Iterator[Finished]:
    for chunk in list(underway):
        keys, outputs = chunk.take()
        if chunk.taken == chunk.size:
            underway.remove(chunk)
        if outputs:
            yield chunk.source, keys, outputs


def _backoff(attempt: int, error: Exception) -> float:
    """Seconds before the next try: what the error asks for, else exponential with full jitter."""
    asked: float | None = getattr(error, "retry_after", None)
    longest: float = min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** (attempt - 1))
    return asked if asked is not None else longest * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
