"""Measuring what passes between nodes, as it passes: rows, batches, time, the first rows.

The streams of a process are pulled by one thread, each by the one after it. So what a node spends in being pulled, less
what it spends in pulling, is its own. A batch costs two looks at the clock.
"""

from __future__ import annotations

import contextlib
import time
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import pyarrow as pa

from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.columns import INPUTS, TRACE
from domyn_swarm.data.values import python_values
from domyn_swarm.masking import masked
from domyn_swarm.storage.texts import safe_repr, storable
from domyn_swarm.telemetry.counts import Flow

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
SAMPLE_ROWS = 3
VALUE_CHARS = 200
_NODE = "domyn_swarm_node"
"""Where an error says in which node it was raised; it survives pickling, as all attributes of an error do."""


class Flows:
    """What the nodes of one process have passed on so far, by their names."""

    def __init__(self) -> None:
        self.by_node: dict[str, Flow] = {}
        self.at_work: set[str] = set()
        self.ended: set[str] = set()  # those that have passed on all that they had
        self._pulled = 0.0  # seconds spent in the nodes that the present one pulls from

    def of(self, node: str) -> Flow:
        """What `node` has passed on; nothing at first."""
        return self.by_node.setdefault(node, Flow())

    def sample_memory(self) -> int:
        """The bytes that this process has resident, noted for the nodes that are at work."""
        resident: int = _process().memory_info().rss
        for node in list(self.at_work):
            flow = self.of(node)
            flow.memory = max(flow.memory, resident)
        return resident

    @contextlib.contextmanager
    def timed(self, node: str) -> Iterator[Flow]:
        """Time spent in here is that of `node`, and an error that comes from here was raised in it."""
        flow = self.of(node)
        outer, self._pulled = self._pulled, 0.0
        started = time.perf_counter()
        self.at_work.add(node)
        try:
            yield flow
        except BaseException as error:
            attach_node(error, node)
            raise
        finally:
            spent = time.perf_counter() - started
            flow.seconds += spent - self._pulled
            self._pulled = outer + spent

    @contextlib.contextmanager
    def running(self, node: str) -> Iterator[Flow]:
        """`timed`, for a node that is at work for just that time."""
        try:
            with self.timed(node) as flow:
                yield flow
                self.sample_memory()
            self.ended.add(node)
        finally:
            self.at_work.discard(node)

    def measured(self, node: str, stream: Iterable[T]) -> Generator[T, None, None]:
        """`stream`, which `node` passes on."""
        iterator = iter(stream)
        self.ended.discard(node)
        try:
            while True:
                with self.timed(node) as flow:
                    try:
                        batch = next(iterator)
                    except StopIteration:
                        self.ended.add(node)
                        return
                    _count(flow, batch)
                yield batch
        finally:
            self.at_work.discard(node)
            if (close := getattr(iterator, "close", None)) is not None:
                close()


@cache
def _process() -> psutil.Process:
    return psutil.Process()


def attach_node(error: BaseException, node: str) -> None:
    """Note that `error` was raised in `node`, unless that is known already."""
    if not hasattr(error, _NODE):
        with contextlib.suppress(AttributeError):  # an error with slots
            setattr(error, _NODE, node)


def of_no_node(error: E) -> E:
    """`error`, as one that is no node's fault, whichever raises it."""
    setattr(error, _NODE, None)
    return error


def node_of(error: BaseException) -> str | None:
    """The node in which `error` was raised; None when that is not known."""
    return getattr(error, _NODE, None)


def _count(flow: Flow, batch: Any) -> None:
    flow.batches += 1
    rows = _rows_of(batch)
    flow.rows += rows
    if isinstance(batch, pa.Table):
        flow.bytes += batch.nbytes
    if rows and not flow.schema:
        flow.schema, flow.sample = _shown(batch)


def _rows_of(batch: Any) -> int:
    return len(batch.ids if isinstance(batch, JobBatch) else batch)


def _shown(batch: Any) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Names and types of the columns of the first rows, and these rows as text."""
    if isinstance(batch, JobBatch):
        return _batch_shown(batch)
    is_table = isinstance(batch, pa.Table)
    table = batch if is_table else pa.Table.from_pandas(batch.head(SAMPLE_ROWS), preserve_index=False)
    hidden = [name for name in (TRACE, INPUTS) if name in table.column_names]  # `job row` shows the trace better
    head = table.drop_columns(hidden).slice(0, SAMPLE_ROWS)
    columns = [_column_shown(column) for column in head.columns]
    schema = {field.name: str(field.type) for field in head.schema}
    return schema, [dict(zip(schema, row, strict=True)) for row in zip(*columns, strict=True)]


def _column_shown(column: Any) -> list[str]:
    values, reasons = python_values(column)
    return [f"({reasons[row]})" if row in reasons else shown(value) for row, value in enumerate(values)]


def _batch_shown(batch: JobBatch) -> tuple[dict[str, str], list[dict[str, str]]]:
    ids = [{"id": text} for text in _column_shown(batch.ids.slice(0, SAMPLE_ROWS))]
    if batch.items is None:
        kind = type(batch.batch)
        is_table = isinstance(batch.batch, pa.Table)
        columns = map(str, batch.batch.column_names if is_table else getattr(batch.batch, "columns", ()))
        return {"id": str(batch.ids.type), "batch": f"{kind.__module__}.{kind.__name__}: {', '.join(columns)}"}, ids
    items: list[Mapping[str, Any]] = [
        item if isinstance(item, dict) else {"item": item} for item in batch.items[:SAMPLE_ROWS]
    ]
    schema = {"id": str(batch.ids.type), **{str(name): type(value).__name__ for name, value in items[0].items()}}
    rows = [{name: shown(value) for name, value in item.items()} for item in items]
    return schema, [{**id_, **row} for id_, row in zip(ids, rows, strict=True)]


def shown(value: Any) -> str:
    """A value as a short text, without the keys that must not be shown."""
    text = value if isinstance(value, str) else safe_repr(value)
    text = storable(text[: VALUE_CHARS + 1])
    return masked(text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}…")
