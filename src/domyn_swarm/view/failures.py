"""All rows that failed alike, a page at a time: a report has a few examples of each kind, the parts have every row."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.part import DamagedPartError, Marks, Part, Positions, reading
from domyn_swarm.checkpoint.survey import at_rest
from domyn_swarm.data.columns import FAILURE, POSITION, TRACE
from domyn_swarm.helpers.io import open_parquet, reaching
from domyn_swarm.helpers.trace import place_in, shape_of, traceback_in
from domyn_swarm.masking import masked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.view.model import FailureKind

BATCH_ROWS = 256
"""Rows that are held at once: with their requests and answers, some have tens of kilobytes."""
OTHERS = "other messages"
"""What a run calls the rows of its many kinds together from some number on."""


class _Wanted(NamedTuple):
    """A kind of failures, and the others that rows may be of, by type and message."""

    type: str
    message: str
    others: Collection[tuple[str, str]]

    def has(self, failure: dict[str, Any], frames: str) -> bool:
        """Whether a row that failed so is of this kind."""
        kind = place_in(frames) or shape_of(failure["message"])
        return kind == self.message or (self.message == OTHERS and (failure["type"], kind) not in self.others)


def failures_of_kind(
    folder: RunFolder, kind: FailureKind, offset: int, count: int, others: Sequence[FailureKind] = ()
) -> tuple[list[dict[str, Any]], int]:
    """At most `count` rows of `kind` in input order, from number `offset` on, and how many there are in all.

    Each has its `id`, `message`, `attempts` and `trace` (where in the code). Rows that finished later are none. Memory
    grows with the number of rows, not with what they hold. `others` are the kinds that the report tells besides.

    Raises:
        DataError: the folder cannot be reached.
        CheckpointError: a run changes it faster than it can be read.
        DamagedPartError: a part cannot be read.
    """
    wanted = _Wanted(kind.type, kind.message, {(other.type, other.message) for other in others})
    with reaching(folder.path):
        return at_rest(folder, lambda: _page(folder, wanted, slice(offset, offset + count)))


def _page(folder: RunFolder, wanted: _Wanted, page: slice) -> tuple[list[dict[str, Any]], int]:
    parts = list(_parts(folder))
    positions, holders = _places(folder, parts, wanted)
    order = np.argsort(positions)
    chosen, held = positions[order][page], holders[order][page]
    found: dict[int, dict[str, Any]] = {}
    for number in np.unique(held):
        found |= _rows(folder, parts[number], chosen[held == number])
    if len(found) < len(chosen):  # a part was written anew since its rows were counted: `at_rest` looks again
        raise FileNotFoundError(folder.path)
    return [found[position] for position in chosen.tolist()], len(positions)


def _parts(folder: RunFolder) -> Iterator[Part]:
    """Those that can be opened and are the run's own, oldest first."""
    run_id = folder.run_id()
    for path in folder.parts():
        with contextlib.suppress(DamagedPartError):
            part = Part(folder.fs, path)
            if run_id in (None, part.origin.run_id):
                yield part


def _places(folder: RunFolder, parts: Sequence[Part], wanted: _Wanted) -> tuple[Positions, Positions]:
    """The positions of the rows, and for each the number of the part that tells what counts: the last that has it."""
    positions, holders = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    left = _failed_for_good(parts)
    for number, part in reversed(list(enumerate(parts))):
        for table in _failures(folder, part):
            here = table[POSITION].to_numpy()
            counts = (here >= 0) & (here < len(left))
            counts[counts] = left[here[counts]]
            left[here[counts]] = False
            alike = _alike(table.filter(pa.array(counts)), wanted)
            positions.append(here[counts][alike])
            holders.append(np.full(int(alike.sum()), number, dtype=np.int64))
    return np.concatenate(positions), np.concatenate(holders)


def _failed_for_good(parts: Sequence[Part]) -> Marks:
    """Which rows have failed, and not finished in any part."""
    size = max((part.last + 1 for part in parts), default=0)
    marks = np.zeros((2, size), dtype=np.bool_)
    if any(part.has_failures for part in parts):
        for part in parts:
            for states in part.states():
                for mark, where in zip(marks, states, strict=True):
                    mark[where if isinstance(where, slice) else where[where >= 0]] = True
    finished, failed = marks
    return failed & ~finished


def _failures(folder: RunFolder, part: Part, *more: str) -> Iterator[pa.Table]:
    """POSITION, FAILURE, TRACE and `more` columns of the failed rows, from the row groups that have any."""
    if not part.has_failures:
        return
    with reading(part.path), open_parquet(folder.fs, part.path) as parquet:
        columns = [name for name in (POSITION, *more, FAILURE, TRACE) if name in parquet.schema_arrow.names]
        groups = [number for number in range(parquet.num_row_groups) if _may_fail(parquet.metadata.row_group(number))]
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=columns):
            table = pa.Table.from_batches([batch])
            yield table.filter(pc.is_valid(table[FAILURE]))


def _may_fail(group: Any) -> bool:
    """What the statistics say: a failure's type is null where there is none."""
    columns = [group.column(number) for number in range(group.num_columns)]
    statistics = next((column.statistics for column in columns if column.path_in_schema == f"{FAILURE}.type"), None)
    return statistics is None or statistics.null_count < group.num_rows


def _alike(rows: pa.Table, wanted: _Wanted) -> Marks:
    """Which of these failed rows are of the wanted kind. Only those of its type are looked at closer."""
    failures: Any = rows[FAILURE].combine_chunks()
    marks: Marks = pc.equal(failures.field("type"), pa.scalar(wanted.type)).to_numpy(zero_copy_only=False).copy()
    for number in np.flatnonzero(marks):
        marks[number] = wanted.has(failures[number].as_py(), _frames(rows, number))
    return marks


def _frames(rows: pa.Table, number: Any) -> str:
    return traceback_in(rows[TRACE][int(number)].as_py()) if TRACE in rows.column_names else ""


def _rows(folder: RunFolder, part: Part, positions: Positions) -> dict[int, dict[str, Any]]:
    """The failed rows at `positions`, as they are shown."""
    found: dict[int, dict[str, Any]] = {}
    for table in _failures(folder, part, part.origin.id_col):
        here = table.filter(pa.array(np.isin(table[POSITION].to_numpy(), positions)))
        for number, position in enumerate(here[POSITION].to_numpy().tolist()):
            failure: Any = here[FAILURE][number].as_py()
            found[position] = {
                "id": _text_of(here[part.origin.id_col][number].as_py()),
                "message": failure["message"],
                "attempts": failure["attempts"],
                "trace": _frames(here, number),
            }
    return found


def _text_of(id_: Any) -> str:
    """An id as it is typed to look up the row."""
    return masked(id_.hex() if isinstance(id_, bytes) else str(id_))
