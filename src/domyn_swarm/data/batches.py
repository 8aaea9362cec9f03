"""The shapes that pass between engines and the rest: rows for the job, and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Unread:
    """Rows whose values cannot be converted for the job: ids, positions (int64) and reasons, of equal length."""

    ids: pa.Array[Any]
    positions: pa.Array[Any]
    reasons: list[str]


@dataclass(frozen=True)
class JobBatch:
    """Rows on their way to the job: `ids` and `positions` (int64) of equal length, and the payload in one form.

    `items` are plain Python values (compatibility mode), `batch` is a frame of the engine (native mode). Rows that are
    `unread` fail; they are in none of the others. `digested` makes the rows' digests (`data.digests.row_digests`),
    which become `digests` where they are wanted; a batch without it has none.
    """

    ids: pa.Array[Any]
    positions: pa.Array[Any]
    items: list[Any] | None = None
    batch: Any = None
    unread: Unread | None = None
    digested: Callable[[], pa.Array[Any]] | None = None
    digests: pa.Array[Any] | None = None


@dataclass(frozen=True)
class Outputs:
    """What the job made of the rows: `schema` has the output columns alone; `tables()` streams them in input order.

    Each table has POSITION, the id column and the output columns. A failed row's outputs are null.
    """

    schema: pa.Schema
    tables: Callable[[], Iterator[pa.Table]]


def dtype_name(dtype: pa.DataType) -> str:
    """The type's name, the same whichever engine read it: offsets' width and encodings are left out."""
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return "string"
    if pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype):
        return "binary"
    if pa.types.is_dictionary(dtype):
        return dtype_name(dtype.value_type)
    if pa.types.is_struct(dtype):
        return "struct<" + ", ".join(f"{field.name}: {dtype_name(field.type)}" for field in dtype) + ">"
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_list_view(dtype):
        return f"list<{dtype_name(dtype.value_type)}>"
    return str(dtype)
