"""`domyn-swarm job errors`: why rows failed."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli.files import print_json, write_whole
from domyn_swarm.cli.names import AsJson, RunName, folder_of
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.report.terminal import one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from domyn_swarm.report.failed_rows import ErrorGroup

MESSAGE_CHARS = 200


def errors(
    run: RunName,
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", help="Maximum number of example rows of each kind", min=0)
    ] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="Print only the ids of the failed rows, one per line.")] = False,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write the failed rows to FILE (.parquet)"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show why rows of RUN failed: by error and message, with examples. Works while the run is running, too.

    Rows that fail with different HTTP statuses are never in one group. Exit status 0, whether rows failed or not.
    """
    from domyn_swarm.report import failed_rows  # noqa: PLC0415 - keeps --help light

    _check(output, ids=ids, as_json=as_json)
    rows = failed_rows.failed_rows(folder_of(run))
    if output is not None:
        write_whole("output", output, _parquet(rows))
    if ids:
        typer.echo("".join(f"{one_line(text)}\n" for text in _ids(rows)), nl=False)
        return
    groups = failed_rows.groups_of(rows, examples)
    if as_json:
        print_json({"failed": rows.num_rows, "groups": groups})
    else:
        typer.echo(_shown(run, rows.num_rows, groups))
        if output is not None:
            typer.echo(one_line(f"\n{rows.num_rows:,} rows written to {output}"))


def _check(output: str | None, *, ids: bool, as_json: bool) -> None:
    if output is not None and not output.endswith(".parquet"):
        raise ConfigurationError(
            f"{output!r} is no parquet file.",
            "Name a file that ends in .parquet.",
            code="output.suffix",
            option="output",
            path=output,
        )
    if ids and as_json:
        raise ConfigurationError(
            f"{opt('ids', True)} and {opt('json', True)} exclude each other.",
            "Drop one of the two.",
            code="option.conflict",
            option="ids",
        )


def _ids(rows: pa.Table) -> list[str]:
    from domyn_swarm.storage.texts import id_text  # noqa: PLC0415

    return [id_text(value) for value in rows.column(0).to_pylist()] if rows.num_rows else []


def _parquet(rows: pa.Table) -> bytes:
    import io  # noqa: PLC0415

    import pyarrow.parquet as pq  # noqa: PLC0415

    file = io.BytesIO()
    pq.write_table(rows, file)
    return file.getvalue()


def _shown(run: str, failed: int, groups: list[ErrorGroup]) -> str:
    if not failed:
        return "No row has failed."
    lines = [f"{failed:,} {'row' if failed == 1 else 'rows'} failed"]
    for group in groups:
        lines += ["", one_line(f"{group.count:>9,}  {group.type}: {group.kind}")]
        for example in group.examples:
            message = " ".join(example.message.split())
            cut = f"{message[:MESSAGE_CHARS]}…" if len(message) > MESSAGE_CHARS else message
            tries = f" (after {example.attempts:,} attempts)" if example.attempts > 1 else ""
            lines.append(one_line(f"{'':>11}{example.id}: {cut}{tries}"))
    first = next((example for group in groups for example in group.examples), None)
    if first is not None:
        lines += ["", one_line(f"One row's history: domyn-swarm job row {quote(run)} {quote(first.id)}")]
    return "\n".join(lines)
