"""Two texts beside each other, word by word: what changed, and a little of what stands around it."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_WORDS = 1500
"""Words of a text that are compared, from the first that differs on; their marks and spaces count."""
AROUND = 20
"""Words, marks and spaces that stay on each side of a change, where leaving out the rest spares as many."""
GAP = "…"
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Characters of scripts that put no spaces between words."""
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|\s+|.")


class Piece(NamedTuple):
    """A stretch of a text, and whether it differs from the other text's."""

    text: str
    changed: bool


def beside(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, with GAP for what is the same, or beyond MOST_WORDS, and far from all that differs."""
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
    """Words in a row that all differ, or all do not."""

    words: list[str]
    changed: bool


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many words are the same at the beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _runs(old: list[str], new: list[str]) -> Iterator[tuple[bool, list[str], list[str]]]:
    """Whether words are the same, and they: in turns. Spaces and marks between two changes belong to them."""
    runs = []
    for kind, i, j, k, m in SequenceMatcher(str.isspace, old, new).get_opcodes():
        same = kind == "equal" and any(word[0].isalnum() for word in old[i:j])
        runs.append((same, old[i:j], new[k:m]))
    for same, group in groupby(runs, key=lambda run: run[0]):
        together = list(group)
        yield same, [w for _, left, _ in together for w in left], [w for _, _, right in together for w in right]


def _pieces(runs: list[_Run]) -> list[Piece]:
    """`runs` as texts, those that stayed the same cut to what is near a change."""
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
