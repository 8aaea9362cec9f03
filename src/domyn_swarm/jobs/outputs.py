"""What a job may return, and the columns that it becomes. The only home of that rule.

- A scalar (anything that is no tuple and no dict) is the value of the one output column.
- A tuple goes by position over the output columns. A list does too when there are several output columns; with one
  it is the value itself (an embedding, several choices).
- A dict goes by name. With output columns given it must have them all, and other keys are left out; with none given
  every key becomes a column.
- A `Failure`, or an exception instance, is that row's failure. So is whatever fits none of the above.

A column's type is what Arrow infers, and widens as rows need it (null to anything, int to float, structs to the union
of their fields). A value whose type cannot be united with the column's is that row's failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.columns import DEFAULT_COLUMN, FAILURE, FAILURE_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_CHARS = 2000

_ARROW_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Failure:
    """Why a row has no output: the error's type and message, and how often it was tried."""

    type: str
    message: str
    attempts: int = 1

    @classmethod
    def of(cls, error: BaseException, attempts: int = 1) -> Failure:
        """The failure that `error` is."""
        return cls(type(error).__name__, (str(error) or repr(error))[:MESSAGE_CHARS], attempts)


class OutputColumns:
    """Turns outputs into Arrow columns and remembers the types seen so far, so that all chunks of a run agree.

    `names` are the output columns, or empty to gather them from dicts; `reserved` are names that an output must not
    take, because the input has them.
    """

    def __init__(self, names: Sequence[str], reserved: Sequence[str] = (), known: pa.Schema | None = None) -> None:
        self._names = tuple(names)
        self._reserved = frozenset(reserved)
        self._types: dict[str, pa.DataType] = {field.name: field.type for field in known or ()}

    def table(self, outputs: Sequence[Any]) -> pa.Table:
        """One row for each output: the output columns, and FAILURE (null where the row is fine)."""
        kinds = set(map(type, outputs))
        if len(self._names) <= 1 and not any(map(_needs_unpacking, kinds)):
            columns: dict[str, Sequence[Any]] = {self._names[0] if self._names else DEFAULT_COLUMN: outputs}
            failures: dict[int, Failure] = {}
        else:
            columns, failures = self._unpacked(outputs)
        arrays = {name: self._array(name, values, failures) for name, values in columns.items()}
        return _with_failures(arrays, len(outputs), failures)

    def select(self, table: pa.Table, inputs: Sequence[str]) -> pa.Table:
        """The output columns of a table that a native method returned, which may hold its inputs as well.

        Raises:
            ValueError: an output column is missing.
        """
        names = self._names or tuple(name for name in table.column_names if name not in inputs)
        if missing := [name for name in names if name not in table.column_names]:
            raise ValueError(f"the returned frame has no column {missing[0]!r}; it has {', '.join(table.column_names)}")
        failures: dict[int, Failure] = {}
        arrays = {name: self._united(name, table.column(name), failures) for name in names}
        return _with_failures(arrays, table.num_rows, failures)

    def _unpacked(self, outputs: Sequence[Any]) -> tuple[dict[str, Sequence[Any]], dict[int, Failure]]:
        rows: list[dict[str, Any]] = []
        failures: dict[int, Failure] = {}
        for row, output in enumerate(outputs):
            try:
                rows.append(self._named(output))
            except _Unfit as unfit:
                rows.append({})
                failures[row] = unfit.failure
        names = self._names or dict.fromkeys(name for row in rows for name in row) or (DEFAULT_COLUMN,)
        return {name: [row.get(name) for row in rows] for name in names}, failures

    def _named(self, output: Any) -> dict[str, Any]:
        if isinstance(output, Failure):
            raise _Unfit(output)
        if isinstance(output, Exception):
            raise _Unfit(Failure.of(output))
        if isinstance(output, dict):
            return self._by_name(output)
        if isinstance(output, tuple) or (isinstance(output, list) and len(self._names) > 1):
            if len(output) != len(self._names):
                raise _misfit(f"{len(output)} values for {len(self._names)} output columns {list(self._names)}")
            return dict(zip(self._names, output, strict=True))
        if len(self._names) > 1:
            raise _misfit(f"one {type(output).__name__} for {len(self._names)} output columns {list(self._names)}")
        return {self._names[0] if self._names else DEFAULT_COLUMN: output}

    def _by_name(self, output: dict[Any, Any]) -> dict[str, Any]:
        if self._names:
            if missing := [name for name in self._names if name not in output]:
                raise _misfit(f"no key {missing[0]!r}; the keys are {list(output)}")
            return {name: output[name] for name in self._names}
        for name in output:
            if not isinstance(name, str) or name.startswith("__") or name in self._reserved:
                why = "is an input column" if name in self._reserved else "is no name for a column"
                raise _misfit(f"key {name!r} {why}; choose another, or use --output-mode replace")
        return output

    def _array(self, name: str, values: Sequence[Any], failures: dict[int, Failure]) -> Any:
        try:
            array = pa.array(values, from_pandas=False)
        except _ARROW_REFUSALS:
            return self._row_by_row(name, values, failures)
        return self._united(name, array, failures)

    def _united(self, name: str, array: Any, failures: dict[int, Failure]) -> Any:
        """`array` as the column's type, which grows to take it in; values that do not fit become failures."""
        known = self._types.get(name)
        if known is None or array.type == known:
            self._types[name] = array.type
            return array
        try:
            self._types[name] = _union(known, array.type)
            return array.cast(self._types[name])
        except _ARROW_REFUSALS:
            self._types[name] = known
            return self._row_by_row(name, array.to_pylist(), failures)

    def _row_by_row(self, name: str, values: Sequence[Any], failures: dict[int, Failure]) -> pa.Array[Any]:
        kept: list[Any] = []
        for row, value in enumerate(values):
            try:
                dtype = pa.array([value]).type
                self._types[name] = _union(self._types.get(name, pa.null()), dtype)
                kept.append(value)
            except _ARROW_REFUSALS:
                wanted = self._types.get(name, "anything that Arrow can hold")
                failures[row] = _misfit(f"column {name!r} is {wanted}, the output is {_shown(value)}").failure
                kept.append(None)
        return pa.array(kept, type=self._types.get(name, pa.null()))


class _Unfit(Exception):  # noqa: N818 - control flow within this module
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _misfit(message: str) -> _Unfit:
    return _Unfit(Failure("OutputError", f"the job returned {message}"[:MESSAGE_CHARS]))


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'…' if len(text) > 80 else ''}"


def _needs_unpacking(kind: type) -> bool:
    return issubclass(kind, (dict, tuple, Failure, Exception))


def _union(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds both. Raises ArrowTypeError when there is none."""
    schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
    united: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    return united


def _with_failures(arrays: dict[str, Any], rows: int, failures: dict[int, Failure]) -> pa.Table:
    """`arrays` and FAILURE as a table; a row that fails in one column has no outputs at all."""
    if not failures:
        return pa.table({**arrays, FAILURE: pa.nulls(rows, FAILURE_TYPE)})
    fine = pa.array([None if row in failures else row for row in range(rows)], pa.int64())
    found = (failures.get(row) for row in range(rows))
    why = [failure and vars(failure) for failure in found]
    return pa.table({name: array.take(fine) for name, array in arrays.items()} | {FAILURE: pa.array(why, FAILURE_TYPE)})
