"""A comparison as text for terminals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from domyn_swarm.report.comparison.differences import Difference
from domyn_swarm.report.comparison.word_diff import word_diff

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.report.comparison.model import Comparison, Example, Run, Total

LINE_CHARS = 400
INPUT_CHARS = 100
"""Maximum number of characters shown of a value, and of an input."""
SHORT_CHARS = 60
"""Two values that are together no longer than this are shown on one line."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
ABSENT = "(absent)"
NULL = "(null)"


def render_text(comparison: Comparison) -> str:
    """The comparison as text; a single line when only the time differs."""
    c = comparison
    if c.alike:
        return one_line(c)
    sections = [
        [c.headline],
        [f"{side}  {_run(run)}" for side, run in _runs(c)],
        [*_titled("options", c.options)],
        [*_titled("fields of the job", c.fields)],
        [*_titled("input", c.input_changes())],
        [*_titled("nodes", [Difference(node.label, node.a, node.b) for node in c.nodes])],
        [*_steps(c)],
        [*_rows(c)],
        [*_totals(c.totals)],
        *([*_example(c.on, example)] for example in c.examples),
        [*_more(c)],
        c.notes,
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def one_line(comparison: Comparison) -> str:
    """The headline, with the seconds of both runs."""
    times = ", ".join(f"{side} {number(run.seconds)} s" for side, run in _runs(comparison) if run.seconds is not None)
    return f"{comparison.headline.removesuffix('.')}{f' ({times})' if times else ''}."


def _runs(comparison: Comparison) -> tuple[tuple[str, Run], ...]:
    return ("A", comparison.a), ("B", comparison.b)


def run_facts(run: Run) -> list[str]:
    """Facts shown after a run's path."""
    of = f" of {run.total:,}" if run.total is not None and run.total != run.rows else ""
    output = f"output {run.output}" if run.output else ""
    facts = [run.job, run.state, f"{run.rows:,}{of} rows", f"{run.failed:,} failed", run.started, output]
    return [fact for fact in facts if fact]


def _run(run: Run) -> str:
    return line(f"{run.path}: {', '.join(run_facts(run))}")


def _titled(title: str, differences: Sequence[Difference]) -> Iterator[str]:
    if differences:
        yield f"{title} (A -> B)"
        for one in differences:
            yield from _difference(one, ABSENT)


def _steps(c: Comparison) -> Iterator[str]:
    if c.steps:
        yield "steps"
        yield from (f"  {line(one.step)}: {line(one.why)}" for one in c.steps)


def _difference(one: Difference, nothing: str) -> Iterator[str]:
    """On one line if short, else one below the other, reduced to what changed."""
    before, after = (nothing if text is None else text for text in (one.a, one.b))
    shown = f"{line(before)} -> {line(after)}"
    if len(shown) <= SHORT_CHARS:
        yield f"  {line(one.name)}: {shown}"
        return
    yield f"  {line(one.name)}"
    if one.a is not None and one.b is not None:
        before, after = ("".join(piece.text for piece in pieces) for pieces in word_diff(before, after))
    yield f"  - {line(before)}"
    yield f"  + {line(after)}"


def line(text: str, most: int = LINE_CHARS) -> str:
    """`text` on one line, with control characters escaped, cut to `most` characters."""
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), cut)


def _rows(comparison: Comparison) -> Iterator[str]:
    yield f"rows, matched by {line(comparison.on)}"
    for kind, count, columns in comparison.counted():
        yield f"  {kind:<18}{count:>14}  {line(columns)}".rstrip()


def _totals(totals: Sequence[Total]) -> Iterator[str]:
    if totals:
        yield f"{'totals':<20}{'A':>14}{'B':>14}{'B - A':>14}"
        for total in totals:
            more = number(total.difference, signed=True)
            yield f"  {total.label:<18}{number(total.a):>14}{number(total.b):>14}{more:>14}"


def number(value: float | None, *, signed: bool = False) -> str:
    """A figure with a suitable number of digits; `-` if unknown."""
    if value is None:
        return "-"
    sign = "+" if signed and value > 0 else ""
    if value == int(value):
        return f"{sign}{value:,.0f}"
    return f"{sign}{value:,.1f}" if abs(value) >= 10 else f"{sign}{value:,.3g}"


def _example(on: str, example: Example) -> Iterator[str]:
    yield f"{line(on)} {line(example.id)}"
    for name, value in example.input.items():
        yield f"  {line(name)}: {line(NULL if value is None else value, INPUT_CHARS)}"
    if example.failure_a or example.failure_b:
        outputs = {side: _outputs(example, side) for side in "ab"}
        yield f"  - {f'failed: {line(example.failure_a)}' if example.failure_a else outputs['a']}"
        yield f"  + {f'failed: {line(example.failure_b)}' if example.failure_b else outputs['b']}"
        return
    for one in example.columns:
        yield from _difference(one, NULL)


def _more(comparison: Comparison) -> Iterator[str]:
    """How many differing rows are not among the examples."""
    more = comparison.rows.differing - len(comparison.examples)
    if comparison.examples and more:
        yield f"{more:,} more row{' differs' if more == 1 else 's differ'}."


def _outputs(example: Example, side: str) -> str:
    values = {one.name: getattr(one, side) for one in example.columns}
    return ", ".join(f"{line(name)}: {line(NULL if value is None else value)}" for name, value in values.items())
