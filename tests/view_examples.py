"""Reports of runs as they happen, made by hand: what pages and pictures are tested with."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from domyn_dags import job as dag
from domyn_swarm.report.model import (
    Broken,
    Effect,
    Example,
    FailureKind,
    Figures,
    Graph,
    Lost,
    Node,
    Option,
    Report,
    Timeline,
)

ITEMS = (
    "backend", "files", "source", "schema", "columns", "store", "identified__given", "limited", "row_count",
    "found__resumed", "recovered__resumed", "done", "pending", "pending_count", "record", "as_pandas", "batches__items",
    "transformed", "flushed__driver", "compacted", "finalized",
)  # fmt: skip
NATIVE_ON_RAY = (
    "backend", "files", "source", "schema", "columns", "store", "identified__generated", "limited", "row_count",
    "found__anew", "recovered__anew", "done", "pending", "pending_count", "record", "worker_job", "flushed__workers",
    "compacted", "finalized",
)  # fmt: skip
EFFECTS: dict[str, list[Effect]] = {
    "source": ["reads input"], "files": ["reads input"], "transformed": ["calls job"], "flushed": ["writes parts"],
    "finalized": ["writes output"],
}  # fmt: skip
NASTY = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"double\" 'single' `back` &amp; & ${x} {{y}} %s $policy \\ \u2028",
    "naïve 東京 🙂 \u202eabc\u202c e\u0301",
    "long" * 500,
]
TRACE = """Traceback (most recent call last):
  File "/home/ann/jobs/clean.py", line 41, in transform
    return self.parse(reply)
  File "/home/ann/jobs/clean.py", line 58, in parse
    return json.loads(reply)["answer"]
KeyError: 'answer'"""


def graph(title: str, functions: tuple[str, ...], config: dict[str, str]) -> Graph:
    """The job's graph of these functions, as a run tells of it: what they are given and their config among it."""
    computed = [_node(name) for name in functions]
    made = {node.name for node in computed}
    given = dict.fromkeys(name for node in computed for name in node.inputs if name not in made)
    values = {"input": "in.parquet", "spec": "JobSpec", "job": "ChatCompletionJob", "read_batch_size": "1024"}
    inputs = [Node(name, "input", type="Any", value=values.get(name, "None")) for name in given]
    return Graph(title, [*inputs, *(Node(name, "config", value=value) for name, value in config.items()), *computed])


def _node(function_name: str) -> Node:
    function: Any = getattr(dag, function_name)
    name, _, variant = function_name.partition("__")
    signature = inspect.signature(function)
    line = inspect.getsourcelines(function)[1]
    return Node(
        name,
        type=re.sub(r"<class '|'>|\w+\.", "", str(signature.return_annotation)),
        variant=variant,
        doc=inspect.getdoc(function) or "",
        where=f"domyn_dags/job.py:{line}",
        inputs=list(signature.parameters),
        effects=EFFECTS.get(name, []),
    )


def finished() -> Report:
    """A chat job on pandas that went through, with some rows done before and some failed."""
    given = {"ids": "given", "mode": "items", "where": "driver", "checkpoints": "resumed"}
    return Report(
        path="out/reviews.checkpoints/reviews",
        job="domyn_swarm.jobs:ChatCompletionJob",
        state="done",
        number=3,
        started="2026-11-25T10:43:33.482911+00:00",
        ended="2026-11-25T10:50:40.101+00:00",
        as_of="2026-11-25T10:50:40.101+00:00",
        seconds=426.62,
        host="worker-7",
        graph=graph("ChatCompletionJob over in.parquet on pandas, items", ITEMS, given),
        figures=_figures(),
        total=120_000,
        done_before=30_000,
        rows=90_000,
        failed=1_234,
        failures=_failures(),
        timeline=_timeline(),
        traffic={"requests": 92_310, "retries": 2_310, "prompt_tokens": 40_112_345, "completion_tokens": 9_876_543},
        parts=42,
        parts_bytes=182_400_000,
        output="out/reviews.parquet",
        errors_path="out/reviews.errors.parquet",
        options=_options(),
        versions={"domyn-swarm": "0.1.0", "python": "3.11.9", "pandas": "2.3.1", "pyarrow": "21.0.0"},
        warnings=["12 rows have an empty text."],
    )


def broken() -> Report:
    """The user's code raised what ends a run, in the middle of it."""
    report = _cut_short("failed")
    report.figures["transformed"].state = "failed"
    report.figures["transformed"].error = "JobError: the model 'tiny' is not served at http://gpu-3:8000/v1"
    message = "the model 'tiny' is not served at http://gpu-3:8000/v1"
    hint = "Served there: llama-3-8b, llama-3-70b. Give one with --model."
    report.broken = Broken("domyn_swarm.errors.JobError", message, hint, "transformed", TRACE)
    return report


def interrupted() -> Report:
    """Ctrl+C, with a command to go on."""
    return _cut_short("interrupted")


def running() -> Report:
    """A run in its middle."""
    report = _cut_short("running")
    report.ended = None
    report.resume = ""
    report.figures["transformed"].state = report.figures["flushed"].state = "running"
    return report


def on_ray() -> Report:
    """Native batches in Ray's workers: the graph is another one, and a run that only got to its plan's end is short."""
    report = finished()
    config = {"ids": "generated", "mode": "native", "where": "workers", "checkpoints": "anew"}
    report.graph = graph("clean.py:Clean over s3://data/in on ray, native batches in workers", NATIVE_ON_RAY, config)
    report.job = "clean.py:Clean"
    report.figures = {name: it for name, it in report.figures.items() if name not in {"as_pandas", "batches"}}
    report.timeline.p50 = [None] * len(report.timeline.p50)
    report.timeline.p95 = [None] * len(report.timeline.p95)
    report.timeline.tokens = [0] * len(report.timeline.tokens)
    report.failures, report.failed, report.traffic = [], 0, {}
    return report


def empty() -> Report:
    """A run that has only begun: hardly anything is known."""
    return Report(
        path="run", job="jobs.py:Upper", state="running", number=1, started="2026-11-25T10:43:33+00:00", ended=None,
        as_of="2026-11-25T10:43:33+00:00", seconds=0.0, host="here", graph=Graph("Upper", []), figures={}, total=0,
        done_before=0, rows=0, failed=0,
    )  # fmt: skip


def nasty(text: str) -> Report:
    """`text` wherever a report has text that comes from users, servers and data."""
    report = broken()
    report.path = report.job = report.host = report.output = report.errors_path = report.resume = text
    report.graph.title = text
    report.warnings, report.damaged = [text], [text]
    report.options.append(Option(text, text, is_default=False))
    report.versions[text] = text
    report.traffic[text] = text
    report.broken = Broken(text, text, text, "transformed", text)
    report.failures = [FailureKind(text, text, 3, [Example(text, text, 2, text)])]
    it = report.figures["transformed"]
    it.note = it.error = text
    it.lost, it.schema, it.sample = [Lost(3, text)], {text: text}, [{text: text}]
    for node in report.graph.nodes:
        node.doc = node.type = node.variant = node.where = node.value = text
    return report


def picture(report: Report) -> str:
    """The graph as Graphviz writes it, in its colours for paper, with the positions of a list."""
    nodes = [node for node in report.graph.nodes if node.kind == "node"]
    at = {node.name: 40 + 60 * index for index, node in enumerate(nodes)}
    edges = [(one, node.name) for node in nodes for one in node.inputs if one in at]
    height = 60 * len(nodes) + 20
    drawn = [_drawn_edge(one, other, at[one], at[other]) for one, other in edges]
    drawn += [_drawn_node(name, y, report.figures.get(name, Figures()).state) for name, y in at.items()]
    return f"""<svg width="300pt" height="{height}pt"
 viewBox="0.00 0.00 300.00 {height}.00" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">
<g id="graph0" class="graph" transform="scale(1 1) rotate(0) translate(4 4)"><title>job</title>
<g id="a_graph0"><a xlink:title="job"><polygon fill="#ffffff" stroke="none" points="-4,-4 -4,{height} 296,{height}"/>
<text text-anchor="start" x="90" y="12" font-family="Helvetica" font-size="11.00" fill="#1f2933">job</text></a></g>
{"".join(drawn)}</g></svg>"""


def _drawn_node(name: str, y: int, state: str) -> str:
    texts = [("#1f2933", escape(name)), ("#52606d", "Frame"), ("#7c2d12", "writes parts"), ("#b91c1c", "Error: no")]
    lines = "".join(
        f"""<text text-anchor="start" x="95" y="{y - 9 + 8 * at}" font-size="8.00" fill="{fill}">{text}</text>"""
        for at, (fill, text) in enumerate(texts)
    )
    return f"""<g id="node&#45;{name}" class="node {state}"><title>{escape(name)}</title>
<g id="a_node&#45;{name}"><a xlink:title="{escape(name)}">
<path fill="#dcf3e4" stroke="#15803d" d="M210,{y - 18} H90 V{y + 18} H210 Z"/>{lines}</a></g></g>"""


def _drawn_edge(one: str, other: str, y: int, to: int) -> str:
    return f"""<g class="edge"><title>{one}&#45;&gt;{other}</title><g><a xlink:title=" ">
<path fill="none" stroke="#b6bfc8" d="M150,{y + 18}C240,{y + 40} 240,{to - 40} 150,{to - 18}"/></a></g></g>"""


def _cut_short(state: Any) -> Report:
    report = finished()
    report.state = state
    report.done_before, report.rows, report.failed = 0, 61_500, 800
    report.resume = "domyn-swarm job submit domyn_swarm.jobs:ChatCompletionJob --input in.parquet --output out.parquet"
    report.output = report.errors_path = ""
    report.figures["transformed"].state = "stopped"
    report.figures["flushed"].state = "stopped"
    report.figures["finalized"] = Figures()
    return report


def _figures() -> dict[str, Figures]:
    names = [name.partition("__")[0] for name in ITEMS]
    figures = {name: Figures("done", seconds=0.004 * (index + 1)) for index, name in enumerate(names)}
    rows = {"source": (None, 120_000), "identified": (120_000, 120_000), "limited": (120_000, 120_000)}
    rows |= {"pending": (120_000, 90_000), "as_pandas": (90_000, 90_000), "batches": (90_000, 90_000)}
    rows |= {"transformed": (90_000, 90_000), "flushed": (90_000, 90_000), "finalized": (120_000, 120_000)}
    for name, (came, left) in rows.items():
        figures[name].rows_in, figures[name].rows = came, left
    figures["pending"].lost = [Lost(30_000, "finished by earlier runs")]
    figures["files"].note = "3 files, 48.1 MB"
    job = figures["transformed"]
    job.seconds, job.batches, job.bytes, job.memory = 419.3, 88, 71_303_168, 412_000_000
    job.schema = {"__position__": "int64", "review_id": "string", "output": "string", "__failure__": "string"}
    job.sample = [
        {"__position__": str(at), "review_id": f"r-{at:05}", "output": f"The reviewer is {word} with the product."}
        for at, word in enumerate(["content", "unhappy", "delighted", "at odds"])
    ]
    figures["flushed"].seconds, figures["flushed"].memory = 4.81, 420_000_000
    figures["finalized"].seconds = 2.2
    return figures


def _failures() -> list[FailureKind]:
    key = Example("r-00017", "'answer' is not in the reply", 1, TRACE)
    slow = [Example(f"r-{at:05}", f"No answer in 60 s (try {at % 5 + 1})", 5) for at in (301, 4_411, 9_200)]
    return [
        FailureKind("TimeoutError", "No answer in N s (try N)", 1_000, slow),
        FailureKind("KeyError", "'answer' is not in the reply", 233, [key]),
        FailureKind(
            "ValueError", "temperature must be at most 2", 1, [Example("r-1", "temperature must be at most 2", 1)]
        ),
    ]


def _timeline() -> Timeline:
    points = range(1, 86)
    return Timeline(
        seconds=[5.0 * at for at in points],
        rows=[0 if at < 3 else 1_100 - 9 * (at % 13) for at in points],
        failed=[15 if at % 20 < 4 else 1 for at in points],
        requests=[1_150 for _ in points],
        tokens=[110_000 + 4_000 * (at % 7) for at in points],
        p50=[None if at < 3 else 0.42 + 0.02 * (at % 6) for at in points],
        p95=[None if at < 3 else 1.1 + 0.13 * (at % 9) for at in points],
        in_flight=[min(256, 16 * at) for at in points],
        memory=[210_000_000 + 2_400_000 * at for at in points],
    )


def _options() -> list[Option]:
    given = {"--input": "in.parquet", "--output": "out/reviews.parquet", "--job-arg": 'prompt="Is it good? {text}"'}
    defaults = {"--limit": "None", "--checkpoint-interval": "30.0", "--read-batch-size": "1024", "--mode": "items"}
    return [Option(*it, is_default=False) for it in given.items()] + [
        Option(*it, is_default=True) for it in defaults.items()
    ]


def save(page: str, path: str | Path) -> str:
    """Write a page; its address."""
    file = Path(path)
    file.write_text(page, encoding="utf-8")
    return file.absolute().as_uri()
