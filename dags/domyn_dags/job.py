"""The job: read, identify, limit, leave out what is done, batch, transform, flush, finalize.

Every public function is a node, named for what it makes; its parameters are the nodes and options (fields of the
JobSpec) that it is made from. Nodes that pass rows on are lazy: `flushed` pulls them through, a batch at a time. What
the nodes do stands in `domyn_swarm`; which rooms they pass through stands here, in data order.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
from hamilton.function_modifiers import config

from domyn_swarm.checkpoint.store import CheckpointStore, DoneRows, FlushReport
from domyn_swarm.data.backends.base import DataBackend, Frame, JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.helpers.io import InputFiles, list_files
from domyn_swarm.jobs.base import SwarmJob
from domyn_swarm.jobs.columns import check_id_column, check_input_columns, check_kept_columns
from domyn_swarm.jobs.finalize import Artifact, write_artifact
from domyn_swarm.jobs.items import item_batches
from domyn_swarm.jobs.meter import Meter
from domyn_swarm.jobs.outputs import OutputColumns
from domyn_swarm.jobs.spec import JobSpec
from domyn_swarm.jobs.transform import transform


def backend(data_backend: str) -> DataBackend:
    """The engine, imported now that it is selected."""
    return load_backend(data_backend)


def files(input: str, backend_read_kwargs: dict[str, Any]) -> InputFiles:
    """The input's files by name, with row counts, schema and a digest of their content."""
    return list_files(input, backend_read_kwargs.get("storage_options"))


def source(backend: DataBackend, files: InputFiles, backend_read_kwargs: dict[str, Any]) -> Frame:
    """The input as the engine's lazy frame: all rows, in file order."""
    return backend.read(files, backend_read_kwargs)


def schema(backend: DataBackend, source: Frame) -> dict[str, str]:
    """The input's columns and their normalised types, in file order."""
    return backend.schema(source)


def id_col(schema: dict[str, str], id_column: str | None) -> str:
    """The column that identifies a row: the one given, or the generated `_row_id`."""
    return check_id_column(schema, id_column)


def input_cols(schema: dict[str, str], input_columns: list[str], id_column: str | None) -> list[str]:
    """The columns that make the job's items; all of them exist."""
    return check_input_columns(schema, input_columns, id_column)


@config.when(ids="generated")
def identified__generated(backend: DataBackend, source: Frame, id_col: str) -> Frame:
    """`source` with its rows counted: `_row_id` and the position are that count."""
    return backend.with_row_id(source, None)


@config.when(ids="given")
def identified__given(backend: DataBackend, source: Frame, id_col: str) -> Frame:
    """`source` with its rows counted, and every id checked to be non-null and unique."""
    backend.check_ids(source, id_col)
    return backend.with_row_id(source, id_col)


def limited(backend: DataBackend, identified: Frame, limit: int | None) -> Frame:
    """The first `limit` rows in input order, the same ones on every run; all of them without a limit."""
    return identified if limit is None else backend.head(identified, limit)


def store(run_dir: str, id_col: str, files: InputFiles, output_columns: list[str]) -> CheckpointStore:
    """The run's folder, where finished rows become parquet parts. Nothing is written yet."""
    return CheckpointStore(run_dir, id_col, files.digest, output_columns)


@config.when(checkpoints="resumed")
def done__resumed(store: CheckpointStore) -> DoneRows:
    """The rows that earlier runs finished, those that failed, and parts that are damaged."""
    return store.done()


@config.when(checkpoints="anew")
def done__anew(store: CheckpointStore) -> DoneRows:
    """Nothing: every row is computed again."""
    return DoneRows()


def pending(backend: DataBackend, limited: Frame, done: DoneRows) -> Frame:
    """The rows of `limited` that have no output yet, in input order."""
    return backend.exclude(limited, done.finished)


@config.when(mode="items")
def as_pandas(
    backend: DataBackend, pending: Frame, id_col: str, input_cols: list[str], item_batch_size: int
) -> Iterator[pd.DataFrame]:
    """`pending` as a stream of Arrow-backed pandas frames: position, id and input columns."""
    return backend.to_pandas(pending, [*dict.fromkeys(["__position__", id_col, *input_cols])], item_batch_size)


@config.when(mode="items")
def batches__items(as_pandas: Iterator[pd.DataFrame], id_col: str, input_cols: list[str]) -> Iterator[JobBatch]:
    """Batches of items: plain Python values, or dicts of them when there are several input columns."""
    return item_batches(as_pandas, id_col, input_cols)


@config.when(mode="native")
def batches__native(
    backend: DataBackend, pending: Frame, id_col: str, input_cols: list[str], native_batch_size: int
) -> Iterator[JobBatch]:
    """Batches as frames of the engine, of at most `native_batch_size` rows."""
    return backend.iter_batches(pending, id_col, input_cols, native_batch_size)


def kept_cols(
    schema: dict[str, str], output_mode: str, output_columns: list[str], id_col: str, input_cols: list[str]
) -> list[str]:
    """The input's columns that stand in the output before the job's: all, only the id, or the id and the inputs."""
    return check_kept_columns(schema, output_mode, output_columns, id_col, input_cols)


def output_schema(output_columns: list[str], kept_cols: list[str]) -> OutputColumns:
    """The output columns by name, and the types that they have taken so far."""
    return OutputColumns(output_columns, reserved=kept_cols)


def transformed(
    job: SwarmJob, spec: JobSpec, batches: Iterator[JobBatch], id_col: str, input_cols: list[str],
    output_schema: OutputColumns, stop: threading.Event,
) -> Iterator[pa.Table]:  # fmt: skip
    """The job applied: tables of finished rows, in the order in which they finish, failed rows among them."""
    return transform(job, spec, batches, id_col, input_cols, output_schema, stop)


def flushed(
    store: CheckpointStore, transformed: Iterator[pa.Table], meter: Meter,
    checkpoint_interval: float,
) -> FlushReport:  # fmt: skip
    """Every finished row in a durable part. This node pulls the stream."""
    return store.flush(map(meter, transformed), checkpoint_interval)


def finalized(
    backend: DataBackend, store: CheckpointStore, limited: Frame, flushed: FlushReport, id_col: str,
    kept_cols: list[str], spec: JobSpec,
) -> Artifact:  # fmt: skip
    """The output: every row of `limited` once, in input order, joined with what the job made of it."""
    return write_artifact(backend, store, limited, id_col, kept_cols, spec)
