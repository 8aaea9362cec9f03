"""The user's steps inside the run's graph."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.jobs.steps.job import StepsJob
from domyn_swarm.jobs.steps.names import spec_for
from domyn_swarm.jobs.steps.step import Step, kind_of_model
from domyn_swarm.report.model import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec

ROWS = ("batches", "pending")
"""Where rows come from: the first of these that the graph has."""
APPLIED = ("transformed", "flushed")
"""What applies the steps, likewise: with workers, the node that hands out blocks."""
STEP_PREFIX = "step "
"""Stands before the name of a step that a node has, too."""


def with_steps(
    nodes: Sequence[Node], job: SwarmJob, spec: JobSpec, type_text: Callable[[Any], str]
) -> tuple[list[Node], list[Node]]:
    """`nodes` with the job's steps before the one that applies them; and the models that they ask, as inputs.

    A step that shares its name with a node is called `step NAME`.
    """
    taken = {node.name for node in nodes}
    apply = next((name for name in APPLIED if name in taken), None)
    if not isinstance(job, StepsJob) or apply is None:
        return list(nodes), []
    _, outputs = job.columns(spec)
    steps = job.graph.needed(outputs)
    names = {step.name: f"{STEP_PREFIX}{step.name}" if step.name in taken else step.name for step in steps}
    rows = next(name for name in ROWS if name in taken)
    drawn = [_node(step, names, rows, type_text) for step in steps]
    models = {
        name: Node(name=_model(name), kind="input", type=kind, value=spec_for(spec, name).model or "")
        for step in steps
        for name, hint in step.takes.items()
        if (kind := kind_of_model(hint))
    }
    at = next(number for number, node in enumerate(nodes) if node.name == apply)
    made_of = [name for name in nodes[at].inputs if name not in ROWS] + [names[name] for name in outputs]
    applied = msgspec.structs.replace(nodes[at], inputs=made_of)
    return [*nodes[:at], *drawn, applied, *nodes[at + 1 :]], list(models.values())


def _model(name: str) -> str:
    return f"model {name}"


def _node(step: Step, names: dict[str, str], rows: str, type_text: Callable[[Any], str]) -> Node:
    inputs = [names[name] for name in step.takes if name in names]
    models = [_model(name) for name, hint in step.takes.items() if kind_of_model(hint)]
    takes_columns = len(inputs) + len(models) < len(step.takes)
    code = getattr(step.sources[0] if step.sources else step.call, "__code__", None)
    return Node(
        name=names[step.name],
        kind="step",
        type=type_text(step.type),
        doc=step.doc,
        where=f"{PurePath(code.co_filename).name}:{code.co_firstlineno}" if code else "",
        inputs=[*([rows] if takes_columns or not inputs else []), *inputs, *models],
        effects=["calls model"] if models else [],
    )
