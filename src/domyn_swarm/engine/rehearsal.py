"""The run in small, before its first call: the first rows and a row of nulls go the way that all rows will go.

They are handed to the job's method in no form but made ready for it, and written with synthetic outputs to memory. So
what an engine cannot do with a column's type is found out before anything is paid for.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import fields

from domyn_swarm.data.arrow import projected, scan_window
from domyn_swarm.data.backends.base import Outputs
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.columns import DEFAULT_COLUMN, POSITION, ROW_ID
from domyn_swarm.data.types import conformed, parts
from domyn_swarm.engine.calls.items import item_batches
from domyn_swarm.errors import ConfigurationError, DataError
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.data.backends.base import DataBackend, Frame, JobBatch
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.engine.columns import Columns

ROWS = 16


def rehearse(backend: DataBackend, files: InputFiles, columns: Columns, spec: JobSpec) -> None:
    """Refuse an input with a column that the engine cannot hand to the job, or write.

    Raises:
        ConfigurationError: there is one; the message names it with its type, and an engine that can.
        DataError: the first rows cannot be read.
    """
    if files.schema is None or not files.rows:
        return
    wanted = dict.fromkeys([*columns.kept, *columns.read])
    sample = sample_of(files, [name for name in wanted if name in files.schema.names])
    if not (all_of_it := _Rehearsal(backend, sample, columns, spec).failure()):
        return
    for field in sample.schema:
        if why := _Rehearsal(backend, sample, columns, spec, field.name).failure():
            usual = load_backend(next(one.default for one in fields(JobSpec) if one.name == "data_backend"))
            can = usual.name != backend.name and not _Rehearsal(usual, sample, columns, spec, field.name).failure()
            raise ConfigurationError(
                f"--input: column {field.name!r} is {field.type}, which the {backend.name} backend cannot take through "
                f"this run: {why}",
                f"Use --data-backend {usual.name}, which can." if can else _HINT,
            )
    raise ConfigurationError(f"--input: its first rows cannot be taken through this run: {all_of_it}", _HINT)


_HINT = """Convert the column, or name those to read: --backend-read-kwargs '{"columns": [...]}'."""


def sample_of(files: InputFiles, columns: Sequence[str]) -> pa.Table:
    """The first rows, and one in which all is null that may be, with the types that the files declare."""
    schema = projected(files.schema, list(columns)).remove_metadata() if files.schema else pa.schema([])
    file = next(one for one in files.files if one.rows)
    try:
        read = [conformed(batch, schema) for batch in scan_window(files, file, 0, ROWS, columns)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"--input: {file.path} cannot be read: {error}", "Replace the file, or leave it out.") from None
    table = pa.Table.from_batches(read, schema=schema)
    last = [pa.nulls(1, field.type) if _may_be_null(field) else table[field.name].chunk(0)[:1] for field in schema]
    return pa.concat_tables([table, pa.Table.from_arrays(last, schema=schema)])


def _may_be_null(field: pa.Field[Any]) -> bool:
    """Whether the field, and all fields inside, may be null: Arrow makes no null of a struct with others."""
    inside = (child for one in parts(field.type) if isinstance(one, pa.StructType) for child in one)
    return field.nullable and all(child.nullable for child in inside)


class _Rehearsal:
    """One try: all columns of `sample`, or what the run does with column `only` alone."""

    def __init__(
        self, backend: DataBackend, sample: pa.Table, columns: Columns, spec: JobSpec, only: str | None = None
    ) -> None:
        self._backend, self._spec, self._sample = backend, spec, sample
        self._given = columns.id in sample.column_names and (not only or columns.id == ROW_ID)
        self._id = columns.id if self._given else ROW_ID
        self._inputs = [name for name in columns.inputs if only in (None, name)]
        self._kept = [name for name in columns.kept if only in (None, name) and name in sample.column_names]
        self._output = next(iter(columns.outputs), DEFAULT_COLUMN)
        self._columns = columns

    def failure(self) -> str:
        """What went wrong; nothing when all went well."""
        try:
            frame = self._backend.from_arrow(self._sample)
            frame = self._backend.with_row_id(frame, self._id if self._given else None)
            return self._handed_over(frame) or self._written(frame)
        except BaseException as error:  # some engines panic, which is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            return f"{type(error).__name__}: {error}"

    def _handed_over(self, frame: Frame) -> str:
        """Why the row of nulls, which has no value to stumble over, does not reach the job."""
        if not self._inputs:
            return ""
        last = self._sample.num_rows - 1
        for batch in self._batches(frame):
            unread = batch.unread
            if unread is not None and last in (places := unread.positions.to_pylist()):
                return unread.reasons[places.index(last)]
        return ""

    def _batches(self, frame: Frame) -> Iterator[JobBatch]:
        if self._spec.native_backend:
            return self._backend.iter_batches(frame, self._id, self._inputs, self._sample.num_rows)
        names = [POSITION, self._id, *(name for name in self._inputs if name != self._id)]
        frames = self._backend.to_pandas(frame, names, self._sample.num_rows)
        return item_batches(frames, replace(self._columns, id=self._id, inputs=self._inputs))

    def _written(self, frame: Frame) -> str:
        """What the output lacks when it is read again."""
        schema = pa.schema([(self._output, pa.string())])
        joined = self._backend.join(frame, Outputs(schema, lambda: self._outputs(frame)), self._id, self._kept)
        options = {key: value for key, value in self._spec.backend_write_kwargs.items() if key != "storage_options"}
        folder = f"memory://domyn-swarm-{uuid.uuid4().hex}"
        fs = fsspec.filesystem("memory")
        try:
            path = f"{folder}/rehearsal.parquet"
            self._backend.write(joined, path, directory=False, metadata={}, write_kwargs=options)
            with fs.open(path, "rb") as file:
                back = pq.read_table(file)
        finally:
            if fs.exists(folder):
                fs.rm(folder, recursive=True)
        if back.num_rows != self._sample.num_rows:
            return f"{back.num_rows} of {self._sample.num_rows} rows can be read again"
        different = (
            name for name in self._kept if back.schema.field(name).type != self._sample.schema.field(name).type
        )
        return next((f"it becomes {back.schema.field(name).type} in the output" for name in different), "")

    def _outputs(self, frame: Frame) -> Iterator[pa.Table]:
        for rows in self._backend.to_pandas(frame, [POSITION, self._id], self._sample.num_rows):
            table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
            yield table.append_column(self._output, pa.array(["an output"] * table.num_rows))
