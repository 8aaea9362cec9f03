"""Rows on their way to the workers: chunks of calls, and the queue from which workers take them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

Finished: TypeAlias = tuple[Any, list[Any], list[Any], dict[Any, str]]
"""Calls of one chunk that finished: the chunk's source, the calls' keys, as many outputs, and what happened on the way.

The last of these has the keys of those calls of which there is something to tell.
"""


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


class ChunkQueue:
    """Chunks that one thread puts in. Workers, on an event loop or in threads, draw rows from one after the other.

    `on_loop` calls a function on the workers' event loop, from any thread.
    """

    def __init__(self, on_loop: Callable[[Callable[[], Any]], None]) -> None:
        self.current = Chunk(None, iter(()), 0)
        self.closed = False
        """No further chunk will come."""
        self.exhausted = False
        """No row is left to draw."""
        self.starving = 0
        """Workers that wait for a chunk."""
        self.wanted = threading.Event()
        """Set when another chunk is wanted, or results are there."""
        self._on_loop = on_loop
        self._waiting: deque[Chunk] = deque()
        self._more = asyncio.Event()
        self._more_for_threads = threading.Condition()

    @property
    def waiting_rows(self) -> int:
        """Rows of the chunks that no worker has begun."""
        return sum(chunk.size for chunk in list(self._waiting))

    def put(self, chunk: Chunk) -> None:
        """Add a chunk."""
        self._waiting.append(chunk)
        self._wake()

    def close(self) -> None:
        """Let workers end when the chunks that are here have been drawn."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._on_loop(self._more.set)
        with self._more_for_threads:
            self._more_for_threads.notify_all()

    async def after(self, seen: Chunk, while_waiting: Callable[[], AbstractAsyncContextManager[None]]) -> Chunk | None:
        """The chunk after `seen`, once there is one; None when there will be none."""
        while self.current is seen:
            if self._waiting:
                self.current = self._waiting.popleft()
            elif self.closed:
                self.exhausted = True
                return None
            else:
                await self._starve(while_waiting)
        self.wanted.set()
        # Calls that never wait would keep the loop to themselves for good.
        await asyncio.sleep(0)
        return self.current

    async def _starve(self, while_waiting: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._more.clear()
        self.wanted.set()
        self.starving += 1
        async with while_waiting():
            await self._more.wait()
            self.starving -= 1

    def after_blocking(self, seen: Chunk) -> Chunk | None:
        """The same for a thread. Threads do not ask the loop, which may be gone before them."""
        with self._more_for_threads:
            while self.current is seen:
                if self._waiting:
                    self.current = self._waiting.popleft()
                elif self.closed:
                    return None
                else:
                    self.wanted.set()
                    self._more_for_threads.wait()
        self.wanted.set()
        return self.current
