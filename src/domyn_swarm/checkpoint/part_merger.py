"""Small parts of a run that is going on, merged in a thread of its own: their number stays bounded, and no flush waits.

Parts are merged by generations, as log-structured stores do it: MERGED_AT parts become one of the next generation, so
each row is written again once for each generation, not once for each merge.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from domyn_swarm.checkpoint.compact import PART_BYTES, compact
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.concurrency.memory import memory_left

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.checkpoint.lock import FencingToken

MERGED_AT = 16
"""Parts of a generation that are merged into one of the next."""
MERGE_MEMORY = 12 * PART_BYTES
"""Bytes without which parts are not merged: two full ones are decoded, joined and encoded."""


class PartMerger:
    """Merges the parts of one writer. Leaving the context waits for a merge that is underway."""

    def __init__(self, folder: RunFolder, fence: FencingToken | None) -> None:
        self._folder = folder
        self._fence = fence
        self._generations: list[list[str]] = [[]]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="domyn-swarm-merges")
        self._merging: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def add(self, path: str) -> None:
        """Take in the newest part, and merge in the background where there are enough of a generation."""
        self._generations[0].append(path)
        if self._merging is not None and not self._merging.done():
            return
        for number, paths in enumerate(self._generations):
            if len(paths) >= MERGED_AT:
                self._generations[number] = []
                with contextlib.suppress(RuntimeError):  # no thread can be started: they stay as they are
                    self._merging = self._thread.submit(self._merge, number, paths)
                return

    def _merge(self, number: int, paths: list[str]) -> None:
        if memory_left() < MERGE_MEMORY:
            return
        # Whoever reads the parts next sets a damaged one aside; on a full disk the parts stay as they are.
        with contextlib.suppress(DamagedPartError, OSError, MemoryError):
            if self._fence is not None:
                self._fence.check(self._folder)
            *full, last = compact(self._folder, paths)
            if number + 1 == len(self._generations):
                self._generations.append([])
            if full:  # what is older than they are cannot be merged with what is newer
                self._generations[number + 1] = []
            self._generations[number + 1].append(last)
