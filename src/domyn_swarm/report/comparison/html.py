"""A comparison as HTML: a fragment for notebooks, or a page. It has no script and loads nothing."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from domyn_swarm.report.comparison.differences import Difference
from domyn_swarm.report.comparison.text import ABSENT, NULL, number, one_line, run_facts
from domyn_swarm.report.comparison.word_diff import GAP, word_diff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from domyn_swarm.report.comparison.model import Comparison, Example, Run
    from domyn_swarm.report.comparison.word_diff import Piece

PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 2rem; background: light-dark(#ffffff, #1a1e22); }
body .domyn-compare .scroll { max-height: 85vh; }
"""
CELL_CHARS = 4000
"""Maximum number of characters shown of a value."""


def page(comparison: Comparison) -> str:
    """The comparison as a standalone page."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(comparison.headline)}</title>\n"
        f"<style>{PAGE_STYLE}</style>\n"
        f"<body>\n<main>\n{fragment(comparison)}</main>\n"
    )


def fragment(comparison: Comparison) -> str:
    """The comparison for a notebook cell; a single line when only the time differs."""
    style = files("domyn_swarm.report").joinpath("assets", "compare.css").read_text(encoding="utf-8")
    shown = f"<p>{escape(one_line(comparison))}</p>\n" if comparison.alike else "".join(_sections(comparison))
    return f'<div class="domyn-compare">\n<style>\n{style}</style>\n{shown}</div>\n'


def _sections(comparison: Comparison) -> Iterator[str]:
    c = comparison
    yield f'<p class="headline">{escape(c.headline)}</p>\n'
    yield f"<p>{_run('A', c.a)}<br>\n{_run('B', c.b)}</p>\n"
    yield _changes("Options", c.options)
    yield _changes("Fields of the job", c.fields)
    yield _changes("Input", c.input_changes())
    yield _changes("Nodes", [Difference(node.label, node.a, node.b) for node in c.nodes])
    yield _figures("Steps", ("", "difference"), [(one.step, one.why) for one in c.steps])
    totals = [(t.label, number(t.a), number(t.b), number(t.difference, signed=True)) for t in c.totals]
    rows = _figures(f"Rows, matched by {c.on}", ("", "rows", ""), c.counted())
    yield f'<div class="beside">\n{rows}{_figures("Totals", ("", "A", "B", "B - A"), totals)}</div>\n'
    yield _examples(c)
    yield "".join(f"<p>{escape(note)}</p>\n" for note in c.notes)


def _run(side: str, run: Run) -> str:
    return f"<b>{side}</b> {escape(run.path)}: {escape(', '.join(run_facts(run)))}"


def _changes(title: str, differences: Sequence[Difference]) -> str:
    """A table of differences, with changed words marked."""
    if not differences:
        return ""
    rows = (
        f'<tr><th scope="row">{escape(one.name)}</th><td>{a}</td><td>{b}</td></tr>\n'
        for one in differences
        for a, b in [_cells(one, ABSENT)]
    )
    return _table(title, ("", "A", "B"), rows)


def _figures(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = (
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>\n'
        for name, *cells in rows
    )
    return _table(title, head, lines, "figures")


def _table(title: str, head: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in head)
    kind = f' class="{kind}"' if kind else ""
    caption = f"<caption>{escape(title)}</caption>\n" if title else ""
    return f"<table{kind}>\n{caption}<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n"


def _examples(comparison: Comparison) -> str:
    """The differing rows, in a scrollable box."""
    examples = comparison.examples
    if not examples:
        return ""
    inputs = list(dict.fromkeys(name for example in examples for name in example.input))
    rows = (line for example in examples for line in _example(example, inputs))
    table = _table("", (comparison.on, *inputs, "column", "A", "B"), rows)
    total = comparison.rows.differing
    title = f"Rows that differ{f', the first {len(examples):,}' if total > len(examples) else ''}"
    return (
        f'<p><b>{title}</b></p>\n<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n{table}</div>\n'
    )


def _example(example: Example, inputs: Sequence[str]) -> Iterator[str]:
    """One line per column; cells about the whole row span them."""
    span = f' rowspan="{len(example.columns)}"' if len(example.columns) > 1 else ""
    whole = [f'<th scope="row"{span}>{escape(example.id)}</th>']
    whole += [f"<td{span}>{_plain(example.input.get(name))}</td>" for name in inputs]
    failures = (example.failure_a, example.failure_b)
    failed = [f'<td{span}><span class="failed">failed: {escape(text)}</span></td>' for text in failures]
    for number_, one in enumerate(example.columns):
        if any(failures):
            values: tuple[str, str] = _plain(one.a), _plain(one.b)
        else:
            values = _cells(one, NULL)
        cells = [
            (failed[side] if not number_ else "") if failures[side] else f"<td>{values[side]}</td>" for side in (0, 1)
        ]
        yield f"<tr>{''.join(whole) if not number_ else ''}<td>{escape(one.name)}</td>{''.join(cells)}</tr>\n"


def _plain(value: str | None) -> str:
    return _nothing(NULL) if value is None else escape(_cut(value))


def _nothing(what: str) -> str:
    return f'<span class="nothing">{escape(what)}</span>'


def _cells(difference: Difference, nothing: str) -> tuple[str, str]:
    """Both values, with changed words marked."""
    if difference.a is None or difference.b is None:
        a, b = (_nothing(nothing) if text is None else escape(_cut(text)) for text in (difference.a, difference.b))
        return a, b
    old, new = word_diff(difference.a, difference.b)
    return _marked(old, "del"), _marked(new, "ins")


def _marked(pieces: Sequence[Piece], tag: str) -> str:
    left = CELL_CHARS
    shown = []
    for piece in pieces:
        text = escape(piece.text if len(piece.text) <= left else f"{piece.text[:left]}{GAP}")
        shown.append(f"<{tag}>{text}</{tag}>" if piece.changed else text)
        left -= len(piece.text)
        if left <= 0:
            break
    return "".join(shown)


def _cut(text: str) -> str:
    return text if len(text) <= CELL_CHARS else f"{text[:CELL_CHARS]}{GAP}"
