"""The job: read, identify, limit, leave out what is done, batch, transform, flush, finalize.

Every public function is a node, named for what it makes; its parameters are the nodes and options (fields of the
JobSpec) that it is made from. Nodes that pass rows on are lazy: `flushed` pulls them through, a batch at a time. What
the nodes do stands in `domyn_swarm`; which rooms they pass through stands here, in data order.
"""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
from hamilton.function_modifiers import config, tag
from hamilton.function_modifiers.metadata import ray_remote_options

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.locate import following, locator
from domyn_swarm.checkpoint.store import CheckpointStore, DoneRows
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.data.backends.base import DataBackend, Frame, JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.input_files import InputFiles, find_input
from domyn_swarm.engine.calls.items import item_batches
from domyn_swarm.engine.calls.pipeline import transform
from domyn_swarm.engine.columns import Columns, choose_columns
from domyn_swarm.engine.output_writer import Artifact, write_artifact
from domyn_swarm.engine.recording.metrics import Meter
from domyn_swarm.engine.recording.run_record import ids_are_known
from domyn_swarm.engine.worker import WorkerJob, flush_in_workers
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobspec import JobSpec

_waits = ray_remote_options(num_cpus=0, max_retries=0, resources={"node:__internal_head__": 0.001})
"""For nodes that run on a cluster and mostly wait there: they hold no CPU, and no machine that is lost takes them."""


def backend(data_backend: str) -> DataBackend:
    """The engine, imported now that it is selected."""
    return load_backend(data_backend)


@tag(effects="reads input")
def files(input: str, backend_read_kwargs: dict[str, Any]) -> InputFiles:
    """The input's files by name, with row counts, schema and a digest of their content."""
    return find_input(input, backend_read_kwargs)


def source(backend: DataBackend, files: InputFiles, backend_read_kwargs: dict[str, Any]) -> Frame:
    """The input as the engine's lazy frame: all rows, in file order."""
    return backend.read(files, backend_read_kwargs)


def schema(backend: DataBackend, source: Frame) -> dict[str, str]:
    """The input's columns and their normalised types, in file order."""
    return backend.schema(source)


def columns(schema: dict[str, str], files: InputFiles, spec: JobSpec) -> Columns:
    """Which columns identify a row, make an item, stand in the output: all of them checked to exist."""
    return choose_columns(schema, spec, files.hive.names)


def store(run_dir: str, run_storage: dict[str, Any], files: InputFiles, columns: Columns) -> CheckpointStore:
    """The run's folder, where finished rows become parquet parts. Nothing is written yet."""
    return CheckpointStore(RunFolder(run_dir, run_storage), columns.id, files.digest, columns.outputs, columns.inputs)


@config.when(ids="generated")
def identified__generated(backend: DataBackend, source: Frame) -> Frame:
    """`source` with its rows counted: `_row_id` and the position are that count."""
    return backend.with_row_id(source, None)


@config.when(ids="given")
@tag(effects="reads input")
def identified__given(
    backend: DataBackend, source: Frame, columns: Columns, store: CheckpointStore, spec: JobSpec
) -> Frame:
    """`source` with its rows counted, and every id checked to be non-null and unique, once for each input."""
    if not ids_are_known(spec, store):
        backend.check_ids(source, columns.id)
    return backend.with_row_id(source, columns.id)


def limited(backend: DataBackend, identified: Frame, limit: int | None) -> Frame:
    """The first `limit` rows in input order, the same ones on every run; all of them without a limit."""
    return identified if limit is None else backend.head(identified, limit)


@config.when(checkpoints="resumed")
def done__resumed(store: CheckpointStore, backend: DataBackend, identified: Frame, spec: JobSpec) -> DoneRows:
    """The rows that earlier runs finished, those that failed, those whose inputs changed since, and damaged parts."""
    return store.done(*following(backend, identified, store, keep_changed=spec.keep_changed))


@config.when(checkpoints="anew")
def done__anew(store: CheckpointStore) -> DoneRows:
    """Nothing: every row is computed again."""
    return DoneRows()


def pending(backend: DataBackend, limited: Frame, done: DoneRows) -> Frame:
    """The rows of `limited` that have no output yet, in input order."""
    return backend.exclude(limited, done.finished)


@config.when(mode="items", where="driver")
@tag(effects="reads input")
def as_pandas(backend: DataBackend, pending: Frame, columns: Columns, read_batch_size: int) -> Iterator[pd.DataFrame]:
    """`pending` as a stream of Arrow-backed pandas frames: position, id and input columns."""
    return backend.to_pandas(pending, columns.read, read_batch_size)


@config.when(mode="items", where="driver")
def batches__items(as_pandas: Iterator[pd.DataFrame], columns: Columns) -> Iterator[JobBatch]:
    """Batches of items: plain Python values, or dicts of them when there are several input columns."""
    return item_batches(as_pandas, columns)


@config.when(mode="native", where="driver")
@tag(effects="reads input")
def batches__native(
    backend: DataBackend, pending: Frame, columns: Columns, native_batch_size: int
) -> Iterator[JobBatch]:
    """Batches as frames of the engine, of at most `native_batch_size` rows."""
    return backend.iter_batches(pending, columns.id, columns.inputs, native_batch_size)


@config.when(where="driver")
@tag(effects="calls job")
def transformed__driver(
    job: SwarmJob, spec: JobSpec, batches: Iterator[JobBatch], columns: Columns, done: DoneRows, stop: Stop
) -> Generator[pa.Table, None, None]:
    """The job applied: tables of finished rows in the order in which they finish, failed ones among them."""
    return transform(job, spec, batches, columns, done.types, stop)


@config.when(where="workers")
def transformed__workers(spec: JobSpec, columns: Columns, store: CheckpointStore, done: DoneRows) -> WorkerJob:
    """The job as plain data, for workers to rebuild and to apply to the blocks that they are handed."""
    return WorkerJob.of(spec, columns, store, done.types)


@config.when(where="driver")
@tag(effects="writes parts")
def flushed__driver(
    store: CheckpointStore, transformed: Generator[pa.Table, None, None], meter: Meter, checkpoint_interval: float
) -> FlushReport:
    """Every finished row in a durable part. This node pulls the stream."""
    with contextlib.closing(transformed) as tables:
        return store.flush(map(meter, tables), checkpoint_interval, meter.stop, meter.refused)


@config.when(where="workers")
@tag(effects=["reads input", "calls job", "writes parts"])
@_waits
def flushed__workers(
    backend: DataBackend, pending: Frame, transformed: WorkerJob, identified: Frame, monitor: Any
) -> FlushReport:
    """Every finished row in a durable part, written by the worker that made it. This node hands out the blocks."""
    locate = locator(backend, identified, transformed.columns.id)
    return flush_in_workers(backend, pending, transformed, locate, monitor)


@tag(effects="writes output")
@_waits
def finalized(
    backend: DataBackend, store: CheckpointStore, files: InputFiles, limited: Frame, flushed: FlushReport,
    columns: Columns, spec: JobSpec,
) -> Artifact:  # fmt: skip
    """The output: every row of `limited` once, in input order, joined with what the job made of it."""
    return write_artifact(backend, store, files, limited, columns, spec)
