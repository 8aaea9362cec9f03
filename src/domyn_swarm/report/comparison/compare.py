"""Compare two runs: their options, their figures, and their rows."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from domyn_swarm.checkpoint.inspection import consistent_read, marks_of, open_run
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.data.arrow import RowReader, scan_files, scan_groups
from domyn_swarm.data.columns import ROW_ID, RUN_KEY
from domyn_swarm.data.values import python_row
from domyn_swarm.endpoint.keys import hide_keys
from domyn_swarm.errors import CheckpointError, ConfigurationError, SwarmError, opt
from domyn_swarm.report.comparison import records
from domyn_swarm.report.comparison.model import Column, Comparison
from domyn_swarm.report.comparison.records import Recorded
from domyn_swarm.report.comparison.rows import KEY, Side, matched, rows_of, text_of
from domyn_swarm.report.comparison.steps import steps
from domyn_swarm.report.inputs import files_of
from domyn_swarm.report.row import replaced_before
from domyn_swarm.storage.files import translating_io_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.data.input_files import InputFiles
    from domyn_swarm.report.comparison.rows import Tally

EXAMPLES = 20
SCAN_ROWS = 65_536
SHOWN_COLUMNS = 10


def compare(run_a: Any, run_b: Any, on: str | None = None, *, examples: int = EXAMPLES) -> Comparison:
    """Compare two runs: options, nodes, rows, tokens and time. Both are only read.

    Args:
        run_a: The folder of a run (a path or a URL), or the result of `run`.
        run_b: The other one.
        on: The column that rows are matched by. The default is the id column; any other column must be unique in
            both outputs, and both runs must be done.
        examples: Maximum number of differing rows to show with their values.

    Raises:
        ConfigurationError: a run does not exist, or rows cannot be matched; the hint has alternatives.
        DataError: the column `on` has nulls or duplicates, or something cannot be read.
        CheckpointError: a part is damaged, or a run modifies its folder faster than it can be read.
    """
    hide_keys()
    a, b = open_run(_path(run_a)), open_run(_path(run_b))
    try:
        with translating_io_errors(f"{a.path} or {b.path}"):
            return consistent_read(
                a, lambda: consistent_read(b, lambda: _compared(Recorded("A", a), Recorded("B", b), on, examples))
            )
    except DamagedPartError as error:
        path = next(folder.path for folder in (a, b) if error.part.startswith(folder.root))
        raise CheckpointError(
            error.text,
            f"Run: domyn-swarm checkpoint verify --set-aside {quote(path)}",
            code="part.damaged",
            path=path,
        ) from None


def _path(run: Any) -> str:
    where = getattr(run, "run_dir", run)
    if isinstance(where, (str, os.PathLike)):
        return str(os.fspath(where))
    raise ConfigurationError(
        f"{type(run).__name__!r} is not a run.", "Pass the folder of a run, or the result of run().", code="run.unknown"
    )


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
        steps=steps(a, b),
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
        raise ConfigurationError(
            f"The rows of A are identified by {_ids(a)}, those of B by {_ids(b)}.", _match_hint(a, b), code="match.ids"
        )
    if a.id_col == ROW_ID and (why := records.other_rows(a, b)):
        raise ConfigurationError(
            f"Generated ids are row numbers, and {why}: equal ids are not the same row.",
            _match_hint(a, b),
            code="match.ids",
        )
    return a.id_col


def _ids(run: Recorded) -> str:
    return "generated ids" if run.id_col == ROW_ID else f"column {run.id_col!r}"


def _match_hint(a: Recorded, b: Recorded) -> str:
    """The hint: columns that rows could be matched by."""
    hint = f"Match them by a column that is unique in both outputs: {opt('on')}."
    outputs = [_output_of(run) for run in (a, b)]
    names = [set(output.schema.names) if output and output.schema else set() for output in outputs]
    both = sorted(set.intersection(*names))[:SHOWN_COLUMNS]
    return f"{hint} Columns in both: {', '.join(both)}." if both else hint


def _side(run: Recorded, key: str) -> Side:
    """The rows of a run with their values of the column `key`, read from the output unless it is the id column."""
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
    """The output of a run that is done, which must have `column` and all rows of the run.

    Raises:
        ConfigurationError: it does not.
    """
    if run.state != "done":
        raise ConfigurationError(
            f"{column!r} is read from the output of {run.name}, but {run.path} is {run.state or 'not done'}.",
            "Resume that run to finish it, or match by ids.",
            code="match.output",
            option="on",
            column=column,
            path=run.path,
        )
    output = _output_of(run)
    if output is None or output.schema is None:
        raise ConfigurationError(
            f"{column!r} is read from the output of {run.name}, but the output of {run.path} was not found.",
            f"It was written to {run.output}; its footer contains the run's id. Restore it, or match by ids.",
            code="match.output",
            option="on",
            column=column,
            path=run.path,
        )
    if column not in output.schema.names:
        raise ConfigurationError(
            f"the output of {run.name} has no column {column!r}.",
            f"Columns: {', '.join(output.schema.names)}.",
            code="column.missing",
            option="on",
            column=column,
            choices=tuple(output.schema.names),
        )
    if output.rows != (rows := _counts(run)[0]):
        raise ConfigurationError(
            f"the output of {run.name} has {output.rows:,} rows, and {run.path} has {rows:,}.",
            "Run the command of that run again, or match by ids.",
            code="match.output",
            option="on",
            column=column,
            path=run.path,
        )
    return output


def _output_of(run: Recorded) -> InputFiles | None:
    """The files of a run's output; None unless their footer contains the run's id."""
    for path in _output_paths(run):
        with contextlib.suppress(SwarmError, OSError):
            files = files_of(run.folder, path, run.spec.backend_write_kwargs)
            if files.schema is not None and (files.schema.metadata or {}).get(RUN_KEY.encode()) == run.run_id.encode():
                return files
    return None


def _output_paths(run: Recorded) -> Iterator[str]:
    """Possible paths of the output: a relative path refers to the working directory of the run."""
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
    """Numbers of finished and of failed rows."""
    finished, failed = (marks[: run.total] for marks in marks_of(run.parts))
    return int(finished.sum() + failed.sum()), int(failed.sum())


def _add_inputs(tally: Tally, run: Recorded) -> None:
    """Add the job's input to each example, if the input files are unchanged since the run."""
    names = run.entry("input_columns", list[str], [])
    read = run.spec.backend_read_kwargs
    if not tally.examples or not names or read.get("filters") or replaced_before(run.identity):
        return
    with contextlib.suppress(SwarmError, OSError, pa.ArrowException):
        files = files_of(run.folder, run.input, read)
        if run.digest not in (files.digest, files.dated_digest) or files.schema is None:
            return
        found = _at(files, set(tally.positions), [name for name in names if name in files.schema.names])
        for example, position in zip(tally.examples, tally.positions, strict=True):
            example.input = {name: text_of(value) for name, value in found.get(position, {}).items()}


def _at(files: InputFiles, positions: set[int], columns: list[str]) -> dict[int, dict[str, Any]]:
    """The input rows at `positions`."""
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
        notes.append("The runs have no common output column: only ids and failures are compared.")
    if not tally.rows.both and tally.rows.only_a and tally.rows.only_b:
        notes.append("No row is in both runs. Check that the matched column has the same meaning in both.")
    before = {run.name: run.entry("done_before", int, 0) for run in (a, b)}
    notes += [
        f"{name} resumed with {rows:,} rows from earlier starts: its totals cover only the newest start."
        for name, rows in before.items()
        if rows
    ]
    return notes
