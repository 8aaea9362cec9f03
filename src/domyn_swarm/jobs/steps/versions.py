"""What made the column of a step, as a digest: its code, its fields and models, and the digests of what it takes.

A column whose digest is that of before has the same values, so it is not computed again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.part import JOB_FIELD, STEP, STEP_ANEW, STEP_CODE, STEP_MODEL
from domyn_swarm.jobs.base import MODEL, of_model
from domyn_swarm.jobs.steps.names import spec_for
from domyn_swarm.jobs.steps.step import kind_of_model, models_of
from domyn_swarm.redaction import public_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.jobs.steps.step import Step
    from domyn_swarm.jobspec import JobSpec


def version_of(step: str) -> str:
    """What the digest of a column is called in a job's identity."""
    return f"{STEP}{step}"


def named(model: str) -> str:
    """What the name that counts for a model is called there."""
    return f"{STEP_MODEL}{model}".strip()


def times_anew(spec: JobSpec, before: Mapping[str, Any]) -> dict[str, str]:
    """How often each step was computed anew by hand, as entries of the identity; `spec` may name some once more."""
    counts = {name: value for name, value in before.items() if name.startswith(STEP_ANEW) and isinstance(value, str)}
    for step in dict.fromkeys(spec.recompute):
        times = counts.get(f"{STEP_ANEW}{step}", "")
        counts[f"{STEP_ANEW}{step}"] = str(int(times) + 1 if times.isdecimal() else 1)
    return counts


def names_of_models(steps: Sequence[Step], spec: JobSpec, before: Mapping[str, Any]) -> dict[str, str]:
    """The name of each model as it counts in digests; `before` is the identity of the run before.

    Only a name that differs from that of the run before is another model. Without a name the endpoint decides which
    model answers, and a run is refused when that has changed.
    """
    return {name: _name_that_counts(spec, name, before) for _, name in models_of(steps)}


def _name_that_counts(spec: JobSpec, name: str, before: Mapping[str, Any]) -> str:
    given, then = spec_for(spec, name).model, before.get(named(name))
    if not isinstance(then, str):
        return given or ""
    if given is None or spec.allow_model_change or given in (then, before.get(of_model(MODEL, name))):
        return then
    return given


def digests(
    steps: Sequence[Step],
    codes: Mapping[str, str],
    fields: Mapping[str, Any],
    names: Mapping[str, str],
    anew: Mapping[str, str],
) -> dict[str, str]:
    """The digest of each of `steps`, which come in an order in which each follows those that it uses."""
    made: dict[str, str] = {}
    for step in steps:
        own = [codes[step.name], anew.get(f"{STEP_ANEW}{step.name}", "")]
        content = [*own, *(_taken(name, hint, made, fields, names) for name, hint in step.takes.items())]
        made[step.name] = hashlib.blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()
    return made


def _taken(
    name: str, hint: Any, made: Mapping[str, str], fields: Mapping[str, Any], names: Mapping[str, str]
) -> list[Any]:
    """What a parameter stands for. A default is part of the code."""
    if kind := kind_of_model(hint):
        return [name, kind, names[name]]
    if name in made:
        return [name, "step", made[name]]
    if name in fields:
        public = public_fields({name: fields[name]})[name]
        return [name, "field", msgspec.to_builtins(public, str_keys=True, enc_hook=repr, order="deterministic")]
    return [name, "column"]


def why_changed(steps: Sequence[Step], before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What about each step differs between two identities of the job; empty if nothing does. `steps` are in order."""
    reasons: dict[str, str] = {}
    for step in steps:
        own = _own_change(step, before, now)
        upstream = next((name for name in step.takes if reasons.get(name)), None)
        reasons[step.name] = own or (f"{upstream} is made anew" if upstream else "")
    return reasons


def _own_change(step: Step, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    code = f"{STEP_CODE}{step.name}"
    if code not in before:
        return "it is new"
    if before[code] != now.get(code):
        return "its code has changed"
    if before.get(f"{STEP_ANEW}{step.name}") != now.get(f"{STEP_ANEW}{step.name}"):
        return "it is computed anew by hand"
    for name, hint in step.takes.items():
        if kind_of_model(hint):
            if before.get(named(name)) != now.get(named(name)):
                return f"the model {name} is another one"
        elif before.get(f"{JOB_FIELD}{name}") != now.get(f"{JOB_FIELD}{name}"):
            return f"{name} has another value"
    version = version_of(step.name)
    return "it was not kept before" if version in now and version not in before else ""
