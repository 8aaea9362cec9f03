"""A fourth backend, as somebody else would write it: plain pyarrow, one module, one entry point, the same suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from domyn_swarm.data.arrow import check_parquet
from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.input_files import InputFiles
from domyn_swarm.data.stream import (
    Stream,
    check_ids,
    check_write_kwargs,
    count,
    exclude,
    from_arrow,
    head,
    join,
    read_parquet,
    schema,
    to_pandas,
    with_row_id,
    write,
)
from domyn_swarm.data.values import job_batch

__all__ = [
    "check_ids", "check_write_kwargs", "count", "distributed", "exclude", "from_arrow", "head", "in_memory",
    "iter_batches", "join", "name", "read", "schema", "to_pandas", "with_row_id", "write",
]  # fmt: skip

name = "toy-arrow"
distributed = False


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    check_parquet(name, files)
    return read_parquet(files, read_kwargs)


def in_memory(table: pa.Table) -> pa.Table:
    return table


def iter_batches(frame: Stream, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    columns = list(dict.fromkeys([id_col, *input_cols, POSITION]))
    for batch in frame.scan(columns, batch_size):
        yield job_batch(batch, id_col, input_cols, lambda part: pa.Table.from_batches([part]))
