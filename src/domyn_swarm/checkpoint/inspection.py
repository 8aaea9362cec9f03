"""Looking into a run's folder from outside, without its job and its input: what it holds, whether that can be read."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint import lock, records
from domyn_swarm.checkpoint.folder import PartName, RunFolder, name_of
from domyn_swarm.checkpoint.merge import in_order
from domyn_swarm.checkpoint.named_files import check_plain, storage_of
from domyn_swarm.checkpoint.part import DamagedPartError, Marks, Part, united
from domyn_swarm.checkpoint.records import UnreadableRecordError
from domyn_swarm.checkpoint.run_record import FILE, RunRecord, SpecRecord
from domyn_swarm.data.arrow import Tables
from domyn_swarm.data.columns import FAILURE, POSITION
from domyn_swarm.data.listing import list_paths, would_name
from domyn_swarm.data.memory import IN_MEMORY
from domyn_swarm.data.parquet_writer import write_parquet
from domyn_swarm.errors import CheckpointError, ConfigurationError, SwarmError, opt
from domyn_swarm.storage.files import filesystem, translating_io_errors
from domyn_swarm.storage.locations import Location
from domyn_swarm.storage.paths import names_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.checkpoint.process import LockOwner

T = TypeVar("T")
LOOKS = 20
"""Most times that a folder is looked at, while a run merges parts in it."""


class CheckpointSummary(msgspec.Struct):
    """What a run's folder holds. `finished` and `failed` count rows of the input, `rows` those in the parts.

    `unusable` maps each unusable part to the reason; `damaged` lists the parts that were quarantined earlier.
    """

    path: str
    job: str | None
    state: str | None
    started: str | None
    ended: str | None
    error: str | None
    holder: str | None
    id_column: str | None
    columns: dict[str, str]
    finished: int
    failed: int
    rows: int
    parts: int
    size: int
    unusable: dict[str, str]
    damaged: list[str]


def open_run(path: str, storage_options: Mapping[str, Any] | None = None) -> RunFolder:
    """The folder of a run.

    Raises:
        ConfigurationError: there is none at `path`; the message names those that are below it.
    """
    folder = RunFolder(path, storage_options)
    with translating_io_errors(path):
        if records.exists(folder, FILE) or folder.parts():
            return folder
        below = [name for name in _folders(folder) if RunFolder(f"{path.rstrip('/')}/{name}").run_id()]
    runs = f"Runs there: {', '.join(below)}." if below else "It is <checkpoint-dir>/<tag>."
    raise ConfigurationError(f"{path!r} is not the folder of a run.", runs, code="run.unknown", path=path)


def _folders(folder: RunFolder) -> list[str]:
    try:
        entries = folder.fs.ls(folder.root, detail=True)
        return sorted(name_of(entry["name"].rstrip("/")) for entry in entries if entry["type"] == "directory")
    except (FileNotFoundError, NotADirectoryError):
        return []


class _MergedError(Exception):
    """The run has merged parts while they were read."""


def consistent_read(folder: RunFolder, look: Callable[[], T]) -> T:
    """What `look` finds, looking again when a run merges parts meanwhile.

    Raises:
        CheckpointError: that never stopped.
    """
    for _ in range(LOOKS):
        before = _sizes(folder)
        try:
            found = look()
        except (FileNotFoundError, _MergedError):
            continue
        if before.items() <= _sizes(folder).items():
            return found
    raise CheckpointError(
        f"A run changes {folder.path} faster than it can be read.",
        "Wait for it, or stop it.",
        code="checkpoint.busy",
        path=folder.path,
    )


def _sizes(folder: RunFolder) -> dict[str, int]:
    return {path: size for path, size in folder.files("parts").items() if PartName.of(path)}


def survey(folder: RunFolder) -> CheckpointSummary:
    """Read the footers of all parts, and those pages of positions that the statistics do not tell."""
    with translating_io_errors(folder.path):
        return consistent_read(folder, lambda: _survey(folder))


def _survey(folder: RunFolder) -> CheckpointSummary:
    record, error = _record_of(folder)
    parts, unusable = usable(folder)
    finished, failed = _counted(parts)
    names = [part.origin.id_col for part in parts[-1:]]
    types = functools.reduce(lambda types, part: united([types, part.types]), parts, pa.schema([]))
    number = lock.newest(folder)
    return CheckpointSummary(
        path=folder.path,
        job=_job_of(record),
        state=record.state,
        started=record.started or None,
        ended=record.ended,
        error=error,
        holder=_described(lock.read(folder, number)) if number else None,
        id_column=names[0] if names else record.id_column,
        columns={field.name: str(field.type) for field in types},
        finished=finished,
        failed=failed,
        rows=sum(part.rows for part in parts),
        parts=len(parts),
        size=sum(folder.files("parts").values()),
        unusable=unusable,
        damaged=sorted(map(name_of, folder.files("damaged"))),
    )


def _record_of(folder: RunFolder) -> tuple[RunRecord, str | None]:
    """What the run wrote down, and what broke it, or why that cannot be read."""
    try:
        record = RunRecord.read(folder) or RunRecord()
    except UnreadableRecordError as error:
        return RunRecord(), error.text
    return record, record.error


def _job_of(record: RunRecord) -> str | None:
    job = record.identity.get("job")
    return job if isinstance(job, str) else None


def _described(holder: LockOwner | None) -> str:
    if holder is None:
        return "unknown"
    return f"{holder}{' (gone)' if holder.is_near and not holder.is_alive else ''}"


def usable(folder: RunFolder) -> tuple[list[Part], dict[str, str]]:
    """The parts that can be opened, and why the others cannot."""
    parts = []
    unusable = {name_of(path): "it has not the name of a part" for path in folder.foreign_files()}
    run_id = folder.run_id()
    for path in folder.parts():
        try:
            part = Part(folder.fs, path)
        except DamagedPartError as error:
            unusable[name_of(path)] = error.reason
            continue
        if run_id in (None, part.origin.run_id):
            parts.append(part)
        else:
            unusable[name_of(path)] = "it is another run's"
    return parts, unusable


def aligned(folder: RunFolder) -> list[Part]:
    """All parts, whose positions mean the same rows.

    Raises:
        DamagedPartError: one cannot be used.
        CheckpointError: they count in different versions of the input.
    """
    parts, unusable = usable(folder)
    for name, reason in unusable.items():
        raise DamagedPartError.of(f"{folder.root}/parts/{name}", reason)
    if len({part.origin.input_digest for part in parts}) > 1:
        raise CheckpointError(
            f"The parts in {folder.path} count in different versions of the input.",
            "Run the job again first: it puts them in order.",
            code="checkpoint.unaligned",
            path=folder.path,
        )
    return parts


def marks_of(parts: Sequence[Part]) -> tuple[Marks, Marks]:
    """By position, which rows are finished, and which have only failed."""
    size = max((part.last + 1 for part in parts), default=0)
    marks = np.zeros((2, size), dtype=np.bool_)
    for part in parts:
        for states in part.states():
            for mark, where in zip(marks, states, strict=True):
                mark[where if isinstance(where, slice) else where[where >= 0]] = True
    finished, failed = marks
    return finished, failed & ~finished


def _counted(parts: Sequence[Part]) -> tuple[int, int]:
    finished, failed = marks_of(parts)
    return int(finished.sum()), int(failed.sum())


def verify(folder: RunFolder) -> Iterator[tuple[str, str | None]]:
    """Read every page of every part: its name, and what is wrong with it (None: nothing)."""
    parts, unusable = consistent_read(folder, lambda: usable(folder))
    yield from unusable.items()
    for part in parts:
        reason = None
        try:
            for _ in part.batches(None):
                pass
        except DamagedPartError as error:
            reason = error.reason
        except FileNotFoundError:  # merged meanwhile, by the run
            continue
        yield name_of(part.path), reason


def export(folder: RunFolder, output: str, *, overwrite: bool = False) -> tuple[int, int]:
    """Write the finished rows, id and outputs in input order, as parquet; their number, and that of failed ones.

    Raises:
        ConfigurationError: `output` would damage something, or is there and is not to be replaced.
        CheckpointError: parts count in different versions of the input.
        DamagedPartError: a part cannot be read.
    """
    _may_replace(folder, output, overwrite)
    return consistent_read(folder, lambda: _export(folder, output, overwrite))


def _may_replace(folder: RunFolder, output: str, overwrite: bool) -> bool:
    """Whether there is an output that may be replaced; asked before it is written, and when it is to be there."""
    _check_apart(folder, output)
    fs, path = filesystem(output)
    if (there := bool(fs.exists(path))) and not overwrite:
        raise ConfigurationError(
            f"{output!r} exists.",
            f"Give another path, or {opt('overwrite', True)} to replace it.",
            code="output.exists",
            option="OUTPUT",
            path=output,
        )
    return there


def _check_apart(folder: RunFolder, output: str) -> None:
    if not names_directory(output) and not output.endswith(".parquet"):
        raise ConfigurationError(
            f"{output!r} is no parquet file.",
            "Name one, or a directory (no suffix, or /).",
            code="output.invalid",
            option="OUTPUT",
            path=output,
        )
    fs, path = filesystem(output)
    path, there, home = path.rstrip("/"), Location.on(fs, path), Location.on(folder.fs, folder.root)
    if there.lies_in(home) or home.lies_in(there):
        raise ConfigurationError(
            f"{output!r} holds the run's folder, or lies in it.",
            "Write somewhere else.",
            code="output.overlap",
            option="OUTPUT",
            path=output,
        )
    if _is_input(folder, there, Location.on(fs, f"{path}/part-00000.parquet") if names_directory(output) else there):
        raise ConfigurationError(
            f"{output!r} is the run's input, or among its files.",
            "Write somewhere else; it is never changed.",
            code="output.overlap",
            option="OUTPUT",
            path=output,
        )
    if names_directory(output) and (
        other := next((file for file in fs.find(path) if not file.endswith(".parquet")), None)
    ):
        raise ConfigurationError(
            f"{output!r} holds {other.removeprefix(path).lstrip('/')!r}, which is no part of an output.",
            "Name a file that ends in .parquet, or a directory for this alone: it is replaced as a whole.",
            code="output.exists",
            option="OUTPUT",
            path=output,
        )


def _is_input(folder: RunFolder, there: Location, file: Location) -> bool:
    """Whether files of the run's input are or lie `there`, or `file` would be one, as far as the run's record tells."""
    pattern = (RunRecord.load(folder) or RunRecord()).input
    if not pattern or pattern.startswith(IN_MEMORY):
        return False
    options = storage_of(folder, (SpecRecord.load(folder) or SpecRecord()).backend_read_kwargs)
    with contextlib.suppress(SwarmError, OSError):  # it is gone, or cannot be reached
        check_plain(pattern)
        listing = list_paths(pattern, options)
        return there.first_in(listing.fs, listing.sizes) is not None or would_name(pattern, file, options)
    return False


def _export(folder: RunFolder, output: str, overwrite: bool) -> tuple[int, int]:
    sizes = _sizes(folder)
    parts = aligned(folder)
    if not parts:
        raise CheckpointError(
            f"{folder.path} holds no part that can be read.",
            "There is nothing to export.",
            code="checkpoint.empty",
            path=folder.path,
        )
    id_col = parts[-1].origin.id_col
    types = united([part.types for part in parts])
    names = [POSITION, id_col, *types.names, FAILURE]
    id_type = next(iter(parts[-1].batches([id_col]))).schema.field(id_col)

    def rows() -> Iterator[pa.Table]:
        for table in in_order(parts, names, types):
            yield table.filter(pc.is_null(table[FAILURE])).drop_columns([POSITION, FAILURE])
        if not sizes.items() <= _sizes(folder).items():  # before the file is there: parts grow when they are merged
            raise _MergedError

    tables = Tables(pa.schema([id_type, *types]), rows)
    options: dict[str, Any] = {"directory": names_directory(output), "metadata": {}, "write_kwargs": {}}
    written = write_parquet(tables, output, **options, guard=lambda _: _may_replace(folder, output, overwrite))
    return written, _counted(parts)[1]
