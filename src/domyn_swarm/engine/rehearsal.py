"""The run in small, before its first call: some rows go the way that all rows will go.

They are the first ones, extremes and nulls (`domyn_swarm.data.samples`). They are handed to the job's method in no form
but made ready for it, written with synthetic outputs to memory, and read again. So what an engine cannot do with a
column's type or values is found out before anything is paid for.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import fields

from domyn_swarm.data.arrow import BATCH_BYTES, OWN_READ_KWARGS
from domyn_swarm.data.backends.base import Outputs
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.columns import DEFAULT_COLUMN, POSITION, ROW_ID
from domyn_swarm.data.digests import row_digests
from domyn_swarm.data.filters import files_that_may_pass
from domyn_swarm.data.samples import ROWS, Sample, sample_of
from domyn_swarm.data.values import without_python_type
from domyn_swarm.engine.calls.items import item_batches
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.data.backends.base import DataBackend, Frame, JobBatch
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.engine.columns import Columns

_HINT = f"Convert the column, or name those to read: `columns` in {opt('backend_read_kwargs')}."


def rehearse(nodes: Mapping[str, Any], spec: JobSpec, held: pa.Table | None = None) -> None:
    """Refuse an input with a column that the engine cannot hand to the job, or write.

    `nodes` are those of the plan, `held` is the input if that is in memory.

    Raises:
        ConfigurationError: there is one; the message names it with its type, and an engine that can.
        DataError: the first rows cannot be read.
    """
    backend: DataBackend = nodes["backend"]
    files: InputFiles = nodes["files"]
    columns: Columns = nodes["columns"]
    if held is None and files.schema is not None and (filters := spec.backend_read_kwargs.get("filters")):
        files = files_that_may_pass(files, filters)
    sample = _sample({**nodes, "files": files}, held)
    if not sample.rows.num_columns:
        return
    reads = _Reader(files, spec) if files.schema is not None and held is None else None
    if not (all_of_it := _Rehearsal(backend, sample, columns, spec, reads).failure()):
        return
    for field in sample.rows.schema:
        if why := _Rehearsal(backend, sample, columns, spec, reads, field.name).failure():
            usual = load_backend(next(one.default for one in fields(JobSpec) if one.name == "data_backend"))
            can = usual.name != backend.name and not (
                _Rehearsal(usual, sample, columns, spec, reads, field.name).failure()
            )
            raise ConfigurationError(
                f"column {field.name!r} is {field.type}, which the {backend.name} backend cannot take through "
                f"this run: {why}",
                f"Use {opt('data_backend', usual.name)}, which can." if can else _HINT,
                code="input.unsupported",
                option="input",
                column=field.name,
            )
    raise ConfigurationError(
        f"its first rows cannot be taken through this run: {all_of_it}", _HINT, code="input.unsupported", option="input"
    )


def _sample(nodes: Mapping[str, Any], held: pa.Table | None) -> Sample:
    """The sample of parquet files, of a table in memory, or of what the engine reads of other files."""
    columns, files, backend = nodes["columns"], nodes["files"], nodes["backend"]
    known = files.schema.names if files.schema is not None else list(nodes["schema"])
    names = [name for name in dict.fromkeys([*columns.kept, *columns.read]) if name in known]
    if held is not None:
        return Sample.of(pa.concat_tables([held.slice(0, ROWS).select(names)]).combine_chunks())
    if files.schema is not None:
        return sample_of(files, names)
    first = next(iter(backend.to_pandas(backend.head(nodes["limited"], ROWS), names, ROWS)))
    return Sample.of(pa.Table.from_pandas(first, preserve_index=False).replace_schema_metadata(None))


class _Reader:
    """The beginning of an input as an engine reads it."""

    def __init__(self, files: InputFiles, spec: JobSpec) -> None:
        first = next(file for file in files.files if file.rows)
        wide = replace(first, decoded_bytes=(first.rows or 0) * BATCH_BYTES // ROWS)  # few are read at once
        self._files = replace(files, files=(wide,))
        self._rows = min(ROWS, first.rows or 0)
        self._options = {key: value for key, value in spec.backend_read_kwargs.items() if key in OWN_READ_KWARGS}

    def frame(self, backend: DataBackend, id_col: str | None) -> Frame:
        """Its first rows as a frame of `backend`."""
        frame = backend.with_row_id(backend.read(self._files, self._options), id_col)
        return backend.head(frame, self._rows)


class _Rehearsal:
    """One try: all columns of `sample`, or what the run does with column `only` alone."""

    def __init__(
        self,
        backend: DataBackend,
        sample: Sample,
        columns: Columns,
        spec: JobSpec,
        reader: _Reader | None,
        only: str | None = None,
    ) -> None:
        names = sample.rows.column_names
        self._backend, self._spec, self._sample, self._reader = backend, spec, sample, reader
        self._given = columns.id in names and (not only or columns.id == ROW_ID)
        self._id = columns.id if self._given else ROW_ID
        self._inputs = [name for name in columns.inputs if only in (None, name)]
        self._kept = [name for name in columns.kept if only in (None, name) and name in names]
        self._output = next(iter(columns.outputs), DEFAULT_COLUMN)
        self._columns = columns

    def failure(self) -> str:
        """What went wrong; nothing when all went well."""
        id_col = self._id if self._given else None
        try:
            frame = self._backend.with_row_id(self._backend.from_arrow(self._sample.rows), id_col)
            return self._read(id_col) or self._handed_over(frame) or self._written(frame)
        except BaseException as error:  # some engines panic, which is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            return f"{type(error).__name__}: {error}"

    def _read(self, id_col: str | None) -> str:
        """Which column the engine's own reader reads as something else than it is."""
        names = list(dict.fromkeys([*self._kept, *self._inputs]))
        if self._reader is None or not names:
            return ""
        frames = self._backend.to_pandas(self._reader.frame(self._backend, id_col), names, ROWS)
        read = [pa.Table.from_pandas(frame, preserve_index=False) for frame in frames]
        return self._difference(pa.concat_tables(read), self._sample.rows.slice(0, self._sample.first), names)

    def _difference(self, found: pa.Table, expected: pa.Table, names: list[str]) -> str:
        """How values of `names` differ, as far as they can be compared; nothing when they do not."""
        if found.num_rows != expected.num_rows:
            return f"{found.num_rows} of {expected.num_rows} rows can be read"
        for name in names:
            if found[name].type == expected[name].type and found[name].equals(expected[name]):
                continue  # most are, and equality is faster than digests
            there, here = row_digests({name: expected[name]}), row_digests({name: found[name]})
            if there.null_count == here.null_count == 0 and there != here:
                return f"values of column {name!r} become others"
        return ""

    def _handed_over(self, frame: Frame) -> str:
        """Why a type, or the row of nulls, which has no value to fail over, does not reach the job."""
        for name in self._inputs if not self._spec.native_backend else ():
            if why := without_python_type(self._sample.rows.schema.field(name).type):
                return why
        last = self._sample.rows.num_rows - 1
        inputs = [name for name in self._inputs if name in self._sample.may_be_null]
        for batch in self._batches(frame, inputs) if inputs else ():
            unread = batch.unread
            if unread is not None and last in (places := unread.positions.to_pylist()):
                return unread.reasons[places.index(last)]
        return ""

    def _batches(self, frame: Frame, inputs: list[str]) -> Iterator[JobBatch]:
        rows = self._sample.rows.num_rows
        if self._spec.native_backend:
            return self._backend.iter_batches(frame, self._id, inputs, rows)
        names = [POSITION, self._id, *(name for name in inputs if name != self._id)]
        return item_batches(
            self._backend.to_pandas(frame, names, rows), replace(self._columns, id=self._id, inputs=inputs)
        )

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
            # Not from a file of Python's: Arrow's threads let go of it later, which aborts a process that is ending.
            back = pq.read_table(pa.BufferReader(fs.cat_file(path)))
        finally:
            if fs.exists(folder):
                fs.rm(folder, recursive=True)
        for name in self._kept:
            if (dtype := back.schema.field(name).type) != self._sample.rows.schema.field(name).type:
                return f"it becomes {dtype} in the output"
        return self._difference(back, self._sample.rows, self._kept)

    def _outputs(self, frame: Frame) -> Iterator[pa.Table]:
        for rows in self._backend.to_pandas(frame, [POSITION, self._id], self._sample.rows.num_rows):
            table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
            yield table.append_column(self._output, pa.array(["an output"] * table.num_rows))
