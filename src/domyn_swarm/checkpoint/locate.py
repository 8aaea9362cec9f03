"""Following rows through a changed input: with ids given, a part belongs to its ids, wherever they stand now."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.store import Locate
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
