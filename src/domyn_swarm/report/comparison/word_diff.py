"""Word-by-word differences of two texts, with some context."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_WORDS = 1500
"""Maximum number of tokens compared, starting at the first difference; punctuation and spaces count."""
AROUND = 20
"""Tokens of context on each side of a change; the rest is elided if it is at least as long."""
GAP = "…"
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts without spaces between words."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|\s+|.")


class Piece(NamedTuple):
    """A piece of a text, and whether it differs from the other text."""

    text: str
    changed: bool


def word_diff(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, with GAP for equal text far from changes, and for text beyond MOST_WORDS."""
    before, after = _WORD.findall(one), _WORD.findall(other)
    start = _common(before, after)
    end = _common(reversed(before[start:]), reversed(after[start:]))
    head, tail = before[:start], before[len(before) - end :]
    middle, now = before[start : len(before) - end], after[start : len(after) - end]
    cut = len(middle) > MOST_WORDS or len(now) > MOST_WORDS
    old: list[_Run] = [_Run(head, False)]
    new: list[_Run] = [_Run(head, False)]
    for same, left, right in _runs(middle[:MOST_WORDS], now[:MOST_WORDS]):
        old.append(_Run(left, not same))
        new.append(_Run(right, not same))
    ending = [_Run([GAP], False)] if cut else [_Run(tail, False)]
    return _pieces([*old, *ending]), _pieces([*new, *ending])


class _Run(NamedTuple):
    """Consecutive words that all differ, or are all equal."""

    words: list[str]
    changed: bool


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """The number of equal words at the beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _runs(old: list[str], new: list[str]) -> Iterator[tuple[bool, list[str], list[str]]]:
    """Alternating runs of equal and changed words. Spaces and punctuation between two changes belong to the change."""
    runs = []
    for kind, i, j, k, m in SequenceMatcher(str.isspace, old, new).get_opcodes():
        same = kind == "equal" and any(word[0].isalnum() for word in old[i:j])
        runs.append((same, old[i:j], new[k:m]))
    for same, group in groupby(runs, key=lambda run: run[0]):
        together = list(group)
        yield same, [w for _, left, _ in together for w in left], [w for _, _, right in together for w in right]


def _pieces(runs: list[_Run]) -> list[Piece]:
    """`runs` as text, with equal runs cut to the context of changes."""
    runs = [run for run in runs if run.words]
    pieces = []
    for number, run in enumerate(runs):
        words = run.words
        if not run.changed:
            before = words[:AROUND] if number else []
            after = words[-AROUND:] if number < len(runs) - 1 else []
            if len(words) > len(before) + len(after) + AROUND and len(runs) > 1:
                words = [*before, GAP, *after]
        pieces.append(Piece("".join(words), run.changed))
    return pieces
