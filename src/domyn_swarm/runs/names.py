"""Names of runs: short, readable, and safe in shells, file names and scheduler queues."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.storage.paths import split

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MOST_CHARS = 60
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{MOST_CHARS - 1}}}")
SHOWN = 3


def base_name(output: str) -> str:
    """`out/answers.parquet` -> `answers`."""
    stem = split(output)[1].removesuffix(".parquet")
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", stem).strip("-.+")[: MOST_CHARS - 8] or "run"


def free_name(base: str, taken: Collection[str]) -> str:
    """`base`, or the first of `base-2`, `base-3`, ... that is not taken."""
    numbered = (f"{base}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in taken)


def is_plain(name: str) -> bool:
    """Whether the name needs no quoting in shells, schedulers and file names."""
    return bool(_NAME.fullmatch(name))


def check_name(name: str) -> None:
    """Refuse a name that is not plain.

    Raises:
        ConfigurationError: the name is not plain.
    """
    if not is_plain(name):
        raise ConfigurationError(
            f"{name!r} is not a plain name.",
            f"Use letters, digits and . _ + - only, at most {MOST_CHARS} characters, starting with a letter or digit.",
            code="name.invalid",
            option="job_name",
        )


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names most similar to `name`, best match first."""
    known = sorted(names)
    longer = [other for other in known if other.startswith(name)] if name else []
    alike = difflib.get_close_matches(name, known, n=SHOWN, cutoff=0.5)
    return list(dict.fromkeys([*alike, *longer]))[:SHOWN]
