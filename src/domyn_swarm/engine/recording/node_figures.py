"""How each node of a run went, in figures: what its stream carried, and what only the node itself can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.engine.recording.steps import APPLIED, STEP_PREFIX
from domyn_swarm.report.model import Example, FailureKind, Figures, Lost
from domyn_swarm.telemetry.counts import Counts, Flow, StepCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from domyn_swarm.engine.output_writer import Artifact
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.recording.node_stats import Flows
    from domyn_swarm.report.model import Graph, NodeState
    from domyn_swarm.telemetry.counts import Failed

KINDS_SHOWN = 50


def figures_of(
    graph: Graph,
    plan: RunPlan,
    counts: Counts,
    flows: Flows,
    broken: str | None = None,
    artifact: Artifact | None = None,
) -> dict[str, Figures]:
    """The figures of all nodes. `artifact` is there when the run is done, `broken` names the node that ended it."""
    known = {node.name: Figures() for node in graph.nodes if node.kind == "node"}
    for node, figures in known.items():
        if node in counts.flows:
            _from_flow(figures, counts.flows[node])
        figures.state = _state(node, counts, flows)
    for node, tell in _TELLERS.items():
        if node in known:
            tell(known[node], plan, counts)
    _lost(known, plan, counts)
    applied = next((known[name] for name in APPLIED if name in known), Figures())
    known |= steps_of(graph, plan, counts, applied.state)
    if artifact is not None:
        _finalized(known["finalized"], artifact)
    for name in (one.name for one in graph.nodes if one.phase == "stream" and one.rows):
        if name not in flows.at_work:
            _check_end(known[name], plan.pending)
    if broken in known:
        known[broken].state = "failed"
    return known


def steps_of(graph: Graph, plan: RunPlan, counts: Counts, applied: NodeState) -> dict[str, Figures]:
    """The figures of the job's steps: calls of models with their seconds and tokens, rows that failed, rows kept.

    They are in the state of the node that applies them.
    """
    kept = {step.step: step.kept - (plan.rows - plan.pending) for step in plan.steps}
    found = {}
    for node in graph.nodes:
        if node.kind == "step":
            name = node.name.removeprefix(STEP_PREFIX)
            found[node.name] = _figures_of_step(counts.steps.get(name, StepCounts()), kept.get(name, 0), applied)
    return found


def _figures_of_step(counts: StepCounts, kept: int, state: NodeState) -> Figures:
    figures = Figures(state=state, seconds=round(counts.seconds, 3))
    figures.lost = [Lost(counts.failed, "failed in this step")] if counts.failed else []
    notes = {"calls": counts.calls, "kept": kept, "tokens in": counts.tokens_in, "tokens out": counts.tokens_out}
    figures.note = ", ".join(f"{count:,} {what}" for what, count in notes.items() if count > 0)
    return figures


def _state(node: str, counts: Counts, flows: Flows) -> NodeState:
    if node in flows.at_work:
        return "running"
    if node in flows.ended:
        return "done"
    return "stopped" if node in counts.flows else "waiting"


def _check_end(figures: Figures, pending: int) -> None:
    """A stream that ended before the rows did was stopped; without pending rows nobody pulled it."""
    if figures.state == "done" and (figures.rows or 0) < pending:
        figures.state = "stopped"
    elif figures.state == "done" and not pending:
        figures.state = "waiting"


def _from_flow(figures: Figures, flow: Flow) -> None:
    figures.seconds = round(flow.seconds, 6)
    figures.memory = flow.memory or None
    figures.schema, figures.sample = flow.schema, flow.sample
    if flow.batches:
        figures.rows, figures.batches, figures.bytes = flow.rows, flow.batches, flow.bytes or None


def _files(figures: Figures, plan: RunPlan, _: Counts) -> None:
    files = plan.nodes["files"]
    figures.rows, figures.bytes = files.rows, sum(file.size for file in files.files)
    figures.note = f"{len(files.files):,} file(s)"


def _source(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.rows_in = plan.nodes["files"].rows
    figures.rows = _rows_of_source(plan)
    if figures.rows_in and figures.rows is not None and figures.rows < figures.rows_in:
        figures.lost = [Lost(figures.rows_in - figures.rows, "filtered out by --backend-read-kwargs")]
    figures.schema = dict(plan.nodes["schema"])


def _rows_of_source(plan: RunPlan) -> int | None:
    """Rows that the engine reads; under filters only reading tells, and a limit stops it."""
    if not plan.spec.backend_read_kwargs.get("filters"):
        rows: int | None = plan.nodes["files"].rows
        return rows
    return plan.rows if plan.spec.limit is None or plan.rows < plan.spec.limit else None


def _identified(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.rows_in = figures.rows = _rows_of_source(plan)
    figures.schema = {plan.nodes["columns"].id: "the id", **plan.nodes["schema"]}


def _limited(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.rows_in, figures.rows = _rows_of_source(plan), plan.rows
    if figures.rows_in is not None and figures.rows_in > plan.rows:
        replaced = "limited" in plan.overrides.names or plan.spec.limit is None
        why = "left out by what replaces a node" if replaced else f"beyond --limit {plan.spec.limit:,}"
        figures.lost = [Lost(figures.rows_in - plan.rows, why)]


def _found(figures: Figures, plan: RunPlan, _: Counts) -> None:
    damaged = len(plan.nodes["found"].damaged)
    figures.note = f"{damaged:,} damaged part(s)" if damaged else ""


def _recovered(figures: Figures, plan: RunPlan, _: Counts) -> None:
    damaged = len(plan.nodes["recovered"].damaged)
    figures.note = f"{damaged:,} damaged part(s) were set aside" if damaged else ""


def _done(figures: Figures, plan: RunPlan, _: Counts) -> None:
    done = plan.nodes["done"]
    figures.rows = plan.rows - plan.pending
    figures.note = f"{done.failed:,} rows failed before and are tried again" if done.failed else ""


def _row_count(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.note = f"{plan.rows:,} rows"


def _pending_count(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.note = f"{plan.pending:,} rows"


def _pending(figures: Figures, plan: RunPlan, _: Counts) -> None:
    figures.rows_in, figures.rows = plan.rows, plan.pending
    if plan.rows > plan.pending:
        figures.lost = [Lost(plan.rows - plan.pending, "done before, by earlier runs")]


def _lost(known: Mapping[str, Figures], plan: RunPlan, counts: Counts) -> None:
    """Rows without an output, at the node that calls the job: with workers that is the one that hands out blocks."""
    node = "transformed" if "transformed" in known else "flushed"
    if node not in known:  # nothing is made from them
        return
    figures = known[node]
    if node == "flushed" and (flow := counts.flows.get("transformed")) is not None:
        figures.memory = max(filter(None, (figures.memory, flow.memory)), default=None)
        figures.schema, figures.sample = flow.schema, flow.sample
    figures.rows_in = plan.pending
    why = {
        "failed: no output, an entry in the errors file, tried again by the next run": counts.failed,
        "not reached": plan.pending - (figures.rows or 0) if figures.state in ("stopped", "done") else 0,
    }
    figures.lost = [Lost(rows, reason) for reason, rows in why.items() if rows > 0]


def _flushed(figures: Figures, plan: RunPlan, counts: Counts) -> None:
    if plan.pending:
        figures.rows_in = counts.flows.get("transformed", Flow()).rows
        figures.rows = counts.rows


def _finalized(figures: Figures, artifact: Artifact) -> None:
    figures.rows_in = figures.rows = artifact.rows
    figures.note = f"{artifact.path}" + (f", {artifact.failed:,} rows without an output" if artifact.failed else "")


_TELLERS: Mapping[str, Callable[[Figures, RunPlan, Counts], None]] = {
    "files": _files, "source": _source, "identified": _identified, "limited": _limited,
    "row_count": _row_count, "found": _found, "recovered": _recovered, "done": _done,
    "pending": _pending, "pending_count": _pending_count, "flushed": _flushed,
}  # fmt: skip


def failures_of(failures: Mapping[tuple[str, str], Failed]) -> list[FailureKind]:
    """The most frequent kinds of failures, with their examples."""
    most = sorted(failures.items(), key=lambda kind: -kind[1].count)[:KINDS_SHOWN]
    return [
        FailureKind(name, shape, kind.count, [Example(*example) for example in kind.examples])
        for (name, shape), kind in most
        if kind.count
    ]


def traffic_of(counts: Counts, seconds: float) -> dict[str, Any]:
    """What the requests of a run come to; nothing without any."""
    if not counts.requests:
        return {}
    names = ("requests", "answers", "retries", "shared", "tokens_in", "tokens_out", "limit")
    return {name: getattr(counts, name) for name in names} | {
        "requests_per_second": round(counts.requests / seconds, 3),
        "tokens_per_second": round((counts.tokens_in + counts.tokens_out) / seconds, 3),
        "p50": counts.latencies.percentile(0.5),
        "p95": counts.latencies.percentile(0.95),
        "model_changes": counts.model_changes,
        "answered_by": {name or "unnamed": count for name, count in counts.answered_by.most_common()},
    }
