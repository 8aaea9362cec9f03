"""One row's whole way: where it stood in the input, what was asked and answered for it, what came out, who wrote it.

Nothing is indexed for it. The row is found in the parts by its id, with parquet's own pushdown: statistics leave out
what cannot hold it. Its position leads to the file and the row group of the input.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.checkpoint.folder import PartName, name_of
from domyn_swarm.checkpoint.inspection import at_rest
from domyn_swarm.checkpoint.part import NODE, reading
from domyn_swarm.checkpoint.part_file import open_parquet as open_part
from domyn_swarm.checkpoint.run_record import RunRecord, SpecRecord
from domyn_swarm.checkpoint.store import READERS
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
ROWS_OF_THE_INPUT = ("files", "source", "identified", "limited", "pending")
"""Nodes that hand on the input's rows, in data order."""


class Place(msgspec.Struct):
    """Where the row stands in the input: the file, the row in it counted from 0, its columns."""

    file: str
    row: int
    columns: dict[str, Any]


class Finding(msgspec.Struct):
    """What one part holds of the row; `run` is the number of the run that wrote it."""

    part: str
    run: int
    outputs: dict[str, Any]
    failure: dict[str, Any] | None
    trace: Log


class RowStory(msgspec.Struct):
    """One row's way. `findings` has what the parts hold of it, what counts first; `item` is what the job was given.

    `notes` say what could not be told, and why.
    """

    id: str
    id_column: str
    position: int | None
    state: str
    place: Place | None
    item: Any
    findings: list[Finding]
    output: str
    notes: list[str]


def look_up(folder: RunFolder, id_text: str) -> RowStory:
    """The story of the row whose id is `id_text`.

    Raises:
        ConfigurationError: the run has not written down enough, or its ids are of a kind that cannot be typed.
        DataError: there is no such row.
    """
    record, spec = RunRecord.load(folder) or RunRecord(), SpecRecord.load(folder)
    if not record.id_column or spec is None:
        raise ConfigurationError(f"{folder.path} does not tell what its rows are.", "Is it the folder of a run?")
    id_col = record.id_column
    findings, position = _findings(folder, id_col, id_text)
    notes: list[str] = []
    files = _input_of(folder, record, spec, notes)
    if position is None and files is not None:
        position = _position(files, id_col, id_text, spec)
    if position is None:
        raise DataError(
            f"There is no row with {id_col} = {id_text!r} in {folder.path}" + ("." if files else ", nor elsewhere."),
            "Ids are those of the input" + (", which count its rows from 0." if id_col == ROW_ID else "."),
        )
    place = _place(files, position, spec, notes) if files is not None and position >= 0 else None
    wanted = record.input_columns
    item = None if place is None else {name: place.columns.get(name) for name in wanted}
    return RowStory(
        id_text, id_col, position, _state(findings, position, spec), place,
        item[wanted[0]] if item and len(wanted) == 1 else item, findings, spec.output, notes,
    )  # fmt: skip


def _state(findings: list[Finding], position: int, spec: SpecRecord) -> str:
    if findings:
        return "failed" if findings[0].failure else "done"
    limit = spec.limit
    return "left out by --limit" if limit is not None and position >= limit else "not reached yet"


def _findings(folder: RunFolder, id_col: str, id_text: str) -> tuple[list[Finding], int | None]:
    """What the parts hold of the row, and its position there."""

    def look() -> list[tuple[str, dict[str, Any]]]:
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda path: _rows(folder, path, id_col, id_text), paths := folder.parts())
            return [(path, row) for path, rows in zip(paths, found, strict=True) for row in rows]

    rows = at_rest(folder, look)
    rows.sort(key=lambda hit: (hit[1][FAILURE] is None, PartName.of(hit[0])), reverse=True)
    return [_finding(path, row, id_col) for path, row in rows], rows[0][1][POSITION] if rows else None


def _rows(folder: RunFolder, path: str, id_col: str, id_text: str) -> list[dict[str, Any]]:
    """The rows of a part with that id."""
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
    """Whether `value` is between the least and the greatest of the column, where that is known."""
    chunks = (group.column(number) for number in range(group.num_columns))
    statistics = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
    if statistics is None or not statistics.has_min_max:
        return True
    try:
        return bool(statistics.min <= value <= statistics.max)
    except TypeError:  # values that Python holds in another way than parquet
        return True


def _finding(path: str, row: dict[str, Any], id_col: str) -> Finding:
    name = PartName.of(path)
    outputs = {key: value for key, value in row.items() if key not in (id_col, *MADE)}
    return Finding(name_of(path), name.run if name else 0, outputs, row[FAILURE], decoded(row.get(TRACE)))


def _scalar(text: str, kind: pa.DataType) -> Any:
    """`text` as a value of an id column.

    Raises:
        DataError: it is none.
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
        raise DataError(f"ID: {text!r} is no {kind}, which the ids are.", "Write it as the input has it.") from None


def _input_of(folder: RunFolder, record: RunRecord, spec: SpecRecord, notes: list[str]) -> InputFiles | None:
    """The input's files, if they are what the run read."""
    pattern = record.input or spec.input
    if replaced := replaced_before(record.identity):
        notes.append(f"Node {replaced!r} was replaced in this run, so the row is not looked for in {pattern}.")
        return None
    if pattern.startswith(IN_MEMORY):
        notes.append("The input was in memory, so the row is not looked for in it.")
        return None
    try:
        files = files_of(folder, pattern, spec.backend_read_kwargs)
    except Exception as error:  # noqa: BLE001 - the rest of the story can be told without it
        notes.append(f"The input cannot be read: {str(error).partition(chr(10))[0]}")
        return None
    if files.digest != record.input_digest:
        notes.append(f"The input {pattern} has changed since the run, so the row is not looked for in it.")
        return None
    if files.format != "parquet" or spec.backend_read_kwargs.get("filters"):
        notes.append("Rows are looked for in parquet inputs without filters only.")
        return None
    return files


def replaced_before(identity: Mapping[str, Any]) -> str:
    """A node that somebody replaced, so that a row's position is not its place in the input's files; else nothing."""
    return next((name for name in ROWS_OF_THE_INPUT if f"{NODE}{name}" in identity), "")


def _position(files: InputFiles, id_col: str, id_text: str, spec: SpecRecord) -> int | None:
    """The position in the input of a row that is in no part."""
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
            place = pc.index(_storage(pa.chunked_array([batch.column(0)])), wanted).as_py()
            if place >= 0:
                return int(start + place)
            start += batch.num_rows
    return None


def _storage(ids: Any) -> Any:
    """Ids as what they can be compared as."""
    if isinstance(ids.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in ids.chunks])
    return converted(ids, comparable(ids.type))


def _place(files: InputFiles, position: int, spec: SpecRecord, notes: list[str]) -> Place | None:
    """The file and the row of a position, and what stands there."""
    row = position
    kept = spec.backend_read_kwargs.get("columns")
    for file in files.files:
        if row >= (file.rows or 0):
            row -= file.rows or 0
            continue
        return Place(file.path, row, row_at(files, file, row, kept or (files.schema or pa.schema([])).names))
    notes.append(f"The input has no row {position:,}.")
    return None


def told(story: RowStory) -> str:
    """The story as a text to read."""
    lines = [f"row {story.id} ({story.id_column}): {story.state}"]
    if story.place is not None:
        lines += ["", f"input     {story.place.file}, row {story.place.row:,}"]
        lines += [f"  {name}: {_shown(value)}" for name, value in story.place.columns.items()]
        if story.item is not None:
            lines += ["", "item", f"  {_shown(story.item)}"]
    for number, finding in enumerate(story.findings):
        lines += ["", *_finding_told(finding, counts=number == 0)]
    return "\n".join([*lines, *(["", *story.notes] if story.notes else [])])


def _finding_told(finding: Finding, *, counts: bool) -> Iterator[str]:
    yield f"part      {finding.part}, written by run {finding.run}{'' if counts else ' (a later try counts)'}"
    for entry in finding.trace:
        yield from _attempt_told(entry) if isinstance(entry, Attempt) else _exchange_told(entry)
    if finding.failure is not None:
        tried = f"after {finding.failure['attempts']} attempt(s)"
        yield f"failed    {finding.failure['type']} {tried}: {finding.failure['message']}"
        return
    yield "outputs"
    for name, value in finding.outputs.items():
        yield f"  {name}: {_shown(value)}"


def _exchange_told(entry: Any) -> Iterator[str]:
    yield f"request   POST {entry.path}" + (" (another row had asked the same)" if entry.shared else "")
    if entry.request is not None:
        yield f"  {_shown(entry.request)}"
    for number, attempt in enumerate(entry.attempts, 1):
        yield f"attempt {number} {_attempt(attempt)}"
    if entry.response is not None:
        yield "response"
        yield f"  {_shown(entry.response)}"


def _attempt_told(entry: Attempt) -> Iterator[str]:
    yield f"attempt   {_attempt(entry)}"
    yield from (f"  {line}" for line in entry.traceback.splitlines())


def _attempt(attempt: Attempt) -> str:
    at = datetime.fromtimestamp(attempt.at, UTC).isoformat(timespec="milliseconds")
    took = "" if attempt.seconds is None else f", {attempt.seconds * 1000:,.0f} ms"
    url = f", {attempt.url}" if attempt.url else ""
    return f"{at}{took}{url}: {attempt.error or 'answered'}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr).decode()
    return text if len(text) <= VALUE_CHARS else f"{text[:VALUE_CHARS]}… ({len(text):,} characters)"
