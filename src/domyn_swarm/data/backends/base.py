"""What an engine must be able to do, and the shapes that pass between engines and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from domyn_swarm.data.batches import JobBatch, Outputs, Unread, dtype_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from domyn_swarm.concurrency.stop import Stop
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.data.parquet_writer import Guard
    from domyn_swarm.telemetry.counts import Counts

__all__ = [
    "BlockWorker",
    "DataBackend",
    "DistributedBackend",
    "Frame",
    "JobBatch",
    "Monitor",
    "Outputs",
    "Session",
    "Unread",
    "WorkerFactory",
    "dtype_name",
]

Frame: TypeAlias = Any
"""A backend's own lazy frame. Only its backend looks inside."""


class DataBackend(Protocol):
    """An engine, as a module of functions (PEP 544). Frames are lazy: `read` opens, `write` and the iterators pull.

    Every function keeps input order. The arguments are checked before: columns exist, ids are valid. A `distributed`
    engine is a `DistributedBackend`.
    """

    name: str
    distributed: bool

    def read(self, files: InputFiles, read_kwargs: Mapping[str, Any]) -> Frame:
        """Open the input. Raises ConfigurationError for a keyword that the engine's reader does not know."""

    def from_arrow(self, table: pa.Table) -> Frame:
        """Rows in memory as the lazy frame that `read` would give."""

    def in_memory(self, table: pa.Table) -> Any:
        """Rows for people to look at and to work with: the frame that native batches are."""

    def schema(self, frame: Frame) -> dict[str, str]:
        """Column name -> normalised type (see `dtype_name`), in file order."""

    def with_row_id(self, frame: Frame, id_col: str | None) -> Frame:
        """`frame` with POSITION, and with ROW_ID when no id column is given."""

    def check_ids(self, frame: Frame, id_col: str) -> None:
        """Raise DataError, naming the first offenders, unless `id_col` is non-null and unique."""

    def head(self, frame: Frame, rows: int) -> Frame:
        """The first `rows` rows."""

    def count(self, frame: Frame) -> int:
        """Number of rows, reading as little as possible."""

    def exclude(self, frame: Frame, finished: np.ndarray[Any, np.dtype[np.bool_]]) -> Frame:
        """The rows whose POSITION p is not finished: `finished[p]` is false, or p is beyond its end."""

    def iter_batches(self, frame: Frame, id_col: str, input_cols: Sequence[str], batch_size: int) -> Iterator[JobBatch]:
        """Native batches of at most `batch_size` rows: frames of the engine with `id_col` and `input_cols`."""

    def to_pandas(self, frame: Frame, columns: Sequence[str], batch_size: int) -> Iterator[pd.DataFrame]:
        """The rows as pandas frames of at most `batch_size` rows, Arrow-backed so that every value stays exact."""

    def join(self, frame: Frame, outputs: Outputs, id_col: str, columns: Sequence[str]) -> Frame:
        """`columns` of the input beside the output columns, one row for each row of `frame`.

        Raises CheckpointError when the outputs do not fit the input (a row is missing, an id differs).
        """

    def check_write_kwargs(self, write_kwargs: Mapping[str, Any]) -> None:
        """Raise ConfigurationError for a keyword that the engine's parquet writer does not know."""

    def write(
        self, frame: Frame, path: str, *, directory: bool, metadata: Mapping[str, str],
        write_kwargs: Mapping[str, Any], guard: Guard | None = None,
    ) -> int:  # fmt: skip
        """Write parquet, whole or not at all, with `metadata` in the footers; returns the number of rows.

        `guard` is asked with that number when all is written, immediately before it appears at `path`.
        """


class BlockWorker(Protocol):
    """What a distributed engine runs in its workers: see `domyn_swarm.engine.worker`."""

    def add(self, block: pa.Table | None) -> None:
        """Queue a block; returns when it is taken in."""

    def counts(self) -> Counts:
        """What happened so far."""

    def check(self) -> None:
        """Raise what ended the worker, if something did."""

    def stop(self, seconds: float) -> None:
        """Start no further call, and wait for those in flight no longer than that."""

    def finish(self) -> Any:
        """Wait for the blocks that were added, and say how it went."""


class WorkerFactory(Protocol):
    """Makes a worker in the process that calls it; it travels there as plain data.

    `concurrency` is how many calls all workers together may have in flight; None: each finds out for itself.
    `batch` is how many rows one call takes: rows are only parted from each other between such batches.
    """

    @property
    def concurrency(self) -> int | None: ...  # noqa: D102 - see above

    @property
    def batch(self) -> int: ...  # noqa: D102 - see above

    def __call__(self, name: str, workers: int) -> BlockWorker:
        """The worker `name`, which no other worker of the run has, one of `workers` at a time."""


class Monitor(Protocol):
    """How a node that runs elsewhere keeps in touch with whoever started the run."""

    def advanced(self, more: Counts) -> None:
        """What happened since the last time."""

    def stopped(self) -> bool:
        """Whether the run was asked to stop."""

    def patience(self) -> float:
        """Seconds for which calls in flight may be waited for at most once the run was asked to stop."""


@dataclass(frozen=True)
class Session:
    """An engine that is up: the Hamilton adapters that run the graph on it, and a monitor that travels with nodes."""

    adapters: list[Any]
    monitor: Monitor


class DistributedBackend(DataBackend, Protocol):
    """An engine that applies the job in processes of its own."""

    def distribute(
        self, frame: Frame, columns: Sequence[str], make_worker: WorkerFactory, monitor: Monitor
    ) -> tuple[list[Any], bool]:
        """Stream the rows through workers: what those finished with, and whether any rows were lost with a worker.

        Raises whatever ended a worker.
        """

    def check_address(self, address: str | None) -> None:
        """Raise ConfigurationError when nobody answers at `address`."""

    def session(
        self, address: str | None, stop: Stop, advanced: Callable[[Counts], None]
    ) -> AbstractContextManager[Session]:
        """The engine, up for the time of a run."""
