"""Moments in parquet's old type INT96: a day, and the nanoseconds in it.

It holds years that 64 bits of nanoseconds do not, and many tables say 9999-12-31 for "never". Of such a moment each
reader makes another one. Files of Spark, which knows microseconds only, are read in these. In other files moments keep
their nanoseconds, and one that is out of reach ends the reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow.parquet as pq

Unit = Literal["us", "ns"]
_SPARK = b"org.apache.spark.version"


def int96_unit(parquet: pq.ParquetFile) -> Unit | None:
    """The unit in which INT96 columns of a parquet file are read; None when it has none of them."""
    schema = parquet.schema
    if all(schema.column(number).physical_type != "INT96" for number in range(len(schema))):
        return None
    return "us" if _SPARK in (parquet.schema_arrow.metadata or {}) else "ns"


def int96_columns(parquet: pq.ParquetFile) -> set[str]:
    """The names of INT96 columns that do not nest."""
    leaves = map(parquet.schema.column, range(len(parquet.schema)))
    return {leaf.path for leaf in leaves if leaf.physical_type == "INT96" and leaf.path == leaf.name}


def within_reach(batches: Iterable[pa.RecordBatch], coarse: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches`, of whose rows `coarse` has some columns in microseconds.

    Raises:
        pa.ArrowInvalid: a moment is another one in nanoseconds.
    """
    for batch, same in zip(batches, coarse, strict=True):
        for name in same.schema.names:
            fine = pc.divide(_ticks(batch.column(name)), 1000)
            if pc.max(pc.abs(pc.subtract(fine, _ticks(same.column(name))))).as_py() not in (None, 0, 1):  # rounding
                raise pa.ArrowInvalid(f"column {name!r} has a moment that nanoseconds do not reach (1677 to 2262)")
        yield batch


def _ticks(moments: Any) -> Any:
    return moments.view(pa.int64())
