"""Values on their way out of Arrow: those that have no counterpart there are their rows' own failures.

Arrow holds dates of any year, and text that nobody has checked; Python and data frames do not. Whole batches are
converted at once, and only where that fails is it found out, by halves, which rows it is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.data.batches import JobBatch, Unread
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.digests import row_digests
from domyn_swarm.data.ids import unreadable_id
from domyn_swarm.data.types import comparable, converted, parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REASON_CHARS = 300


def python_values(array: Any) -> tuple[list[Any], dict[int, str]]:
    """The values in Python, and why some of them have none there, by row: those are None."""
    values: list[Any] = []

    def convert(part: Any) -> None:
        values.extend(part.to_pylist())

    reasons = refused(array, convert, lambda: values.append(None))
    return values, reasons


def python_row(rows: Any, number: int) -> dict[str, Any]:
    """A row of a table or record batch by column, for people to look at: text instead of what Python cannot hold."""
    row = rows.slice(number, 1)
    try:
        found: dict[str, Any] = row.to_pylist()[0]
    except Exception:  # noqa: BLE001 - libraries raise all kinds of errors over a value
        made = {
            name: (column.type, *python_values(column))
            for name, column in zip(row.schema.names, row.columns, strict=True)
        }
        return {
            name: f"({kind} that cannot be shown: {why[0]})" if why else values[0]
            for name, (kind, values, why) in made.items()
        }
    return found


def without_python_type(dtype: Any) -> str:
    """Why no value of the type can be converted to Python; nothing where it can. It is no row's own failure."""
    for part in parts(dtype):
        if pa.types.is_timestamp(part) and part.tz is not None:
            try:
                pa.scalar(0, part).as_py()
            except Exception as error:  # noqa: BLE001 - which errors a time zone raises depends on its spelling
                return f"{type(error).__name__}: {error}"
    return ""


def check_id_texts(ids: Any, id_col: str, position: int) -> None:
    """Raise DataError for an id that is text and not valid UTF-8; the first row of `ids` is at `position`."""
    try:
        _check_text([ids])
    except pa.ArrowInvalid:
        _, reasons = python_values(ids)
        raise unreadable_id(id_col, position + min(reasons)) from None


def job_batch(batch: Any, id_col: str, input_cols: Sequence[str], convert: Callable[[Any], Any]) -> JobBatch:
    """A native batch: `convert` makes a frame of a record batch's id and inputs. Rows that it refuses are left out."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    chosen = batch.select(columns)
    reasons: dict[int, str] = {}

    def checked(part: Any) -> Any:
        _check_text(part.columns)
        return convert(part)

    try:
        frame = checked(chosen)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - libraries raise all kinds of errors over a value
        for name in columns:
            for row, why in refused(chosen.select([name]), lambda part: checked(_with_used_values(part))).items():
                reasons.setdefault(row, reason(name, why))
        frame = checked(_with_used_values(without_rows(chosen, reasons)))
    ids, positions = batch.column(id_col), batch.column(POSITION)
    return with_unread(ids, positions, reasons, batch=frame, digested=partial(_digests, batch, input_cols))


def _digests(batch: Any, input_cols: Sequence[str]) -> Any:
    return row_digests({name: batch.column(name) for name in input_cols})


def with_unread(
    ids: Any,
    positions: Any,
    reasons: Mapping[int, str],
    *,
    digested: Callable[[], Any],
    items: list[Any] | None = None,
    batch: Any = None,
) -> JobBatch:
    """A batch whose rows are unread where `reasons` says so; `items` and `batch` lack those already."""
    if not reasons:
        return JobBatch(ids, positions, items, batch, digested=digested)
    rows = pa.array(sorted(reasons), pa.int64())
    others = pa.array([row for row in range(len(ids)) if row not in reasons], pa.int64())
    unread = Unread(ids.take(rows), positions.take(rows), [reasons[row] for row in sorted(reasons)])
    kept = JobBatch(ids.take(others), positions.take(others), items, batch, unread)
    return replace(kept, digested=lambda: digested().take(others))


def reason(column: str, why: str) -> str:
    """Why a row was not read, in words."""
    return f"column {column!r} holds a value that cannot be converted: {why}"


def without_rows(batch: Any, rows: Mapping[int, Any]) -> Any:
    """A record batch without some of its rows, whatever its types: views cannot be picked from."""
    ends = [*sorted(rows), batch.num_rows]
    starts = [0, *(row + 1 for row in sorted(rows))]
    kept = [batch.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]
    table = pa.Table.from_batches(kept, schema=batch.schema).combine_chunks()
    return next(iter(table.to_batches()), batch.slice(0, 0))


def _with_used_values(batch: Any) -> Any:
    """A record batch whose dictionaries hold only values that its rows have: no row fails for another one's."""
    return pa.RecordBatch.from_arrays([_used_values(column) for column in batch.columns], schema=batch.schema)


def _used_values(array: Any) -> Any:
    if isinstance(array, pa.DictionaryArray):
        used = pc.unique(array.indices.drop_null()).sort()
        indices = pc.index_in(array.indices, used).cast(array.type.index_type)
        return pa.DictionaryArray.from_arrays(indices, array.dictionary.take(used), ordered=array.type.ordered)
    if any(isinstance(one, pa.DictionaryType) for one in parts(array.type)):
        return converted(converted(array, comparable(array.type)), array.type)
    return array


def refused(values: Any, convert: Callable[[Any], Any], skip: Callable[[], Any] = lambda: None) -> dict[int, str]:
    """Why `convert` refuses single rows of an array or a batch, by row. It is called for all others, in order."""
    found: dict[int, str] = {}
    waiting = [(0, len(values))]
    while waiting:
        start, rows = waiting.pop()
        try:
            convert(values.slice(start, rows))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - libraries raise all kinds of errors over a value
            if rows <= 1:
                found[start] = f"{type(error).__name__}: {error}"[:REASON_CHARS]
                skip()
            else:
                half = rows // 2
                waiting += [(start + half, rows - half), (start, half)]
    return found


def _check_text(columns: Sequence[Any]) -> None:
    for column in columns:
        if any(is_text(one) for one in parts(column.type) for is_text in _TEXTS):
            column.validate(full=True)


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
