"""Whether what came back with status 200 is an answer at all.

What is no answer is the endpoint's failure: it counts against the endpoint's health, and another endpoint may answer.
What an answer says (its text, its finish reason) is judged by the job, and is the row's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

SHOWN_CHARS = 300

_LISTS = {"completions": ("choices", "choices"), "embeddings": ("data", "embeddings")}
"""By the last part of a path: the list that an answer has, and what its entries are called in messages."""


def fault_of(path: str, body: dict[str, Any]) -> str | None:
    """Why `body`, the decoded JSON object, does not answer a POST to `path` (`chat/completions`); None when it does.

    An answer has at least one entry in its list, and each choice is an object. Of other paths all that is known is that
    an error is no answer.
    """
    field, entries = _list_of(path)
    if field is None:
        return f"The answer is an error: {_shown(body)}" if error_in(body) else None
    found = body.get(field)
    if isinstance(found, list) and found and (field != "choices" or {*map(type, found)} == {dict}):
        return None
    return f"The answer has no {entries}: {_shown(body)}"


@cache
def _list_of(path: str) -> tuple[str | None, str]:
    return _LISTS.get(path.rstrip("/").rpartition("/")[2], (None, ""))


def error_in(body: dict[str, Any]) -> Any:
    """The error that a JSON object reports, in one of the usual shapes; None when it reports none."""
    if error := body.get("error"):
        return error
    return body if body.get("object") == "error" else None


def _shown(body: dict[str, Any]) -> str:
    text = repr(body)
    return f"{text[:SHOWN_CHARS]}…" if len(text) > SHOWN_CHARS else text
