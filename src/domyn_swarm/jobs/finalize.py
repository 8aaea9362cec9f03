"""The output: checked before the run that it may be written, written at the end unless it is there already."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.folder import RUN_KEY
from domyn_swarm.data.arrow import PART_FILE, Tables, write_parquet
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE
from domyn_swarm.data.file_metadata import carried
from domyn_swarm.data.input_files import verify_unchanged
from domyn_swarm.errors import CheckpointError, ConfigurationError
from domyn_swarm.helpers.io import filesystem, open_parquet
from domyn_swarm.jobs.identity import run_id_of
from domyn_swarm.jobs.output_paths import check_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.data.backends.base import DataBackend, Frame
    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.jobs.columns import Columns
    from domyn_swarm.jobs.spec import JobSpec

CONTENT_KEY = "domyn_swarm.content"
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
    check_places(spec, files, store.folder)
    if spec.output_is_directory:
        _check_directory(spec)
    if not spec.overwrite and (owner := owner_of(spec)) is not None and not _is_ours(owner, store):
        hint = "Give another path, or --overwrite to replace it."
        raise ConfigurationError(
            f"--output: {spec.output!r} exists, and another run or program wrote it.",
            "Give a run with replaced nodes an output of its own: with_options(output=...)." if replaced else hint,
        )


def _check_directory(spec: JobSpec) -> None:
    """A directory is replaced as a whole, with all that is in it."""
    fs, path = filesystem(spec.output, spec.backend_write_kwargs.get("storage_options"))
    path = path.rstrip("/")
    ours = re.compile(r".*\.parquet" if spec.overwrite else PART_FILE)
    if other := next((file for file in fs.find(path) if not ours.fullmatch(file.removeprefix(f"{path}/"))), None):
        raise ConfigurationError(
            f"--output: {spec.output!r} holds {other.removeprefix(path).lstrip('/')!r}, which is no part of an output.",
            "Move it, or write somewhere else: an output directory is replaced as a whole.",
        )


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

    What compaction does to the parts changes nothing.
    """
    options = {name: getattr(spec, name) for name in _SHAPING}
    content = [store.folder.run_id(), store.folder.newest_part_run(), store.input_digest, options]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]


def write_artifact(
    backend: DataBackend, store: CheckpointStore, files: InputFiles, limited: Frame, columns: Columns, spec: JobSpec
) -> Artifact:
    """Join `limited` with its outputs and write them; nothing is written when the output holds just that already.

    Raises:
        CheckpointError: the parts do not cover the input.
        DamagedPartError: a part turned out to be damaged; it has been set aside.
        JobError: the input changed since it was planned.
    """
    verify_unchanged(files)
    rows = backend.count(limited)
    key = content_key(store, spec)
    failed = _write_errors(store, rows, spec)
    if not is_current(store, spec):
        joined = backend.join(limited, store.outputs(), columns.id, columns.kept)
        kept = carried(files, columns.kept).kept
        metadata = {**kept, RUN_KEY: store.folder.run_id() or "", CONTENT_KEY: key}
        written = backend.write(
            joined, spec.output, directory=spec.output_is_directory, metadata=metadata,
            write_kwargs=spec.backend_write_kwargs,
        )  # fmt: skip
        if written != rows:
            raise CheckpointError(f"{written:,} rows were written for {rows:,} of the input.", "This is a bug.")
    return Artifact(spec.output, rows, failed, key)


def _write_errors(store: CheckpointStore, rows: int, spec: JobSpec) -> int:
    """Write down the failed rows beside the output, or remove what an earlier run wrote; returns their number."""
    fs, path = filesystem(spec.errors_path, spec.backend_write_kwargs.get("storage_options"))
    failures = (table for table in _first_rows(store.failures(), rows) if table.num_rows)
    first = next(failures, None)
    if first is None:
        if fs.exists(path):
            fs.rm_file(path)
        return 0
    schema = pa.schema([first.schema.field(store.id_col), *FAILURE_TYPE])
    tables = (_flat(table, store.id_col, schema) for table in itertools.chain([first], failures))
    options = {"storage_options": spec.backend_write_kwargs.get("storage_options")}
    return write_parquet(
        Tables(schema, lambda: tables), spec.errors_path, directory=False, metadata={}, write_kwargs=options
    )


def _first_rows(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    for table in tables:
        yield table.filter(pc.less(table.column(0), pa.scalar(rows)))


def _flat(table: pa.Table, id_col: str, schema: pa.Schema) -> pa.Table:
    return pa.table(
        [table[id_col], *(pc.struct_field(table[FAILURE], [field.name]) for field in FAILURE_TYPE)], schema=schema
    )


def is_current(store: CheckpointStore, spec: JobSpec) -> bool:
    """Whether the output holds just what the parts would make, and was finished."""
    key = content_key(store, spec)
    recorded = (store.folder.load("run.json") or {}).get("content")
    return recorded == key and (owner_of(spec) or {}).get(CONTENT_KEY) == key
