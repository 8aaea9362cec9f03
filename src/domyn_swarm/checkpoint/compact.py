"""Compaction: small parts become larger ones, so that their number follows the rows and not the time that these took.

Parts that follow one another are merged into one that takes the place and name of the last, before the others are
removed. Whoever is killed in between leaves the same rows twice, with the same winners, until the next compaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from domyn_swarm.checkpoint.encode import UnstorableError
from domyn_swarm.checkpoint.part import Part, conformed, united, write_part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.checkpoint.folder import RunFolder

PART_ROWS = 65_536
"""Rows of a part that is large enough not to be merged any more, more or less: see SMALL and MOST."""
PART_BYTES = 64 * 2**20
"""Bytes at which a part is full, before encoding."""
SMALL = 50_000 / PART_ROWS
"""Parts below this share of PART_ROWS and of PART_BYTES are merged: 50,000 rows."""
MOST = 2
"""Times PART_ROWS and PART_BYTES that a merged part may hold."""


def compact(folder: RunFolder, paths: Sequence[str]) -> list[str]:
    """Merge the small ones of the parts at `paths`, oldest first with none left out between; the paths that are left.

    Raises:
        DamagedPartError: a part cannot be read. What was merged before stays merged.
    """
    left: list[str] = []
    for group in _groups([Part(folder.fs, path) for path in paths]):
        left += _merged(folder, group) if len(group) > 1 else [group[0].path]
    return left


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """`parts` in order, those to merge together."""
    group: list[Part] = []
    for part in parts:
        if group and not _fits(group, part):
            yield from _worth(group)
            group = []
        group.append(part)
    yield from _worth(group)


def _fits(group: Sequence[Part], part: Part) -> bool:
    together = [*group, part]
    rows, size = sum(one.rows for one in together), sum(one.decoded_bytes for one in together)
    return rows <= MOST * PART_ROWS and size <= MOST * PART_BYTES and part.origin == group[0].origin


def _worth(group: list[Part]) -> Iterator[list[Part]]:
    if any(part.rows < SMALL * PART_ROWS and part.decoded_bytes < SMALL * PART_BYTES for part in group):
        yield group
    else:
        yield from ([part] for part in group)


def _merged(folder: RunFolder, group: Sequence[Part]) -> list[str]:
    """The path of the part that `group` became; their own paths where parquet cannot hold their rows together."""
    tables = [part.read() for part in group]
    types = united([table.schema for table in tables])
    try:
        merged = pa.concat_tables([conformed(table, types.names, types) for table in tables])
        write_part(folder.fs, group[-1].path, merged, group[0].origin)
    except UnstorableError:
        return [part.path for part in group]
    for part in group[:-1]:
        folder.fs.rm_file(part.path)
    return [group[-1].path]
