"""`domyn-swarm checkpoint`: inspect and repair a run's checkpoint."""

from __future__ import annotations

import contextlib
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.help import App
from domyn_swarm.cli.names import AsJson, RunName, folder_of
from domyn_swarm.errors import JobError
from domyn_swarm.report.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.inspection import CheckpointSummary

app = App(help="Inspect and repair a run's checkpoint.")


@app.callback()
def group() -> None:
    """Inspect and repair a run's checkpoint."""


@app.command()
def inspect(folder: RunName, as_json: AsJson = False) -> None:
    """Show finished rows, the process that holds the lock, and unusable parts. Reads only footers."""
    import msgspec  # noqa: PLC0415 - keeps --help light

    from domyn_swarm.checkpoint.inspection import survey  # noqa: PLC0415

    found = survey(folder_of(folder))
    typer.echo(msgspec.json.encode(found).decode() if as_json else _shown(found))


@app.command()
def verify(
    folder: RunName,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Move damaged parts to damaged/; the next run computes their rows again."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the checksums of every part. Exit status 1 when a part is damaged."""
    import msgspec  # noqa: PLC0415

    from domyn_swarm.checkpoint import inspection  # noqa: PLC0415
    from domyn_swarm.checkpoint.lock import locked  # noqa: PLC0415

    run = folder_of(folder)
    found = dict(inspection.verify(run))
    damaged = {name: reason for name, reason in found.items() if reason is not None}
    if set_aside and damaged:
        with locked(run):
            run.set_aside(damaged)
    if as_json:
        typer.echo(msgspec.json.encode({"parts": len(found), "damaged": damaged}).decode())
    else:
        where = f", moved to {folder}/damaged" if set_aside and damaged else ""
        lines = [f"{name}: {reason}" for name, reason in damaged.items()]
        typer.echo("\n".join(map(one_line, [*lines, f"{len(found):,} parts, {len(damaged):,} damaged{where}"])))
    raise typer.Exit(1 if damaged else 0)


@app.command()
def compact(folder: RunName, as_json: AsJson = False) -> None:
    """Merge small parts into larger ones. Rows are unchanged."""
    from domyn_swarm.checkpoint import compact as compaction  # noqa: PLC0415
    from domyn_swarm.checkpoint.lock import locked  # noqa: PLC0415

    run = folder_of(folder)
    with locked(run):
        before = run.parts()
        with _with_repair_hint(folder):
            left = compaction.compact(run, before)
    if as_json:
        print_json({"parts_before": len(before), "parts": len(left)})
    else:
        typer.echo(f"{len(before):,} parts, now {len(left):,}")


@app.command()
def export(
    folder: RunName,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Parquet file or directory to write")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the finished rows (id and outputs, in input order). Needs neither the job nor its input."""
    from domyn_swarm.checkpoint.inspection import export as write  # noqa: PLC0415
    from domyn_swarm.storage.files import translating_io_errors  # noqa: PLC0415

    run = folder_of(folder)
    with _with_repair_hint(folder), translating_io_errors(output):
        written, failed = write(run, output, overwrite=overwrite)
    if as_json:
        print_json({"output": output, "rows": written, "failed": failed})
        return
    left_out = f"; {failed:,} failed rows were left out" if failed else ""
    typer.echo(one_line(f"{written:,} rows written to {output}{left_out}"))


@contextlib.contextmanager
def _with_repair_hint(folder: str) -> Iterator[None]:
    """Add to an error about a damaged part the command that moves it away."""
    from domyn_swarm.checkpoint.part import DamagedPartError  # noqa: PLC0415

    try:
        yield
    except DamagedPartError as error:
        raise JobError(
            error.text,
            f"Run: domyn-swarm checkpoint verify --set-aside {quote(folder)}",
            code="part.damaged",
            path=folder,
        ) from None


def _shown(found: CheckpointSummary) -> str:
    unusable = [one_line(f"  {part}: {why}") for part, why in found.unusable.items()]
    lines = {
        "job": found.job or "unknown",
        "state": (found.state or "unknown") + (f": {found.error.splitlines()[0]}" if found.error else ""),
        "locked by": found.holder or "-",
        "started": found.started or "unknown",
        "ended": found.ended or "-",
        "id": found.id_column or "unknown",
        "outputs": ", ".join(f"{name} ({kind})" for name, kind in found.columns.items()) or "-",
        "finished": f"{found.finished:,} rows",
        "failed": f"{found.failed:,} rows",
        "parts": f"{found.parts:,} ({found.rows:,} rows, {found.size / 1e6:,.1f} MB)",
        "unusable": f"{len(unusable):,} parts",
        "quarantined": ", ".join(found.damaged) or "0 parts",
    }
    shown = {name: one_line(f"{name:<13}{value}") for name, value in lines.items()}
    shown["unusable"] = "\n".join([shown["unusable"], *unusable])
    return "\n".join(shown.values())
