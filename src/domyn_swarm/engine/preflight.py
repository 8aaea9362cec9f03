"""The last check before a run writes anything: of the endpoints that its job calls, and of the engine's cluster.

Runs in this process and runs that are submitted to a launcher are checked in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.engine.identity import check_identity
from domyn_swarm.engine.serving import servers_of
from domyn_swarm.jobs.base import REVISION, is_resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.jobspec import JobSpec


def run_preflight(plan: RunPlan) -> RunPlan:
    """Check what the run depends on. Returns the plan with the model that will answer as part of its identity.

    Raises:
        SwarmError: with exit status 2, when the run cannot work, or would mix the answers of two models.
    """
    before = (RunRecord.load(plan.store.folder) if plan.spec.resume else None) or RunRecord()
    known = {name: value for name, value in before.identity.items() if is_resolved(name)}
    if plan.pending:
        if plan.spec.serve and plan.servers is None:
            servers_of(plan)
        if plan.steps:
            plan.job.will_compute([step.step for step in plan.steps if step.to_compute])
        found = dict(plan.job.preflight(_spec_of_what_is_ready(plan)) or {})
        plan = replace(plan, identity={**plan.identity, **found})
        if found and plan.spec.resume:
            check_identity(plan.identity, plan.spec, plan.store, plan.nodes["files"])
            plan = replace(plan, identity=_with_other_replicas(plan.identity, known))
        not_asked = {name: value for name, value in known.items() if plan.steps and name not in found}
        plan = replace(plan, identity={**plan.identity, **_without(plan.identity, not_asked)})
    elif plan.spec.model is None:
        plan = replace(plan, identity={**plan.identity, **known})
    if plan.in_workers:
        plan.nodes["backend"].check_address(plan.spec.ray_address)
    return plan


def _spec_of_what_is_ready(plan: RunPlan) -> JobSpec:
    """The spec with the servers of the run that are ready; the others join them later."""
    if plan.servers is None:
        return plan.spec
    return msgspec.structs.replace(plan.spec, endpoints=[*plan.spec.endpoints, *plan.servers.ready_urls])


def _without(identity: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `facts` that `identity` does not know: a model that is not asked now is what it was before."""
    return {name: value for name, value in facts.items() if name in identity and identity[name] is None}


def _with_other_replicas(identity: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """A replica that is away just now has not changed its model: what it said before still counts."""
    revisions = {
        fact: then
        for fact, then in known.items()
        if fact.partition(" ")[0] == REVISION and set(identity.get(fact) or []) <= set(then or [])
    }
    return {**identity, **revisions}
