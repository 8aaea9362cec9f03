"""The schema of run.json. Diagrams, reports and pages are rendered only from these types."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from domyn_swarm.checkpoint.records import check_moment
from domyn_swarm.checkpoint.run_record import RunState  # noqa: TC001 - msgspec evaluates the annotations
from domyn_swarm.serving.states import ServerState  # noqa: TC001 - msgspec evaluates the annotations

NodeState = Literal["waiting", "running", "done", "failed", "stopped"]
Effect = Literal["reads input", "calls job", "calls model", "writes record", "writes parts", "writes output"]


class Node(msgspec.Struct):
    """A node of the graph, or one of its inputs.

    Attributes:
        name: The node's name.
        kind: Whether it is computed, a step of the job, an input (the job, an option), or configuration that selects
            variants.
        variant: The selected variant (`generated` of `identified__generated`).
        where: The location of its function (`domyn_dags/job.py:57`).
        inputs: The names of the nodes that it depends on.
        phase: When it is computed: `plan`, `recover`, `stream` or `output`. Empty in records of earlier versions.
        rows: Whether `input` rows or `output` rows pass through it, if any do.
        value: The value of an input, a configuration entry, or a node overridden by a value, as text.
        overridden: What the node was overridden by, if it was.
    """

    name: str
    kind: Literal["node", "step", "input", "config"] = "node"
    type: str = ""
    variant: str = ""
    doc: str = ""
    where: str = ""
    inputs: list[str] = []
    phase: str = ""
    rows: str = ""
    effects: list[Effect] = []
    value: str = ""
    overridden: Literal["", "value", "function"] = ""


class Graph(msgspec.Struct):
    """Nodes in data order. `title` names the job, the engine and the mode."""

    title: str
    nodes: list[Node]


class Lost(msgspec.Struct):
    """Rows that entered a node and did not leave it."""

    rows: int
    why: str


class Figures(msgspec.Struct):
    """What a node did in one run.

    `rows_in` and `rows` count input and output rows, None where they are unknown. `seconds` is the node's own time,
    without the nodes that it pulls from; `memory` is the peak resident memory of the process, in bytes, while the node
    ran. `schema` and `sample` (values as text) describe its output.
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
    """One failed row: its id as text, the error message, the number of attempts, the traceback."""

    id: str
    message: str
    attempts: int
    trace: str = ""


class FailureKind(msgspec.Struct):
    """Rows with the same error: its type, its location in the code or its message without numbers, and examples."""

    type: str
    message: str
    count: int
    examples: list[Example] = []


class Broken(msgspec.Struct):
    """The error that ended a run. `node` is where it occurred, `hint` how to fix it, `code` its stable name."""

    type: str
    message: str
    hint: str = ""
    node: str | None = None
    traceback: str = ""
    code: str = ""


class Timeline(msgspec.Struct):
    """The run over time, as lists of equal length. Each entry covers the time since the previous one.

    `seconds` are since the start; `rows`, `failed`, `requests` and `tokens` count events in the interval; `p50` and
    `p95` are latencies of responses in seconds (None without a response); `in_flight` and `memory` (bytes) are the
    latest values.
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
    """An option of the run: its flag, its value as text, and whether that is the default."""

    flag: str
    value: str
    is_default: bool


class Report(msgspec.Struct):
    """Everything that the report of a run shows.

    `state` is running, done, failed, interrupted, or lost (the process exited without recording a status). `as_of` is
    when the figures were taken. `total` rows are in the input (after the limit); `done_before` finished in earlier
    runs, `rows` in this one, `failed` of these without an output. `resume` is the command that resumes the run, empty
    when nothing is left to do.
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
    servers: list[ServerState] = []
    resume: str = ""

    def __post_init__(self) -> None:
        for moment in filter(None, (self.started, self.as_of, self.ended)):
            check_moment(moment)
