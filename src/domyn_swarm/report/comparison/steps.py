"""Which steps of a job of steps differ between two runs, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.part import STEP, STEP_ANEW, STEP_CODE, STEP_MODEL
from domyn_swarm.report.comparison.differences import StepDifference
from domyn_swarm.report.model import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.report.comparison.records import Recorded

MODEL = "model "
"""What the name of an input begins with that is a model, and the entry of an identity that has its name."""


def steps(a: Recorded, b: Recorded) -> list[StepDifference]:
    """The steps that differ, those of B in their order. For one that only follows from another, that one is named."""
    old, new = _inputs(a), _inputs(b)
    if not old or not new:
        return []
    found: dict[str, StepDifference] = {}
    for name, inputs in new.items():
        difference = _own(a, b, name, inputs) if name in old else StepDifference(name, "step", "B")
        upstream = next((one for one in inputs if one in found), "")
        if difference is None and upstream:
            difference = StepDifference(name, "upstream", upstream)
        if difference is None and a.identity.get(f"{STEP}{name}") != b.identity.get(f"{STEP}{name}"):
            difference = StepDifference(name, "field")
        if difference is not None:
            found[name] = difference
    return [*found.values(), *(StepDifference(name, "step", "A") for name in old if name not in new)]


def _inputs(run: Recorded) -> Mapping[str, Sequence[str]]:
    """The steps by name, in their order, with the steps and models that they take."""
    nodes = run.entry("graph", Graph, Graph("", [])).nodes
    names = {node.name: node.name for node in nodes if node.kind == "step"}
    for name in names:  # one with the name of a node is called `step NAME`
        plain = name.removeprefix(STEP)
        names[name] = plain if f"{STEP_CODE}{plain}" in run.identity else name
    return {names[node.name]: [names.get(one, one) for one in node.inputs] for node in nodes if node.name in names}


def _own(a: Recorded, b: Recorded, name: str, inputs: Sequence[str]) -> StepDifference | None:
    """What differs about the step itself."""
    before, after = a.identity, b.identity
    if before.get(f"{STEP_CODE}{name}") != after.get(f"{STEP_CODE}{name}"):
        return StepDifference(name, "code")
    if before.get(f"{STEP_ANEW}{name}") != after.get(f"{STEP_ANEW}{name}"):
        return StepDifference(name, "by hand")
    for model in (one.removeprefix(MODEL) for one in inputs if one.startswith(MODEL)):
        if any(before.get(f"{kind}{model}") != after.get(f"{kind}{model}") for kind in (MODEL, STEP_MODEL)):
            return StepDifference(name, "model", model)
    return None
