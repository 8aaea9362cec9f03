"""Which errors are worth another try, and how long to wait before it."""

from __future__ import annotations

import contextlib
import math
import random
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
OVERLOADED_STATUS = frozenset({429, 503, 529})
FIRST_BACKOFF = 0.1
MOST_BACKOFF = 30.0


def is_retryable(error: BaseException) -> bool:
    """What the error says itself (`retryable`), else what its HTTP status means; without one, it is worth a try."""
    said = getattr(error, "retryable", None)
    if said is not None:
        return bool(said)
    status = _status(error)
    return status is None or status_is_retryable(status)


def status_is_retryable(status: int) -> bool:
    """Whether the same request may be answered later: timeouts, conflicts, overload, and the server's own troubles."""
    return status in RETRYABLE_STATUS or status >= 500


def is_overload(error: BaseException) -> bool:
    """Whether the server refused because it was asked for too much."""
    return bool(getattr(error, "overload", False)) or _status(error) in OVERLOADED_STATUS


def backoff(attempt: int, error: BaseException) -> float:
    """Seconds before the next try after `attempt` of them: what the error asks for, else exponential with jitter."""
    if (asked := _asked(error)) is not None:
        return min(asked, threading.TIMEOUT_MAX)
    longest: float = min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt - 1, 30))
    return longest * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret


def seconds_of(retry_after: str | None) -> float | None:
    """A `Retry-After` header as seconds from now: it may be a number or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _asked(error: BaseException) -> float | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError, AttributeError):  # it may be anything
        said: Any = getattr(error, "retry_after", None)
        if said is None:  # as the official clients keep it
            return seconds_of(error.response.headers.get("retry-after"))  # type: ignore[attr-defined]
        seconds = float(said)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    return None


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of any client carries."""
    for name in ("status", "status_code"):
        if isinstance(status := getattr(error, name, None), int) and status:
            return status
    return None
