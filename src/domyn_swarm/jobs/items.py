"""From pandas frames to the plain Python values that `transform_item` and `transform_items` take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.columns import POSITION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from domyn_swarm.jobs.columns import Columns


def item_batches(frames: Iterable[pd.DataFrame], columns: Columns) -> Iterator[JobBatch]:
    """A batch of items for each frame: the value of the one input column, or a dict of all of them."""
    for frame in frames:
        inputs = {name: _array(frame[name]) for name in columns.inputs}
        if len(inputs) == 1:
            items: list[Any] = inputs[columns.inputs[0]].to_pylist()
        else:
            rows = zip(*(array.to_pylist() for array in inputs.values()), strict=True)
            items = [dict(zip(inputs, row, strict=True)) for row in rows]
        yield JobBatch(_array(frame[columns.id]), _array(frame[POSITION]), items=items)


def _array(series: Any) -> pa.Array[Any]:
    """The column as Arrow: the same memory for Arrow-backed frames, converted for frames that somebody put in."""
    array = pa.array(series, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
