"""Options that are given for one model of a job of steps: `--endpoint judge=URL`, `--model judge=NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domyn_swarm.jobs.steps.names import name_in
from domyn_swarm.jobspec import JobSpec, option_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def with_named(given: Mapping[str, Any], *, of_steps: bool) -> dict[str, Any]:
    """`given` options, with the values that name a model in the fields that take them.

    A flag that may be repeated for the sake of names comes as a list. For a job that is no job of steps, a value is
    what it is, equals signs included. Of several values without a name the last one counts.
    """
    options = dict(given)
    for field in JobSpec.__struct_fields__:
        target = option_of(field).named
        if not target or options.get(field) is None:
            continue
        value = options.pop(field)
        values = [value] if isinstance(value, str) else list(value)
        named = [one for one in values if of_steps and name_in(one)]
        plain = [one for one in values if one not in named]
        options |= {field: plain[-1]} if plain else {}
        options |= {target: [*named, *(options.get(target) or [])]} if named else {}
    return options
