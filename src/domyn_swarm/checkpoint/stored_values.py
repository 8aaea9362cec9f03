"""Values of steps that did not change, for rows that are computed again: what was paid for is not asked again.

They are read from parts of earlier versions of the job and from failed rows, for a batch of positions at a time.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.part import DamagedPartError, Part
from domyn_swarm.data.columns import FAILURE, POSITION
from domyn_swarm.data.values import python_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.checkpoint.part import Positions
    from domyn_swarm.checkpoint.store import CheckpointStore

logger = logging.getLogger("domyn_swarm")


class _Source(NamedTuple):
    """A part, and its columns that are as they would be made now."""

    part: Part
    columns: list[str]


class StoredValues:
    """What parts in the folder of `store`, other than those of its own run, hold of columns that did not change."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._read: dict[tuple[str, int], pa.Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_read": {}}

    def at(self, positions: Positions) -> Sequence[Mapping[str, Any]]:
        """The known values of each of `positions`, by column. The later of two parts counts."""
        known: list[dict[str, Any]] = [{} for _ in positions]
        if not len(positions):
            return known
        first, last = int(positions.min()), int(positions.max())
        before, self._read = self._read, {}  # the next batch needs the last row groups of this one
        for part, columns in reversed(self._sources):
            for number in part.groups_between(first, last):
                table = before.get((part.path, number))
                try:
                    table = part.group(number, columns) if table is None else table
                except DamagedPartError as error:
                    logger.warning("%s; what it held is computed again", error)
                    continue
                self._read[part.path, number] = table
                _take(table, columns, positions, known)
        return known

    @cached_property
    def _sources(self) -> list[_Source]:
        """The parts with something to take, oldest first. They are looked for when the folder is in order."""
        reader, folder = self._store.reader, self._store.folder
        run_id, found = folder.run_id(), []
        for path in reader.paths():
            try:
                part = Part(folder.fs, path)
            except (DamagedPartError, FileNotFoundError):
                continue
            names = [name for name in part.origin.made_alike(reader.versions) if name in part.types.names]
            is_finished = reader.is_current(part.origin) and not part.has_failures
            in_place = part.origin.input_digest == reader.input_digest and reader.is_ours(part.origin, run_id)
            if names and in_place and not is_finished and not self._store.wrote(path):
                found.append(_Source(part, names))
        return found


def _take(table: pa.Table, columns: Sequence[str], positions: Positions, known: Sequence[dict[str, Any]]) -> None:
    """Add to `known` what `table` has at `positions`. In a failed row null is no value, but the lack of one."""
    here = table[POSITION].to_numpy()
    at = np.minimum(np.searchsorted(here, positions), len(here) - 1)
    found = np.flatnonzero(here[at] == positions)
    rows = table.take(pa.array(at[found], pa.int64()))
    failed = pc.is_valid(rows[FAILURE]).to_numpy()
    for name in columns:
        values, unreadable = python_values(rows[name])
        for row, (index, value) in enumerate(zip(found.tolist(), values, strict=True)):
            if row not in unreadable and not (value is None and failed[row]):
                known[index].setdefault(name, value)
