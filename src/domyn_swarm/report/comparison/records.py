"""Compare the records of two runs: options, fields, inputs, nodes, figures."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from domyn_swarm.checkpoint.inspection import aligned
from domyn_swarm.checkpoint.part import JOB_FIELD, NODE, ROW_NODES, STEP, STEP_ANEW, STEP_CODE, STEP_MODEL
from domyn_swarm.checkpoint.run_record import FILE, RunRecord, SpecRecord
from domyn_swarm.data.columns import ROW_ID
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.masking import masked
from domyn_swarm.report.comparison.differences import Difference, InputDifference, NodeDifference
from domyn_swarm.report.comparison.model import Run, Total
from domyn_swarm.report.files import report_of
from domyn_swarm.report.model import Graph, Node, Option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from domyn_swarm.checkpoint.folder import RunFolder

LOCATIONS = ("--output", "--checkpoint-dir", "--checkpoint-tag")
"""Options that only determine where files are written."""
JOB_KWARGS = "--job-kwargs"
COUNTED = ROW_NODES[: ROW_NODES.index("pending")]
"""Nodes that determine which row a generated id refers to."""
SHOWN_APART = (NODE, STEP, STEP_CODE, STEP_ANEW, STEP_MODEL)
"""What entries of a job's identity begin with that belong to nodes and steps."""
REPEATED_OPTIONS = ("job", "input_columns", "output_columns", "id_column", "model", "filters")
"""Entries of a job's identity that repeat options."""
MOST_FILES = 20
DIGEST_CHARS = 8
TRAFFIC = ("requests", "retries", "tokens_in", "tokens_out")
T = TypeVar("T")


class Recorded:
    """The recorded data of a run. Any of it may be missing in runs of earlier versions.

    Raises:
        DamagedPartError: a part is unusable.
        CheckpointError: parts belong to different versions of the input.
    """

    def __init__(self, name: str, folder: RunFolder) -> None:
        self.name = name
        self.folder = folder
        self.path = folder.path
        self.record = folder.load(FILE) or {}
        """The whole run.json, for fields that `summary` and `spec` do not have."""
        self.summary = RunRecord.load(folder) or RunRecord()
        self.spec = SpecRecord.load(folder) or SpecRecord()
        self.parts = aligned(folder)
        origin = self.parts[-1].origin if self.parts else None
        self.id_col: str = origin.id_col if origin else self.summary.id_column or ROW_ID
        self.identity: dict[str, Any] = self.summary.identity or (origin.identity if origin else {})
        self.digest: str | None = origin.input_digest if origin else self.summary.input_digest

    def entry(self, name: str, kind: type[T], default: T) -> T:
        """An entry of run.json; `default` when it is missing or of another type."""
        try:
            return msgspec.convert(self.record[name], kind)
        except (KeyError, msgspec.ValidationError):
            return default

    @property
    def run_id(self) -> str:
        """The run's id, which is in the footer of its output."""
        return self.summary.run_id or (self.parts[-1].origin.run_id if self.parts else "")

    @property
    def output(self) -> str:
        """The output path, as given."""
        return self.summary.output or self.spec.output

    @property
    def total(self) -> int | None:
        """Rows of the input, within the limit."""
        return self.summary.total

    @property
    def input(self) -> str:
        """The path or pattern of the input."""
        return self.summary.input or self.spec.input

    @property
    def state(self) -> str:
        """The state as in the report: lost when the process has exited without recording a status."""
        try:
            return report_of(self.folder).state
        except ConfigurationError:
            return self.summary.state or ""

    def run(self, rows: int, failed: int) -> Run:
        """A summary of the run."""
        job = self.summary.job or str(self.identity.get("job", "")).rpartition(":")[2]
        return Run(
            path=self.path, job=job, state=self.state, started=self.summary.started,
            ended=self.summary.ended, output=self.output,
            id_column=self.id_col, total=self.total, rows=rows, failed=failed, seconds=self.summary.seconds,
        )  # fmt: skip


def unknowns(a: Recorded, b: Recorded) -> list[str]:
    """Notes about what cannot be compared, because a run's record does not have it."""
    names = {"options": "options", "graph": "graph", "seconds": "figures"}
    missing = [(run, [label for name, label in names.items() if name not in run.record]) for run in (a, b)]
    return [
        f"{run.name} has no record of its {' and '.join(what)}, which are not compared."
        for run, what in missing
        if what
    ]


def _differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    return [Difference(name, a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)]


def other_rows(a: Recorded, b: Recorded) -> str:
    """Why equal row numbers do not mean the same row in both runs; empty when they do."""
    if a.digest != b.digest:
        return f"the inputs differ (A: {a.input}, digest {a.digest}; B: {b.input}, digest {b.digest})"
    if a.identity.get("filters") != b.identity.get("filters"):
        return f"the filters differ (A: {a.identity.get('filters')}; B: {b.identity.get('filters')})"
    replaced = (name for name in COUNTED if a.identity.get(NODE + name) != b.identity.get(NODE + name))
    name = next(replaced, None)
    return f"node {name!r} has different overrides" if name else ""


def fields(a: Recorded, b: Recorded) -> list[Difference]:
    """Differences in the job's fields and identity that are not shown as options, nodes or steps."""
    left_out = REPEATED_OPTIONS if a.record.get("options") and b.record.get("options") else ()
    shown = [
        {
            name.removeprefix(JOB_FIELD): _text(value)
            for name, value in run.identity.items()
            if name not in left_out and not name.startswith(SHOWN_APART)
        }
        for run in (a, b)
    ]
    return _differences(*shown) if a.identity and b.identity else []


def options(a: Recorded, b: Recorded) -> list[Difference]:
    """Differing options. Job kwargs are listed one by one, except fields of the job."""
    if not (a.record.get("options") and b.record.get("options")):
        return []
    known = {name for run in (a, b) for name in run.identity}
    return _differences(*(dict(_options(run, known)) for run in (a, b)))


def _options(run: Recorded, known: set[str]) -> Iterator[tuple[str, str]]:
    for option in _by_flag(run.entry("options", list[Option], [])).values():
        if option.flag in LOCATIONS:
            continue
        if option.flag != JOB_KWARGS:
            yield option.flag, masked(option.value)
            continue
        try:
            kwargs = msgspec.json.decode(option.value, type=dict[str, Any])
        except msgspec.DecodeError:  # it contains a masked key
            yield option.flag, masked(option.value)
            continue
        yield from ((f"{JOB_KWARGS} {k}", _text(v)) for k, v in kwargs.items() if f"{JOB_FIELD}{k}" not in known)


def _by_flag(options: Sequence[Option]) -> dict[str, Option]:
    """One option for each flag. One for all models and those for single ones have the same (`--model`)."""
    found: dict[str, Option] = {}
    for option in sorted(options, key=lambda option: option.is_default):
        other = found.get(option.flag)
        if other is None:
            found[option.flag] = option
        elif not option.is_default:
            found[option.flag] = Option(option.flag, f"{other.value}, {option.value}", False)
    return found


def _text(value: Any) -> str:
    return masked(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def inputs(a: Recorded, b: Recorded) -> InputDifference | None:
    """Differences of the inputs; None when they are equal or unknown."""
    if a.digest is None or b.digest is None or a.digest == b.digest:
        return None
    then, now = (Counter(map(tuple, run.entry("input_files", list[tuple[Any, ...]], []))) for run in (a, b))
    old, new = ({str(file[0]): _rows(file) for file in files} for files in (then - now, now - then))
    files = [Difference(name, old.get(name), new.get(name)) for name in sorted({**old, **new})]
    return InputDifference(masked(a.input), masked(b.input), files[:MOST_FILES])


def _rows(file: tuple[Any, ...]) -> str:
    """Rows and digest of a file; the digest shows a change when the number of rows is equal."""
    rows = f"{file[1]:,} rows" if isinstance(file[1], int) else "rows"
    return f"{rows}, digest {str(file[2]).rpartition(':')[2][:DIGEST_CHARS]}"


def nodes(a: Recorded, b: Recorded) -> list[NodeDifference]:
    """Differing nodes, in data order."""
    if "graph" not in a.record or "graph" not in b.record:
        return []
    old, new = _computed(a), _computed(b)
    found = (_node(name, old.get(name), new.get(name)) for name in {**old, **new})
    return [one for ones in found for one in ones]


def _computed(run: Recorded) -> dict[str, tuple[Node, str]]:
    """The nodes by name, each with its override, if any."""
    graph = run.entry("graph", Graph, Graph("", []))
    return {node.name: (node, _replaced(run, node)) for node in graph.nodes if node.kind == "node"}


def _replaced(run: Recorded, node: Node) -> str:
    if not node.overridden:
        return "no"
    digest = str(run.identity.get(NODE + node.name, "")).rpartition(" ")[2][:DIGEST_CHARS]
    return f"by a {node.overridden} ({digest})" if digest else f"by a {node.overridden}"


def _node(name: str, a: tuple[Node, str] | None, b: tuple[Node, str] | None) -> Iterator[NodeDifference]:
    if a is None or b is None:
        yield NodeDifference(name, "node", *("present" if node else None for node in (a, b)))
        return
    (old, by), (new, now_by) = a, b
    if by != now_by:
        yield NodeDifference(name, "replaced", by, now_by)
        return
    if old.variant != new.variant:
        yield NodeDifference(name, "variant", old.variant, new.variant)
    if old.type != new.type:
        yield NodeDifference(name, "type", old.type, new.type)
    if set(old.inputs) != set(new.inputs):
        yield NodeDifference(name, "inputs", ", ".join(old.inputs), ", ".join(new.inputs))


def totals(a: Recorded, b: Recorded) -> list[Total]:
    """Requests, tokens and time of each run's newest start, as far as recorded."""
    old, new = _figures(a), _figures(b)
    return [_total(name, old.get(name), new.get(name)) for name in {**old, **new}]


def _total(name: str, a: float | None, b: float | None) -> Total:
    return Total(name, a, b, None if a is None or b is None else round(b - a, 3))


def _figures(run: Recorded) -> dict[str, float]:
    traffic = run.entry("traffic", dict[str, Any], {})
    figures = {name: traffic[name] for name in TRAFFIC if isinstance(traffic.get(name), (int, float))}
    seconds, rows = run.summary.seconds, run.summary.rows
    if seconds is not None:
        figures["seconds"] = seconds
        if rows:
            figures["rows_per_second"] = round(rows / max(seconds, 1e-3), 1)
    return figures
