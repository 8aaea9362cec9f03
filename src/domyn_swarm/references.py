"""References to environment variables: an option `env:NAME` is written down as it is, and looked up when it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.masking import hide_value

_REFERENCE = re.compile(r"env:([A-Za-z_]\w*)")
IN_HEADER = re.compile(r"((?:^|:|\s)\s*)env:([A-Za-z_]\w*)(?=\s|$)")
"""A reference as a word of a header."""


def is_reference(value: Any) -> bool:
    """Whether it stands for an environment variable: `env:NAME`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def holds_reference(value: Any) -> bool:
    """Whether a reference stands in it, at any depth."""
    return any(map(is_reference, leaves(value)))


def references(value: Any) -> set[str]:
    """The names of the variables that are referred to in `value`, at any depth."""
    return {leaf.removeprefix("env:") for leaf in leaves(value) if is_reference(leaf)}


def resolved(value: Any) -> Any:
    """`value` with the environment's in the place of references, at any depth; these are masked from now on.

    Raises:
        ConfigurationError: there is no such variable.
    """
    if isinstance(value, Mapping):
        return {name: resolved(one) for name, one in value.items()}
    if isinstance(value, list):
        return [resolved(one) for one in value]
    if not is_reference(value):
        return value
    name = value.removeprefix("env:")
    if name not in os.environ:
        raise ConfigurationError(
            f"{value}: there is no environment variable {name}.", f"Set {name}, and run again.", code="secret.missing"
        )
    hide_value(os.environ[name])
    return os.environ[name]


def leaves(value: Any) -> Iterator[Any]:
    """The values in `value` that hold no others, at any depth."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else None
    if inner is None:
        yield value
    else:
        for one in inner:
            yield from leaves(one)
