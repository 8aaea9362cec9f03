"""Workers: each draws rows from the chunk in hand, one after the other, and keeps what their calls return."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from domyn_swarm.concurrency.slots import Halted
from domyn_swarm.telemetry import trace

if TYPE_CHECKING:
    from domyn_swarm.concurrency.slots import ConcurrencyLimiter, Row
    from domyn_swarm.concurrency.stop import Flag, Stop
    from domyn_swarm.engine.calls.attempts import Attempts
    from domyn_swarm.engine.calls.chunks import Chunk, ChunkQueue


class Workers:
    """What a worker does, for coroutine functions and for plain ones. Workers share nothing else but the chunks."""

    def __init__(
        self, chunks: ChunkQueue, attempts: Attempts, limiter: ConcurrencyLimiter, stop: Stop, halted: Flag
    ) -> None:
        self._chunks = chunks
        self._attempts = attempts
        self._limiter = limiter
        self._stop = stop
        self._halted = halted
        self._lock = threading.Lock()

    async def work(self) -> None:
        """Draw rows and call, on the event loop, with a slot of its own."""
        row = self._limiter.enter_row()
        try:
            await self._work_through(row)
        finally:
            self._limiter.answers.release(row.held)
            self._limiter.release()

    async def _work_through(self, row: Row) -> None:
        limiter, stop, halted = self._limiter, self._stop, self._halted
        output_of, given_back = self._attempts.output, limiter.given_back
        log = trace.start() if self._attempts.limits.trace else None
        chunk: Chunk | None = self._chunks.current
        while chunk is not None:
            keys, outputs = chunk.keys, chunk.outputs
            for key, payload in chunk.entries:
                if stop.on or halted.on:
                    return
                try:
                    output = await output_of(payload, log)
                except Halted:
                    return
                if log:
                    chunk.traces[key] = trace.encoded(log, bodies=key is not None)
                    log.clear()  # a connection keeps the context in which it was opened, and this log with it
                    log = trace.start()  # what the row left running adds to the old one
                if row.held:
                    chunk.held.append(row.held)
                    row.held = 0
                keys.append(key)
                outputs.append(output)
                del output  # it may be large, and is handed on while the next call is made
                if limiter.crowded:
                    limiter.release()
                    await limiter.take()
            chunk = await self._chunks.after(chunk, given_back)

    def work_blocking(self) -> None:
        """Draw rows and call, in the thread that calls this."""
        log = trace.start() if self._attempts.limits.trace else None
        chunk: Chunk | None = self._chunks.current
        while chunk is not None:
            for key, payload in chunk.entries:
                if self._stop.on or self._halted.on:
                    return
                try:
                    output = self._attempts.output_blocking(payload, log)
                except Halted:
                    return
                with self._lock:
                    if log:
                        chunk.traces[key] = trace.encoded(log, bodies=key is not None)
                        log = trace.start()
                    chunk.keys.append(key)
                    chunk.outputs.append(output)
                del output
            chunk = self._chunks.after_blocking(chunk)
