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
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.columns import DEFAULT_COLUMN, FAILURE, FAILURE_TYPE, ROW_ID
from domyn_swarm.data.types import is_stored, rebuilt
from domyn_swarm.data.values import python_values, reason
from domyn_swarm.masking import masked
from domyn_swarm.storage.texts import safe_repr, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MESSAGE_CHARS = 2000
MOST_LEVELS = 97
"""Levels of a value that parquet's readers take: they refuse a file whose schema has 100."""

_ARROW_REFUSALS = (Exception,)
"""What converting values may raise: they may be objects of anybody's, whose methods raise anything."""

_KINDS: dict[str, Callable[[Any], bool]] = {
    "null": pa.types.is_null,
    "text": lambda dtype: pa.types.is_string(dtype) or pa.types.is_large_string(dtype),
    "bytes": lambda dtype: pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype),
    "decimal": pa.types.is_decimal,
    "float": pa.types.is_floating,
}


@dataclass(frozen=True)
class Failure:
    """Why a row has no output: the error's type and message, and how often it was tried."""

    type: str
    message: str
    attempts: int = 1

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


class OutputColumns:
    """Turns outputs into Arrow columns and remembers the types seen so far, so that all chunks of a run agree.

    `names` are the output columns, or empty to gather them from dicts; `reserved` are names that an output must not
    take, because the input has them. `known` are types that earlier runs found, `fixed` those that the job declares.
    """

    def __init__(
        self,
        names: Sequence[str],
        reserved: Sequence[str] = (),
        known: pa.Schema | None = None,
        fixed: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._reserved = frozenset(reserved)
        self._fine: set[str] = set()  # keys that have been found to be good names
        self._fixed = dict(fixed or {})
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
            except Exception as error:  # noqa: BLE001 - keys, too, are objects of anybody's
                rows.append({})
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
            if _are_alike(values):
                return self._united(name, _inferred(values))
        except _ARROW_REFUSALS:
            pass
        return self._row_by_row(name, values, failures)

    def _column(self, name: str, column: Any, failures: dict[int, Failure]) -> Any:
        try:
            return self._united(name, column)
        except _ARROW_REFUSALS:
            values, reasons = python_values(column)
            made = self._row_by_row(name, values, failures)
            failures |= {row: _misfit(reason(name, why)).failure for row, why in reasons.items()}
            return made

    def _united(self, name: str, array: Any) -> Any:
        """`array` as the column's type, which grows to take it in. Raises one of _ARROW_REFUSALS when it cannot."""
        if name in self._fixed:
            return array.cast(self._fixed[name])
        if array.type != self._types.get(name):
            dtype = self._grown(name, array.type)
            array = array if array.type == dtype else array.cast(dtype)
            self._types[name] = dtype
        return array

    def _grown(self, name: str, dtype: pa.DataType) -> pa.DataType:
        """The column's type, made to hold values of `dtype`. Raises ArrowTypeError when there is none in parquet."""
        known = self._types.get(name, pa.null())
        grown = _union(known, dtype)
        if grown != known and not is_stored(grown):
            raise pa.ArrowTypeError(f"parquet has no {grown}")
        return grown

    def _row_by_row(self, name: str, values: Sequence[Any], failures: dict[int, Failure]) -> Any:
        fits = [self._takes(name, value) for value in values]
        dtype = self._types.get(name, pa.null())
        kept: list[Any] = []
        for row, value in enumerate(values):
            if fits[row] and _holds(dtype, value):
                kept.append(value)
            elif fits[row] and (bare := _bare(dtype, value)):
                kept += bare
            else:
                failures[row] = self._why_not(name, value).failure
                kept.append(None)
        return pa.array(kept, type=dtype, from_pandas=False)

    def _takes(self, name: str, value: Any) -> bool:
        """Whether the column's type, which grows for it unless it is fixed, can hold `value`."""
        try:
            if name in self._fixed:
                return _holds(self._fixed[name], value)
            dtype = _inferred([value]).type
            if dtype != self._types.get(name):
                self._types[name] = self._grown(name, dtype)
        except _ARROW_REFUSALS:
            return False
        return True

    def _why_not(self, name: str, value: Any) -> _Unfit:
        with contextlib.suppress(*_ARROW_REFUSALS):
            if _depth(pa.array([value], from_pandas=False).type) > MOST_LEVELS:
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


def _are_alike(values: Sequence[Any]) -> bool:
    """Whether Arrow can be left to find their type. Of a mixture it cuts times to dates, and turns true into 1.0."""
    kinds = {*map(type, values)} - {type(None)}
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        return len({value.tzinfo is None for value in values if value is not None}) == 1
    return len(kinds) <= 1 or kinds == {int, float}


def _holds(dtype: pa.DataType, value: Any) -> bool:
    try:
        pa.array([value], type=dtype, from_pandas=False)
    except _ARROW_REFUSALS:
        return False
    return True


def _bare(dtype: pa.DataType, value: Any) -> list[Any]:
    """`value` without its dicts that have no keys, if the column can hold it then; else nothing."""
    try:
        bare = _without_empty(value)
    except RecursionError:
        return []
    return [bare] if _holds(dtype, bare) else []


def _inferred(values: Sequence[Any]) -> Any:
    """The array that Arrow makes of `values`, with nanoseconds where they have some: it would cut them off."""
    array = pa.array(values, from_pandas=False)
    fine = rebuilt(array.type, _fine)
    if fine != array.type:
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):  # nanoseconds reach from 1677 to 2262
            exact = pa.array(values, fine, from_pandas=False)
            return array if exact.equals(array.cast(fine)) else exact
    return array


def _fine(dtype: Any) -> pa.DataType:
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("ns", dtype.tz)
    return pa.duration("ns") if pa.types.is_duration(dtype) else dtype


def _without_empty(value: Any) -> Any:
    """`value` with null for each dict without keys."""
    if isinstance(value, dict):
        return {name: _without_empty(inner) for name, inner in value.items()} or None
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


def _union(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, as they are. Raises ArrowTypeError when there is none."""
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz and other.tz:
        other = pa.timestamp(other.unit, one.tz)  # the same moments
    if {one, other} == {pa.int64(), pa.uint64()}:
        return one  # the values of both would fit no integer
    schemas = [pa.schema([("x", one)]), pa.schema([("x", other)])]
    united: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    if _depth(united) > MOST_LEVELS:
        raise pa.ArrowTypeError(f"more than {MOST_LEVELS} levels")
    kinds = {_kind(one), _kind(other)} - {"null"}
    if kinds in ({"text", "bytes"}, {"decimal", "float"}):
        raise pa.ArrowTypeError(f"{one} and {other}")
    return _storable(united)


def _depth(dtype: pa.DataType) -> int:
    """Levels that `dtype` has in parquet: a list or a map is two."""
    own = 1 if pa.types.is_struct(dtype) else 2
    inner = (dtype.field(number).type for number in range(dtype.num_fields))
    return own + max(map(_depth, inner)) if dtype.num_fields else 1


def _kind(dtype: pa.DataType) -> str:
    for kind, is_kind in _KINDS.items():
        if is_kind(dtype):
            return kind
    return "other"


def _storable(dtype: pa.DataType) -> pa.DataType:
    """`dtype` with null for each struct without fields."""
    if pa.types.is_struct(dtype):
        fields = [field.with_type(_storable(field.type)) for field in dtype]
        return pa.struct(fields) if fields else pa.null()
    return pa.list_(_storable(dtype.value_type)) if pa.types.is_list(dtype) else dtype


def _with_failures(arrays: dict[str, Any], rows: int, failures: dict[int, Failure]) -> pa.Table:
    """`arrays` and FAILURE as a table; a row that fails in one column has no outputs at all."""
    if not failures:
        return pa.table({**arrays, FAILURE: pa.nulls(rows, FAILURE_TYPE)})
    fine = pa.array([None if row in failures else row for row in range(rows)], pa.int64())
    found = (failures.get(row) for row in range(rows))
    why = [failure and vars(failure) for failure in found]
    return pa.table({name: array.take(fine) for name, array in arrays.items()} | {FAILURE: pa.array(why, FAILURE_TYPE)})
