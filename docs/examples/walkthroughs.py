"""Jobs that go wrong, for the walk-throughs in docs/walkthroughs.md."""

from pathlib import Path

from domyn_swarm import SwarmJob


class LongestTerm(SwarmJob):
    """The longest of a summary's long words. One summary has none."""

    input_columns = ("summary",)
    output_columns = ("term",)

    async def transform_item(self, summary: str) -> str:
        return max((word for word in summary.split() if len(word) > 6), key=len)


class Tagged(SwarmJob):
    """Words of a summary that a list has. The list is not where the job looks for it."""

    input_columns = ("summary",)
    output_columns = ("tags",)
    words: str = "words.txt"

    async def open(self, spec: object) -> None:
        self._words = set(Path(self.words).read_text().split())

    async def transform_item(self, summary: str) -> str:
        return " ".join(word for word in summary.split() if word in self._words)
