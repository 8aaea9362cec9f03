"""Two texts beside each other: which words are marked, and what is left out."""

from __future__ import annotations

import random

from domyn_swarm.report.comparison.word_diff import GAP, word_diff
from tests.browser import Browser, browser  # noqa: F401 - a fixture


def test_only_words_that_changed_are_marked() -> None:
    old, new = word_diff("the quick brown fox, as ever", "the quick red fox! as ever")
    assert [piece.text for piece in old if piece.changed] == ["brown", ","]
    assert [piece.text for piece in new if piece.changed] == ["red", "!"]
    assert "".join(piece.text for piece in new) == "the quick red fox! as ever"


def test_what_is_far_from_a_change_is_left_out() -> None:
    words = [f"w{number}" for number in range(5000)]
    old, new = word_diff(" ".join(words), " ".join([*words[:4000], "new", *words[4001:]]))
    assert [piece.text for piece in old if piece.changed] == ["w4000"]
    text = "".join(piece.text for piece in new)
    assert (text[0], text[-1]) == (GAP, GAP)
    assert "w3999 new w4001" in text
    assert len(text) < 300


def test_scripts_without_spaces_are_marked_by_characters() -> None:
    old, new = word_diff("漢字です", "漢語です")
    assert [piece.text for piece in [*old, *new] if piece.changed] == ["字", "語"]


def test_texts_that_have_nothing_in_common_are_marked_whole_and_soon() -> None:
    random.seed(3)
    one, other = (" ".join(random.choices(["a", "b", "c", "d", "e"], k=100_000)) for _ in range(2))
    old, new = word_diff(one, f"{other}x")
    assert any(piece.changed for piece in old)
    assert any(piece.changed for piece in new)
    assert [[piece.text for piece in side if piece.changed] for side in word_diff("", "new")] == [[], ["new"]]
