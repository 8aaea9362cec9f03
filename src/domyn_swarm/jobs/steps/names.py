"""Values of options that are given for one model: `judge=http://host/v1`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.jobspec import JobSpec

_NAMED = re.compile(r"([^\W\d]\w*)=(.+)", re.DOTALL)
"""A URL, or a path with a slash or a dot before its equals sign, names nothing."""


def name_in(value: str) -> str:
    """The model's name that `value` begins with; empty when it has none."""
    found = _NAMED.fullmatch(value)
    return found[1] if found else ""


def names_in(spec: JobSpec) -> list[str]:
    """The names of models that options of `spec` are given for."""
    values = [*spec.endpoints, *spec.models, *spec.api_key_files, *spec.headers]
    return sorted({name for value in values if (name := name_in(value))})


def spec_for(spec: JobSpec, name: str) -> JobSpec:
    """`spec` as the model `name` needs it ("": those without a name of their own): its endpoints, model and key alone.

    A model that only has another name at the endpoint shares that with the rest, and the key. A model with an endpoint
    of its own gets its own headers and key, or the key of the environment: none is sent to a server that it was not
    given for. Servers that the run starts are for the models without one.
    """
    shared = [url for url in spec.endpoints if not name_in(url)]
    own = _values(spec.endpoints, name)
    model, key = _last(_values(spec.models, name)), _last(_values(spec.api_key_files, name))
    headers = _values(spec.headers, name)
    if not own:
        model, key = model or spec.model, key or spec.api_key_file
        headers = [*(one for one in spec.headers if not name_in(one)), *headers]
    return msgspec.structs.replace(
        spec, endpoints=own or shared, model=model, api_key_file=key, models=[], api_key_files=[],
        headers=headers, serve=None if own else spec.serve,
    )  # fmt: skip


def _values(values: Sequence[str], name: str) -> list[str]:
    """Those of `values` that are given for `name`, without it."""
    return [value.partition("=")[2] for value in values if name and name_in(value) == name]


def _last(values: Sequence[str]) -> str | None:
    return values[-1] if values else None
