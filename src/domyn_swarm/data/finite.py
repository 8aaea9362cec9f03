"""Numbers that JSON cannot hold: NaN and infinity, which would be written down, and sent, as null."""

from __future__ import annotations

import math
from typing import Any

from domyn_swarm.errors import ConfigurationError


def check_finite(option: str, value: Any) -> None:
    """Refuse NaN and infinity anywhere in `value`, plain data that `option` holds.

    Raises:
        ConfigurationError: there is one; the message says where.
    """
    if (found := _not_finite(value)) is not None:
        path, number = found
        where = f" at {path.removeprefix('.')}" if path else ""
        raise ConfigurationError(
            f"{number!r}{where} is no number that JSON can hold; it would become null.",
            "Give a finite number, or leave it out.",
            code="option.not_finite",
            option=option,
        )


def _not_finite(value: Any) -> tuple[str, float] | None:
    """The path (`.request.stop[0]`) and value of the first number that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", value)
    if isinstance(value, dict):
        entries = [(f".{key}", one) for key, one in value.items()]
    elif isinstance(value, (list, tuple)):
        entries = [(f"[{index}]", one) for index, one in enumerate(value)]
    else:
        return None
    for step, one in entries:
        if (found := _not_finite(one)) is not None:
            return step + found[0], found[1]
    return None
