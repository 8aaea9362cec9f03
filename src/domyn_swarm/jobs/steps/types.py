"""Types of columns from the annotations of steps, where these are plain."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

import pyarrow as pa

_PLAIN: dict[Any, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(),
}  # fmt: skip


def arrow_type(hint: Any) -> pa.DataType | None:
    """The type of a column of values annotated `hint`; None where it has to be found from the values."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return arrow_type(parts[0])
    if origin in (Union, types.UnionType):
        others = [part for part in parts if part is not types.NoneType]
        return arrow_type(others[0]) if len(others) == 1 else None
    if origin is list and parts and (inner := arrow_type(parts[0])) is not None:
        return pa.list_(inner)
    return None
