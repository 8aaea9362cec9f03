"""What runs are called: short, readable, and fit for a shell, a file's name and a scheduler's list."""

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
    """`base`, or `base-2`, `base-3`, ... where that is taken."""
    numbered = (f"{base}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([base], numbered) if name not in taken)


def is_plain(name: str) -> bool:
    """Whether no shell, scheduler or file takes the name for something else."""
    return bool(_NAME.fullmatch(name))


def check_name(name: str) -> None:
    """Refuse what shells, schedulers or files would take for something else.

    Raises:
        ConfigurationError: it is no such name.
    """
    if not is_plain(name):
        raise ConfigurationError(
            f"--job-name: {name!r} is not a plain name.",
            f"Use letters, digits and . _ + - only, up to {MOST_CHARS}, a letter or digit first.",
        )


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The names that look most like `name`, the most alike first."""
    known = sorted(names)
    longer = [other for other in known if other.startswith(name)] if name else []
    alike = difflib.get_close_matches(name, known, n=SHOWN, cutoff=0.5)
    return list(dict.fromkeys([*alike, *longer]))[:SHOWN]
