"""The default engine: pandas frames over streams of Arrow batches, so that input larger than memory passes through.

It alone reads the debug formats (CSV, JSON Lines).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from domyn_swarm.data import arrow
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.stream import (
    Stream,
    check_ids,
    check_write_kwargs,
    count,
    exclude,
    head,
    join,
    read_parquet,
    schema,
    to_pandas,
    with_row_id,
    write,
)
from domyn_swarm.data.stream import from_arrow as arrow_stream
from domyn_swarm.data.text_files import read_text
from domyn_swarm.data.values import job_batch
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.data.backends.base import JobBatch
    from domyn_swarm.data.input_files import InputFiles

__all__ = [
    "check_ids", "check_write_kwargs", "count", "distributed", "exclude", "from_arrow", "head", "in_memory",
    "iter_batches", "join", "name", "read", "schema", "to_pandas", "with_row_id", "write",
]  # fmt: skip

name = "pandas"
distributed = False

READ_KWARGS = ("columns", "filters", "dtype_backend", "storage_options")
DTYPE_BACKENDS = (None, "numpy_nullable", "pyarrow")


@dataclass(frozen=True)
class PandasStream(Stream):
    """A stream whose native batches have the dtypes that pandas' readers call `dtype_backend`."""

    dtype_backend: str | None = None


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> PandasStream:
    """Parquet as a stream of its row groups; CSV and JSON Lines as streams of blocks."""
    dtype_backend = read_kwargs.get("dtype_backend")
    if dtype_backend not in DTYPE_BACKENDS:
        raise ConfigurationError(
            f"dtype_backend is {dtype_backend!r}.",
            f"It takes: {', '.join(filter(None, DTYPE_BACKENDS))}.",
            code="option.invalid",
            option="backend_read_kwargs",
            choices=tuple(filter(None, DTYPE_BACKENDS)),
        )
    if files.format != "parquet":
        stream = read_text(name, files, read_kwargs)
    else:
        arrow.check_read_kwargs(name, read_kwargs, READ_KWARGS)
        stream = read_parquet(files, read_kwargs)
    return PandasStream(**vars(stream), dtype_backend=dtype_backend)


def from_arrow(table: pa.Table) -> PandasStream:
    """Batches of the table."""
    stream = arrow_stream(table)
    return PandasStream(**vars(stream))


def in_memory(table: pa.Table) -> pd.DataFrame:
    """A data frame with the dtypes that `pandas.read_parquet` would give."""
    return table.to_pandas()


def iter_batches(frame: PandasStream, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Pandas frames with the dtypes that `pandas.read_parquet` would give."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    mapper = _types_mapper(frame.dtype_backend)
    for batch in frame.scan(list(dict.fromkeys([*columns, POSITION])), batch_size):
        yield job_batch(batch, id_col, input_cols, lambda part: part.to_pandas(types_mapper=mapper))


def _types_mapper(dtype_backend: str | None) -> Callable[[pa.DataType], Any] | None:
    if dtype_backend == "pyarrow":
        return pd.ArrowDtype
    if dtype_backend == "numpy_nullable":
        return _NULLABLE.get
    return None


_NULLABLE: Mapping[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(),
}
