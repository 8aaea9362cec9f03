"""How much memory large answers may take while rows wait to be written, so that many at once do not exhaust it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

import psutil

SMALL_BYTES = 65_536
"""Answers up to that size are not counted: a connection buffers as much anyway."""
SHARE = 32
"""Of the memory that is left, this part may be answers: each is bytes, text, then written; calls buffer others."""
LEAST_BYTES, MOST_BYTES = 8 * 2**20, 2**30
SHORT_BYTES = 2**30
"""With less left, an allocation that failed is taken for want of memory: more than anything sound asks for at once."""
_CGROUP = Path("/sys/fs/cgroup")


class ByteBudget:
    """At most `total` bytes held at once, or one answer that is larger. First come, first served, on one event loop."""

    def __init__(self, total: int) -> None:
        self.held = 0
        self._total = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes more may be held."""
        if not self._waiting and self._fits(size):
            self.held += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = size, turn
        self._waiting.append(entry)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was granted at the same moment
                self.release(size)
            else:
                self._waiting.remove(entry)
            raise

    def overdraw(self, size: int) -> None:
        """Hold `size` bytes more at once: for those who hold some already, and would else wait for one another."""
        self.held += size

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        self.held -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self.held += size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self._total


def answer_bytes() -> int:
    """How many bytes of answers this process may hold, by the memory that it has left."""
    return max(LEAST_BYTES, min(memory_left() // SHARE, MOST_BYTES))


def is_memory_short() -> bool:
    """Whether an allocation may have failed for want of memory, and not for its size: damaged bytes ask for any."""
    return memory_left() < SHORT_BYTES


def memory_left() -> int:
    """Bytes that this process may still take: of the machine, of its control group, of its address space."""
    left = [psutil.virtual_memory().available]
    used = psutil.Process().memory_info()
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on every platform

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            left.append(soft - used.vms)
    left += [limit - used.rss for limit in _group_limits()]
    return max(0, min(left))


def _group_limits() -> list[int]:
    """The limits of the control groups that this process is in (Linux; versions 1 and 2)."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, file = (_CGROUP / "memory", "memory.limit_in_bytes") if controllers else (_CGROUP, "memory.max")
            for folder in (root / name.strip("/"), root):  # in a container the group is the root
                with contextlib.suppress(OSError, ValueError):
                    found.append(int((folder / file).read_text()))
    return found
