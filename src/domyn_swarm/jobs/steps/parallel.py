"""Steps of one row that run at the same time: each call in flight has a slot of its own.

A strand is a task with one slot that runs a step, then those that became ready by it. The row's own task is the first
strand. It gives its slot back while it only waits for the others, and the last of them hands its slot over.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from domyn_swarm.concurrency import slots
from domyn_swarm.jobs.steps.row import MISSING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator, Sequence

    from domyn_swarm.jobs.steps.compiled import CompiledStep
    from domyn_swarm.jobs.steps.row import StepRow


class _Resumed:
    """A coroutine that was started by hand, and waits for something now: awaiting this goes through with it."""

    def __init__(self, running: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._running = running
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        running, waits_for = self._running, self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    running.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the coroutine's to deal with
                    waits_for = running.throw(error)
                else:
                    waits_for = running.send(sent)
        except StopIteration as done:
            return done.value


def resumed(running: Coroutine[Any, Any, Any], waits_for: Any) -> Awaitable[Any]:
    """The rest of `running`, of which the first step yielded `waits_for`. It stays in the task that started it."""
    return _Resumed(running, waits_for)


class Strands:
    """Runs what is left of a row, in as many strands as steps can run at once."""

    def __init__(self, steps: Sequence[CompiledStep], row: StepRow) -> None:
        self._row = row
        self._todo = [step for step in steps if row.values[step.at] is MISSING and step.at not in row.errors]
        self._limiter = slots.current()
        self._holder = slots.current_row()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: BaseException | None = None
        self._joined: asyncio.Future[None] | None = None

    async def run(self, step: CompiledStep, rest: Awaitable[Any]) -> None:
        """Finish `step`, which has begun and has `rest` to go, and all other steps of the row that can run.

        Raises:
            BaseException: what ends the run. Errors of steps are the row's.
        """
        self._todo.remove(step)
        try:
            self._start_others()
            await self._finish(step, rest)
            await self._go_on()
            await self._join()
        except BaseException:
            await self._cancel()
            raise
        if self._ended is not None:
            raise self._ended

    async def _go_on(self) -> None:
        """Run what is ready, one after the other; what else could run by then gets strands of its own."""
        while self._ended is None and (step := self._next()) is not None:
            if step.is_async:
                self._start_others()
                await self._finish(step, step.call(self._row.values))
            else:
                self._finish_plain(step)

    def _next(self) -> CompiledStep | None:
        step = next(filter(self._row.can_run, self._todo), None)
        if step is not None:
            self._todo.remove(step)
        return step

    async def _finish(self, step: CompiledStep, rest: Awaitable[Any]) -> None:
        try:
            self._row.values[step.at] = await rest
        except Exception as error:  # noqa: BLE001 - a step's error is its own, whatever it is
            self._row.failed(step, error)

    def _finish_plain(self, step: CompiledStep) -> None:
        try:
            self._row.values[step.at] = step.call(self._row.values)
        except Exception as error:  # noqa: BLE001
            self._row.failed(step, error)

    def _start_others(self) -> None:
        """A strand for each other step that is ready: what plain ones make is there before anything waits."""
        while (step := self._next()) is not None:
            if step.is_async:
                task = asyncio.get_running_loop().create_task(self._strand(step))
                self._tasks.add(task)
            else:
                self._finish_plain(step)

    async def _strand(self, step: CompiledStep) -> None:
        try:
            if self._limiter is not None:
                self._limiter.enter_row(self._holder)
                await self._limiter.take(returning=True)
            if self._ended is None:
                await self._finish(step, step.call(self._row.values))
                await self._go_on()
        except BaseException as error:  # noqa: BLE001 - raised by the row's own task
            self._ended = self._ended or error
        finally:
            self._leave()

    def _leave(self) -> None:
        self._tasks -= {asyncio.current_task()}
        if self._joined is not None and not self._joined.done() and not self._tasks:
            self._joined.set_result(None)  # the slot is the row's from here on
        elif self._limiter is not None:
            self._limiter.release()

    async def _join(self) -> None:
        """Wait for the other strands, without a slot."""
        if not self._tasks:
            return
        self._joined = asyncio.get_running_loop().create_future()
        if self._limiter is not None:
            self._limiter.release()
        try:
            await self._joined
        except asyncio.CancelledError:
            if self._limiter is not None and self._joined.cancelled():
                self._limiter.taken += 1  # whoever is cancelled gives back a slot that it is thought to have
            raise

    async def _cancel(self) -> None:
        """End the other strands."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
