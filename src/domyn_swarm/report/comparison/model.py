"""What two runs come to beside each other, as plain data: texts and pages are made from this and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec

from domyn_swarm.report.comparison.differences import (
    Difference,
    InputDifference,
    NodeDifference,
)


class Run(msgspec.Struct):
    """One of the two runs. `rows` of the `total` in its input (None: not known) are there, `failed` of them failed.

    `state` is as in the run's report, `seconds` what its newest start has taken.
    """

    path: str
    job: str
    state: str
    started: str
    ended: str | None
    output: str
    id_column: str
    total: int | None
    rows: int = 0
    failed: int = 0
    seconds: float | None = None


class Rows(msgspec.Struct):
    """How many rows there are of each kind.

    Those in both are the same, or they changed, or they failed in one or in both. A row that failed has no outputs,
    which is not the same as outputs that are null.
    """

    same: int = 0
    changed: int = 0
    failed_a: int = 0
    failed_b: int = 0
    failed_both: int = 0
    only_a: int = 0
    only_b: int = 0

    @property
    def both(self) -> int:
        """Rows that are in both runs."""
        return self.same + self.changed + self.failed_a + self.failed_b + self.failed_both

    @property
    def otherwise(self) -> int:
        """Rows that are in both and came out otherwise: those that can be examples."""
        return self.changed + self.failed_a + self.failed_b

    @property
    def differ(self) -> bool:
        """Whether any row is not the same."""
        return bool(self.otherwise or self.only_a or self.only_b)


class Column(msgspec.Struct):
    """An output column: who has it, and in how many rows it changed."""

    name: str
    in_a: bool
    in_b: bool
    changed: int = 0


class Example(msgspec.Struct):
    """A row that changed, or failed in one run only: its id, what the job was given, the columns that changed.

    `failure_a` and `failure_b` are empty where it has not failed. All values are texts; None stands for null.
    """

    id: str
    input: dict[str, str | None]
    columns: list[Difference]
    failure_a: str = ""
    failure_b: str = ""


class Total(msgspec.Struct):
    """A figure of both runs, None where a run has not written it down, and B's less A's."""

    name: str
    a: float | None
    b: float | None
    difference: float | None

    @property
    def label(self) -> str:
        """The name as it is shown."""
        return self.name.replace("_per_second", "/s").replace("_", " ")


class Comparison(msgspec.Struct):
    """Two runs compared. `same` tells whether their outputs are the same: rows, columns, values and failures.

    `on` is the column whose values tell which rows belong together. `input` is None when both read the same.
    `examples` are the first rows that differ, in the order of B. `notes` say what could not be told, and why.
    In a notebook it shows itself as a table, elsewhere `str` has it as text.
    """

    a: Run
    b: Run
    on: str
    same: bool
    options: list[Difference]
    fields: list[Difference]
    input: InputDifference | None
    nodes: list[NodeDifference]
    rows: Rows
    columns: list[Column]
    examples: list[Example]
    totals: list[Total]
    notes: list[str]

    @property
    def headline(self) -> str:
        """In one sentence, whether the outputs are the same, and what differs if not."""
        rows = self.rows
        if self.same:
            failed = f", {rows.failed_both:,} of them failed in both" if rows.failed_both else ""
            return f"The outputs are the same: {_rows(rows.both)}{failed}."
        counts = {
            f"{rows.changed:,} of {_rows(rows.both)} changed": rows.changed,
            f"{rows.failed_a:,} failed in A only": rows.failed_a,
            f"{rows.failed_b:,} failed in B only": rows.failed_b,
            f"{_rows(rows.only_a)} only in A": rows.only_a,
            f"{_rows(rows.only_b)} only in B": rows.only_b,
        }
        told = [what for what, count in counts.items() if count]
        for side, other in (("A", "in_b"), ("B", "in_a")):
            lone = [column.name for column in self.columns if not getattr(column, other)]
            told += [f"columns only in {side}: {', '.join(lone)}"] if lone else []
        return f"The outputs differ: {'; '.join(told)}."

    def input_changes(self) -> list[Difference]:
        """What to show of the inputs: their paths, unless they are the same or an option tells them, and the files."""
        if self.input is None:
            return []
        told = self.input.a == self.input.b or any(option.name == "--input" for option in self.options)
        return [*([] if told else [Difference("path", self.input.a, self.input.b)]), *self.input.files]

    def counted(self) -> list[tuple[str, str, str]]:
        """How many rows there are of each kind that any is of, and of those that changed in which columns, as texts."""
        rows = self.rows
        kinds = {
            "the same": rows.same,
            "changed": rows.changed,
            "failed in A only": rows.failed_a,
            "failed in B only": rows.failed_b,
            "failed in both": rows.failed_both,
            "only in A": rows.only_a,
            "only in B": rows.only_b,
        }
        columns = ", ".join(f"{column.name}: {column.changed:,}" for column in self.columns if column.changed)
        told = [(kind, count) for kind, count in kinds.items() if count or kind in ("the same", "changed")]
        return [(kind, f"{count:,}", columns if kind == "changed" else "") for kind, count in told]

    @property
    def alike(self) -> bool:
        """Whether nothing differs at all but how long it took."""
        return self.same and not (self.options or self.fields or self.input or self.nodes or self.notes)

    def __repr__(self) -> str:
        return f"<Comparison: {self.headline}>"

    def __str__(self) -> str:
        from domyn_swarm.report.comparison.text import told  # noqa: PLC0415 - the text is made from this module

        return told(self)

    def _repr_html_(self) -> str:
        from domyn_swarm.report.comparison.html import fragment  # noqa: PLC0415 - so is the page

        return fragment(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For notebooks; both arguments are theirs, and narrow down nothing."""
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
