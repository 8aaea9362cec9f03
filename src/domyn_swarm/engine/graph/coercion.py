"""What stands in for a node's value, brought into the form that the graph passes on, or refused if it has none.

Frames in memory become the engine's lazy frames, with their rows counted anew; streams are any iterable of what the
node would stream.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import pandas as pd
import pyarrow as pa

from domyn_swarm.checkpoint.locate import locator
from domyn_swarm.data.backends.base import DataBackend, Frame
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION, ROW_ID
from domyn_swarm.data.memory import TAKEN, held_table
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from domyn_swarm.engine.columns import Columns

SCAN_ROWS = 65_536


def identified(table: pa.Table, id_column: str | None, backend: DataBackend) -> Frame:
    """The table as a lazy frame with its rows counted anew; with the ids that it has, if they are valid.

    Raises:
        ConfigurationError: it lacks the id column.
        DataError: an id is null, or there twice.
    """
    frame = backend.from_arrow(without(table, POSITION))
    ids = id_column or (ROW_ID if ROW_ID in table.column_names else None)
    if ids is not None:
        _check_column(table, ids, "The frame")
        backend.check_ids(frame, ids)
    return backend.with_row_id(frame, ids)


def among(table: pa.Table, limited: Frame, id_col: str, backend: DataBackend) -> Frame:
    """The table as a lazy frame of rows of `limited`, which keep their places: they are known by their ids.

    Raises:
        ConfigurationError: it lacks the ids, or has one that `limited` lacks.
    """
    _check_column(table, id_col, "What the function for 'pending' made")
    positions = locator(backend, limited, id_col)(table[id_col].combine_chunks())
    table = without(table, POSITION).append_column(POSITION, positions).sort_by(POSITION)
    if table.num_rows and table[POSITION][0].as_py() < 0:
        raise ConfigurationError(
            f"The function for 'pending' made a row with {id_col} = {table[id_col][0].as_py()!r}; `limited` has none.",
            "It may leave rows of `limited` out and change their columns; put others into `limited` or `source`.",
            code="override.rows",
            step="pending",
        )
    return backend.from_arrow(table)


def collected(frame: Frame, backend: DataBackend) -> pa.Table:
    """All rows of an engine's lazy frame, in memory."""
    names = [*backend.schema(frame)]
    parts = (pa.Table.from_pandas(part, preserve_index=False) for part in backend.to_pandas(frame, names, SCAN_ROWS))
    tables = [part.replace_schema_metadata(None) for part in parts]
    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({name: [] for name in names})


def without(table: pa.Table, *columns: str) -> pa.Table:
    """The table without those of the columns that it has."""
    return table.drop_columns([column for column in columns if column in table.column_names])


@dataclass
class ReplayableStream:
    """A stream of type `kind` that somebody gave. Iterated again it begins anew, if what it was made from does."""

    kind: Any
    items: Any
    columns: Columns

    def __iter__(self) -> Iterator[Any]:
        return streamed(self.kind, self.items, self.columns)

    def close(self) -> None:
        """Whoever pulls a stream closes it; what somebody gave is theirs."""


def streamed(kind: Any, items: Any, columns: Columns) -> Generator[Any, None, None]:
    """The items in the form that a node of type `kind` passes on, rows counted where they are not."""
    passed_on = get_args(kind)[0]
    if passed_on not in (pd.DataFrame, pa.Table):
        yield from items
        return
    at = 0
    for item in [items] if is_frame(items) else items:
        yield _pandas(item, at, columns.id) if passed_on is pd.DataFrame else _finished(table_of(item), at, columns)
        at += len(item)


def _pandas(item: Any, at: int, id_col: str) -> pd.DataFrame:
    frame = item if isinstance(item, pd.DataFrame) else table_of(item).to_pandas(types_mapper=pd.ArrowDtype)
    made = [POSITION, ROW_ID] if id_col == ROW_ID else [POSITION]
    return frame.assign(**{name: range(at, at + len(frame)) for name in made if name not in frame})


def _finished(table: pa.Table, at: int, columns: Columns) -> pa.Table:
    """The table as `transformed` has it: position, id, outputs, failure."""
    rows = pa.array(range(at, at + table.num_rows), pa.int64())
    made = {POSITION: rows, FAILURE: pa.nulls(table.num_rows, FAILURE_TYPE)}
    made |= {ROW_ID: rows} if columns.id == ROW_ID else {}
    for name, values in made.items():
        if name not in table.column_names:
            table = table.append_column(name, values)
    for name in (columns.id, *columns.outputs):
        _check_column(table, name, "What stands in for 'transformed'")
    first = [POSITION, columns.id]
    return table.select([*first, *(name for name in table.column_names if name not in first)])


def _check_column(table: pa.Table, name: str, what: str) -> None:
    if name not in table.column_names:
        raise ConfigurationError(
            f"{what} has no column {name!r}.", f"It has: {', '.join(table.column_names)}.",
            code="column.missing", column=name, choices=tuple(table.column_names),
        )  # fmt: skip


def table_of(value: Any) -> pa.Table:
    """A frame in memory as Arrow.

    Raises:
        ConfigurationError: it is none, or Arrow has no types for what is in it.
    """
    try:
        table = held_table(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Cannot convert {named(type(value))} to Arrow: {error}",
            "Give each of its columns one type.",
            code="frame.types",
        ) from None
    if table is None:
        raise ConfigurationError(f"A {named(type(value))} is no frame.", f"It takes {TAKEN}.", code="frame.type")
    return table


def is_frame(value: Any) -> bool:
    """Whether `value` looks like a frame in memory, of whatever library."""
    return isinstance(value, Mapping) or is_frame_type(type(value))


def is_frame_type(kind: Any) -> bool:
    """Whether instances of `kind` look like frames."""
    methods = ("__arrow_c_stream__", "collect_schema", "materialize")
    return isinstance(kind, type) and any(callable(getattr(kind, method, None)) for method in methods)


def lazy_type(backend: DataBackend) -> type:
    """The class of an engine's lazy frames."""
    return type(backend.from_arrow(pa.table({"": pa.array([], pa.int64())})))


def misfit(kind: Any, value: Any, backend: DataBackend) -> str:
    """What a node of type `kind` takes, when it does not take `value`; nothing when it does."""
    origin = get_origin(kind) or kind
    if kind is Frame:
        fits = isinstance(value, lazy_type(backend)) or is_frame(value)
    elif origin is DataBackend:
        fits = isinstance(value, ModuleType) and all(hasattr(value, name) for name in _functions_of_backends())
    elif origin in (Iterator, Generator):
        fits = _streams(value, get_args(kind)[0])
    else:
        fits = isinstance(value, origin)
    return "" if fits else wanted(kind)


def _streams(value: Any, item: Any) -> bool:
    frames = item in (pd.DataFrame, pa.Table)
    if frames and is_frame(value):
        return True
    if isinstance(value, (list, tuple)):
        return all(isinstance(one, item) or (frames and is_frame(one)) for one in value)
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def makes_other(kind: Any, made: Any, backend: DataBackend) -> str:
    """What a node of type `kind` is, when that is not what a function is annotated to make; nothing when it is."""
    origin, made = get_origin(kind) or kind, get_origin(made) or made
    if not isinstance(made, type):
        return ""
    if kind is Frame:
        fits = is_frame_type(made) or issubclass(made, (lazy_type(backend), Mapping))
    elif origin is DataBackend:
        fits = made in (DataBackend, ModuleType)
    elif origin in (Iterator, Generator):
        fits = is_frame_type(made) or issubclass(made, Iterable)
    else:
        fits = issubclass(made, origin)
    return "" if fits else wanted(kind)


def wanted(kind: Any) -> str:
    """What a node of type `kind` takes, in words."""
    if kind is Frame:
        return f"{TAKEN}, or a lazy frame of the engine"
    if kind is DataBackend:
        return "a module with the functions of a DataBackend"
    if get_origin(kind) in (Iterator, Generator):
        return f"an iterable of {named(get_args(kind)[0])}"
    return f"a {named(kind)}"


def _functions_of_backends() -> list[str]:
    return [name for name, value in vars(DataBackend).items() if inspect.isfunction(value) and not name.startswith("_")]


def named(kind: Any) -> str:
    """A type as people write it."""
    if not isinstance(kind, type) or get_args(kind):
        return str(kind)
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}".removeprefix("builtins.")
