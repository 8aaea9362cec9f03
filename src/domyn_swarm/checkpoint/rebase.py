"""Following rows through a changed input: with ids given, a part belongs to its ids, wherever they stand now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend, Frame

SCAN_ROWS = 65_536


def rebase(store: CheckpointStore, backend: DataBackend, identified: Frame) -> None:
    """Give the rows of parts that an earlier version of the input made the positions that they have today.

    Rows whose ids are gone stay in their parts, at position -1, where nothing looks for them. Each part is rewritten
    whole or not at all, so a rebase that was cut off goes on with the parts that are left.
    """
    stale = store.stale_parts()
    if not stale:
        return
    frames = backend.to_pandas(identified, [store.id_col], SCAN_ROWS)
    ids = pd.Index(pd.concat([frame[store.id_col] for frame in frames], ignore_index=True))

    def positions_of(wanted: pa.Array[Any]) -> pa.Array[Any]:
        found: pa.Array[Any] = pa.array(ids.get_indexer(pd.Index(wanted.to_pandas(types_mapper=pd.ArrowDtype))))
        return found

    for part in stale:
        store.rebase(part, positions_of)
