"""The job: read, identify, limit, recover, leave out what is done, batch, transform, flush, compact, finalize.

Every public function is a node, named for what it makes; its parameters are the nodes and inputs that it is made from.
Inputs are the options (fields of the JobSpec), and the objects that `domyn_swarm.engine.graph.inputs` describes. The
implementation is in `domyn_swarm`; what depends on what is here, in data order.

A run executes the graph twice. *Planning* computes the nodes of phase "plan". It holds no lock and writes nothing, so
the value of `recovered` is given to it: nothing was changed. With the lock held, the *run* computes `recovered` and all
that depends on it, down to `finalized`; the other planned nodes keep their values. Nodes whose effects include "writes"
are all that a run writes, in this order, apart from its lock and the updates of its record while it runs.

Nodes with `rows` are lazy: "input" rows on their way to the job, "output" rows that it finished. `flushed` pulls them
through, a batch at a time.
"""

from collections.abc import Generator, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
from hamilton.function_modifiers import config, tag

from domyn_swarm.checkpoint.done_rows import DoneRows
from domyn_swarm.checkpoint.locate import following, locator
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.data.backends.base import DataBackend, Frame, JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.input_files import InputFiles, find_input
from domyn_swarm.engine.calls.items import item_batches
from domyn_swarm.engine.calls.pipeline import transform
from domyn_swarm.engine.columns import Columns, choose_columns
from domyn_swarm.engine.flush import flush_pending
from domyn_swarm.engine.identity import open_store
from domyn_swarm.engine.output_writer import Artifact, write_artifact
from domyn_swarm.engine.recording.metrics import Meter
from domyn_swarm.engine.recording.reporter import Reporter
from domyn_swarm.engine.recording.run_record import Record, ids_are_known
from domyn_swarm.engine.recovery import Recovery, clear, recover
from domyn_swarm.engine.worker import WorkerJob, flush_in_workers
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobspec import JobSpec


@tag(phase="plan")
def backend(data_backend: str) -> DataBackend:
    """The engine, imported now that it is selected."""
    return load_backend(data_backend)


@tag(phase="plan", rows="input", effects="reads input")
def files(input: str, backend_read_kwargs: dict[str, Any]) -> InputFiles:
    """The input's files by name, with row counts, schema and a digest of their content."""
    return find_input(input, backend_read_kwargs)


@tag(phase="plan", rows="input")
def source(backend: DataBackend, files: InputFiles, backend_read_kwargs: dict[str, Any]) -> Frame:
    """The input as the engine's lazy frame: all rows, in file order."""
    return backend.read(files, backend_read_kwargs)


@tag(phase="plan")
def schema(backend: DataBackend, source: Frame) -> dict[str, str]:
    """The input's columns and their normalised types, in file order."""
    return backend.schema(source)


@tag(phase="plan")
def columns(schema: dict[str, str], files: InputFiles, job: SwarmJob, spec: JobSpec) -> Columns:
    """Which columns identify a row, make an item, stand in the output: all of them checked to exist."""
    return choose_columns(schema, spec, files.hive.names, job)


@tag(phase="plan")
def store(
    run_dir: str, run_storage: dict[str, Any], files: InputFiles, columns: Columns, job: SwarmJob, spec: JobSpec
) -> CheckpointStore:
    """The run's folder, where finished rows become parquet parts. Nothing is written yet."""
    return open_store(run_dir, run_storage, files, columns, job, spec)


@config.when(ids="generated")
@tag(phase="plan", rows="input")
def identified__generated(backend: DataBackend, source: Frame) -> Frame:
    """`source` with its rows counted: `_row_id` and the position are that count."""
    return backend.with_row_id(source, None)


@config.when(ids="given")
@tag(phase="plan", rows="input", effects="reads input")
def identified__given(
    backend: DataBackend, source: Frame, columns: Columns, store: CheckpointStore, backend_read_kwargs: dict[str, Any]
) -> Frame:
    """`source` with its rows counted, and every id checked to be non-null and unique, once for each input."""
    if not ids_are_known(store, backend_read_kwargs):
        backend.check_ids(source, columns.id)
    return backend.with_row_id(source, columns.id)


@tag(phase="plan", rows="input")
def limited(backend: DataBackend, identified: Frame, limit: int | None) -> Frame:
    """The first `limit` rows in input order, the same ones on every run; all of them without a limit."""
    return identified if limit is None else backend.head(identified, limit)


@tag(phase="plan")
def row_count(backend: DataBackend, limited: Frame) -> int:
    """The number of rows of `limited`, which are those of the output."""
    return backend.count(limited)


@config.when(checkpoints="resumed")
@tag(phase="plan")
def found__resumed(store: CheckpointStore, backend: DataBackend, identified: Frame, keep_changed: bool) -> DoneRows:
    """What the folder's parts hold: the rows that earlier runs finished, those that failed, those whose inputs changed.

    Damaged parts are named, and count for nothing.
    """
    return store.done(*following(backend, identified, store, keep_changed=keep_changed))


@config.when(checkpoints="anew")
@tag(phase="plan")
def found__anew() -> DoneRows:
    """Nothing: every row is computed again."""
    return DoneRows()


@config.when(checkpoints="resumed")
@tag(phase="recover", effects=["writes parts", "writes output"])
def recovered__resumed(
    store: CheckpointStore, found: DoneRows, backend: DataBackend, identified: Frame, spec: JobSpec
) -> Recovery:
    """The folder in order, and what it holds then if that is not what was found.

    Half-written files of killed processes are removed, there and beside the output. Parts are moved to their rows'
    positions in a changed input, damaged ones are quarantined, small ones merged.
    """
    return recover(store, found, backend, identified, spec)


@config.when(checkpoints="anew")
@tag(phase="recover", effects=["writes parts", "writes output"])
def recovered__anew(store: CheckpointStore, spec: JobSpec) -> Recovery:
    """The folder without parts, and without half-written files, there and beside the output."""
    return clear(store, spec)


@tag(phase="plan")
def done(found: DoneRows, recovered: Recovery) -> DoneRows:
    """The rows that have their outputs: as found while the run is planned, and as recovered when it runs."""
    return found if recovered.done is None else recovered.done


@tag(phase="plan", rows="input")
def pending(backend: DataBackend, limited: Frame, done: DoneRows) -> Frame:
    """The rows of `limited` that have no output yet, in input order."""
    return backend.exclude(limited, done.finished)


@tag(phase="plan")
def pending_count(backend: DataBackend, pending: Frame) -> int:
    """The number of pending rows."""
    return backend.count(pending)


@tag(phase="recover", effects="writes record")
def record(reporter: Reporter, recovered: Recovery, done: DoneRows, row_count: int, pending_count: int) -> Record:
    """`spec.json` and `run.json`, which say that the run has begun. Its parts bear the number that it has there."""
    return reporter.begin(recovered, done, row_count, pending_count)


@config.when(mode="items", where="driver")
@tag(phase="stream", rows="input", effects="reads input")
def as_pandas(backend: DataBackend, pending: Frame, columns: Columns, read_batch_size: int) -> Iterator[pd.DataFrame]:
    """`pending` as a stream of Arrow-backed pandas frames: position, id and input columns."""
    return backend.to_pandas(pending, columns.read, read_batch_size)


@config.when(mode="items", where="driver")
@tag(phase="stream", rows="input")
def batches__items(as_pandas: Iterator[pd.DataFrame], columns: Columns) -> Iterator[JobBatch]:
    """Batches of items: plain Python values, or dicts of them when there are several input columns."""
    return item_batches(as_pandas, columns)


@config.when(mode="native", where="driver")
@tag(phase="stream", rows="input", effects="reads input")
def batches__native(
    backend: DataBackend, pending: Frame, columns: Columns, native_batch_size: int
) -> Iterator[JobBatch]:
    """Batches as frames of the engine, of at most `native_batch_size` rows."""
    return backend.iter_batches(pending, columns.id, columns.inputs, native_batch_size)


@config.when(where="driver")
@tag(phase="stream", rows="output", effects="calls job")
def transformed(
    job: SwarmJob, spec: JobSpec, batches: Iterator[JobBatch], columns: Columns, done: DoneRows, stop: Stop
) -> Generator[pa.Table, None, None]:
    """The job applied: tables of finished rows in the order in which they finish, failed ones among them."""
    return transform(job, spec, batches, columns, done.types, stop, done.stored)


@config.when(where="workers")
@tag(phase="stream")
def worker_job(spec: JobSpec, columns: Columns, store: CheckpointStore, done: DoneRows, record: Record) -> WorkerJob:
    """The job as plain data, for workers to rebuild and to apply to the blocks that they are handed."""
    return WorkerJob.of(spec, columns, store, done)


@config.when(where="driver")
@tag(phase="stream", rows="output", effects="writes parts")
def flushed__driver(
    store: CheckpointStore, transformed: Generator[pa.Table, None, None], pending_count: int, record: Record,
    meter: Meter, checkpoint_interval: float | None, on_error: str,
) -> FlushReport:  # fmt: skip
    """Every finished row in a durable part. This node pulls the stream, unless nothing is pending.

    It fails if the run was asked to stop, or if more rows failed than may: then no output is written.
    """
    return flush_pending(store, transformed, pending_count, meter, checkpoint_interval, on_error)


@config.when(where="workers")
@tag(phase="stream", rows="output", effects=["reads input", "calls job", "writes parts"])
def flushed__workers(
    backend: DataBackend, pending: Frame, worker_job: WorkerJob, identified: Frame, monitor: Any
) -> FlushReport:
    """Every finished row in a durable part, written by the worker that made it. This node hands out the blocks."""
    locate = locator(backend, identified, worker_job.columns.id)
    return flush_in_workers(backend, pending, worker_job, locate, monitor)


@tag(phase="output", effects="writes parts")
def compacted(store: CheckpointStore, flushed: FlushReport) -> CheckpointStore:
    """`store` with its small parts merged, once every row is in it."""
    store.compact()
    return store


@tag(phase="output", rows="output", effects="writes output")
def finalized(
    backend: DataBackend, compacted: CheckpointStore, files: InputFiles, limited: Frame, row_count: int,
    columns: Columns, spec: JobSpec,
) -> Artifact:  # fmt: skip
    """The output: every row of `limited` once, in input order, joined with what the job made of it."""
    return write_artifact(backend, compacted, files, limited, row_count, columns, spec)
