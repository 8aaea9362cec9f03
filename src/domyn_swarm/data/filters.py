"""Filters of the input as JSON: the one form that all backends read, whatever their engines call it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow.compute as pc

Condition: TypeAlias = tuple[str, str, Any]

OPERATORS = ("==", "!=", "<", ">", "<=", ">=", "in", "not in")
_HINT = f'Write [["column", "op", value], ...] with op one of {", ".join(OPERATORS)}; a list of such lists means "or".'


def parse_filters(filters: Any, schema: pa.Schema) -> list[list[Condition]]:
    """Alternatives, each a list of conditions that hold together, as in `pandas.read_parquet(filters=...)`.

    JSON has no tuples: `[["a", ">", 1]]` is a list of conditions, `[[["a", ">", 1]], ...]` a list of alternatives.

    Raises:
        ConfigurationError: they are of another form, name what does not exist, or compare what does not compare.
    """
    if not isinstance(filters, list) or not filters or not all(isinstance(one, list) and one for one in filters):
        raise ConfigurationError(f"--backend-read-kwargs: filters are not valid: {filters!r}.", _HINT)
    alternatives = filters if isinstance(filters[0][0], list) else [filters]
    parsed = [[_condition(one, schema.names) for one in alternative] for alternative in alternatives]
    try:
        schema.empty_table().filter(arrow_expression(parsed))
    except pa.ArrowException as error:
        raise ConfigurationError(f"--backend-read-kwargs: filters do not fit the input: {error}.", _HINT) from None
    return parsed


def arrow_expression(alternatives: list[list[Condition]]) -> pc.Expression:
    """The filters as pyarrow takes them."""
    return pq.filters_to_expression(alternatives)  # type: ignore[arg-type]  # the stubs want literal operators


def _condition(value: Any, columns: Sequence[str]) -> Condition:
    match value:
        case [str() as column, str() as operator, operand] if operator in OPERATORS:
            if column not in columns:
                raise ConfigurationError(
                    f"--backend-read-kwargs: filters: the input has no column {column!r}.",
                    f"Its columns are: {', '.join(columns)}.",
                )
            if operator in ("in", "not in") and not isinstance(operand, list):
                raise ConfigurationError(f"--backend-read-kwargs: filters: {value!r} needs a list of values.", _HINT)
            return column, operator, operand
    raise ConfigurationError(f"--backend-read-kwargs: filters: {value!r} is no condition.", _HINT)
