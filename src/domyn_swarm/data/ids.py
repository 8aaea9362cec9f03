"""What is wrong with ids, said in the same words by every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import DataError, opt

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = 5
_HINT = (
    f"Ids must be non-null and unique. Fix the column, name another, or leave {opt('id_column')} out for generated ids."
)


def null_id(id_col: str, position: int) -> DataError:
    """The row at `position` has no id."""
    return DataError(
        f"{id_col!r} is null in row {position:,} (rows count from 0).",
        _HINT,
        code="id.null",
        option="id_column",
        column=id_col,
        row=position,
    )


def unreadable_id(id_col: str, position: int) -> DataError:
    """The row at `position` has an id that is no text."""
    return DataError(
        f"{id_col!r} is not valid UTF-8 in row {position:,} (rows count from 0).",
        _HINT,
        code="id.not_text",
        option="id_column",
        column=id_col,
        row=position,
    )


def duplicate_ids(id_col: str, count: int, examples: Mapping[Any, int]) -> DataError:
    """`count` ids occur more than once; `examples` says how often some of them do."""
    shown = ", ".join(f"{value!r} ({times} times)" for value, times in list(examples.items())[:EXAMPLES])
    return DataError(
        f"{id_col!r} has {count:,} duplicate ids: {shown}.",
        _HINT,
        code="id.duplicate",
        option="id_column",
        column=id_col,
    )
