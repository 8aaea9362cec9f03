"""Texts as they are shown and stored, whatever they came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def storable(text: str) -> str:
    """`text` with halves of surrogate pairs spelled out: names of files and messages may hold them, UTF-8 may not."""
    return text.encode(errors="backslashreplace").decode()


def safe_repr(value: Any) -> str:
    """`repr` of a value, whatever that does."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - somebody else's code; and values may nest deeper than Python calls
        return f"(a {type(value).__name__} that cannot be shown)"


def id_text(value: Any) -> str:
    """An id as it is typed to look up its row."""
    return storable(value.hex() if isinstance(value, bytes) else str(value))


def now() -> str:
    """This moment, as it is written down."""
    return datetime.now(UTC).isoformat(timespec="seconds")
