"""Following rows through a changed input: with ids given, a part belongs to its ids, wherever they stand now.

An id may stand beside other inputs than before. Parts keep a digest of each row's, to tell.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.data.digests import row_digests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.checkpoint.done_rows import Locate
    from domyn_swarm.checkpoint.part import Marks, Positions
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend, Frame

SCAN_ROWS = 65_536


def locator(backend: DataBackend, identified: Frame, id_col: str) -> Locate:
    """A function from ids to their positions in `identified`, which is read when the function is first called."""

    @cache
    def index() -> pd.Index[Any]:
        frames = backend.to_pandas(identified, [id_col], SCAN_ROWS)
        ids: pd.Index[Any] = pd.Index(pd.concat([frame[id_col] for frame in frames], ignore_index=True))
        return ids

    def locate(ids: pa.Array[Any]) -> pa.Array[Any]:
        found: pa.Array[Any] = pa.array(index().get_indexer(pd.Index(ids.to_pandas(types_mapper=pd.ArrowDtype))))
        return found

    return locate


class InputsNow:
    """What the rows' inputs are today, as digests; the input is read when that is first asked for.

    With `keep_changed` no row has changed.
    """

    def __init__(self, backend: DataBackend, identified: Frame, columns: Sequence[str], *, keep_changed: bool) -> None:
        self._backend = backend
        self._identified = identified
        self._columns = list(columns)
        self.keep_changed = keep_changed

    @cached_property
    def _digests(self) -> pa.Array[Any]:
        frames = self._backend.to_pandas(self._identified, self._columns, SCAN_ROWS)
        found = [row_digests({name: pa.array(frame[name]) for name in self._columns}) for frame in frames]
        digests: pa.Array[Any] = pa.concat_arrays(found)
        return digests

    def changed(self, positions: Positions, before: pa.Array[Any]) -> Marks:
        """Which of the rows at `positions` have other inputs than those with the digests `before`. Unknown is equal."""
        marks = np.zeros(len(positions), dtype=np.bool_)
        if self.keep_changed or before.null_count == len(before):
            return marks
        here = np.flatnonzero((positions >= 0) & before.is_valid().to_numpy(zero_copy_only=False))
        now = self._digests.take(positions[here])
        same = pc.equal(now, before.take(here)).fill_null(True)
        marks[here] = ~same.to_numpy(zero_copy_only=False)
        return marks

    def at(self, positions: Positions) -> pa.Array[Any]:
        """The digests of the rows at `positions`; null where that is -1."""
        return self._digests.take(pa.array(positions, pa.int64(), mask=positions < 0))


def following(
    backend: DataBackend, identified: Frame, store: CheckpointStore, *, keep_changed: bool
) -> tuple[Locate, InputsNow]:
    """What `store` asks of rows that stood in an earlier version of the input: where they are, and if they changed."""
    inputs = InputsNow(backend, identified, store.inputs, keep_changed=keep_changed)
    return locator(backend, identified, store.id_col), inputs
