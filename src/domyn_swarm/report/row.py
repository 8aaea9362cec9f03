"""The history of one row: its input, its requests and responses, its output, and the run that wrote it.

This needs no index. The row is found in the parts by its id: parquet statistics exclude row groups that cannot contain
it. Its position gives the file and the row group of the input.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.done_rows import READERS
from domyn_swarm.checkpoint.folder import EARLIER, PartName, name_of
from domyn_swarm.checkpoint.inspection import consistent_read
from domyn_swarm.checkpoint.part import NODE, ROW_NODES, reading
from domyn_swarm.checkpoint.part_file import open_parquet as open_part
from domyn_swarm.checkpoint.run_record import RunRecord, SpecRecord
from domyn_swarm.data.arrow import row_at, scan_groups
from domyn_swarm.data.columns import FAILURE, MADE, POSITION, ROW_ID, TRACE
from domyn_swarm.data.memory import IN_MEMORY
from domyn_swarm.data.types import comparable, converted
from domyn_swarm.data.values import python_row
from domyn_swarm.errors import ConfigurationError, DataError
from domyn_swarm.report.inputs import files_of
from domyn_swarm.telemetry.trace import Attempt, Log, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.data.input_files import InputFiles

SCAN_ROWS = 65_536
VALUE_CHARS = 2000
ROWS_OF_THE_INPUT = ROW_NODES[: ROW_NODES.index("pending") + 1]
"""Nodes that pass on the input's rows, in data order."""


class InputRow(msgspec.Struct):
    """The row in the input: its file, its row number in the file (from 0), and its columns."""

    file: str
    row: int
    columns: dict[str, Any]


class PartEntry(msgspec.Struct):
    """The row in one part; `run` is the number of the run that wrote it.

    With `earlier` it was made by an earlier version of the job's steps: columns that are as they would be made now were
    taken from it.
    """

    part: str
    run: int
    outputs: dict[str, Any]
    failure: dict[str, Any] | None
    trace: Log
    earlier: bool = False


class RowHistory(msgspec.Struct):
    """The history of one row.

    `findings` are its entries in the parts, the valid one first; `item` is the value that was passed to the job;
    `notes` say what is unknown, and why.
    """

    id: str
    id_column: str
    position: int | None
    state: str
    place: InputRow | None
    item: Any
    findings: list[PartEntry]
    output: str
    notes: list[str]


def look_up(folder: RunFolder, id_text: str) -> RowHistory:
    """The history of the row with the id `id_text`.

    Raises:
        ConfigurationError: the run's record is incomplete, or ids of its type cannot be entered as text.
        DataError: the row does not exist.
    """
    record, spec = RunRecord.load(folder) or RunRecord(), SpecRecord.load(folder)
    if not record.id_column or spec is None:
        raise ConfigurationError(
            f"run.json or spec.json is missing or incomplete in {folder.path}.",
            "Check that it is the folder of a run.",
            code="record.incomplete",
            path=folder.path,
        )
    id_col = record.id_column
    findings, position = _findings(folder, id_col, id_text)
    notes: list[str] = []
    files = _input_of(folder, record, spec, notes)
    if position is None and files is not None:
        position = _position(files, id_col, id_text, spec)
    if position is None:
        raise DataError(
            f"No row with {id_col} = {id_text!r} in {folder.path}" + (" or its input." if files else "."),
            "Use an id of the input" + (": a row number, counted from 0." if id_col == ROW_ID else "."),
            code="row.missing",
            row=id_text,
            column=id_col,
            path=folder.path,
        )
    place = _place(files, position, spec, notes) if files is not None and position >= 0 else None
    wanted = record.input_columns
    item = None if place is None else {name: place.columns.get(name) for name in wanted}
    return RowHistory(
        id_text, id_col, position, _state(findings, position, spec), place,
        item[wanted[0]] if item and len(wanted) == 1 else item, findings, spec.output, notes,
    )  # fmt: skip


def _state(findings: list[PartEntry], position: int, spec: SpecRecord) -> str:
    if findings and not findings[0].earlier:
        return "failed" if findings[0].failure else "done"
    limit = spec.limit
    return "left out by --limit" if limit is not None and position >= limit else "not reached yet"


def _findings(folder: RunFolder, id_col: str, id_text: str) -> tuple[list[PartEntry], int | None]:
    """The row's entries in the parts, and its position."""

    def look() -> list[tuple[str, dict[str, Any]]]:
        paths = [*folder.earlier(), *folder.parts()]
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda path: _rows(folder, path, id_col, id_text), paths)
            return [(path, row) for path, rows in zip(paths, found, strict=True) for row in rows]

    rows = consistent_read(folder, look)
    rows.sort(key=lambda hit: (not _is_earlier(hit[0]), hit[1][FAILURE] is None, PartName.of(hit[0])), reverse=True)
    return [_finding(path, row, id_col) for path, row in rows], rows[0][1][POSITION] if rows else None


def _is_earlier(path: str) -> bool:
    return path.rsplit("/", 2)[-2] == EARLIER


def _rows(folder: RunFolder, path: str, id_col: str, id_text: str) -> list[dict[str, Any]]:
    """The rows of a part with this id."""
    found: list[dict[str, Any]] = []
    with reading(path), open_part(folder.fs, path) as parquet:
        column = parquet.schema_arrow.get_field_index(id_col)
        if column < 0:
            return []
        wanted = _scalar(id_text, parquet.schema_arrow.field(column).type)
        for group in range(parquet.num_row_groups):
            if not _may_hold(parquet.metadata.row_group(group), id_col, wanted.as_py()):
                continue
            ids = parquet.read_row_group(group, columns=[id_col])[id_col]
            at = pc.index(_storage(ids), wanted).as_py()
            if at >= 0:
                found.append(python_row(parquet.read_row_group(group), at))
    return found


def _may_hold(group: Any, column: str, value: Any) -> bool:
    """Whether the column's statistics allow `value`; True when there are none."""
    chunks = (group.column(number) for number in range(group.num_columns))
    statistics = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
    if statistics is None or not statistics.has_min_max:
        return True
    try:
        return bool(statistics.min <= value <= statistics.max)
    except TypeError:  # types that Python and parquet represent differently
        return True


def _finding(path: str, row: dict[str, Any], id_col: str) -> PartEntry:
    name = PartName.of(path)
    outputs = {key: value for key, value in row.items() if key not in (id_col, *MADE)}
    trace, run = decoded(row.get(TRACE)), name.run if name else 0
    return PartEntry(name_of(path), run, outputs, row[FAILURE], trace, _is_earlier(path))


def _scalar(text: str, kind: pa.DataType) -> Any:
    """`text` as a value of the id column's type.

    Raises:
        DataError: it is not valid for this type.
    """
    try:
        if pa.types.is_integer(kind):
            return pa.scalar(int(text), kind)
        if isinstance(kind, pa.UuidType):
            return pa.scalar(uuid.UUID(text).bytes, kind.storage_type)
        if pa.types.is_string_view(kind):
            return pa.scalar(text, pa.string())
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return pa.scalar(bytes.fromhex(text.removeprefix("0x")), kind)
        return pa.scalar(text, kind)
    except (ValueError, OverflowError, pa.ArrowException):
        raise DataError(
            f"{text!r} is not a valid {kind}, the type of the ids.",
            "Write it as in the input.",
            code="id.type",
            option="ID",
            row=text,
        ) from None


def _input_of(folder: RunFolder, record: RunRecord, spec: SpecRecord, notes: list[str]) -> InputFiles | None:
    """The input's files, if they are unchanged since the run."""
    pattern = record.input or spec.input
    if replaced := replaced_before(record.identity):
        notes.append(f"Node {replaced!r} was overridden in this run, so {pattern} is not searched.")
        return None
    if pattern.startswith(IN_MEMORY):
        notes.append("The input was in memory and cannot be searched.")
        return None
    try:
        files = files_of(folder, pattern, spec.backend_read_kwargs)
    except Exception as error:  # noqa: BLE001 - the rest of the history does not need it
        notes.append(f"The input cannot be read: {str(error).partition(chr(10))[0]}")
        return None
    if record.input_digest not in (files.digest, files.dated_digest):
        notes.append(f"The input {pattern} has changed since the run and is not searched.")
        return None
    if files.format != "parquet" or spec.backend_read_kwargs.get("filters"):
        notes.append("Only parquet inputs without filters can be searched.")
        return None
    return files


def replaced_before(identity: Mapping[str, Any]) -> str:
    """An overridden node because of which positions do not count rows of the input's files; else empty."""
    return next((name for name in ROWS_OF_THE_INPUT if f"{NODE}{name}" in identity), "")


def _position(files: InputFiles, id_col: str, id_text: str, spec: SpecRecord) -> int | None:
    """The input position of a row that is in no part."""
    if spec.id_column is None:
        try:
            position = int(id_text)
        except ValueError:
            return None
        return position if 0 <= position < (files.rows or 0) else None
    wanted = _scalar(id_text, comparable(files.schema.field(id_col).type if files.schema else pa.string()))
    start = 0
    for file in files.files:
        for batch in scan_groups(files, file, range(len(file.groups)), [id_col], SCAN_ROWS):
            at = pc.index(_storage(pa.chunked_array([batch.column(0)])), wanted).as_py()
            if at >= 0:
                return int(start + at)
            start += batch.num_rows
    return None


def _storage(ids: Any) -> Any:
    """Ids in a type that can be compared."""
    if isinstance(ids.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in ids.chunks])
    return converted(ids, comparable(ids.type))


def _place(files: InputFiles, position: int, spec: SpecRecord, notes: list[str]) -> InputRow | None:
    """The input row at a position."""
    row = position
    kept = spec.backend_read_kwargs.get("columns")
    for file in files.files:
        if row >= (file.rows or 0):
            row -= file.rows or 0
            continue
        return InputRow(file.path, row, row_at(files, file, row, kept or (files.schema or pa.schema([])).names))
    notes.append(f"The input has no row {position:,}.")
    return None


def render_text(history: RowHistory) -> str:
    """The history as text."""
    lines = [f"row {history.id} ({history.id_column}): {history.state}"]
    if history.place is not None:
        lines += ["", f"input     {history.place.file}, row {history.place.row:,}"]
        lines += [f"  {name}: {_shown(value)}" for name, value in history.place.columns.items()]
        if history.item is not None:
            lines += ["", "item", f"  {_shown(history.item)}"]
    for number, finding in enumerate(history.findings):
        lines += ["", *_entry_lines(finding, counts=number == 0)]
    return "\n".join([*lines, *(["", *history.notes] if history.notes else [])])


def _entry_lines(finding: PartEntry, *, counts: bool) -> Iterator[str]:
    why = (
        " (by an earlier version of the steps)" if finding.earlier else "" if counts else " (superseded by a later run)"
    )
    yield f"part      {finding.part}, written by run {finding.run}{why}"
    for entry in finding.trace:
        yield from _attempt_lines(entry) if isinstance(entry, Attempt) else _exchange_lines(entry)
    if finding.failure is not None:
        tried = f"after {finding.failure['attempts']} attempt(s)"
        yield f"failed    {finding.failure['type']} {tried}: {finding.failure['message']}"
        if all(value is None for value in finding.outputs.values()):
            return
    yield "outputs"
    for name, value in finding.outputs.items():
        yield f"  {name}: {_shown(value)}"


def _exchange_lines(entry: Any) -> Iterator[str]:
    step = f" of step {entry.step}" if entry.step else ""
    yield f"request   POST {entry.path}{step}" + (" (shared with an identical request)" if entry.shared else "")
    if entry.request is not None:
        yield f"  {_shown(entry.request)}"
    for number, attempt in enumerate(entry.attempts, 1):
        yield f"attempt {number} {_attempt(attempt)}"
    if entry.response is not None:
        yield "response"
        yield f"  {_shown(entry.response)}"


def _attempt_lines(entry: Attempt) -> Iterator[str]:
    yield f"attempt   {_attempt(entry)}"
    yield from (f"  {line}" for line in entry.traceback.splitlines())


def _attempt(attempt: Attempt) -> str:
    at = datetime.fromtimestamp(attempt.at, UTC).isoformat(timespec="milliseconds")
    took = "" if attempt.seconds is None else f", {attempt.seconds * 1000:,.0f} ms"
    url = f", {attempt.url}" if attempt.url else ""
    return f"{at}{took}{url}: {attempt.error or 'ok'}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr).decode()
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text):,} characters)"
