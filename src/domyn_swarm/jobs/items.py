"""From pandas frames to the plain Python values that `transform_item` and `transform_items` take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.data.backends.base import POSITION, JobBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd


def item_batches(frames: Iterable[pd.DataFrame], id_col: str, input_cols: Sequence[str]) -> Iterator[JobBatch]:
    """A batch of items for each frame: the value of the one input column, or a dict of all of them."""
    for frame in frames:
        columns = {name: _array(frame[name]) for name in dict.fromkeys([POSITION, id_col, *input_cols])}
        items: list[Any]
        if len(input_cols) == 1:
            items = columns[input_cols[0]].to_pylist()
        else:
            items = pa.table({name: columns[name] for name in input_cols}).to_pylist()
        yield JobBatch(columns[id_col], columns[POSITION], items=items)


def _array(series: Any) -> pa.Array:
    """The column as Arrow: the same memory for Arrow-backed frames, converted for frames that somebody put in."""
    array = pa.array(series, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
