"""What a refusal is about: the request, the replica, or a condition that every request meets.

A *condition* is nobody's failure. `busy` (a rate limit, an overload) holds the endpoint and passes; `spent` (no credit)
ends the run. All else is the request's or the replica's own.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from domyn_swarm.concurrency.retry import seconds_of
from domyn_swarm.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.errors import Condition

OK, NO_CREDIT = 200, 402
_BUSY_STATUS = frozenset({429, 529})
_SPENT_CODES = re.compile(
    r"insufficient[_ ]?(user[_ ]?)?(quota|balance|credits?|funds)|billing_\w+|credits?_(exhausted|required)|arrearage|"
    r"payment_required|account_deactivated|quota_exhausted|out_of_credits?",
    re.IGNORECASE,
)
_SPENT_WORDS = re.compile(
    r"insufficient[ _](account )?(balance|credits?|funds|quota)|exceeded your current quota|"
    r"credit balance is too low|(out of|no|not enough) (remaining )?credits?\b|billing hard limit|payment required",
    re.IGNORECASE,
)
_BUSY_CODES = re.compile(r"rate_?limit|too_many_requests|overloaded|throttl|resource_exhausted", re.IGNORECASE)
_BUSY_WORDS = re.compile(
    r"overloaded|over capacity|at capacity|too many requests|rate limit|queue is full|throttl|server( is)? busy",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"request( is)? too large|single request|prompt is too long", re.IGNORECASE)
_AGAIN_IN = re.compile(
    r"(?:again|retry)\s+(?:in|after)\s+((?:\d+(?:\.\d+)?\s*(?:ms|seconds?|minutes?|[smhd])\s*)+)", re.I
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9
MOST_CHARS = 10_000
"""So much of an error's words is searched for when to come again, which mostly is their end."""
_LIMIT_NAME = re.compile(r"^(?:x-|anthropic-)?ratelimit-|^ratelimit$")


class Allowance(NamedTuple):
    """How many more (requests, or tokens) an endpoint takes in the next `seconds`."""

    remaining: float
    seconds: float


def condition_of(status: int, error: Any, text: str, retry_after: float | None) -> Condition:
    """What a refusal with `status` is about.

    `error` is the error as the server says it (an object with `code` and `type`, or anything else), `text` its words.
    """
    codes = " ".join(str(error.get(key)) for key in ("code", "type", "status")) if isinstance(error, dict) else ""
    if status == OK:  # a gateway's own status, with that of the server behind it in the body
        status = _status_in(error) or status
    if status == NO_CREDIT or _SPENT_CODES.search(codes):
        return "spent"
    if status in (400, 403, 429) and retry_after is None and _SPENT_WORDS.search(text):
        return "spent"
    if status in _BUSY_STATUS:
        return "" if _TOO_LARGE.search(text) else "busy"
    if status == 503 and retry_after is not None:
        return "busy"
    is_about_load = _BUSY_CODES.search(codes) or _BUSY_WORDS.search(text)
    return "busy" if is_about_load and (status == OK or status >= 500) else ""


def _status_in(error: Any) -> int:
    """The HTTP status that an error in a body has as its code; 0 when it has none."""
    code = error.get("code") if isinstance(error, dict) else None
    return int(str(code)) if re.fullmatch(r"[45]\d\d", str(code)) else 0


def condition_of_error(error: BaseException) -> Condition:
    """What the error of any client is about; it is known by its status, as with the official ones."""
    if isinstance(error, EndpointError):
        return error.condition
    status = next((s for name in ("status_code", "status") if isinstance(s := getattr(error, name, None), int)), 0)
    if not status:
        return ""
    body = getattr(error, "body", None)
    if not isinstance(body, dict):
        body = {"code": getattr(error, "code", None), "type": getattr(error, "type", None)}
    inner = body.get("error")
    return condition_of(status, inner if isinstance(inner, dict) else body, str(error), asked_by(error))


def asked_by(error: BaseException) -> float | None:
    """Seconds for which the error of any client asks to wait; None when it does not say."""
    said = getattr(error, "retry_after", None)
    if isinstance(said, (int, float)) and not isinstance(said, bool):
        return max(0.0, float(said)) if said == said else None  # noqa: PLR0124 - NaN
    headers = getattr(getattr(error, "response", None), "headers", None)
    try:
        return None if headers is None else retry_after_of(headers, str(error))
    except (AttributeError, TypeError, ValueError):  # it may be anything
        return None


def retry_after_of(headers: Mapping[str, str], text: str = "", error: Any = None) -> float | None:
    """Seconds after which a refused request may be sent again, as its headers, its error or else its words have it."""
    if (milliseconds := seconds_of(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (seconds := seconds_of(headers.get("retry-after"))) is not None:
        return seconds
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():  # google.rpc.RetryInfo
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            return duration_of(delay)
    if found := _AGAIN_IN.search(text[:MOST_CHARS]):
        return duration_of(re.sub(r"(econds?|inutes?)", "", found.group(1)))
    used_up = [one.seconds for one in allowances_of(headers).values() if one.remaining <= 0]
    return max(used_up, default=None)


def allowances_of(headers: Mapping[str, str]) -> dict[str, Allowance]:
    """What is left, by what it is counted in: `requests`, `tokens`, or "" where the server does not say.

    Read are `x-ratelimit-remaining-requests` and `-reset-requests` (OpenAI, Groq, Azure), the same without `x-`,
    `anthropic-ratelimit-requests-remaining`, `x-ratelimit-remaining`, and `ratelimit: remaining=…, reset=…`.
    """
    left: dict[str, float] = {}
    resets: dict[str, float] = {}
    for name, value in headers.items():
        if not _LIMIT_NAME.match(key := name.lower()):
            continue
        if key == "ratelimit":
            _read_one_header(value, left, resets)
            continue
        unit = next((unit for unit in ("requests", "tokens") if unit in key), "")
        if "remaining" in key and (count := _number(value)) is not None:
            left[unit] = min(count, left.get(unit, count))
        elif "reset" in key and (seconds := duration_of(value)) is not None:
            resets[unit] = max(seconds, resets.get(unit, 0.0))
    return {unit: Allowance(count, resets[unit]) for unit, count in left.items() if unit in resets}


def _read_one_header(value: str, left: dict[str, float], resets: dict[str, float]) -> None:
    """`limit=100, remaining=5, reset=20`, or `"default";r=5;t=20`."""
    parts: dict[str, str] = {}
    for part in re.split(r"[,;]", value.lower()):
        name, _, count = part.strip().partition("=")
        parts[name] = count
    if (remaining := _number(parts.get("remaining", parts.get("r", "")))) is not None:
        left[""] = remaining
    if (seconds := duration_of(parts.get("reset", parts.get("t", "")))) is not None:
        resets[""] = seconds


def duration_of(text: str) -> float | None:
    """Seconds from now: `12`, `1.5s`, `6m0s`, `20ms`, a moment since 1970 (s or ms), or a date; None for all else."""
    text = text.strip()
    if (number := _number(text)) is not None:
        if number > 1000 * _EPOCH:
            number /= 1000
        return max(0.0, number - datetime.now(UTC).timestamp()) if number > _EPOCH else number
    compact = text.replace(" ", "").lower()
    if compact and not _DURATION.sub("", compact):
        return sum(float(count) * _UNITS[unit] for count, unit in _DURATION.findall(compact))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return seconds_of(text)
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
