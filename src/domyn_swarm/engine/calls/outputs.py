"""What a job may return, and the columns that it becomes. The only home of that rule.

- A scalar (anything that is no tuple and no dict) is the value of the one output column.
- A tuple goes by position over the output columns. A list does too when there are several output columns; with one
  it is the value itself (an embedding, several choices).
- A dict goes by name. With output columns given it must have them all, and other keys are left out; with none given
  every key becomes a column.
- A `Failure`, or an exception instance, is that row's failure. So is whatever fits none of the above.

A column's type is what the job declares (`output_types`), else what Arrow infers, which widens as rows need it (null to
anything, int to float, structs to the union of their fields). A value whose type cannot be united with the column's, or
that would not be the same value in it, is that row's failure. A dict without keys, of which nothing more is known,
becomes null: parquet has no type for it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.columns import DEFAULT_COLUMN, FAILURE, FAILURE_TYPE, ROW_ID
from domyn_swarm.data.types import converted, is_stored
from domyn_swarm.data.values import python_values, reason
from domyn_swarm.engine.calls.output_types import (
    ARROW_REFUSALS,
    MOST_LEVELS,
    are_alike,
    depth,
    holds,
    inferred,
    union,
    without_empty_dicts,
)
from domyn_swarm.jobs.steps.row import StepRow
from domyn_swarm.masking import masked
from domyn_swarm.storage.texts import safe_repr, storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MESSAGE_CHARS = 2000

_OF_A_FAILURE = [field.name for field in FAILURE_TYPE]


@dataclass(frozen=True)
class Failure:
    """Why a row has no output: the error's type and message, and how often it was tried.

    `lost` are the output columns of which it has no value, None for all. Of the others `values`, in the columns' order,
    are taken, or those of the output that did not fit.
    """

    type: str
    message: str
    attempts: int = 1
    values: tuple[Any, ...] | None = None
    lost: frozenset[str] | None = None

    @classmethod
    def of(cls, error: BaseException, attempts: int = 1) -> Failure:
        """The failure that `error` is."""
        try:
            message = masked(str(error) or repr(error))
        except Exception:  # noqa: BLE001 - the job's own code, which may break as any other of it
            message = "(an error that cannot be shown)"
        message = storable(message[:MESSAGE_CHARS])
        tried = getattr(error, "attempts", None)
        return cls(type(error).__name__, message, tried if isinstance(tried, int) and tried > attempts else attempts)


def explained(failure: Failure, payload: Any) -> Failure:
    """`failure` of the row `payload`, with what that knows of it."""
    return payload.explained(failure) if isinstance(payload, StepRow) else failure


class OutputColumns:
    """Turns outputs into Arrow columns and remembers the types seen so far, so that all chunks of a run agree.

    `names` are the output columns, or empty to gather them from dicts; `reserved` are names that an output must not
    take, because the input has them. `known` are types that earlier runs found, `fixed` those that the job declares.
    `lost_with` has for each column those that a row loses with a value of it that does not fit; without, all of them.
    """

    def __init__(
        self,
        names: Sequence[str],
        reserved: Sequence[str] = (),
        known: pa.Schema | None = None,
        fixed: Mapping[str, pa.DataType] | None = None,
        lost_with: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._reserved = frozenset(reserved)
        self._fine: set[str] = set()  # keys that have been found to be good names
        self._fixed = dict(fixed or {})
        self._lost_with = lost_with or {}
        self._types: dict[str, pa.DataType] = {field.name: field.type for field in known or ()} | self._fixed

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
            ValueError: an output column is missing, or cannot be one.
        """
        has = table.column_names
        names = self._names or tuple(name for name in has if name not in inputs)
        if not names:
            raise ValueError(f"the returned frame has no column of outputs; it has {', '.join(has)}")
        for name in names:
            if has.count(name) != 1:
                what = "two columns" if name in has else "no column"
                raise ValueError(f"the returned frame has {what} {name!r}; it has {', '.join(has)}")
            if not self._names and (wrong := self._wrong_with(name)):
                raise ValueError(f"the returned frame has a column {wrong}")
            if (dtype := table.schema.field(name).type) != self._types.get(name) and not is_stored(dtype):
                raise ValueError(f"the returned frame's column {name!r} is {dtype}, which parquet does not store")
        failures: dict[int, Failure] = {}
        arrays = {name: self._column(name, table.column(name), failures) for name in names}
        return _with_failures(arrays, table.num_rows, failures)

    def _unpacked(self, outputs: Sequence[Any]) -> tuple[dict[str, Sequence[Any]], dict[int, Failure]]:
        rows: list[dict[str, Any]] = []
        failures: dict[int, Failure] = {}
        for row, output in enumerate(outputs):
            try:
                rows.append(self._named(output))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - keys, too, are objects of anybody's
                kept = (isinstance(output, Failure) and output.values) or ()
                rows.append(dict(zip(self._names, kept, strict=False)))
                failures[row] = error.failure if isinstance(error, _Unfit) else Failure.of(error)
        names = self._names or dict.fromkeys(name for row in rows for name in row) or (DEFAULT_COLUMN,)
        return {name: [row.get(name) for row in rows] for name in names}, failures

    def _named(self, output: Any) -> dict[str, Any]:
        if isinstance(output, Failure):
            raise _Unfit(output)
        if isinstance(output, BaseException):
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
        if not output.keys() <= self._fine:
            for name in output:
                if wrong := self._wrong_with(name):
                    raise _misfit(f"a key {wrong}")
            self._fine.update(output)
        return output

    def _wrong_with(self, name: Any) -> str:
        """Why `name` cannot be an output column; empty when it can."""
        if name in self._reserved:
            who = "the generated ids have" if name == ROW_ID else "the input has"
            return f"{name!r}, which {who}; choose another, or the output mode replace"
        with contextlib.suppress(UnicodeEncodeError):
            if isinstance(name, str) and not name.startswith("__") and "\0" not in name and name.encode():
                return ""
        return f"{name!r}, which is no name for a column"

    def _array(self, name: str, values: Sequence[Any], failures: dict[int, Failure]) -> Any:
        try:
            if name in self._fixed:
                return pa.array(values, type=self._fixed[name], from_pandas=False)
            if are_alike(values):
                return self._united(name, inferred(values))
        except MemoryError:
            raise
        except ARROW_REFUSALS:
            pass
        return self._row_by_row(name, values, failures)

    def _column(self, name: str, column: Any, failures: dict[int, Failure]) -> Any:
        try:
            return self._united(name, column)
        except MemoryError:
            raise
        except ARROW_REFUSALS:
            values, reasons = python_values(column)
            made = self._row_by_row(name, values, failures)
            failures |= {row: _misfit(reason(name, why)).failure for row, why in reasons.items()}
            return made

    def _united(self, name: str, array: Any) -> Any:
        """`array` as the column's type, which grows to take it in. Raises one of ARROW_REFUSALS when it cannot."""
        if name in self._fixed:
            return converted(array, self._fixed[name])
        if array.type != self._types.get(name):
            dtype = self._grown(name, array.type)
            array = converted(array, dtype)
            self._types[name] = dtype
        return array

    def _grown(self, name: str, dtype: pa.DataType) -> pa.DataType:
        """The column's type, made to hold values of `dtype`. Raises ArrowTypeError when there is none in parquet."""
        known = self._types.get(name, pa.null())
        grown = union(known, dtype)
        if grown != known and not is_stored(grown):
            raise pa.ArrowTypeError(f"parquet has no {grown}")
        return grown

    def _row_by_row(self, name: str, values: Sequence[Any], failures: dict[int, Failure]) -> Any:
        fits = [self._takes(name, value) for value in values]
        dtype = self._types.get(name, pa.null())
        kept: list[Any] = []
        for row, value in enumerate(values):
            if fits[row] and holds(dtype, value):
                kept.append(value)
            elif fits[row] and (bare := without_empty_dicts(dtype, value)):
                kept += bare
            else:
                failures[row] = self._failed(name, value, failures.get(row))
                kept.append(None)
        return pa.array(kept, type=dtype, from_pandas=False)

    def _takes(self, name: str, value: Any) -> bool:
        """Whether the column's type, which grows for it unless it is fixed, can hold `value`."""
        try:
            if name in self._fixed:
                return holds(self._fixed[name], value)
            dtype = inferred([value]).type
            if dtype != self._types.get(name):
                self._types[name] = self._grown(name, dtype)
        except MemoryError:
            raise
        except ARROW_REFUSALS:
            return False
        return True

    def _failed(self, name: str, value: Any, before: Failure | None) -> Failure:
        """The failure of a row whose `value` for the column does not fit; it may have failed `before`."""
        lost = self._lost_with.get(name)
        if before is None or lost is None:
            failure = self._why_not(name, value).failure
            return failure if lost is None else replace(failure, message=f"{name}: {failure.message}", lost=lost)
        return replace(before, lost=None if before.lost is None else before.lost | lost)

    def _why_not(self, name: str, value: Any) -> _Unfit:
        with contextlib.suppress(*ARROW_REFUSALS):
            if depth(pa.array([value], from_pandas=False).type) > MOST_LEVELS:
                return _misfit(f"a value for column {name!r} that nests too deep to be stored; return it as JSON text")
        wanted = self._types.get(name, "anything that Arrow can hold")
        return _misfit(f"column {name!r} is {wanted}, the output is {_shown(value)}")


class _Unfit(Exception):  # noqa: N818 - control flow within this module
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


def _misfit(message: str) -> _Unfit:
    return _Unfit(Failure("OutputError", f"the job returned {message}"[:MESSAGE_CHARS]))


def _shown(value: Any) -> str:
    text = safe_repr(value)
    return f"{type(value).__name__} {text[:80]}{'…' if len(text) > 80 else ''}"


def _needs_unpacking(kind: type) -> bool:
    return issubclass(kind, (dict, tuple, Failure, BaseException))


def _with_failures(arrays: dict[str, Any], rows: int, failures: dict[int, Failure]) -> pa.Table:
    """`arrays` and FAILURE as a table; a row that failed has no outputs but those that its failure leaves it."""
    if not failures:
        return pa.table({**arrays, FAILURE: pa.nulls(rows, FAILURE_TYPE)})
    kept = {name: _rows_with(name, rows, failures) for name in arrays}
    found = (failures.get(row) for row in range(rows))
    why = [failure and {name: getattr(failure, name) for name in _OF_A_FAILURE} for failure in found]
    return pa.table(
        {name: array.take(kept[name]) for name, array in arrays.items()} | {FAILURE: pa.array(why, FAILURE_TYPE)}
    )


def _rows_with(name: str, rows: int, failures: Mapping[int, Failure]) -> pa.Array[Any]:
    """The numbers of all rows, null for those without a value in the column."""
    without = {row for row, failure in failures.items() if failure.lost is None or name in failure.lost}
    return pa.array([None if row in without else row for row in range(rows)], pa.int64())
