"""What a run tells of itself, as plain data: pictures, reports and pages are made from these and nothing else."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from domyn_swarm.checkpoint.records import check_moment
from domyn_swarm.checkpoint.run_record import RunState  # noqa: TC001 - msgspec evaluates the annotations

NodeState = Literal["waiting", "running", "done", "failed", "stopped"]
Effect = Literal["reads input", "calls job", "writes parts", "writes output"]


class Node(msgspec.Struct):
    """A node of the graph, or one of its inputs.

    `name` is what it makes, `variant` the one that config chose (`generated` of `identified__generated`). `kind` tells
    whether it is computed, given from outside (the job, an option), or config that only chose variants. `inputs` are
    the names of the nodes that it is made from, `where` is its function's place (`domyn_dags/job.py:57`). `value` is
    what an input, a config entry or a node that somebody replaced by a value is, as text. `overridden` says by what it
    was replaced, if it was.
    """

    name: str
    kind: Literal["node", "input", "config"] = "node"
    type: str = ""
    variant: str = ""
    doc: str = ""
    where: str = ""
    inputs: list[str] = []
    effects: list[Effect] = []
    value: str = ""
    overridden: Literal["", "value", "function"] = ""


class Graph(msgspec.Struct):
    """Nodes in data order. `title` says what it is the graph of: the job, the engine, the mode."""

    title: str
    nodes: list[Node]


class Lost(msgspec.Struct):
    """Rows that came into a node and did not leave it."""

    rows: int
    why: str


class Figures(msgspec.Struct):
    """How a node went in one run.

    `rows_in` and `rows` count rows that came and that left, None where a node passes none on or cannot tell. `seconds`
    is its own time, without the nodes that it pulls from; `memory` the highest resident memory, in bytes, of a process
    while it was at work. `schema` and `sample` (values as text) show what it passed on.
    """

    state: NodeState = "waiting"
    rows_in: int | None = None
    rows: int | None = None
    batches: int | None = None
    bytes: int | None = None
    seconds: float = 0.0
    memory: int | None = None
    lost: list[Lost] = []
    note: str = ""
    error: str = ""
    schema: dict[str, str] = {}
    sample: list[dict[str, str]] = []


class Example(msgspec.Struct):
    """One row that failed: its id as text, what was said, how often it was tried, where in the code."""

    id: str
    message: str
    attempts: int
    trace: str = ""


class FailureKind(msgspec.Struct):
    """Rows that failed alike: the error's type, where in the code or its message without numbers, a few examples."""

    type: str
    message: str
    count: int
    examples: list[Example] = []


class Broken(msgspec.Struct):
    """What ended a run: `node` is where, `hint` how to go on."""

    type: str
    message: str
    hint: str = ""
    node: str | None = None
    traceback: str = ""


class Timeline(msgspec.Struct):
    """The run over time: lists of equal length. Each entry is about the time since the one before it.

    `seconds` since the start; `rows`, `failed`, `requests`, `tokens` count what came in that time; `p50`, `p95` are
    latencies of answers in seconds (None: there was none); `in_flight` and `memory` (bytes) are what they were last.
    """

    seconds: list[float] = []
    rows: list[int] = []
    failed: list[int] = []
    requests: list[int] = []
    tokens: list[int] = []
    p50: list[float | None] = []
    p95: list[float | None] = []
    in_flight: list[int] = []
    memory: list[int] = []


class Option(msgspec.Struct):
    """An option of the run: its flag, its value as text, whether that is the default."""

    flag: str
    value: str
    is_default: bool


class Report(msgspec.Struct):
    """Everything that the report of a run shows.

    `state` is running, done, failed, interrupted, or lost: its process is gone without a word. `as_of` is when the
    figures were taken. `total` rows are in the input (after the limit), `done_before` of them from earlier runs, `rows`
    finished in this one, `failed` of those without an output. `resume` is the command that goes on with the run, empty
    when there is nothing to go on with.
    """

    path: str
    job: str
    state: RunState
    number: int
    started: str
    ended: str | None
    as_of: str
    seconds: float
    host: str
    graph: Graph
    figures: dict[str, Figures]
    total: int
    done_before: int
    rows: int
    failed: int
    broken: Broken | None = None
    failures: list[FailureKind] = []
    timeline: Timeline = msgspec.field(default_factory=Timeline)
    traffic: dict[str, Any] = {}
    parts: int = 0
    parts_bytes: int = 0
    damaged: list[str] = []
    output: str = ""
    errors_path: str = ""
    options: list[Option] = []
    versions: dict[str, str] = {}
    warnings: list[str] = []
    resume: str = ""

    def __post_init__(self) -> None:
        for moment in filter(None, (self.started, self.as_of, self.ended)):
            check_moment(moment)
