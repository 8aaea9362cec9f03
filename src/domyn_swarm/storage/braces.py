"""Brace ranges of paths, expanded as a shell does, and never to more than a run can hold."""

from __future__ import annotations

import re
from itertools import islice

from braceexpand import braceexpand

from domyn_swarm.errors import DataError

MAX_PATHS = 100_000
MAX_STEPS = 1_000_000
"""Alternatives that braces may stand for before they are combined: braceexpand keeps those of nested ones in memory."""
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_DIGITS = 18


def expanded(pattern: str, option: str = "input") -> list[str]:
    """The paths that `pattern` stands for; itself where it has no braces.

    Raises:
        DataError: braces do not match, or stand for too many paths.
    """
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    if _alternatives(pattern) > MAX_STEPS:
        raise _too_many(pattern, option)
    try:
        paths = list(islice(braceexpand(pattern), MAX_PATHS + 1))
    except (ValueError, RecursionError):  # braceexpand's UnbalancedBracesError is a ValueError
        raise DataError(
            f"the braces of {pattern!r} do not match.",
            "Write {000..127} or {a,b}.",
            code="input.braces",
            option=option,
            path=pattern,
        ) from None
    if len(paths) > MAX_PATHS:
        raise _too_many(pattern, option)
    return paths


def _too_many(pattern: str, option: str) -> DataError:
    shown = pattern if len(pattern) <= 200 else f"{pattern[:200]}…"
    return DataError(
        f"the braces of {shown!r} stand for more than {MAX_PATHS:,} paths.",
        "Name fewer files, or a directory or glob that has them all.",
        code="input.braces",
        option=option,
        path=shown,
    )


def _alternatives(pattern: str) -> int:
    """No fewer than the paths that the pattern stands for: the product over its pairs of braces."""
    count, commas = 1, [0]
    for piece in re.findall(r"\\.|[{},]|[^\\{},]+", pattern, re.DOTALL):
        if piece == "{":
            commas.append(0)
        elif piece == ",":
            commas[-1] += 1
        elif piece == "}" and len(commas) > 1:
            count *= commas.pop() + 1
        if count > MAX_STEPS:
            break
    for first, last, step in _RANGE.findall(pattern):
        if max(len(first), len(last), len(step)) > _DIGITS:
            return MAX_STEPS + 1
        count *= abs(int(last) - int(first)) // max(abs(int(step or 1)), 1) + 1
    return count
