"""Filters of the input as JSON. This module alone decides which rows pass, whatever engine reads them.

Comparisons are exact: a value is compared as what it is, and never rounded to the column's type first. A row without a
value passes no comparison; `in` and `not in` take null for a value like any other, as Arrow does. NaN equals nothing,
but `in` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.data.comparable import Bounds, Incomparable, bounds_of, comparable, comparable_type
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from domyn_swarm.data.input_files import InputFile, InputFiles

OPERATORS = ("==", "!=", "<", ">", "<=", ">=", "in", "not in")
_OPTION = "backend_read_kwargs"
_HINT = f'Write [["column", "op", value], ...] with op one of {", ".join(OPERATORS)}; a list of such lists means "or".'
SKIPPABLE = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
"""Types whose statistics in parquet files tell which row groups hold nothing that passes."""


@dataclass(frozen=True)
class Condition:
    """`column` compared with what lies at `bounds`; for `in` and `not in` several, and null if `has_null`."""

    column: str
    operator: str
    bounds: tuple[Bounds, ...]
    has_null: bool
    dtype: pa.DataType

    def mask(self, values: Any) -> Any:
        """Of each of `values`, an Arrow array of the column, whether it passes; never null."""
        if self.operator in ("in", "not in"):
            found = self._among(comparable(values))
            return found if self.operator == "in" else pc.invert(found)
        return pc.fill_null(self._compared(comparable(values), self.bounds[0]), False)

    def _among(self, values: Any) -> Any:
        exact = [bounds.low for bounds in self.bounds if bounds.is_exact]
        if not exact:  # of a type that Arrow has no sets of, too
            return values.is_null() if self.has_null else _all(values, False)
        value_set = pa.array([*exact, None] if self.has_null else exact, comparable_type(self.dtype))
        return pc.is_in(values, value_set=value_set)

    def _compared(self, values: Any, bounds: Bounds) -> Any:
        if bounds.is_nan:
            return values.is_valid() if self.operator == "!=" else _all(values, False)
        if self.operator in ("==", "!=") and not bounds.is_exact:
            return values.is_valid() if self.operator == "!=" else _all(values, False)
        kernel, side, beyond = _COMPARISONS[self.operator]
        limit = getattr(bounds, side)
        if limit is None:  # all values of the column's type lie on one side of it
            return values.is_valid() if beyond else _all(values, False)
        return kernel(values, pa.scalar(limit, comparable_type(self.dtype)))

    def may_hold(self, least: Any, most: Any) -> bool:
        """Whether any value from `least` to `most` may pass; none of them is NaN, and there may be nulls besides."""
        if self.operator in ("!=", "not in") or self.has_null:
            return True
        if self.operator in ("in", "=="):
            return any(bounds.is_exact and least <= bounds.low <= most for bounds in self.bounds)
        (bounds,) = self.bounds
        if bounds.is_nan:
            return False
        _, side, beyond = _COMPARISONS[self.operator]
        limit = getattr(bounds, side)
        if limit is None:
            return beyond
        tests = {"<": least < limit, "<=": least <= limit, ">": most > limit, ">=": most >= limit}
        return bool(tests[self.operator])


_COMPARISONS: dict[str, tuple[Callable[[Any, Any], Any], str, bool]] = {
    "==": (pc.equal, "low", False),
    "!=": (pc.not_equal, "low", True),
    "<": (pc.less, "high", True),
    "<=": (pc.less_equal, "low", False),
    ">": (pc.greater, "low", True),
    ">=": (pc.greater_equal, "high", False),
}
"""Of each operator: Arrow's kernel, the bound that decides for all values that the column's type has, and what is true
of them where there is none."""


@dataclass(frozen=True)
class Filters:
    """Alternatives, each of conditions that hold together."""

    alternatives: tuple[tuple[Condition, ...], ...]

    @property
    def columns(self) -> list[str]:
        """The columns that decide, each once."""
        return list(dict.fromkeys(one.column for alternative in self.alternatives for one in alternative))

    def mask(self, rows: Any) -> Any:
        """Which of `rows`, a batch or a table with `columns`, pass: an Arrow array of booleans without nulls."""
        groups = [
            reduce(pc.and_, [one.mask(rows.column(rows.schema.names.index(one.column))) for one in alternative])
            for alternative in self.alternatives
        ]
        return reduce(pc.or_, groups)

    def may_pass(self, group: Any) -> bool:
        """Whether any row of a row group may pass, by its metadata, which has no encrypted columns."""
        found = (group.column(number) for number in range(group.num_columns))
        statistics = {column.path_in_schema: column.statistics for column in found}
        return any(all(_may_hold(one, statistics) for one in alternative) for alternative in self.alternatives)

    def may_pass_with(self, known: Mapping[str, Any]) -> bool:
        """Whether any row may pass in which the columns `known`, Arrow arrays of one value, have these values."""
        return any(
            all(one.mask(known[one.column])[0].as_py() for one in alternative if one.column in known)
            for alternative in self.alternatives
        )


def _may_hold(condition: Condition, statistics: dict[str, Any]) -> bool:
    known = statistics.get(condition.column)
    # The path `a.b` may be that of a field of a struct, too.
    if known is None or not known.has_min_max or "." in condition.column:
        return True
    if not any(is_one(condition.dtype) for is_one in SKIPPABLE) or type(known.min) not in (int, str):
        return True
    return condition.may_hold(known.min, known.max)


def parse_filters(filters: Any, schema: pa.Schema) -> Filters:
    """Alternatives, each a list of conditions that hold together, as in `pandas.read_parquet(filters=...)`.

    JSON has no tuples: `[["a", ">", 1]]` is a list of conditions, `[[["a", ">", 1]], ...]` a list of alternatives.

    Raises:
        ConfigurationError: they are of another form, name what does not exist, or compare what does not compare.
    """
    if not isinstance(filters, list) or not filters or not all(isinstance(one, list) and one for one in filters):
        raise ConfigurationError(f"filters are not valid: {filters!r}.", _HINT, code="filter.invalid", option=_OPTION)
    alternatives = filters if isinstance(filters[0][0], (list, tuple)) else [filters]
    return Filters(tuple(tuple(_condition(one, schema) for one in alternative) for alternative in alternatives))


def files_that_may_pass(files: InputFiles, filters: Any) -> InputFiles:
    """`files` without those in folders whose names say that no row of them passes."""
    wanted = parse_filters(filters, cast("pa.Schema", files.schema))

    def may_pass(file: InputFile) -> bool:
        values = {name: pa.array([value], files.hive.field(name).type) for name, value in file.hive}
        return not values or wanted.may_pass_with(values)

    return replace(files, files=tuple(filter(may_pass, files.files)))


def _condition(value: Any, schema: pa.Schema) -> Condition:
    match value:
        case [str() as column, str() as operator, operand] if operator in OPERATORS:
            if column not in schema.names:
                raise ConfigurationError(
                    f"filters: the input has no column {column!r}.",
                    f"Its columns are: {', '.join(schema.names)}.",
                    code="column.missing",
                    option=_OPTION,
                    column=column,
                    choices=tuple(schema.names),
                )
            several = operator in ("in", "not in")
            if several and not isinstance(operand, (list, tuple)):
                raise ConfigurationError(
                    f"filters: {value!r} needs a list of values.",
                    _HINT,
                    code="filter.invalid",
                    option=_OPTION,
                    column=column,
                )
            return _typed(column, operator, operand if several else [operand], schema.field(column).type)
    raise ConfigurationError(f"filters: {value!r} is no condition.", _HINT, code="filter.invalid", option=_OPTION)


def _typed(column: str, operator: str, operands: Sequence[Any], dtype: pa.DataType) -> Condition:
    given = [operand for operand in operands if operand is not None]
    if operator not in ("in", "not in") and not given:
        raise ConfigurationError(
            f"filters: {column!r} {operator} null holds for no row.",
            f'Use ["{column}", "in", [null]] for the rows without a value, or "not in" for those with one.',
            code="filter.null",
            option=_OPTION,
            column=column,
        )
    bounds = []
    for operand in given:
        try:
            bounds.append(bounds_of(operand, dtype))
        except Incomparable as wrong:
            raise ConfigurationError(
                f"filters: column {column!r} is {dtype}, which is not compared with {operand!r} "
                f"({type(operand).__name__}).",
                wrong.hint,
                code="filter.type",
                option=_OPTION,
                column=column,
            ) from None
    return Condition(column, operator, tuple(bounds), len(given) < len(operands), dtype)


def _all(values: Any, answer: bool) -> Any:
    return pa.repeat(answer, len(values))
