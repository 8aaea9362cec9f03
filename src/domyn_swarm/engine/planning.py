"""What a run would do: the job, the input and the run's folder are looked at; nothing is written, nothing is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.engine.calls.pipeline import check_method, method_of
from domyn_swarm.engine.graph.adapters import load_adapters, telling_of
from domyn_swarm.engine.graph.build import OFFERED, driver_for, planning_inputs, types_and_inputs
from domyn_swarm.engine.graph.overrides import NOTHING, check, planning_values, stream_values
from domyn_swarm.engine.identity import check_identity, identity_of
from domyn_swarm.engine.output_writer import check_output
from domyn_swarm.engine.rehearsal import rehearse
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.base import MODEL
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.redaction import missing
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hamilton.driver import Driver

    from domyn_swarm.checkpoint.store import CheckpointStore, DoneRows
    from domyn_swarm.data.backends.base import DataBackend, Frame
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.recording.node_stats import Flows
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec

PLANNED = ("backend", "files", "source", "schema", "columns", "identified", "limited", "store", "done")


@dataclass(frozen=True)
class RunPlan:
    """What a run would do: the spec, the job, and the values of the graph's nodes that are known before it.

    `changed` of the `pending` rows have an output that was made from other inputs than they have now.
    """

    spec: JobSpec
    job: SwarmJob
    identity: Mapping[str, Any]
    nodes: Mapping[str, Any]
    rows: int
    pending: int
    changed: int = 0
    adapters: Sequence[Any] = ()
    overrides: Overrides = NOTHING

    @property
    def store(self) -> CheckpointStore:
        """The run's folder."""
        store: CheckpointStore = self.nodes["store"]
        return store

    @property
    def resolved(self) -> JobSpec:
        """The spec for whoever opens the job: it names the model that was found, should another be listed meanwhile."""
        return msgspec.structs.replace(self.spec, model=self.spec.model or self.identity.get(MODEL))

    @property
    def in_workers(self) -> bool:
        """Whether the rows go through the engine's workers, and not through this process."""
        backend: DataBackend = self.nodes["backend"]
        return backend.distributed and self.pending > 0 and not self.overrides.keep_rows_here

    @property
    def method(self) -> str:
        """The job's method that will be called."""
        return method_of(self.job, native=self.spec.native_backend)


def make_plan(
    spec: JobSpec, run_dir: str | None = None, flows: Flows | None = None, overrides: Overrides = NOTHING
) -> RunPlan:
    """Look at the job, the input and the run's folder (`spec.run_dir` unless given); write nothing and call nothing.

    `flows` takes down what the nodes that are computed for that do. Nodes that `overrides` replaces are taken from
    there, and what is only upstream of values is not computed.

    Raises:
        SwarmError: with exit status 2, when the job cannot run as it is.
    """
    if hidden := missing(msgspec.structs.asdict(spec)):
        raise ConfigurationError(
            "it held a secret, which the run did not write down.",
            "Submit the job again with the whole command; or give secrets as env:NAME, which is kept as it is.",
            code="option.secret",
            option=hidden[0],
        )
    job = build_job(load_job_class(spec.job), spec.job_kwargs)
    spec = with_columns_of(job, spec)
    check_method(job, spec)
    identity = identity_of(spec, job, overrides)
    known = known_before(spec, overrides)
    inputs = planning_inputs(spec, job, run_dir or spec.run_dir)
    adapters = load_adapters(spec.adapters)
    with telling_of(spec.adapters):
        driver = driver_for(spec, adapters=adapters, flows=flows, overrides=overrides)
        nodes = {**driver.execute([*PLANNED], inputs=inputs, overrides=known), **known}
        _check_pending(driver, inputs, nodes, overrides)
    nodes |= stream_values(overrides, nodes["columns"])
    backend: DataBackend = nodes["backend"]
    backend.check_write_kwargs(spec.backend_write_kwargs)
    with translating_io_errors(spec.output):
        check_output(spec, nodes["files"], nodes["store"], replaced=bool(overrides))
    if spec.resume:
        check_identity(identity, spec, nodes["store"], nodes["files"])
    plan = counted(RunPlan(spec, job, identity, nodes, 0, 0, adapters=adapters, overrides=overrides))
    if plan.pending and not overrides:
        rehearse(nodes, spec, overrides.held.table if overrides.held else None)
    return plan


def _check_pending(driver: Driver, inputs: Mapping[str, Any], nodes: Mapping[str, Any], overrides: Overrides) -> None:
    """Refuse a function for `pending` that leaves out rows which the output will lack."""
    if "pending" not in overrides.functions:
        return
    backend: DataBackend = nodes["backend"]
    wanted = backend.count(backend.exclude(nodes["limited"], nodes["done"].finished))
    made = backend.count(driver.execute(["pending"], inputs=dict(inputs), overrides=dict(nodes))["pending"])
    if made != wanted:
        raise ConfigurationError(
            f"The function for 'pending' made {made:,} rows, and {wanted:,} rows of `limited` have no output yet.",
            "Leave rows out in `limited`; `pending` has all of them that are not done.",
        )


def known_before(spec: JobSpec, overrides: Overrides) -> dict[str, Any]:
    """The values of nodes that nothing has to be computed for.

    Raises:
        SwarmError: with exit status 2, when something cannot replace its node.
    """
    if not overrides and overrides.held is None:
        return {}
    return planning_values(overrides, spec, check_overrides(spec, overrides))


def check_overrides(spec: JobSpec, overrides: Overrides) -> DataBackend:
    """Refuse what cannot replace its node, by name and type; the engine that rows go through otherwise.

    Raises:
        ConfigurationError: the message says what there is.
    """
    backend: DataBackend = overrides.values.get("backend") or load_backend(spec.data_backend)
    if overrides:
        check(overrides, *types_and_inputs(spec), OFFERED, backend)
    return backend


def with_columns_of(job: SwarmJob, spec: JobSpec) -> JobSpec:
    """`spec` with the job's own columns where it names none."""
    inputs, outputs = job.default_columns()
    return msgspec.structs.replace(
        spec, input_columns=spec.input_columns or list(inputs), output_columns=spec.output_columns or list(outputs)
    )


def counted(plan: RunPlan) -> RunPlan:
    """The plan with the rows that there are, and those that are not done."""
    backend: DataBackend = plan.nodes["backend"]
    limited: Frame = plan.nodes["limited"]
    done: DoneRows = plan.nodes["done"]
    pending = backend.count(backend.exclude(limited, done.finished))
    rows = backend.count(limited)
    return replace(plan, rows=rows, pending=pending, changed=int((done.changed < rows).sum()))
