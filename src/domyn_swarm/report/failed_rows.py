"""All failed rows of a run, as a table and grouped by what they failed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from domyn_swarm.checkpoint.inspection import consistent_read, marks_of, usable
from domyn_swarm.data.columns import FAILURE, POSITION, TRACE
from domyn_swarm.masking import masked
from domyn_swarm.storage.files import translating_io_errors
from domyn_swarm.storage.texts import id_text
from domyn_swarm.telemetry.trace import kind_of, traceback_in

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.checkpoint.part import Marks, Part

BATCH_ROWS = 256
COLUMNS = ("type", "kind", "message", "attempts")


class ErrorExample(msgspec.Struct):
    """A failed row: its id as text, its message, and after how many attempts it failed."""

    id: str
    message: str
    attempts: int


class ErrorGroup(msgspec.Struct):
    """Rows that failed alike: by the error's type and its place in the code, or else its message without numbers.

    HTTP status codes are kept apart.
    """

    type: str
    kind: str
    count: int
    examples: list[ErrorExample]


def failed_rows(folder: RunFolder) -> pa.Table:
    """The failed rows of a run in input order: id, `type`, `kind`, `message`, `attempts`. Nothing is written.

    Rows that succeeded later are not included.

    Raises:
        DataError: the folder cannot be reached.
        CheckpointError: a run modifies the folder faster than it can be read.
        DamagedPartError: a part cannot be read.
    """
    with translating_io_errors(folder.path):
        return consistent_read(folder, lambda: _table(folder))


def groups_of(rows: pa.Table, examples: int) -> list[ErrorGroup]:
    """The rows of `failed_rows` by type and kind, most frequent first, with some examples of each."""
    found: dict[tuple[str, str], ErrorGroup] = {}
    ids, columns = rows.column(0), [rows[name].to_pylist() for name in COLUMNS]
    for number, (error, kind, message, attempts) in enumerate(zip(*columns, strict=True)):
        group = found.setdefault((error, kind), ErrorGroup(error, kind, 0, []))
        group.count += 1
        if len(group.examples) < examples:
            group.examples.append(ErrorExample(masked(id_text(ids[number].as_py())), message, attempts))
    return sorted(found.values(), key=lambda group: -group.count)


def _table(folder: RunFolder) -> pa.Table:
    parts, _ = usable(folder)
    _, left = marks_of(parts)
    tables = [table for part in reversed(parts) for table in _failed_in(part, left)]  # the newest failure of each row
    if not tables:
        return pa.table({name: pa.array([], pa.int64() if name == "attempts" else pa.string()) for name in COLUMNS})
    return pa.concat_tables(tables, promote_options="permissive").sort_by(POSITION).drop_columns([POSITION])


def _failed_in(part: Part, left: Marks) -> list[pa.Table]:
    """The failed rows of a part that are `left`, which it unmarks."""
    found = []
    for table in part.failures([POSITION, part.origin.id_col, TRACE], BATCH_ROWS):
        here = table[POSITION].to_numpy()
        counts: Any = (here >= 0) & (here < len(left))
        counts[counts] = left[here[counts]]
        left[here[counts]] = False
        if np.any(counts):
            found.append(_columns(table.filter(pa.array(counts)), part.origin.id_col))
    return found


def _columns(rows: pa.Table, id_col: str) -> pa.Table:
    failures: Any = rows[FAILURE].combine_chunks()
    messages = [masked(message) for message in failures.field("message").to_pylist()]
    traces: list[Any] = rows[TRACE].to_pylist() if TRACE in rows.column_names else [None] * len(messages)
    kinds = [kind_of(message, traceback_in(trace)) for message, trace in zip(messages, traces, strict=True)]
    values: list[Any] = [failures.field("type"), pa.array(kinds, pa.string()), pa.array(messages, pa.string())]
    columns = [rows[id_col], *values, failures.field("attempts"), rows[POSITION]]
    return pa.table(columns, names=[id_col, *COLUMNS, POSITION])
