"""Which rows of a run have finished, as its parts say; and moving parts to the positions of a changed input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from domyn_swarm.checkpoint.folder import RunFolder, name_of
from domyn_swarm.checkpoint.part import STEP, DamagedPartError, Marks, Part, PartMetadata, Positions, united
from domyn_swarm.data.columns import INPUTS, POSITION
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from domyn_swarm.checkpoint.locate import InputsNow
    from domyn_swarm.checkpoint.stored_values import StoredValues

Locate: TypeAlias = "Callable[[pa.Array[Any]], pa.Array[Any]]"
"""From ids to the positions that they have in today's input, -1 where an id is gone."""

READERS = 8
"""Parts that are read at once."""


@dataclass(frozen=True)
class DoneRows:
    """What the parts hold already.

    `finished[p]` tells whether the row at position p has its outputs; rows beyond its end have none. `failed` counts
    rows that were tried and have none. `changed` has the positions of rows whose outputs were made from other inputs
    than they have now: those do not count. `types` has the output columns so far. `damaged` names the parts that cannot
    be read. `fingerprint` is the folder's, None when it was not read.

    Of steps that did not change, `stored` has the values of rows that are not finished, if there may be any; `kept`
    tells by column which rows they are, those apart whose row failed.
    """

    finished: Marks = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    failed: int = 0
    changed: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    types: pa.Schema = field(default_factory=lambda: pa.schema([]))
    damaged: tuple[str, ...] = ()
    fingerprint: str | None = None
    stored: StoredValues | None = None
    kept: Mapping[str, Marks] = field(default_factory=dict)

    def changed_before(self, rows: int) -> int:
        """How many of the first `rows` rows have changed."""
        return int((self.changed < rows).sum())


@dataclass(frozen=True)
class PartStates:
    """Positions of one part's rows in today's input, and its output columns.

    Where steps have changed since, they are no outputs any more, but `kept` columns are as they would be made now.
    """

    finished: Sequence[Positions | slice] = ()
    failed: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    changed: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    types: pa.Schema = field(default_factory=lambda: pa.schema([]))
    kept: Sequence[str] | None = None


@dataclass(frozen=True)
class PartReader:
    """Reads what parts in `folder` say of the rows of the input with the digest `input_digest`.

    `versions` are entries of the job's identity: a part whose columns were made by other versions of steps counts for
    nothing but the columns that did not change.
    """

    folder: RunFolder
    id_col: str
    input_digest: str
    versions: Mapping[str, str] = field(default_factory=dict)

    def done(self, locate: Locate, inputs: InputsNow | None = None) -> DoneRows:
        """Read which rows have finished.

        Where parts count in an earlier version of the input, `locate` is asked where their rows are now, and `inputs`
        which of them have changed.

        Damaged parts, and those of other runs, are counted out; `RunFolder.set_aside` moves them.
        """
        with translating_io_errors(self.folder.path):
            fingerprint, parts, damaged = self.folder.fingerprint(), self.paths(), self.folder.foreign_files()
        finished, tried, changed = (np.zeros(0, dtype=np.bool_) for _ in range(3))
        types, kept = pa.schema([]), dict[str, Marks]()
        run_id = self.folder.run_id()
        with ThreadPoolExecutor(READERS) as pool:
            known = pool.map(lambda path: self.states_of(path, run_id, locate, inputs), parts)
            for path, part in zip(parts, known, strict=True):
                if part is None:
                    damaged.append(path)
                    continue
                if part.kept is not None:
                    _mark_kept(kept, part)
                    continue
                for where in part.finished:
                    finished = mark(finished, where)
                tried = mark(tried, part.failed)
                changed = mark(changed, part.changed)
                types = united([types, part.types])
        failed = len(_without(tried, finished))
        return DoneRows(
            finished, failed, _without(changed, finished), types, tuple(map(name_of, damaged)), fingerprint, kept=kept
        )

    def paths(self) -> list[str]:
        """Paths of all parts. Those of earlier versions may be of the present one again."""
        return [*(self.folder.earlier() if self.versions else []), *self.folder.parts()]

    def states_of(
        self, path: str, run_id: str | None, locate: Locate, inputs: InputsNow | None = None
    ) -> PartStates | None:
        """What the part at `path` says; None when it is damaged, or another run's."""
        try:
            part = Part(self.folder.fs, path)
            if not self.is_ours(part.origin, run_id):
                return None
            states = self._states(part, locate, inputs)
            is_current = self.is_current(part.origin)
            return states if is_current else replace(states, kept=part.origin.made_alike(self.versions))
        except DamagedPartError:
            return None
        except FileNotFoundError:  # merged meanwhile, by whoever holds the lock
            return PartStates()

    def is_ours(self, origin: PartMetadata, run_id: str | None) -> bool:
        """Whether a part belongs to this run's folder."""
        return origin.id_col == self.id_col and run_id in (None, origin.run_id)

    def is_current(self, origin: PartMetadata) -> bool:
        """Whether a part's columns were made by the present versions of all steps."""
        return len(origin.made_alike(self.versions)) == sum(name.startswith(STEP) for name in self.versions)

    def _states(self, part: Part, locate: Locate, inputs: InputsNow | None) -> PartStates:
        if part.origin.input_digest == self.input_digest:
            pairs = list(part.states())
            changed = np.zeros(0, dtype=np.int64)
        else:
            ids, fine, digests = part.ids()
            positions, marks = places(part, ids, digests, locate, inputs)
            pairs = [(positions[fine & ~marks], positions[~fine])]
            changed = positions[fine & marks]
        finished = [where if isinstance(where, slice) else where[where >= 0] for where, _ in pairs]
        failed = np.concatenate([where for _, where in pairs])
        return PartStates(finished, failed[failed >= 0], changed, part.types)


def places(
    part: Part, ids: pa.Array[Any], digests: pa.Array[Any] | None, locate: Locate, inputs: InputsNow | None
) -> tuple[Positions, Marks]:
    """Where the rows of `part` are in today's input, and which of them have other inputs there."""
    positions = np.asarray(locate(ids), dtype=np.int64)
    if inputs is None or digests is None or not part.origin.tells_inputs:
        return positions, np.zeros(len(positions), dtype=np.bool_)
    return positions, inputs.changed(positions, digests)


def moved_rows(part: Part, table: pa.Table, locate: Locate, inputs: InputsNow | None) -> pa.Table:
    """All rows of `part` at the positions that they have today; changed inputs that are kept are taken for granted."""
    has_digests = INPUTS in table.column_names
    digests = table[INPUTS].combine_chunks() if has_digests else None
    positions, changed = places(part, table[part.origin.id_col].combine_chunks(), digests, locate, inputs)
    positions = np.where(changed, -1, positions)
    moved = table.set_column(table.column_names.index(POSITION), POSITION, pa.array(positions))
    if has_digests and inputs is not None and inputs.keep_changed:
        moved = moved.set_column(moved.column_names.index(INPUTS), INPUTS, inputs.at(positions))
    return moved


def _mark_kept(kept: dict[str, Marks], part: PartStates) -> None:
    """Mark the finished rows of `part` in each of its columns that is kept."""
    for name in part.kept or ():
        for where in part.finished:
            kept[name] = mark(kept.get(name, np.zeros(0, dtype=np.bool_)), where)


def _without(marks: Marks, others: Marks) -> Positions:
    """The positions in `marks` that are not in `others`."""
    left = marks.copy()
    both = min(len(marks), len(others))
    left[:both] &= ~others[:both]
    return np.flatnonzero(left).astype(np.int64)


def mark(marks: Marks, where: Positions | slice) -> Marks:
    """`marks` with the positions `where` marked, grown to hold them."""
    if isinstance(where, slice):
        end = int(where.stop)
    elif len(where):
        end = int(where.max()) + 1
    else:
        return marks
    if end > len(marks):
        grown = np.zeros(max(end, 2 * len(marks)), dtype=np.bool_)
        grown[: len(marks)] = marks
        marks = grown
    marks[where] = True
    return marks
