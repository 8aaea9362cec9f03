"""All failed rows of one kind, page by page. The report has a few examples; the parts have every row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.inspection import consistent_read, marks_of, usable
from domyn_swarm.data.columns import FAILURE, POSITION, TRACE
from domyn_swarm.masking import masked
from domyn_swarm.storage.files import translating_io_errors
from domyn_swarm.storage.texts import id_text
from domyn_swarm.telemetry.trace import OTHERS, kind_of, traceback_in

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.checkpoint.part import Marks, Part, Positions
    from domyn_swarm.report.model import FailureKind

BATCH_ROWS = 256
"""Rows in memory at once: with requests and responses a row may have tens of kilobytes."""


class _Wanted(NamedTuple):
    """A kind of failure by type and message, and the other kinds in the report."""

    type: str
    message: str
    others: Collection[tuple[str, str]]

    def has(self, failure: dict[str, Any], frames: str) -> bool:
        """Whether the failure is of this kind."""
        kind = kind_of(failure["message"], frames)
        return kind == self.message or (self.message == OTHERS and (failure["type"], kind) not in self.others)


def failures_of_kind(
    folder: RunFolder, kind: FailureKind, offset: int, count: int, others: Sequence[FailureKind] = ()
) -> tuple[list[dict[str, Any]], int]:
    """At most `count` failed rows of `kind` in input order, starting at `offset`, and their total number.

    Each has its `id`, `message`, `attempts` and `trace` (traceback). Rows that succeeded later are not included. Memory
    grows with the number of rows, not with their size. `others` are the other kinds in the report.

    Raises:
        DataError: the folder cannot be reached.
        CheckpointError: a run modifies the folder faster than it can be read.
        DamagedPartError: a part cannot be read.
    """
    wanted = _Wanted(kind.type, kind.message, {(other.type, other.message) for other in others})
    with translating_io_errors(folder.path):
        return consistent_read(folder, lambda: _page(folder, wanted, slice(offset, offset + count)))


def _page(folder: RunFolder, wanted: _Wanted, page: slice) -> tuple[list[dict[str, Any]], int]:
    parts, _ = usable(folder)
    positions, holders = _positions(parts, wanted)
    order = np.argsort(positions)
    chosen, held = positions[order][page], holders[order][page]
    found: dict[int, dict[str, Any]] = {}
    for number in np.unique(held):
        found |= _rows(parts[number], chosen[held == number])
    if len(found) < len(chosen):  # a part was rewritten since its rows were counted: `consistent_read` retries
        raise FileNotFoundError(folder.path)
    return [found[position] for position in chosen.tolist()], len(positions)


def _positions(parts: Sequence[Part], wanted: _Wanted) -> tuple[Positions, Positions]:
    """The positions of the rows, and for each the number of the last part that contains it."""
    positions, holders = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    _, left = marks_of(parts)
    for number, part in reversed(list(enumerate(parts))):
        for table in part.failures([POSITION, TRACE], BATCH_ROWS):
            here = table[POSITION].to_numpy()
            counts = (here >= 0) & (here < len(left))
            counts[counts] = left[here[counts]]
            left[here[counts]] = False
            alike = _alike(table.filter(pa.array(counts)), wanted)
            positions.append(here[counts][alike])
            holders.append(np.full(int(alike.sum()), number, dtype=np.int64))
    return np.concatenate(positions), np.concatenate(holders)


def _alike(rows: pa.Table, wanted: _Wanted) -> Marks:
    """Which of these failed rows are of the wanted kind. The type is compared first, because that is cheap."""
    failures: Any = rows[FAILURE].combine_chunks()
    marks: Marks = pc.equal(failures.field("type"), pa.scalar(wanted.type)).to_numpy(zero_copy_only=False).copy()
    for number in np.flatnonzero(marks):
        marks[number] = wanted.has(failures[number].as_py(), _frames(rows, number))
    return marks


def _frames(rows: pa.Table, number: Any) -> str:
    return traceback_in(rows[TRACE][int(number)].as_py()) if TRACE in rows.column_names else ""


def _rows(part: Part, positions: Positions) -> dict[int, dict[str, Any]]:
    """The failed rows at `positions`, for display."""
    found: dict[int, dict[str, Any]] = {}
    for table in part.failures([POSITION, part.origin.id_col, TRACE], BATCH_ROWS):
        here = table.filter(pa.array(np.isin(table[POSITION].to_numpy(), positions)))
        for number, position in enumerate(here[POSITION].to_numpy().tolist()):
            failure: Any = here[FAILURE][number].as_py()
            found[position] = {
                "id": masked(id_text(here[part.origin.id_col][number].as_py())),
                "message": failure["message"],
                "attempts": failure["attempts"],
                "trace": _frames(here, number),
            }
    return found
