"""What has to hold whatever happens to a run: functions over what was asked for and what is on the disk, and no more.

They know no processes, so that a test can hand them a history that breaks a law, and see them say so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.servers.chaos import answer_to

SHOWN = 5
"""How many of many rows a message names."""


class Broken(Exception):  # noqa: N818 - what happened to the law, not to the program
    """A law that does not hold, as a sentence."""


def require(holds: object, otherwise: str) -> None:
    """Say `otherwise` unless it holds. Not `assert`, which `python -O` leaves out."""
    if not holds:
        raise Broken(otherwise)


def shown(rows: Collection[int]) -> str:
    """`3 rows (4, 5, 9)`."""
    few = ", ".join(map(str, sorted(rows)[:SHOWN]))
    return f"{len(rows):,} row{'s' * (len(rows) != 1)} ({few}{', …' * (len(rows) > SHOWN)})"


@dataclass
class Ledger:
    """All lives of one job so far. `lost` counts, over all lives, the rows that a life asked and did not make durable.

    A life that is asked for a row is paid for it, so these are the only requests that may be made again.
    """

    durable: frozenset[int] = frozenset()
    asked: list[int] = field(default_factory=list)
    lost: int = 0

    def lived(self, asked: Sequence[int], durable: Collection[int]) -> frozenset[int]:
        """Enter a life: the rows that it asked, and all that are durable after it. Returns the rows that it lost."""
        again = self.durable.intersection(asked)
        require(not again, f"{shown(again)} asked again although durable")
        gone = self.durable.difference(durable)
        require(not gone, f"{shown(gone)} durable before this life, and not after it")
        unknown = set(durable).difference(self.asked, asked)
        require(not unknown, f"{shown(unknown)} durable that nobody has asked for")
        lost = frozenset(asked).difference(durable)
        self.asked += asked
        self.lost += len(lost)
        self.durable = frozenset(durable)
        return lost

    @property
    def repeated(self) -> int:
        """Requests for rows that had been asked for before."""
        return len(self.asked) - len(set(self.asked))

    def ended(self, rows: int) -> None:
        """The job is done: every row was asked, and none more often than there were lives that lost it."""
        never = set(range(rows)).difference(self.asked)
        require(not never, f"{shown(never)} never asked for")
        require(self.repeated <= self.lost, f"{self.repeated:,} requests repeated, and only {self.lost:,} were lost")


def check_each_once(asked: Sequence[int], expected: Collection[int]) -> None:
    """Just the expected rows were asked for, each once."""
    counts = Counter(asked)
    twice = [row for row, count in counts.items() if count > 1]
    require(not twice, f"{shown(twice)} asked more than once")
    more, less = counts.keys() - set(expected), set(expected) - counts.keys()
    require(not more, f"{shown(more)} asked for nothing")
    require(not less, f"{shown(less)} not asked for")


def check_output(output: Path, texts: Sequence[str]) -> None:
    """Every row of the input once, in its order, with the answer that is its own."""
    require(output.is_file(), "there is no output")
    table = pq.read_table(output)
    require(table.column_names == ["item", "answer"], f"the output has the columns {table.column_names}")
    require(table["item"].to_pylist() == list(texts), "the output's rows are not those of the input, in its order")
    pairs = enumerate(zip(texts, table["answer"].to_pylist(), strict=True))
    wrong = [row for row, (text, answer) in pairs if answer != answer_to(text)]
    require(not wrong, f"{shown(wrong)} without the right answer in the output")


def durable_in(parts: Sequence[Path], texts: Sequence[str]) -> frozenset[int]:
    """The rows that are done in `parts`, every page of which is read, and every answer compared."""
    rows: set[int] = set()
    for part in parts:
        try:
            table = pq.ParquetFile(part, page_checksum_verification=True).read()
        except (pa.ArrowException, OSError) as error:
            raise Broken(f"{part.name} cannot be read: {error}") from error
        done = table.filter(table["__failure__"].is_null()).select(["_row_id", "answer"]).to_pydict()
        pairs = zip(done["_row_id"], done["answer"], strict=True)
        wrong = [row for row, answer in pairs if answer != answer_to(texts[row])]
        require(not wrong, f"{shown(wrong)} without the right answer in {part.name}")
        rows.update(done["_row_id"])
    return frozenset(rows)


def check_age(lost: Collection[int], arrivals: Sequence[tuple[int, float]], end: float, most: float) -> None:
    """A life loses only what is young: no row that was asked more than `most` seconds before its end."""
    old = {row for row, at in arrivals if row in lost and at < end - most}
    require(not old, f"{shown(old)} asked more than {most:g} s before the end, and lost")
