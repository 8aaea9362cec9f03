"""The input of benchmarks whose subject is what comes after it: a number and a key for each row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STEP = 100_000


def write_input(path: Path, rows: int) -> None:
    """Write `rows` rows: `number` counts them, `key` is the same as a text."""
    schema = pa.schema([("number", pa.int64()), ("key", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, STEP):
            numbers = np.arange(start, min(start + STEP, rows))
            keys = [f"key-{number:09d}" for number in numbers.tolist()]
            writer.write_table(pa.table([numbers, keys], schema=schema))
