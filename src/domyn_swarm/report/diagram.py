"""Diagrams of a graph: DOT and Mermaid as text, SVG and PNG through Graphviz, an HTML page, notebook output.

An SVG has its own light background, so that it looks the same on light and dark pages.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from domyn_swarm.errors import MissingDependencyError
from domyn_swarm.report.graphviz import draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from domyn_swarm.report.model import Figures, Graph, Node

WIDTH_INCHES = 12.5
"""Maximum width of a diagram: 1,200 pixels."""
LINE_CHARS = 44
"""Maximum length of a line in a box; the tooltip has the full text."""
INPUT_CHARS = 40
SHARED = 4
"""Edges of nodes with at least this many dependents are drawn faint."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot represent, and terminal control characters."""
_FONT = "Helvetica"  # its metrics are available wherever the diagram is drawn
_INK, _FAINT, _CARD = "#1f2933", "#52606d", "#ffffff"
_RED, _BROWN, _PURPLE = "#b91c1c", "#7c2d12", "#6d28d9"
_LOOKS = {
    "type": f'<font point-size="10" color="{_FAINT}">{{}}</font>',
    "overridden": f'<font point-size="10" color="{_PURPLE}"><b>{{}}</b></font>',
    "effects": f'<font point-size="10" color="{_BROWN}"><b>{{}}</b></font>',
    "figures": f'<font point-size="10" color="{_INK}">{{}}</font>',
    "error": f'<font point-size="10" color="{_RED}"><b>{{}}</b></font>',
}
_FILL = {"": "#eef2f6", "running": "#dbeafe", "done": "#dcf3e4", "failed": "#fbdcdc", "stopped": "#fdf0cf"}
_BORDER = {"": "#8894a0", "running": "#1d4ed8", "done": "#15803d", "failed": _RED, "stopped": "#a16207"}


def dot_of(graph: Graph, figures: Mapping[str, Figures] | None = None) -> str:
    """The diagram in the DOT language; `figures` add what each node did in a run."""
    nodes = _drawn(graph)
    title = _quoted(graph.title)
    lines = [
        f'digraph "{title}" {{',
        f'  graph [rankdir=TB, size="{WIDTH_INCHES},100", bgcolor="{_CARD}", pad=0.2, nodesep=0.22, ranksep=0.34,',
        f'         fontname="{_FONT}", labelloc=t, tooltip="{title}", label={_title(graph)}];',
        f'  node [shape=box, style="rounded,filled", margin="0.11,0.06", fontname="{_FONT}", fontsize=12,',
        f'        fontcolor="{_INK}"];',
        '  edge [arrowsize=0.6, tooltip=" "];',
        *(f"  {_dot_node(node, (figures or {}).get(node.name))}" for node in nodes),
        *(f"  {edge}" for edge in _dot_edges(nodes)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def mermaid_of(graph: Graph, figures: Mapping[str, Figures] | None = None) -> str:
    """The diagram as a Mermaid flowchart, which GitHub, GitLab and notebooks render."""
    nodes = _drawn(graph)
    failed = [node for node in nodes if figures and node.name in figures and figures[node.name].state == "failed"]
    lines = ["flowchart TB", f"  %% {_entities(' / '.join([graph.title, *filter(None, [_choices(graph)])]))}"]
    for node in nodes:
        text = "<br/>".join(map(_entities, _lines(node, (figures or {}).get(node.name)).values()))
        opening, closing = ("([", "])") if node.kind == "input" else ("[", "]")
        lines.append(f'  {_identifier(node.name)}{opening}"{text}"{closing}{":::input" * (node.kind == "input")}')
    names = {node.name for node in nodes}
    lines += [
        f"  {_identifier(name)} --> {_identifier(node.name)}" for node in nodes for name in node.inputs if name in names
    ]
    lines += [
        f"  style {_identifier(node.name)} stroke:{_PURPLE},stroke-width:2px,stroke-dasharray:5 3"
        for node in nodes
        if node.overridden and node not in failed
    ]
    lines.append("  classDef input fill:#f6f8fa,stroke:#c3cad2,color:#52606d,font-size:12px")
    lines += [f"  style {_identifier(node.name)} fill:{_FILL['failed']},stroke:{_RED},color:{_INK}" for node in failed]
    return "\n".join(lines) + "\n"


def svg_or_mermaid(graph: Graph, figures: Mapping[str, Figures] | None = None) -> dict[str, str]:
    """The bundle for `_repr_mimebundle_`: Mermaid text, and an SVG if Graphviz is available."""
    text = mermaid_of(graph, figures)
    bundle = {"text/plain": text, "text/vnd.mermaid": text}
    try:
        return {**bundle, "image/svg+xml": draw(dot_of(graph, figures), "svg").decode()}
    except MissingDependencyError:
        return bundle


def page_of(graph: Graph, picture: str | None) -> str:
    """A self-contained page without a script: the SVG, if there is one, and a description of each node."""
    drawn = f'<div class="picture">{picture}</div>' if picture else ""
    config = "".join(f"<dt>{_escaped(n.name)}</dt><dd>{_escaped(n.value)}</dd>" for n in _of(graph, "config"))
    inputs = "".join(
        f"<dt>{_escaped(n.name)}</dt><dd>{_escaped(n.value) or '<i>provided by the run</i>'}</dd>"
        for n in _of(graph, "input")
    )
    return _PAGE.format(
        title=_escaped(graph.title),
        picture=drawn,
        config=config,
        inputs=f"<h2>Inputs</h2><dl>{inputs}</dl>" if inputs else "",
        cards="\n".join(map(_card, _of(graph, "node", "step"))),
    )


def _drawn(graph: Graph) -> list[Node]:
    """The nodes that are drawn as boxes; configuration is shown below the title."""
    return [node for node in graph.nodes if node.kind != "config"]


def _of(graph: Graph, *kinds: str) -> list[Node]:
    return [node for node in graph.nodes if node.kind in kinds]


def _choices(graph: Graph) -> str:
    return " · ".join(f"{node.name}: {node.value}" for node in _of(graph, "config"))


def _title(graph: Graph) -> str:
    rows = [f'<tr><td><font point-size="17" color="{_INK}"><b>{_label(_short(graph.title, 90))}</b></font></td></tr>']
    if choices := _choices(graph):
        rows.append(f'<tr><td><font point-size="11" color="{_FAINT}">{_label(_short(choices, 120))}</font></td></tr>')
    return f'<<table border="0" cellborder="0" cellspacing="2" cellpadding="1">{"".join(rows)}</table>>'


def _lines(node: Node, figures: Figures | None) -> dict[str, str]:
    """The lines of a node's box by kind, the name first."""
    if node.kind == "input":
        return {"input": _short(f"{node.name} = {node.value}" if node.value else node.name, INPUT_CHARS)}
    lines = {
        "name": f"{node.name} {node.variant}".strip(),
        "type": _short(node.type),
        "overridden": _short(f"overridden: {node.value or f'a {node.overridden}'}") if node.overridden else "",
        "effects": " · ".join(node.effects),
        "figures": _figures_line(figures, of_step=node.kind == "step") if figures else "",
        "error": _short(figures.error) if figures else "",
    }
    return {what: text for what, text in lines.items() if text}


def _figures_line(figures: Figures, *, of_step: bool) -> str:
    """`done, 1,000 rows, 2.4 s`; of a step `20 calls, 1,200 tokens in, 2.4 s`."""
    parts: list[str] = [figures.note] if of_step and figures.note else [figures.state]
    if figures.rows is not None:
        parts.append(f"{figures.rows:,} rows")
    if figures.state != "waiting":
        parts.append(f"{figures.seconds:,.1f} s")
    parts += [f"{lost.rows:,} {lost.why}" for lost in figures.lost] if of_step else []
    return ", ".join(parts)


def _dot_node(node: Node, figures: Figures | None) -> str:
    state = figures.state if figures else ""
    classes = " ".join(filter(None, [node.kind, state, "overridden" if node.overridden else ""]))
    about = f'id="node-{_quoted(node.name)}", class="{classes}", tooltip="{_tooltip(node, figures)}"'
    look = f'fillcolor="{_FILL.get(state, _FILL[""])}", color="{_BORDER.get(state, _BORDER[""])}"'
    lines = _lines(node, figures)
    label = f"<{_box(node, lines)}>"
    if node.kind == "input":
        look = 'fillcolor="#f6f8fa", color="#d5dbe1", margin="0.1,0.02", height=0.2'
        label = f'"{_label(lines["input"])}", fontsize=10, fontcolor="{_FAINT}"'
    if node.overridden:
        look += f', style="rounded,filled,dashed", color="{_PURPLE}", penwidth=2'
    if state in ("failed", "running"):
        look += ", penwidth=2.2"
    return f'"{_quoted(node.name)}" [label={label}, {about}, {look}{_least_width(lines)}];'


def _box(node: Node, lines: Mapping[str, str]) -> str:
    """`lines` as an HTML-like label."""
    variant = f' <font color="{_FAINT}">{_label(node.variant)}</font>' if node.variant else ""
    shown = {what: _LOOKS[what].format(_label(text)) for what, text in lines.items() if what in _LOOKS}
    return "<br/>".join([f"<b>{_label(node.name)}</b>{variant}", *shown.values()])


def _least_width(lines: Mapping[str, str]) -> str:
    """A minimum width for characters that Graphviz without their font would take for narrow ones."""
    texts = [line.replace("…", "...").replace("·", "-") for line in lines.values()]
    if all(map(str.isascii, texts)):
        return ""
    widths = [sum(1.05 if unicodedata.east_asian_width(char) in "WF" else 0.6 for char in text) for text in texts]
    return f", width={(max(widths) * 10 + 20) / 72:.2f}"


def _dot_edges(nodes: Sequence[Node]) -> Iterator[str]:
    kinds = {node.name: node.kind for node in nodes}
    users = Counter(name for node in nodes for name in node.inputs)
    for node in nodes:
        for name in node.inputs:
            if name not in kinds:
                continue
            look = 'color="#4b5966", penwidth=1.5, weight=4'
            if kinds[name] == "input":
                look = 'style=dashed, color="#b6bfc8", arrowsize=0.4'
            elif users[name] >= SHARED:
                look = 'color="#a9b4be"'
            yield f'"{_quoted(name)}" -> "{_quoted(node.name)}" [{look}];'


def _tooltip(node: Node, figures: Figures | None) -> str:
    details = [node.type, node.value, node.doc, node.where, figures.error if figures else ""]
    return _quoted("\n".join([node.name, *filter(None, details)]))


def _short(text: str, most: int = LINE_CHARS) -> str:
    """`text` as one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _escaped(text: str) -> str:
    """`text` escaped for XML, HTML and Graphviz's HTML-like labels."""
    return html.escape(_plain(text))


def _label(text: str) -> str:
    """`text` for a label, where a backslash starts an escape sequence."""
    return _escaped(text).replace("\\", r"\\")


def _quoted(text: str) -> str:
    """`text` for a DOT string. Graphviz interprets escape sequences in tooltips twice."""
    return _escaped(text).replace("\\", r"\\\\").replace("\r", "").replace("\n", "&#10;")


def _entities(text: str) -> str:
    """`text` for a Mermaid label, with special characters as numeric entities."""
    return re.sub(r"[^\w .,:/()\[\]=+·…-]", lambda found: f"#{ord(found[0])};", _plain(text))


def _identifier(name: str) -> str:
    """A name that is not a Mermaid keyword."""
    return "n_" + re.sub(r"\W", "_", name)


def _card(node: Node) -> str:
    variant = f" <small>{_escaped(node.variant)}</small>" if node.variant else ""
    kind = f"<code>{_escaped(node.type)}</code>" if node.type else ""
    marks = "".join(f" <b class=mark>{_escaped(effect)}</b>" for effect in node.effects)
    made = ", ".join(map(_escaped, node.inputs)) or "nothing"
    marks += f" <b class=mark>overridden by a {node.overridden}</b>" if node.overridden else ""
    doc = f"<p>{_escaped(node.value)}</p>" if node.value else ""
    doc += "".join(f"<p>{_escaped(line)}</p>" for line in node.doc.split("\n") if line)
    return (
        f"<li><h3>{_escaped(node.name)}{variant}</h3>{kind}{marks}{doc}"
        f"<p class=from>from {made}</p><p class=from>{_escaped(node.where)}</p></li>"
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1f2933; --faint: #52606d; --page: #f4f6f8; --card: #fff; --line: #d5dbe1;
  --mark: #7c2d12 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6eaee; --faint: #a3afba; --page: #14181c; --card: #1e242a;
  --line: #38424c; --mark: #fdba74 }} }}
body {{ margin: 0 auto; padding: 1.5rem; max-width: 1200px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }}
h1 {{ font-size: 1.4rem; margin: 0 0 .5rem }} h2 {{ font-size: 1.1rem }} h3 {{ font-size: 1rem; margin: 0 }}
small, .from, dt {{ color: var(--faint); font-weight: normal }}
.picture {{ background: #fff; border-radius: 8px; overflow-x: auto; text-align: center }}
.picture svg {{ max-width: 100%; height: auto }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 }} dd {{ margin: 0 }}
ol {{ list-style: none; padding: 0; max-width: 46rem }}
li {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .9rem;
  margin-bottom: .6rem }}
p {{ margin: .2rem 0 }} .mark {{ color: var(--mark); font-size: .85rem; border: 1px solid; border-radius: 4px;
  padding: 0 .3rem; margin-left: .4rem }}
</style>
</head>
<body>
<h1>{title}</h1>
{picture}
<h2>What chose among the variants</h2>
<dl>{config}</dl>
{inputs}
<h2>The nodes, in data order</h2>
<ol>
{cards}
</ol>
</body>
</html>
"""
