"""The shapes that parquet gives to plain data: maps as pairs, and structs with fields that were never set."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from domyn_swarm.endpoint.json_reader import NOT_JSON, read_json
from domyn_swarm.jobs.endpoint import ItemError

BYTES = "bytes, which JSON does not have: name the column in `images` or `audio`, or store text"
"""What to do about bytes among what becomes JSON."""


def entries_of(value: Any) -> Any:
    """A map as a dict: it is a list of pairs in Arrow, of structs of `key` and `value` on engines without maps.

    Anything else is left as it is.
    """
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(entry, dict) and entry.keys() <= {"key", "value"} and "key" in entry for entry in value):
        value = [(entry["key"], entry.get("value")) for entry in value]
    if all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
        return {name: _calls_in(name, inner) for name, inner in value if inner is not None}
    return value


def _calls_in(name: str, value: Any) -> Any:
    """The calls of a map from text to text, which can hold them as JSON only."""
    if name not in ("tool_calls", "function_call") or not isinstance(value, str):
        return value
    try:
        return read_json(value) or None
    except NOT_JSON:
        return value


def without_unset(value: Any, what: str) -> Any:
    """`value` without what was never set: parquet gives every struct of a list the fields of all of them.

    Nulls go, and structs and lists of which nothing else is left. Servers refuse them.

    Raises:
        ItemError: it holds bytes, or a number that JSON does not have; the message begins with `what`, which is "the
            messages hold" or the like.
    """
    if isinstance(value, dict):
        kept = {name: inner for name, given in value.items() if (inner := without_unset(given, what)) is not None}
        return kept if kept or not value else None
    if isinstance(value, list):
        kept_items = [inner for given in value if (inner := without_unset(given, what)) is not None]
        return kept_items if kept_items or not value else None
    if isinstance(value, tuple):  # an entry of a map
        return tuple(without_unset(inner, what) for inner in value)
    if isinstance(value, bytes):
        raise ItemError(f"{what} {BYTES}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ItemError(f"{what} {shown_number(value)}, which JSON does not have")
    return value


def not_finite(value: Any) -> Any:
    """The first number in `value` that JSON does not have; None when there is none."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        return next((odd for inner in value if (odd := not_finite(inner)) is not None), None)
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    return value if isinstance(value, Decimal) and not value.is_finite() else None


def shown_number(value: Any) -> str:
    """NaN or an infinity, for messages."""
    return "NaN" if value != value else f"{value}".replace("inf", "infinity").replace("Infinity", "infinity")  # noqa: PLR0124 - NaN alone is not itself


def holds_bytes(value: Any) -> bool:
    """Whether bytes stand in `value`, at any depth."""
    if isinstance(value, dict):
        value = [*value.values()]
    return any(map(holds_bytes, value)) if isinstance(value, (list, tuple)) else isinstance(value, bytes)
