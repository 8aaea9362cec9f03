"""From pandas frames, or tables, to the plain Python values that `transform_item` and `transform_items` take."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.digests import row_digests
from domyn_swarm.data.values import python_values, reason, with_unread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from domyn_swarm.data.backends.base import JobBatch
    from domyn_swarm.engine.columns import Columns


def item_batches(frames: Iterable[pd.DataFrame | pa.Table], columns: Columns) -> Iterator[JobBatch]:
    """A batch of items for each frame: the value of the one input column, or a dict of all of them.

    Rows with values that Python cannot hold are the batch's unread ones.
    """
    for frame in frames:
        arrays = {name: _array(frame[name]) for name in columns.inputs}
        digested = partial(row_digests, arrays)
        inputs: dict[str, list[Any]] = {}
        reasons: dict[int, str] = {}
        for name, array in arrays.items():
            inputs[name], refused = python_values(array)
            reasons |= {row: reason(name, why) for row, why in refused.items() if row not in reasons}
        if len(inputs) == 1:
            items = inputs[columns.inputs[0]]
        else:
            items = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
        if reasons:
            items = [item for row, item in enumerate(items) if row not in reasons]
        yield with_unread(_array(frame[columns.id]), _array(frame[POSITION]), reasons, items=items, digested=digested)


def _array(column: Any) -> pa.Array[Any]:
    """The column as Arrow: the same memory for Arrow-backed frames, converted for frames that somebody put in."""
    array = column if isinstance(column, pa.ChunkedArray) else pa.array(column, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
