"""What a run would do: the job, the input and the run's folder are looked at; nothing is written, nothing is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.engine.calls.pipeline import check_method, method_of
from domyn_swarm.engine.graph.adapters import explaining_adapters, load_adapters
from domyn_swarm.engine.graph.build import build_graph
from domyn_swarm.engine.graph.inputs import planning_inputs
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.engine.identity import check_identity, identity_of, record_before
from domyn_swarm.engine.output_writer import check_output
from domyn_swarm.engine.recovery import Recovery
from domyn_swarm.engine.rehearsal import rehearse
from domyn_swarm.engine.step_plans import step_plans
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.base import MODEL, of_model
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.jobs.steps.names import name_in, names_in
from domyn_swarm.redaction import missing
from domyn_swarm.serving.command import read_command
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend
    from domyn_swarm.engine.graph.build import RunGraph
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.recording.node_stats import Flows
    from domyn_swarm.engine.step_plans import StepPlan
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec
    from domyn_swarm.serving.servers import ModelServers


@dataclass(frozen=True)
class RunPlan:
    """What a run would do: the spec, the job, the graph, and the values of the nodes that are known before it.

    `changed` of the `pending` rows have an output that was made from other inputs than they have now. `steps` says
    what is kept and what is computed of each column of a job whose columns change one by one.
    """

    spec: JobSpec
    job: SwarmJob
    identity: Mapping[str, Any]
    graph: RunGraph
    nodes: Mapping[str, Any]
    rows: int
    pending: int
    changed: int = 0
    adapters: Sequence[Any] = ()
    steps: Sequence[StepPlan] = ()
    servers: ModelServers | None = None

    @property
    def overrides(self) -> Overrides:
        """What the graph's nodes are overridden by."""
        return self.graph.overrides

    @property
    def store(self) -> CheckpointStore:
        """The run's folder."""
        store: CheckpointStore = self.nodes["store"]
        return store

    @property
    def resolved(self) -> JobSpec:
        """The spec for whoever opens the job: it names the models that were found; others may be listed meanwhile.

        Model servers of the run are its endpoints, beside those of models that have their own.
        """
        spec = self.spec
        given = {name_in(value) for value in spec.models}
        others = [name for name in names_in(spec) if name not in given]
        found = [f"{name}={model}" for name in others if (model := self.identity.get(of_model(MODEL, name)))]
        return msgspec.structs.replace(
            spec,
            model=spec.model or self.identity.get(MODEL),
            models=[*spec.models, *found],
            endpoints=[*spec.endpoints, *(self.servers.urls if self.servers else ())],
        )

    @property
    def in_workers(self) -> bool:
        """Whether rows go through the engine's workers, and not through this process."""
        return self.graph.where == "workers" and self.pending > 0

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
    if spec.serve:
        read_command(spec.serve)
    identity = identity_of(spec, job, overrides)
    inputs = planning_inputs(spec, job, run_dir or spec.run_dir)
    adapters = load_adapters(spec.adapters)
    with explaining_adapters(spec.adapters):
        graph = build_graph(spec, overrides, adapters, flows)
        # Nobody holds the lock yet, so the folder is not put in order.
        known = {"recovered": Recovery(), **graph.values}
        nodes = {**graph.driver.execute(graph.of_phase("plan"), inputs=dict(inputs), overrides=known), **known}
    before = record_before(nodes["store"]).identity if nodes["store"].versions else {}
    identity |= nodes["store"].versions
    _check_pending(nodes, overrides)
    nodes |= graph.streams(nodes["columns"])
    backend: DataBackend = nodes["backend"]
    backend.check_write_kwargs(spec.backend_write_kwargs)
    with translating_io_errors(spec.output):
        check_output(spec, nodes["files"], nodes["store"], replaced=bool(overrides))
    if spec.resume:
        check_identity(identity, spec, nodes["store"], nodes["files"])
    rows, pending = nodes["row_count"], nodes["pending_count"]
    changed = nodes["done"].changed_before(rows)
    steps = step_plans(job, spec, before, identity, nodes["done"], rows) if nodes["store"].versions else ()
    plan = RunPlan(spec, job, identity, graph, nodes, rows, pending, changed, adapters, steps)
    if plan.pending and not overrides:
        rehearse(nodes, spec, overrides.held.table if overrides.held else None)
    return plan


def _check_pending(nodes: Mapping[str, Any], overrides: Overrides) -> None:
    """Refuse a function for `pending` that leaves out rows which the output will lack."""
    if "pending" not in overrides.functions:
        return
    backend: DataBackend = nodes["backend"]
    wanted, made = backend.count(backend.exclude(nodes["limited"], nodes["done"].finished)), nodes["pending_count"]
    if made != wanted:
        raise ConfigurationError(
            f"The function for 'pending' made {made:,} rows, and {wanted:,} rows of `limited` have no output yet.",
            "Leave rows out in `limited`; `pending` has all of them that are not done.",
            code="override.rows",
            step="pending",
        )


def with_columns_of(job: SwarmJob, spec: JobSpec) -> JobSpec:
    """`spec` with the job's own columns where it names none."""
    inputs, outputs = job.columns(spec)
    return msgspec.structs.replace(spec, input_columns=inputs, output_columns=outputs)
