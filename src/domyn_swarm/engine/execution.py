"""The second execution of a run's graph: from the recovery of its folder to the output. The caller holds the lock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from domyn_swarm.anchoring import anchored
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.engine.graph.build import driver_elsewhere
from domyn_swarm.engine.graph.inputs import planning_inputs
from domyn_swarm.engine.signals import on_signals
from domyn_swarm.errors import CheckpointError

if TYPE_CHECKING:
    from domyn_swarm.engine.output_writer import Artifact
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.recording.metrics import Meter
    from domyn_swarm.engine.recording.reporter import Reporter

MOST_DAMAGED = 2
"""Parts that one run writes, loses to damage, and computes again."""
COUNTS_SECONDS = 5.0
"""How long to wait for the last counts of workers, before the error budget is checked."""


def recover_only(plan: RunPlan) -> None:
    """Put the folder of a run in order that has nothing to do."""
    inputs = planning_inputs(plan.resolved, plan.job, plan.store.path)
    known = plan.graph.unaffected_by_recovery(plan.nodes)
    plan.graph.driver.execute(["recovered"], inputs=dict(inputs), overrides=known)


def complete(plan: RunPlan, meter: Meter, reporter: Reporter) -> Artifact:
    """Compute what is pending and write the output; again, when a part that seemed whole turns out to be damaged.

    Each time one part is quarantined, so there is an end to those of earlier runs. Those that this run wrote are
    computed again MOST_DAMAGED times.

    Raises:
        CheckpointError: parts of this run cannot be read, again and again.
    """
    damaged = 0
    while True:
        try:
            with on_signals(None):  # `flushed` handles them itself
                return (_in_workers if plan.graph.where == "workers" else _here)(plan, meter, reporter)
        except DamagedPartError as error:
            damaged += plan.store.wrote(error.part)
            if damaged > MOST_DAMAGED:
                raise CheckpointError(
                    f"{damaged} parts that this run wrote could not be read afterwards; "
                    f"the last is {error.part}: {error.reason}",
                    "They were read when they were written, so look at the disk. "
                    "Nothing is computed again until the next run.",
                    code="checkpoint.damaged",
                    path=plan.store.path,
                ) from error


def _here(plan: RunPlan, meter: Meter, reporter: Reporter) -> Artifact:
    """Execute the rest of the graph in this process, at once."""
    inputs = planning_inputs(plan.resolved, plan.job, plan.store.path)
    more = {"stop": meter.stop, "meter": meter, "reporter": reporter, "monitor": None}
    known = plan.graph.unaffected_by_recovery(plan.nodes)
    wanted = ["record", "finalized"]  # an overridden node need not be made from `record`
    artifact: Artifact = plan.graph.driver.execute(wanted, inputs={**inputs, **more}, overrides=known)["finalized"]
    return artifact


def _in_workers(plan: RunPlan, meter: Meter, reporter: Reporter) -> Artifact:
    """Execute what plans and describes in this process, and what moves rows on the engine."""
    spec, graph = anchored(plan.resolved), plan.graph
    inputs = {**planning_inputs(spec, plan.job, plan.store.path), "stop": meter.stop}
    known = graph.unaffected_by_recovery(plan.nodes)
    # A task on the cluster would be a process to start.
    wanted = ["record", "pending", "pending_count", "worker_job"]
    known |= graph.driver.execute(wanted, inputs={**inputs, "reporter": reporter}, overrides=known)
    del known["record"]
    if not known["pending_count"]:
        known["flushed"] = FlushReport()
        meter.check(plan.store.id_col, spec.on_error)
        artifact: Artifact = graph.driver.execute(["finalized"], inputs=inputs, overrides=known)["finalized"]
        return artifact
    with plan.nodes["backend"].session(spec.ray_address, meter.stop, meter.advanced) as session:
        there = driver_elsewhere(graph, [*session.adapters, *plan.adapters])
        inputs["monitor"] = session.monitor

        def value(node: str, **more: Any) -> Any:
            with meter.flows.running(node):
                return there.execute([node], inputs=inputs, overrides={**known, **more})[node]

        with on_signals(meter.stop):
            report = value("flushed")
        _await_counts(meter, report)
        meter.check(plan.store.id_col, spec.on_error)
        artifact = value("finalized", flushed=report)
        meter.flows.ended.update(graph.of_phase("output"))
    return artifact


def _await_counts(meter: Meter, report: FlushReport) -> None:
    """Wait until all flushed rows have been counted here: the last counts may still be on their way."""
    deadline = time.monotonic() + COUNTS_SECONDS
    while meter.counts.rows < report.rows and time.monotonic() < deadline:
        time.sleep(0.02)
