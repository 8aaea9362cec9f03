"""The Ray engine: Ray Data reads the input in tasks, actors apply the job and write parts of their own.

Its lazy frame is a `Splits`: the input as one stream, for what is done in one place, and cut into runs of row groups
that know the position of their first row, which is what Ray Data reads in parallel.

Nothing here holds a CPU but the read tasks: actors mostly wait for answers, and a cluster of two CPUs must neither
starve its readers nor deadlock.
"""

# ruff: noqa: E402 - Ray asks a notebook for ipywidgets while it is imported, unless it is set before

from __future__ import annotations

import logging

logging.getLogger("ray.widgets").setLevel(logging.WARNING)

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from domyn_swarm.data import arrow, stream
from domyn_swarm.data.backends.ray_cluster import ActorPool, Shares, check_address, session
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.stream import Stream, check_write_kwargs, write
from domyn_swarm.data.types import empty_table
from domyn_swarm.data.values import job_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from domyn_swarm.data.backends.base import JobBatch, Monitor, Outputs, WorkerFactory
    from domyn_swarm.data.input_files import InputFile, InputFiles

__all__ = [
    "check_address", "check_ids", "check_write_kwargs", "count", "distribute", "distributed", "exclude",
    "from_arrow", "head", "in_memory", "iter_batches", "join", "name", "read", "schema", "session", "to_pandas",
    "with_row_id", "write",
]  # fmt: skip

name = "ray"
distributed = True

READ_KWARGS = ("columns", "filters", "storage_options")
SPLIT_ROWS = 65_536
SPLIT_BYTES = 32 * 2**20

Marks = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Splits:
    """The rows as one stream (`whole`), and as consecutive streams with the position of each one's first row.

    `finished` marks positions to leave out; it travels through the object store once, not with each split.
    """

    whole: Stream
    parts: tuple[tuple[int, Stream], ...]
    finished: Marks = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


def read(files: InputFiles, read_kwargs: Mapping[str, Any]) -> Splits:
    """Row groups, gathered to about SPLIT_ROWS rows; one split under filters, which decide what the positions are."""
    arrow.check_parquet(name, files)
    arrow.check_read_kwargs(name, read_kwargs, READ_KWARGS)
    whole = stream.read_parquet(files, read_kwargs)
    if read_kwargs.get("filters"):
        return Splits(whole, ((0, whole),))
    parts = []
    start = 0
    for file in files.files:
        for groups, rows in _grouped(file):
            parts.append((start, Stream(whole.schema, partial(arrow.scan_groups, files, file, groups), rows)))
            start += rows
    return Splits(whole, tuple(parts))


def from_arrow(table: pa.Table) -> Splits:
    """Slices of SPLIT_ROWS rows, which travel to the read tasks."""
    slices = [(at, stream.from_arrow(table.slice(at, SPLIT_ROWS))) for at in range(0, table.num_rows, SPLIT_ROWS)]
    return Splits(stream.from_arrow(table), tuple(slices))


def in_memory(table: pa.Table) -> pa.Table:
    """The table: it is what blocks of Ray Data are, and needs no Ray that is up."""
    return table


def _grouped(file: InputFile) -> Iterator[tuple[list[int], int]]:
    """Consecutive row groups of a file, and their rows."""
    row_bytes = file.decoded_bytes / max(1, file.rows or 0)
    most = min(SPLIT_ROWS, SPLIT_BYTES / max(1.0, row_bytes))
    groups: list[int] = []
    rows = 0
    for number, count_ in enumerate(file.groups):
        if groups and rows + count_ > most:
            yield groups, rows
            groups, rows = [], 0
        groups.append(number)
        rows += count_
    if rows:
        yield groups, rows


def schema(frame: Splits) -> dict[str, str]:
    """Column name -> normalised type, in file order."""
    return stream.schema(frame.whole)


def with_row_id(frame: Splits, id_col: str | None) -> Splits:
    """Count rows; each split from the position of its first row."""
    parts = tuple((start, stream.counted(part, id_col, start)) for start, part in frame.parts)
    return replace(frame, whole=stream.with_row_id(frame.whole, id_col), parts=parts)


def check_ids(frame: Splits, id_col: str) -> None:
    """One pass over the id column, in the driver."""
    stream.check_ids(frame.whole, id_col)


def head(frame: Splits, rows: int) -> Splits:
    """The splits that begin before `rows`, the last of them cut."""
    parts = tuple((start, stream.head(part, rows - start)) for start, part in frame.parts if start < rows)
    return replace(frame, whole=stream.head(frame.whole, rows), parts=parts)


def count(frame: Splits) -> int:
    """From the footers where they tell."""
    return stream.count(frame.whole)


def exclude(frame: Splits, finished: Marks) -> Splits:
    """Leave out splits that are finished altogether; the read tasks leave out the others' finished rows."""
    parts = tuple((start, part) for start, part in frame.parts if not _is_finished(start, part, finished))
    return replace(frame, whole=stream.exclude(frame.whole, finished), parts=parts, finished=finished)


def _is_finished(start: int, part: Stream, finished: Marks) -> bool:
    if part.rows is None or start + part.rows > len(finished):
        return False
    return bool(finished[start : start + part.rows].all())


def iter_batches(frame: Splits, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
    """Arrow tables, which are what blocks of Ray Data are."""
    columns = list(dict.fromkeys([id_col, *input_cols]))
    for batch in frame.whole.scan(list(dict.fromkeys([*columns, POSITION])), batch_size):
        yield job_batch(batch, id_col, input_cols, lambda part: pa.Table.from_batches([part]))


def to_pandas(frame: Splits, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
    """Arrow-backed frames, in the driver."""
    return stream.to_pandas(frame.whole, columns, batch_size)


def join(frame: Splits, outputs: Outputs, id_col: str, columns: Sequence[str]) -> arrow.Tables:
    """Two streams in input order, side by side, whatever order the workers finished in."""
    return stream.join(frame.whole, outputs, id_col, columns)


def distribute(
    frame: Splits, columns: Sequence[str], make_worker: WorkerFactory, monitor: Monitor
) -> tuple[list[Any], bool]:
    """Stream the rows through actors: their reports, and whether a worker or a block was lost.

    Rows that were lost are not repeated here: the parts tell which they are.

    Raises:
        Exception: whatever ended a worker.
    """
    shares = Shares.of(count(frame), make_worker)
    pool = ActorPool(make_worker, monitor, shares.workers)
    try:
        for piece in shares.cut(_blocks(frame, columns)):
            if not pool.feed(*piece):
                break
        return pool.finish(), pool.lost
    except BaseException:
        pool.drain()
        raise
    finally:
        pool.dismiss()


def _blocks(frame: Splits, columns: Sequence[str]) -> Iterator[tuple[ray.ObjectRef[Any], int]]:
    """Blocks as Ray Data reads them, by reference, and how many rows each has."""
    if not frame.parts:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    dataset = ray.data.read_datasource(_Reader(frame, columns), override_num_blocks=len(frame.parts))
    for bundle in dataset.iter_internal_ref_bundles():
        for block, metadata in zip(bundle.block_refs, bundle.metadata, strict=True):
            yield block, cast("int", metadata.num_rows)  # which is known of blocks that have been read


class _Reader(Datasource):
    """One read task a split."""

    def __init__(self, frame: Splits, columns: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parts = frame.parts
        self._columns = list(columns)
        self._finished = ray.put(frame.finished)

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before it is read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """A task for each split, whatever the parallelism: their number was chosen by rows and bytes."""
        return [
            ReadTask(
                partial(_read_split, part, self._columns, self._finished),
                BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None),
                per_task_row_limit=per_task_row_limit,
            )
            for _, part in self._parts
        ]


def _read_split(part: Stream, columns: Sequence[str], finished: ray.ObjectRef[Any]) -> Iterator[pa.Table]:
    pending = stream.exclude(part, ray.get(finished))
    empty = empty_table(pa.schema([part.schema.field(column) for column in columns]))
    batches = [pa.Table.from_batches([batch]) for batch in pending.scan(columns, SPLIT_ROWS)]
    yield pa.concat_tables([empty, *batches])
