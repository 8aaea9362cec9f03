"""Applying the job: batches in, tables of finished rows out."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.concurrency.resources import calls_that_fit
from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, INPUTS, POSITION, TRACE
from domyn_swarm.data.memory import as_table
from domyn_swarm.data.types import comparable, with_types
from domyn_swarm.data.values import python_values
from domyn_swarm.engine.calls.chunks import Chunk, Finished
from domyn_swarm.engine.calls.limits import Limits, concurrency_for
from domyn_swarm.engine.calls.outputs import Failure, OutputColumns
from domyn_swarm.engine.calls.worker_pool import run_calls
from domyn_swarm.errors import ConfigurationError, JobError, opt
from domyn_swarm.jobs.base import SwarmJob

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from domyn_swarm.checkpoint.stored_values import StoredValues
    from domyn_swarm.concurrency.stop import Stop
    from domyn_swarm.data.backends.base import Unread
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.jobspec import JobSpec


ITEM_BATCH_ROWS = 32_768

_NOTHING = pa.table({FAILURE: pa.nulls(0, FAILURE_TYPE)})


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
            f"{job_name} has no method transform_items_native.",
            f"Write that method, or leave {opt('native_backend')} out.",
            code="job.no_method",
            option="native_backend",
            step="transform_items_native",
        )
    hint = f"Add {opt('native_backend', True)}." if has else "Write transform_item(self, item)."
    raise ConfigurationError(f"{job_name} has neither transform_item nor transform_items.", hint, code="job.no_method")


def batch_rows(spec: JobSpec, job: SwarmJob | type[SwarmJob]) -> int:
    """Rows that are read at a time; a method that takes a list or a frame gets them all in one call."""
    if spec.native_backend:
        return spec.native_batch_size
    return spec.batch_size if method_of(job, native=False) == "transform_items" else ITEM_BATCH_ROWS


def check_method(job: SwarmJob, spec: JobSpec) -> None:
    """Refuse what the job's method cannot do.

    Raises:
        ConfigurationError: no method for the mode, or what a plain `def` cannot do: be interrupted, be many.
    """
    name = method_of(job, native=spec.native_backend)
    if inspect.iscoroutinefunction(getattr(job, name)):
        return
    wanted = {
        "timeout": (spec.timeout is not None, "cannot be interrupted"),
        "max_concurrency": (
            spec.max_concurrency == "auto",
            "runs in threads, whose number is for you to choose",
        ),
    }
    for option, (given, why) in wanted.items():
        if given:
            raise ConfigurationError(
                f"{type(job).__name__}.{name} is a plain def, which {why}.",
                f"Make it async def, or leave {opt(option)} out.",
                code="job.not_async",
                option=option,
                step=name,
            )


def transform(
    job: SwarmJob,
    spec: JobSpec,
    batches: Iterable[JobBatch],
    columns: Columns,
    known: pa.Schema,
    stop: Stop,
    stored: StoredValues | None = None,
) -> Generator[pa.Table, None, None]:
    """Tables of POSITION, the id column, the output columns, FAILURE, and TRACE if there is any, of rows that finished.

    Rows come as they finish, and a table without rows now and then while none do, so that whoever pulls can look at the
    clock. `known` are the types of the output columns that earlier runs made; `stored` has values of steps for rows
    that are computed again. With `on_error="fail"`, the calls in flight when a row fails are the last ones.

    Raises:
        JobError: a row failed and `on_error` is "fail".
    """
    call, chunk_of = _call_of(job, spec, columns, stored)
    timeout = None if job.times_itself else spec.timeout
    concurrency, sockets = concurrency_for(call, spec.max_concurrency), 2 if len(spec.endpoints) > 1 else 1
    fitting = calls_that_fit(concurrency, sockets)
    limits = Limits(concurrency and fitting, spec.retries, timeout, spec.trace, spec.grace, fitting, spec.retry_timeout)
    chunks = _chunks((_digested(batch, columns) for batch in batches), chunk_of)
    results = run_calls(chunks, call, limits, stop=stop, opened=partial(job.open, spec), closed=job.close)
    outputs = OutputColumns(
        columns.stored,
        reserved=columns.reserved,
        known=known,
        fixed=job.output_types(spec),
        lost_with=job.lost_with(spec),
    )
    failed: pa.Table | None = None
    with contextlib.closing(results):
        for finished in results:
            table = _NOTHING if finished is None else _finished(finished, columns, outputs)
            yield table
            if spec.on_error == "fail" and failed is None and table[FAILURE].null_count < table.num_rows:
                failed = table.filter(pc.is_valid(table[FAILURE]))
                stop.set()
    if failed is not None:
        (ids, _), (failures, _) = python_values(failed[columns.id]), python_values(failed[FAILURE])
        raise row_failed(columns.id, repr(ids[0]), failures[0]["type"], failures[0]["message"])


def _digested(batch: JobBatch, columns: Columns) -> JobBatch:
    """`batch` with the digests of its rows' inputs, if those will ever be compared."""
    if not columns.follows or batch.digested is None or not len(batch.ids):
        return batch
    return replace(batch, digests=batch.digested(), digested=None)


def row_failed(id_col: str, id_: str, kind: str, message: str) -> JobError:
    """The error that ends a run with `on_error="fail"`, of the first row that failed."""
    return JobError(
        f"The row with {id_col} = {id_} failed: {kind}: {message}",
        f"Remove the cause, or use {opt('on_error', 'record')}, which writes failed rows down and continues.",
        code="row.failed",
        row=id_,
        column=id_col,
    )


def _call_of(
    job: SwarmJob, spec: JobSpec, columns: Columns, stored: StoredValues | None
) -> tuple[Callable[[Any], Any], Callable[[JobBatch], Chunk]]:
    """The job's method as a function of one payload, and how a batch is cut into payloads."""
    name = method_of(job, native=spec.native_backend)
    method = getattr(job, name)
    if name != "transform_items_native":
        return method, partial(_row_chunk, job, stored) if name == "transform_item" else _list_chunk
    native = partial(method, backend_name=spec.data_backend, id_col=columns.id, input_cols=columns.inputs)
    return _awaitable(native, method), _native_chunk


def _awaitable(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[[Any], Any]:
    """`call` as something that is a coroutine function exactly when `method` is one (a partial is not, before 3.12)."""
    if not inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(call):
        return call

    async def awaited(payload: Any) -> Any:
        return await call(payload)

    return awaited


def _chunks(batches: Iterable[JobBatch], chunk_of: Callable[[JobBatch], Chunk]) -> Iterator[Chunk]:
    for batch in batches:
        if batch.unread is not None:
            yield _unread_chunk(batch.unread)
        yield chunk_of(batch)


def _unread_chunk(unread: Unread) -> Chunk:
    """Rows that no call is made for: they have failed already."""
    failures = [Failure("InputError", reason, attempts=0) for reason in unread.reasons]
    keys = list(range(len(failures)))
    return Chunk(JobBatch(unread.ids, unread.positions), iter(()), len(keys), keys, [*failures])


def _row_chunk(job: SwarmJob, stored: StoredValues | None, batch: JobBatch) -> Chunk:
    items = batch.items or []
    payloads: Iterable[Any] = items
    if type(job).payload is not SwarmJob.payload:
        known = stored.at(batch.positions.to_numpy()) if stored else itertools.repeat(dict[str, Any]())
        payloads = map(job.payload, items, known)
    return Chunk(batch, enumerate(payloads), len(items))


def _list_chunk(batch: JobBatch) -> Chunk:
    return _one_call(batch, batch.items)


def _native_chunk(batch: JobBatch) -> Chunk:
    return _one_call(batch, batch.batch)


def _one_call(batch: JobBatch, payload: Any) -> Chunk:
    return Chunk(batch, iter([(None, payload)]), 1) if len(batch.ids) else Chunk(batch, iter(()), 0)


def _finished(finished: Finished, columns: Columns, outputs: OutputColumns) -> pa.Table:
    """The rows of the batch whose calls finished, or all of them when one call made them."""
    batch, keys, values, traces = finished
    traced: Sequence[str | None]
    if keys[0] is None:
        made = _batch_outputs(batch, values[0], columns, outputs)
        keyed = [batch.positions, batch.ids, batch.digests]
        traced = [*traces.values()] * len(batch.ids)
    else:
        made = outputs.table(values)
        keyed = _rows_of(keys, batch.positions, batch.ids, batch.digests)
        traced = [traces.get(key) for key in keys] if traces else []
    positions, ids, digests = keyed
    arrays, names = [positions, ids, *made.columns], [POSITION, columns.id, *made.column_names]
    if digests is not None:
        arrays, names = [*arrays, digests], [*names, INPUTS]
    if traced:
        arrays, names = [*arrays, pa.array(traced, pa.string())], [*names, TRACE]
    return pa.table(arrays, names=names)


def _rows_of(keys: list[int], *arrays: pa.Array[Any] | None) -> list[pa.Array[Any] | None]:
    """The rows of `arrays` that `keys` number."""
    first, count = keys[0], len(keys)
    if keys == list(range(first, first + count)):  # fast calls finish in order
        return [array if array is None else array.slice(first, count) for array in arrays]
    rows = pa.array(keys, pa.int64())
    return [array if array is None else array.take(rows) for array in arrays]


def _batch_outputs(batch: JobBatch, value: Any, columns: Columns, outputs: OutputColumns) -> pa.Table:
    rows = len(batch.ids)
    if isinstance(value, Failure):
        return outputs.table([value] * rows)
    try:
        if (table := as_table(value)) is not None:
            plain = with_types(table, map(comparable, table.schema.types))
            return outputs.select(_by_id(plain, batch, columns.id), [columns.id, POSITION, *columns.inputs])
        values = list(value)
        if len(values) != rows:
            raise ValueError(f"{len(values)} outputs for {rows} rows")
    except BaseException as error:  # what polars cannot export makes it panic, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        why = Failure.of(error).message
        return outputs.table([Failure("OutputError", f"the job returned a batch that does not fit: {why}")] * rows)
    return outputs.table(values)


def _by_id(table: pa.Table, batch: JobBatch, id_col: str) -> pa.Table:
    """The rows of `table` in the batch's order: by id when it has that column, else as they come."""
    if table.num_rows != len(batch.ids):
        raise ValueError(f"{table.num_rows} rows for {len(batch.ids)} ids")
    if id_col not in table.column_names:
        return table
    ids = _storage(batch.ids)
    order = pc.index_in(ids, value_set=_storage(table[id_col].combine_chunks()).cast(ids.type))
    if order.null_count:
        missing = batch.ids.filter(order.is_null())[0].as_py()
        raise ValueError(f"no row for {id_col} = {missing!r}")
    return table.take(order)


def _storage(array: Any) -> Any:
    """What an array of an extension type (UUIDs) is made of: engines hand it back as one or the other."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array
