"""Applying the job: batches in, tables of finished rows out."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.data.backends.base import POSITION, JobBatch
from domyn_swarm.errors import ConfigurationError, JobError
from domyn_swarm.jobs.outputs import FAILURE, Failure, OutputColumns
from domyn_swarm.jobs.pool import Chunk, Limits, concurrency_for, run_calls

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobs.spec import JobSpec


def method_of(job: SwarmJob | type[SwarmJob], *, native: bool) -> str:
    """The name of the method that a run will call.

    Raises:
        ConfigurationError: the job has no method for the mode.
    """
    has = [name for name in ("transform_item", "transform_items", "transform_items_native") if hasattr(job, name)]
    wanted = ["transform_items_native"] if native else ["transform_item", "transform_items"]
    for name in wanted:
        if name in has:
            return name
    job_name = job.__name__ if isinstance(job, type) else type(job).__name__
    if native:
        raise ConfigurationError(
            f"--native-backend: {job_name} has no method transform_items_native.",
            "Write that method, or leave the flag out.",
        )
    hint = "Add --native-backend." if has else "Write transform_item(self, item)."
    raise ConfigurationError(f"{job_name} has neither transform_item nor transform_items.", hint)


def check_method(job: SwarmJob, spec: JobSpec) -> None:
    """Refuse what the job's method cannot do.

    Raises:
        ConfigurationError: no method for the mode, or `timeout` for a plain `def`, which cannot be interrupted.
    """
    name = method_of(job, native=spec.native_backend)
    if spec.timeout is not None and not inspect.iscoroutinefunction(getattr(job, name)):
        raise ConfigurationError(
            f"--timeout: {type(job).__name__}.{name} is a plain def, which cannot be interrupted.",
            "Make it async def, or leave the flag out.",
        )


def transform(  # noqa: PLR0913 - one call site, the graph's node
    job: SwarmJob,
    spec: JobSpec,
    batches: Iterable[JobBatch],
    id_col: str,
    input_cols: list[str],
    columns: OutputColumns,
    stop: threading.Event,
) -> Iterator[pa.Table]:
    """Tables of POSITION, the id column, the output columns and FAILURE: one row for each row that finished.

    Rows come as they finish. With `on_error="fail"` the stream ends in a JobError after the first failed row.

    Raises:
        JobError: a row failed and `on_error` is "fail".
    """
    name = method_of(job, native=spec.native_backend)
    call, chunk_of = getattr(job, name), _row_chunk
    if name == "transform_items":
        call, chunk_of = call, _list_chunk
    elif name == "transform_items_native":
        call = partial(call, backend_name=spec.data_backend, id_col=id_col, input_cols=input_cols)
        chunk_of = _native_chunk
    call = _awaitable(call, getattr(job, name))
    limits = Limits(concurrency_for(call, spec.max_concurrency), spec.retries, spec.timeout)
    results = run_calls(
        map(chunk_of, batches), call, limits, stop=stop, opened=partial(job.open, spec), closed=job.close
    )
    failed = False
    for batch, keys, outputs in results:
        table = _result(batch, keys, outputs, id_col, input_cols, columns)
        yield table
        if spec.on_error == "fail" and not failed and (failed := table[FAILURE].null_count < table.num_rows):
            first = table.filter(pc.is_valid(table[FAILURE])).slice(0, 1).to_pylist()[0]
            stop.set()
    if failed:
        failure = first[FAILURE]
        raise JobError(
            f"The row with {id_col} = {first[id_col]!r} failed: {failure['type']}: {failure['message']}",
            "Mend it and run the same command again to go on, or use --on-error record.",
        )


def _awaitable(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[[Any], Any]:
    """`call` as something that is a coroutine function exactly when `method` is one (a partial is not, before 3.12)."""
    if not inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(call):
        return call

    async def awaited(payload: Any) -> Any:
        return await call(payload)

    return awaited


def _row_chunk(batch: JobBatch) -> Chunk:
    items = batch.items or []
    return Chunk(batch, enumerate(items), len(items))


def _list_chunk(batch: JobBatch) -> Chunk:
    return Chunk(batch, iter([(None, batch.items)]), 1)


def _native_chunk(batch: JobBatch) -> Chunk:
    return Chunk(batch, iter([(None, batch.batch)]), 1)


def _result(
    batch: JobBatch, keys: list[Any], outputs: list[Any], id_col: str, input_cols: list[str], columns: OutputColumns
) -> pa.Table:
    if keys[0] is None:  # one call made the whole batch
        made = _batch_outputs(batch, outputs[0], id_col, input_cols, columns)
        ids, positions = batch.ids, batch.positions
    else:
        made = columns.table(outputs)
        rows = pa.array(keys, pa.int64())
        ids, positions = batch.ids.take(rows), batch.positions.take(rows)
    return pa.table([positions, ids, *made.columns], names=[POSITION, id_col, *made.column_names])


def _batch_outputs(
    batch: JobBatch, output: Any, id_col: str, input_cols: list[str], columns: OutputColumns
) -> pa.Table:
    rows = len(batch.ids)
    if isinstance(output, Failure):
        return columns.table([output] * rows)
    try:
        if (table := _as_table(output)) is not None:
            return columns.select(_by_id(table, batch, id_col), [id_col, POSITION, *input_cols])
        outputs = list(output)
        if len(outputs) != rows:
            raise ValueError(f"{len(outputs)} outputs for {rows} rows")  # noqa: TRY301 - one handler for all misfits
    except (TypeError, ValueError, KeyError, pa.ArrowException) as error:
        return columns.table([Failure("OutputError", f"the job returned a batch that does not fit: {error}")] * rows)
    return columns.table(outputs)


def _as_table(output: Any) -> pa.Table | None:
    """A frame of any engine as Arrow; None when `output` is no frame."""
    if isinstance(output, pa.Table):
        return output
    if hasattr(output, "columns") and hasattr(output, "__arrow_c_stream__"):
        index = getattr(output, "index", None)
        return pa.table(output) if index is None else pa.Table.from_pandas(output, preserve_index=False)
    return pa.Table.from_batches([output]) if isinstance(output, pa.RecordBatch) else None


def _by_id(table: pa.Table, batch: JobBatch, id_col: str) -> pa.Table:
    """The rows of `table` in the batch's order: by id when it has that column, else as they come."""
    if table.num_rows != len(batch.ids):
        raise ValueError(f"{table.num_rows} rows for {len(batch.ids)} ids")
    if id_col not in table.column_names:
        return table
    order = pc.index_in(batch.ids, value_set=table[id_col].cast(batch.ids.type).combine_chunks())
    if order.null_count:
        missing = batch.ids.filter(order.is_null())[0].as_py()
        raise ValueError(f"no row for {id_col} = {missing!r}")
    return table.take(order)
