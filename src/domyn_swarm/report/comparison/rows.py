"""Compare the rows of two runs: match them, count differences, and collect examples.

Rows of the same input have the same positions, so both runs are read once, window by window, in constant memory.
Otherwise digests of ids and outputs are kept for the rows of A: eight bytes each, whatever the size of the values.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from domyn_swarm.checkpoint.merge import WINDOW_ROWS, in_order, output_types
from domyn_swarm.data.columns import FAILURE, POSITION
from domyn_swarm.data.digests import Digests, digests
from domyn_swarm.data.values import python_row
from domyn_swarm.errors import DataError
from domyn_swarm.masking import masked
from domyn_swarm.report.comparison.differences import Difference
from domyn_swarm.report.comparison.model import Example, Rows
from domyn_swarm.storage.texts import id_text, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.checkpoint.part import Marks, Part

KEY = "__key__"
"""The column that rows are matched by: the id, or the requested column."""
OFFENDERS = 5
_WANTED = "Match rows by a column that is unique and never null."

Indices: TypeAlias = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class Side:
    """The rows of one run. Tables of `stream` have POSITION, KEY, the requested columns, and FAILURE.

    `name` is used in messages; `key` is the column of the keys; `checked` means that they are known to be unique and
    not null.
    """

    name: str
    key: str
    columns: pa.Schema
    stream: Callable[[Sequence[str]], Iterator[pa.Table]]
    checked: bool = True


def rows_of(
    parts: Sequence[Part], id_col: str, most: int | None, declared: Sequence[str]
) -> tuple[pa.Schema, Callable[[Sequence[str]], Iterator[pa.Table]]]:
    """The output columns of `parts`, and their rows with a position below `most`, as a `Side` streams them.

    `declared` are output columns that exist even without values.
    """
    types = output_types(parts, declared)

    def stream(columns: Sequence[str]) -> Iterator[pa.Table]:
        names = [POSITION, id_col, *columns, FAILURE]
        for table in in_order(parts, names, types):
            kept = table if most is None else table.slice(0, int(np.searchsorted(table[POSITION].to_numpy(), most)))
            yield kept.rename_columns([POSITION, KEY, *columns, FAILURE])

    return types, stream


@dataclass
class Tally:
    """Row counts, and the first differing rows. `changed` is by column."""

    columns: list[str]
    most: int
    rows: Rows = field(default_factory=Rows)
    changed: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Positions of the examples in B."""

    def add(self, differ: Mapping[str, Marks], failed_a: Marks, failed_b: Marks) -> list[tuple[int, list[str]]]:
        """Count rows that are in both; return the rows that become examples, with the columns to show."""
        fine = ~(failed_a | failed_b)
        changed = np.zeros(len(fine), dtype=np.bool_)
        for name, marks in differ.items():
            self.changed[name] += int((marks & fine).sum())
            changed |= marks & fine
        one = failed_a ^ failed_b
        self.rows.same += int((fine & ~changed).sum())
        self.rows.changed += int(changed.sum())
        self.rows.failed_a += int((failed_a & one).sum())
        self.rows.failed_b += int((failed_b & one).sum())
        self.rows.failed_both += int((failed_a & failed_b).sum())
        rows = np.flatnonzero(changed | one)[: self.most - len(self.positions)].tolist()
        return [(row, [name for name, marks in differ.items() if one[row] or marks[row]]) for row in rows]


class _OtherRowsError(Exception):
    """Rows at the same position have different ids."""


def matched(a: Side, b: Side, columns: list[str], most: int, *, in_place: bool) -> Tally:
    """Compare the rows of both runs in `columns`, with at most `most` examples.

    `in_place` says that equal rows have equal positions, as for runs over the same input.

    Raises:
        DataError: a key is null or occurs twice.
        DamagedPartError: a part cannot be read.
    """
    if in_place:
        try:
            return _by_position(a, b, Tally(columns, most))
        except _OtherRowsError:
            pass
    return _by_key(a, b, Tally(columns, most))


def _by_position(a: Side, b: Side, tally: Tally) -> Tally:
    for left, right in _windows(a.stream(tally.columns), b.stream(tally.columns)):
        if left is None or right is None:
            tally.rows.only_a += left.num_rows if left else 0
            tally.rows.only_b += right.num_rows if right else 0
            continue
        _add_window(left, right, tally)
    return tally


def _windows(a: Iterator[pa.Table], b: Iterator[pa.Table]) -> Iterator[tuple[pa.Table | None, pa.Table | None]]:
    """The tables of both runs for each window of positions."""

    def numbered(tables: Iterator[pa.Table], side: int) -> Iterator[tuple[int, int, pa.Table]]:
        return ((table[POSITION][0].as_py() // WINDOW_ROWS, side, table) for table in tables if table.num_rows)

    merged = heapq.merge(numbered(a, 0), numbered(b, 1), key=lambda one: one[:2])
    for _, window in groupby(merged, key=lambda one: one[0]):
        sides = {side: table for _, side, table in window}
        yield sides.get(0), sides.get(1)


def _add_window(left: pa.Table, right: pa.Table, tally: Tally) -> None:
    here, there = left[POSITION].to_numpy(), right[POSITION].to_numpy()
    if not np.array_equal(here, there):
        _, mine, theirs = np.intersect1d(here, there, assume_unique=True, return_indices=True)
        tally.rows.only_a += len(here) - len(mine)
        tally.rows.only_b += len(there) - len(theirs)
        left, right = left.take(mine), right.take(theirs)
    if _differing(left[KEY], right[KEY]).any():
        raise _OtherRowsError
    differ = {name: _differing(left[name], right[name]) for name in tally.columns}
    for row, columns in tally.add(differ, _failed(left), _failed(right)):
        before, after = (python_row(table, row) for table in (left, right))
        tally.examples.append(_example(before, after, columns))
        tally.positions.append(after[POSITION])


def _differing(one: pa.ChunkedArray[Any], other: pa.ChunkedArray[Any]) -> Marks:
    if one.type == other.type and one.equals(other):
        return np.zeros(len(one), dtype=np.bool_)
    marks: Marks = digests(one) != digests(other)
    return marks


def _failed(table: pa.Table) -> Marks:
    marks: Marks = table[FAILURE].is_valid().to_numpy()
    return marks


@dataclass(frozen=True)
class _Kept:
    """Digests of A's rows, sorted by key; `rows` are their numbers."""

    keys: Digests
    rows: Indices
    outputs: Mapping[str, Digests]
    failed: Marks

    def find(self, keys: Digests) -> tuple[Indices, Indices]:
        """Indices of the `keys` that exist here, and their locations."""
        if not len(self.keys):
            return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
        order = np.argsort(keys)  # searching sorted keys is several times faster
        at = np.empty(len(keys), dtype=np.intp)
        at[order] = np.minimum(np.searchsorted(self.keys, keys[order]), len(self.keys) - 1)
        found = np.flatnonzero(self.keys[at] == keys)
        return found, at[found]


def _by_key(a: Side, b: Side, tally: Tally) -> Tally:
    kept = _kept(a, tally.columns)
    seen = np.zeros(len(kept.keys), dtype=np.bool_)
    keys_b: list[Digests] = []
    pending: list[tuple[int, dict[str, Any], list[str]]] = []
    for table in b.stream(tally.columns):
        keys = _keys(table, b)
        if not b.checked:
            keys_b.append(keys)
        mine, theirs = kept.find(keys)
        seen[theirs] = True
        tally.rows.only_b += len(keys) - len(mine)
        differ = {name: kept.outputs[name][theirs] != digests(table[name])[mine] for name in tally.columns}
        for row, columns in tally.add(differ, kept.failed[theirs], _failed(table)[mine]):
            after = python_row(table, mine[row])
            pending.append((int(kept.rows[theirs[row]]), after, columns))
            tally.positions.append(after[POSITION])
    tally.rows.only_a += len(seen) - int(seen.sum())
    if keys_b:
        _check_unique(b, np.sort(np.concatenate(keys_b)))
    before = _fetched(a, tally.columns, {number for number, _, _ in pending})
    tally.examples += [_example(before[number], after, columns) for number, after, columns in pending]
    return tally


def _kept(side: Side, columns: list[str]) -> _Kept:
    keys: list[Digests] = [np.zeros(0, dtype=np.uint64)]
    failed: list[Marks] = [np.zeros(0, dtype=np.bool_)]
    outputs: dict[str, list[Digests]] = {name: [np.zeros(0, dtype=np.uint64)] for name in columns}
    for table in side.stream(columns):
        keys.append(_keys(table, side))
        failed.append(_failed(table))
        for name in columns:
            outputs[name].append(digests(table[name]))
    found = np.concatenate(keys)
    del keys
    order = np.argsort(found)
    found = found[order]
    if not side.checked:
        _check_unique(side, found)
    joined = {name: np.concatenate(outputs.pop(name))[order] for name in columns}
    return _Kept(found, order, joined, np.concatenate(failed)[order])


def _keys(table: pa.Table, side: Side) -> Digests:
    keys = table[KEY]
    if not side.checked and keys.null_count:
        row = table[POSITION][int(np.flatnonzero(keys.is_null().to_numpy())[0])].as_py()
        raise DataError(
            f"{side.key!r} is null in row {row:,} of {side.name} (rows count from 0).",
            _WANTED,
            code="id.null",
            option="on",
            column=side.key,
            row=row,
        )
    return digests(keys)


def _check_unique(side: Side, keys: Digests) -> None:
    """Refuse sorted `keys` with duplicates."""
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    if not len(twice):
        return
    counts: Counter[str] = Counter()
    for table in side.stream([]):
        values = table[KEY]
        for value in map(_shown, values.filter(pa.array(np.isin(digests(values), twice))).to_pylist()):
            if value in counts or len(counts) < OFFENDERS:
                counts[value] += 1
    first = ", ".join(f"{value} ({times} times)" for value, times in counts.items())
    many = f"{len(twice):,} duplicate value{'' if len(twice) == 1 else 's'}"
    raise DataError(
        f"{side.key!r} has {many} in {side.name}: {first}.", _WANTED, code="id.duplicate", option="on", column=side.key
    )


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"


def _fetched(side: Side, columns: list[str], numbers: set[int]) -> dict[int, dict[str, Any]]:
    """The rows with these numbers."""
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for table in side.stream(columns) if numbers else ():
        here = [number for number in numbers if start <= number < start + table.num_rows]
        found |= {number: python_row(table, number - start) for number in here}
        start += table.num_rows
        if len(found) == len(numbers):
            break
    return found


def _example(before: dict[str, Any], after: dict[str, Any], columns: list[str]) -> Example:
    """A differing row, with the values of `columns` in both runs."""
    failures = [_failure(row[FAILURE]) for row in (before, after)]
    changes = []
    for name in columns:
        one, other = (text_of(row[name]) for row in (before, after))
        if one == other is not None and not any(failures):
            one, other = (text_of(row[name], typed=True) for row in (before, after))
        changes.append(Difference(name, one, other))
    return Example(masked(id_text(after[KEY])), {}, changes, failures[0], failures[1])


def _failure(failure: dict[str, Any] | None) -> str:
    return "" if failure is None else masked(f"{failure['type']}: {failure['message']}")


def text_of(value: Any, *, typed: bool = False) -> str | None:
    """A value as text; `typed` distinguishes a string from other types that look the same."""
    if value is None:
        return None
    if isinstance(value, str) and not typed:
        return masked(storable(value))
    if isinstance(value, float):
        return repr(value)
    return masked(msgspec.json.encode(value, enc_hook=repr).decode())
