"""Two runs compared: what they were asked to do, what they did, and which of their rows came out otherwise."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm import masking
from domyn_swarm.checkpoint.inspection import at_rest, marks_of, open_run
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.data.arrow import RowReader, scan_files, scan_groups
from domyn_swarm.data.columns import ROW_ID, RUN_KEY
from domyn_swarm.data.values import python_row
from domyn_swarm.endpoint.keys import VARIABLES
from domyn_swarm.errors import CheckpointError, ConfigurationError, SwarmError
from domyn_swarm.report.comparison import records
from domyn_swarm.report.comparison.model import Column, Comparison
from domyn_swarm.report.comparison.records import Recorded
from domyn_swarm.report.comparison.rows import KEY, Side, matched, rows_of, text_of
from domyn_swarm.report.inputs import files_of
from domyn_swarm.report.row import replaced_before
from domyn_swarm.storage.files import reaching

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.report.comparison.rows import Tally

EXAMPLES = 20
SCAN_ROWS = 65_536
SHOWN_COLUMNS = 10


def compare(run_a: Any, run_b: Any, on: str | None = None, *, examples: int = EXAMPLES) -> Comparison:
    """What differs between two runs: options, nodes, rows, tokens and time. Reads both, and writes nothing.

    Args:
        run_a: The folder of a run (a path or a URL), or what `run` returned.
        run_b: The other one.
        on: The column that tells which rows belong together: the id column unless given, else one that is unique in
            the outputs of both, which have to be finished then.
        examples: Most rows to show with their values, of those that differ.

    Raises:
        ConfigurationError: there is no such run, or its rows cannot be matched; the message says what would do.
        DataError: the column `on` has nulls or duplicates, or something cannot be read.
        CheckpointError: a part is damaged, or a run changes faster than it can be read.
    """
    for name in VARIABLES:
        masking.hide(os.environ.get(name, "").strip())
    a, b = open_run(_path(run_a)), open_run(_path(run_b))
    try:
        with reaching(f"{a.path} or {b.path}"):
            return at_rest(a, lambda: at_rest(b, lambda: _compared(Recorded("A", a), Recorded("B", b), on, examples)))
    except DamagedPartError as error:
        path = next(folder.path for folder in (a, b) if error.part.startswith(folder.root))
        raise CheckpointError(error.message, f"Run: domyn-swarm checkpoint verify --set-aside {quote(path)}") from None


def _path(run: Any) -> str:
    where = getattr(run, "run_dir", run)
    if isinstance(where, (str, os.PathLike)):
        return str(os.fspath(where))
    raise ConfigurationError(f"{type(run).__name__!r} is no run.", "Give the folder of a run, or what run() returned.")


def _compared(a: Recorded, b: Recorded, on: str | None, examples: int) -> Comparison:
    key = _key(a, b, on)
    left, right = _side(a, key), _side(b, key)
    shared = [name for name in left.columns.names if name in right.columns.names and name != key]
    tally = matched(
        left, right, shared, examples, in_place=key == a.id_col == b.id_col and not records.other_rows(a, b)
    )
    _add_inputs(tally, b)
    columns = [
        Column(name, name in left.columns.names, name in right.columns.names, tally.changed[name])
        for name in dict.fromkeys([*left.columns.names, *right.columns.names])
        if name != key
    ]
    return Comparison(
        a=a.run(*_counts(a)),
        b=b.run(*_counts(b)),
        on=key,
        same=not tally.rows.differ and all(column.in_a and column.in_b for column in columns),
        options=records.options(a, b),
        fields=records.fields(a, b),
        input=records.inputs(a, b),
        nodes=records.nodes(a, b),
        rows=tally.rows,
        columns=columns,
        examples=tally.examples,
        totals=records.totals(a, b),
        notes=[*records.unknowns(a, b), *_notes(a, b, tally, shared)],
    )


def _key(a: Recorded, b: Recorded, on: str | None) -> str:
    """The column that rows are matched by."""
    if on is not None and not (on == a.id_col == b.id_col):
        return on
    if a.id_col != b.id_col:
        raise ConfigurationError(f"The rows of A are identified by {_ids(a)}, those of B by {_ids(b)}.", _way_out(a, b))
    if a.id_col == ROW_ID and (why := records.other_rows(a, b)):
        raise ConfigurationError(
            f"Generated ids only count rows, and {why}: the same id is not the same row.", _way_out(a, b)
        )
    return a.id_col


def _ids(run: Recorded) -> str:
    return "generated ids" if run.id_col == ROW_ID else f"column {run.id_col!r}"


def _way_out(a: Recorded, b: Recorded) -> str:
    """What rows could be matched by."""
    hint = "Match them by a column that is unique in both outputs: --on COLUMN (on= in Python)."
    outputs = [_output_of(run) for run in (a, b)]
    names = [set(output.schema.names) if output and output.schema else set() for output in outputs]
    both = sorted(set.intersection(*names))[:SHOWN_COLUMNS]
    return f"{hint} Columns of both: {', '.join(both)}." if both else hint


def _side(run: Recorded, key: str) -> Side:
    """The rows of a run, with what stands in column `key`, which is found in its output unless it is its id."""
    declared = run.identity.get("output_columns") or []
    columns, rows = rows_of(run.parts, run.id_col, run.total, declared)
    if key == run.id_col:
        return Side(run.name, key, columns, rows)
    output = _output_with(run, key)

    def stream(names: Sequence[str]) -> Iterator[pa.Table]:
        tables = rows(names)
        first = next(tables, None)
        if first is None:
            return
        reader = RowReader(itertools.chain([first], tables), first.schema)
        for batch in scan_files(output, [key], SCAN_ROWS):
            yield reader.take(batch.num_rows).set_column(1, KEY, batch.column(0))

    return Side(run.name, key, columns, stream, checked=False)


def _output_with(run: Recorded, column: str) -> InputFiles:
    """The output of a run that is done, which has `column`, and a row for each that the run has.

    Raises:
        ConfigurationError: there is no such output.
    """
    if run.state != "done":
        raise ConfigurationError(
            f"--on: {column!r} is looked up in the output of {run.name}, but {run.path} is {run.state or 'not done'}.",
            "Run its command again to finish it, or match by its ids.",
        )
    output = _output_of(run)
    if output is None or output.schema is None:
        raise ConfigurationError(
            f"--on: {column!r} is looked up in the output of {run.name}, which is not where {run.path} wrote it.",
            f"It was {run.output}, and is known by the run's id in its footer. Put it back, or match by ids.",
        )
    if column not in output.schema.names:
        raise ConfigurationError(
            f"--on: the output of {run.name} has no column {column!r}.", f"Columns: {', '.join(output.schema.names)}."
        )
    if output.rows != (rows := _counts(run)[0]):
        raise ConfigurationError(
            f"--on: the output of {run.name} has {output.rows:,} rows, and {run.path} has {rows:,}.",
            "Run its command again, or match by ids.",
        )
    return output


def _output_of(run: Recorded) -> InputFiles | None:
    """The files of a run's output, if they are where it wrote them: their footer says whose they are."""
    for path in _output_paths(run):
        with contextlib.suppress(SwarmError, OSError):
            files = files_of(run.folder, path, run.spec.backend_write_kwargs)
            if files.schema is not None and (files.schema.metadata or {}).get(RUN_KEY.encode()) == run.run_id.encode():
                return files
    return None


def _output_paths(run: Recorded) -> Iterator[str]:
    """Where the output may be: a path that is relative was so in the folder that the run was started in."""
    if not run.output or "://" in run.output or Path(run.output).is_absolute():
        yield run.output
        return
    folder, recorded = str(Path(run.path).absolute()), f"/{run.entry('path', str, '')}"
    if folder.endswith(recorded):
        yield f"{folder.removesuffix(recorded)}/{run.output}"
    typed = f"/{run.spec.input}"
    if run.input.endswith(typed):
        yield f"{run.input.removesuffix(typed)}/{run.output}"
    yield run.output


def _counts(run: Recorded) -> tuple[int, int]:
    """Rows of the run, and how many of them failed."""
    finished, failed = (marks[: run.total] for marks in marks_of(run.parts))
    return int(finished.sum() + failed.sum()), int(failed.sum())


def _add_inputs(tally: Tally, run: Recorded) -> None:
    """Tell of each example what the job was given, as far as the input is still what the run read."""
    names = run.entry("input_columns", list[str], [])
    read = run.spec.backend_read_kwargs
    if not tally.examples or not names or read.get("filters") or replaced_before(run.identity):
        return
    with contextlib.suppress(SwarmError, OSError, pa.ArrowException):
        files = files_of(run.folder, run.input, read)
        if files.digest != run.digest or files.schema is None:
            return
        found = _at(files, set(tally.positions), [name for name in names if name in files.schema.names])
        for example, position in zip(tally.examples, tally.positions, strict=True):
            example.input = {name: text_of(value) for name, value in found.get(position, {}).items()}


def _at(files: InputFiles, positions: set[int], columns: list[str]) -> dict[int, dict[str, Any]]:
    """The rows of the input at `positions`."""
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for file in files.files:
        for number, rows in enumerate(file.groups):
            wanted = {position - start: position for position in positions if start <= position < start + rows}
            at = 0
            for batch in scan_groups(files, file, [number], columns, SCAN_ROWS) if wanted else ():
                here = [row for row in wanted if at <= row < at + batch.num_rows]
                found |= {wanted[row]: python_row(batch, row - at) for row in here}
                at += batch.num_rows
                if at > max(wanted):
                    break
            start += rows
    return found


def _notes(a: Recorded, b: Recorded, tally: Tally, shared: list[str]) -> list[str]:
    notes = []
    if not shared:
        notes.append("The runs have no output column in common: only their rows and failures are compared.")
    if not tally.rows.both and tally.rows.only_a and tally.rows.only_b:
        notes.append("No row is in both. Does the column that they are matched by mean the same in both?")
    before = {run.name: run.entry("done_before", int, 0) for run in (a, b)}
    notes += [
        f"{name} went on from {rows:,} rows of earlier starts: its totals are those of its newest one."
        for name, rows in before.items()
        if rows
    ]
    return notes
