"""JSON as servers and models write it, which is more than the standard allows."""

from __future__ import annotations

import json
from typing import Any

import msgspec

NOT_JSON = (ValueError, RecursionError)
"""What `read_json` raises for text that is not JSON, bytes that are not text, and nesting without end."""


def read_json(data: bytes | str) -> Any:
    """The value that `data` holds: whatever Python's `json` reads, so a byte order mark, NaN and Infinity are fine.

    Half of a surrogate pair, which no UTF-8 can hold, becomes U+FFFD.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except NOT_JSON as error:
        try:
            return _storable(json.loads(data.removeprefix("\ufeff") if isinstance(data, str) else data))
        except NOT_JSON:
            raise error from None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {_storable(name): _storable(inner) for name, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, list) else value
