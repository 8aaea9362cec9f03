"""The comparison of two runs as plain data, from which text and pages are rendered."""

from __future__ import annotations

from typing import Any

import msgspec

from domyn_swarm.report.comparison.differences import (
    Difference,
    InputDifference,
    NodeDifference,
    StepDifference,
)


class Run(msgspec.Struct):
    """One of the two runs: `rows` of the `total` in its input (None if unknown) have finished, `failed` of them failed.

    `state` is that of the run's report, `seconds` the duration of its newest start.
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
    """Numbers of rows by kind.

    Rows in both runs are the same, have changed, or have failed in one or both. A failed row has no outputs, which
    differs from outputs that are null.
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
    def differing(self) -> int:
        """Rows that are in both and differ; examples are taken from these."""
        return self.changed + self.failed_a + self.failed_b

    @property
    def differ(self) -> bool:
        """Whether any row differs."""
        return bool(self.differing or self.only_a or self.only_b)


class Column(msgspec.Struct):
    """An output column: which run has it, and in how many rows it changed."""

    name: str
    in_a: bool
    in_b: bool
    changed: int = 0


class Example(msgspec.Struct):
    """A row that changed or failed in only one run: its id, the job's input, and the changed columns.

    `failure_a` and `failure_b` are empty where it has not failed. All values are text; None means null.
    """

    id: str
    input: dict[str, str | None]
    columns: list[Difference]
    failure_a: str = ""
    failure_b: str = ""


class Total(msgspec.Struct):
    """A figure of both runs (None if not recorded), and the difference B - A."""

    name: str
    a: float | None
    b: float | None
    difference: float | None

    @property
    def label(self) -> str:
        """The name for display."""
        return self.name.replace("_per_second", "/s").replace("_", " ")


class Comparison(msgspec.Struct):
    """A comparison of two runs. `same`: whether the outputs are equal in rows, columns, values and failures.

    `on` is the column that rows are matched by. `input` is None when both runs read the same input. `examples` are the
    first differing rows, in the order of B. `notes` say what could not be compared, and why. `steps` are those of a job
    of steps that differ, in their order. A notebook renders it as a table; `str` gives text.
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
    steps: list[StepDifference] = []

    @property
    def headline(self) -> str:
        """One sentence that says whether the outputs are equal, and what differs."""
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
        parts = [what for what, count in counts.items() if count]
        for side, other in (("A", "in_b"), ("B", "in_a")):
            lone = [column.name for column in self.columns if not getattr(column, other)]
            parts += [f"columns only in {side}: {', '.join(lone)}"] if lone else []
        return f"The outputs differ: {'; '.join(parts)}."

    def input_changes(self) -> list[Difference]:
        """Differences of the inputs: paths, unless equal or already shown as an option, and files."""
        if self.input is None:
            return []
        shown = self.input.a == self.input.b or any(option.name == "--input" for option in self.options)
        return [*([] if shown else [Difference("path", self.input.a, self.input.b)]), *self.input.files]

    def counted(self) -> list[tuple[str, str, str]]:
        """Non-zero row counts by kind as text, with the changed columns."""
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
        shown = [(kind, count) for kind, count in kinds.items() if count or kind in ("the same", "changed")]
        return [(kind, f"{count:,}", columns if kind == "changed" else "") for kind, count in shown]

    @property
    def alike(self) -> bool:
        """Whether nothing differs except the time."""
        return self.same and not (self.options or self.fields or self.input or self.nodes or self.steps or self.notes)

    def __repr__(self) -> str:
        return f"<Comparison: {self.headline}>"

    def __str__(self) -> str:
        from domyn_swarm.report.comparison.text import render_text  # noqa: PLC0415 - it imports this module

        return render_text(self)

    def _repr_html_(self) -> str:
        from domyn_swarm.report.comparison.html import fragment  # noqa: PLC0415 - it imports this module

        return fragment(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For notebooks. The arguments are part of IPython's protocol and are ignored."""
        return {"text/plain": str(self), "text/html": self._repr_html_()}


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
