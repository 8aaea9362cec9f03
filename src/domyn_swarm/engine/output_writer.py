"""The output: checked before the run that it may be written, written at the end unless it is there already."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.lock import LockLostError
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.data.arrow import Tables
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, RUN_KEY
from domyn_swarm.data.file_metadata import carried
from domyn_swarm.data.input_files import verify_unchanged
from domyn_swarm.data.parquet_writer import PART_FILE, write_parquet
from domyn_swarm.engine.identity import run_id_of
from domyn_swarm.engine.output_paths import check_locations
from domyn_swarm.errors import CheckpointError, ConfigurationError, DataError, JobError, OutputConflictError, opt
from domyn_swarm.redaction import public_options
from domyn_swarm.storage.atomic import remove_leftovers
from domyn_swarm.storage.files import filesystem, open_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend, Frame
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.jobspec import JobSpec


CONTENT_KEY = "domyn_swarm.content"
RUN_CHARS = 12
"""Of a run's id in names of files."""
_SHAPING = ("output_mode", "limit", "input_columns", "output_columns", "backend_write_kwargs")


@dataclass(frozen=True)
class Artifact:
    """The finished output: its rows, how many of them failed, and what identifies its content."""

    path: str
    rows: int
    failed: int
    content: str


def check_output(spec: JobSpec, files: InputFiles, store: CheckpointStore, *, replaced: bool = False) -> None:
    """Refuse an output that would damage something. `replaced` says that it is not the real run's, but an experiment's.

    Raises:
        ConfigurationError: it is the input or lies in it, or something else wrote it and `overwrite` is off.
    """
    check_locations(spec, files, store.folder)
    if spec.output_is_directory:
        _check_directory(spec)
    if not spec.overwrite and (owner := owner_of(spec)) is not None and not _is_ours(owner, store):
        hint = f"Give another path, or {opt('overwrite', True)} to replace it."
        raise ConfigurationError(
            f"{spec.output!r} exists, and another run or program wrote it.",
            "Give a run with replaced nodes an output of its own: with_options(output=...)." if replaced else hint,
            code="output.exists",
            option="output",
            path=spec.output,
        )
    if _is_anothers(spec, store):
        raise ConfigurationError(
            f"{spec.errors_path!r}, the file of failed rows, exists, and another run wrote it.",
            f"Move it away, give another path, or {opt('overwrite', True)} to replace it.",
            code="output.exists",
            option="output",
            path=spec.errors_path,
        )


def _check_directory(spec: JobSpec) -> None:
    """A directory is replaced as a whole, with all that is in it."""
    fs, path = filesystem(spec.output, spec.backend_write_kwargs.get("storage_options"))
    path = path.rstrip("/")
    ours = re.compile(r".*\.parquet" if spec.overwrite else PART_FILE)
    if other := next((file for file in fs.find(path) if not ours.fullmatch(file.removeprefix(f"{path}/"))), None):
        raise ConfigurationError(
            f"{spec.output!r} holds {other.removeprefix(path).lstrip('/')!r}, which is no part of an output.",
            "Move it, or write somewhere else: an output directory is replaced as a whole.",
            code="output.exists",
            option="output",
            path=spec.output,
        )


def _is_anothers(spec: JobSpec, store: CheckpointStore) -> bool:
    """Whether the file of failed rows says that another run wrote it, and must be kept."""
    fs, path = filesystem(spec.errors_path, spec.backend_write_kwargs.get("storage_options"))
    owner = (_failures_in(fs, path) or {}).get(RUN_KEY)
    return not spec.overwrite and owner is not None and owner != run_id_of(store)


def _is_ours(owner: dict[str, str], store: CheckpointStore) -> bool:
    return RUN_KEY in owner and owner[RUN_KEY] == run_id_of(store)


def owner_of(spec: JobSpec) -> dict[str, str] | None:
    """What an existing output's footer says of who wrote it; None when there is no output, or an empty directory."""
    fs, path = filesystem(spec.output, spec.backend_write_kwargs.get("storage_options"))
    files = fs.find(path)
    if not files and not fs.isfile(path):
        return None
    try:
        first = min(files) if fs.isdir(path) else path
        with open_parquet(fs, first) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return {}
    return {key: metadata[key.encode()].decode() for key in (RUN_KEY, CONTENT_KEY) if key.encode() in metadata}


def content_key(store: CheckpointStore, spec: JobSpec) -> str:
    """Changes whenever the output would: with each run that leaves parts, the input, and the options that shape it.

    What compaction does to the parts changes nothing. Secrets do not count: their digests could be guessed at.
    """
    options = public_options({name: getattr(spec, name) for name in _SHAPING})
    content = [store.folder.run_id(), store.folder.newest_part_run(), store.input_digest, options]
    content += [store.versions] if store.versions else []
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]


def write_artifact(
    backend: DataBackend,
    store: CheckpointStore,
    files: InputFiles,
    limited: Frame,
    rows: int,
    columns: Columns,
    spec: JobSpec,
) -> Artifact:
    """Join the `rows` rows of `limited` with their outputs and write them, unless the output holds just that already.

    Raises:
        CheckpointError: the parts do not cover the input.
        DamagedPartError: a part turned out to be damaged; it has been set aside.
        OutputConflictError: something changed during the run, so that the output cannot take its place.
        LockLostError: another process has taken over the run.
    """
    key = content_key(store, spec)
    last_check = LastCheck(spec, files, store, rows)
    if not is_current(store, spec):
        joined = backend.join(limited, store.outputs(), columns.id, columns.kept)
        kept = carried(files, columns.kept).kept
        metadata = {**kept, RUN_KEY: store.folder.run_id() or "", CONTENT_KEY: key}
        with last_check.explaining():
            backend.write(
                joined, spec.output, directory=spec.output_is_directory, metadata=metadata,
                write_kwargs=spec.backend_write_kwargs, guard=last_check,
            )  # fmt: skip
    return Artifact(spec.output, rows, _write_errors(store, rows, spec, last_check), key)


@dataclass(frozen=True)
class LastCheck:
    """What was checked before the run, checked again immediately before the output takes its place.

    That is: the input, the output, the number of rows, and the lock.
    """

    spec: JobSpec
    files: InputFiles
    store: CheckpointStore
    rows: int

    def __call__(self, written: int) -> bool:
        """Whether there is an output which `written` rows may replace; False says that there is none.

        Raises:
            OutputConflictError: the input has changed, or the output is not this run's any more.
            CheckpointError: rows are missing.
            LockLostError: another process has taken over the run.
        """
        self._check_input()
        if written != self.rows:
            raise CheckpointError(
                f"{written:,} rows were written for {self.rows:,} of the input.", "This is a bug.", code="internal.rows"
            )
        self.check_lock()
        try:
            check_output(self.spec, self.files, self.store)
        except ConfigurationError as error:
            raise self._conflict(
                f"{self.spec.output} was not written: {error.text}",
                f"Move {self.spec.output} out of the way, or give another {opt('output')}.",
            ) from None
        fs, path = filesystem(self.spec.output, self.spec.backend_write_kwargs.get("storage_options"))
        return bool(fs.exists(path))

    def errors(self, _written: int) -> bool:
        """The same for the file of failed rows, which replaces only its like.

        Raises:
            OutputConflictError: something else is there.
            LockLostError: another process has taken over the run.
        """
        self.check_lock()
        fs, path = filesystem(self.spec.errors_path, self.spec.backend_write_kwargs.get("storage_options"))
        if not fs.exists(path):
            return False
        if _failures_in(fs, path) is None or _is_anothers(self.spec, self.store):
            place = self.spec.errors_path
            raise self._conflict(
                f"The failed rows were not written to {place}: something else is there.", f"Move {place} away."
            )
        return True

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Where the input has changed, whatever breaks in here is explained by that."""
        try:
            yield
        except (OutputConflictError, DamagedPartError, LockLostError):
            raise
        except Exception:
            self._check_input()
            raise

    def check_lock(self) -> None:
        """Make sure that nobody has taken over the run, and that nobody will for some seconds."""
        if self.store.fence is not None:
            self.store.fence.renew(self.store.folder)

    def _check_input(self) -> None:
        try:
            verify_unchanged(self.files)
        except (DataError, JobError) as error:
            raise self._conflict(f"{self.spec.output} was not written: {error.text}", error.advice) from None

    def _conflict(self, message: str, hint: str) -> OutputConflictError:
        run = (self.store.folder.run_id() or "run")[:RUN_CHARS]
        return OutputConflictError(message, hint, path=self.spec.output, run=run)


def _write_errors(store: CheckpointStore, rows: int, spec: JobSpec, last_check: LastCheck) -> int:
    """Write down the failed rows beside the output, or remove what an earlier run wrote; returns their number."""
    fs, path = filesystem(spec.errors_path, spec.backend_write_kwargs.get("storage_options"))

    def failures() -> Iterator[pa.Table]:
        return (table for table in _first_rows(store.failures(), rows) if table.num_rows)

    first = next(failures(), None)
    if first is None:
        if _failures_in(fs, path) is not None and not _is_anothers(spec, store):
            last_check.check_lock()
            fs.rm_file(path)
        return 0
    schema = errors_schema(first.schema.field(store.id_col))
    tables = Tables(schema, lambda: (_flat(table, store.id_col, schema) for table in failures()))
    options = {"storage_options": spec.backend_write_kwargs.get("storage_options")}
    metadata = {RUN_KEY: store.folder.run_id() or ""}
    return write_parquet(
        tables, spec.errors_path, directory=False, metadata=metadata, write_kwargs=options, guard=last_check.errors
    )  # fmt: skip


def _failures_in(fs: Any, path: str) -> dict[str, str] | None:
    """What the file at `path` says of the run that wrote its failed rows there; None for a file of anything else."""
    try:
        with open_parquet(fs, path) as parquet:
            schema = parquet.schema_arrow
    except (pa.ArrowException, OSError, ValueError):
        return None
    if not len(schema) or schema.names != errors_schema(schema.field(0)).names:
        return None
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key == RUN_KEY.encode()}


def errors_schema(id_field: pa.Field[Any]) -> pa.Schema:
    """The id, `type`, `message` and `attempts`; `error_type` and so on where the id has one of these names."""
    prefix = "error_" if id_field.name in FAILURE_TYPE.names else ""
    return pa.schema([id_field, *(field.with_name(f"{prefix}{field.name}") for field in FAILURE_TYPE)])


def _first_rows(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    for table in tables:
        yield table.filter(pc.less(table.column(0), pa.scalar(rows)))


def _flat(table: pa.Table, id_col: str, schema: pa.Schema) -> pa.Table:
    return pa.table(
        [table[id_col], *(pc.struct_field(table[FAILURE], [field.name]) for field in FAILURE_TYPE)], schema=schema
    )


def remove_half_written(spec: JobSpec, store: CheckpointStore) -> None:
    """Remove what runs of this folder that were killed had half written beside the output."""
    for place in (spec.output, spec.errors_path):
        fs, path = filesystem(place, spec.backend_write_kwargs.get("storage_options"))
        parent, _, name = path.rstrip("/").rpartition("/")
        remove_leftovers(fs, parent or ".", name, store.folder.run_id() or "")


def is_current(store: CheckpointStore, spec: JobSpec) -> bool:
    """Whether the output holds just what the parts would make, and was finished."""
    key = content_key(store, spec)
    record = RunRecord.load(store.folder)
    return record is not None and record.content == key and (owner_of(spec) or {}).get(CONTENT_KEY) == key
