"""`domyn-swarm job diff`: compare two runs."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.files import write_whole
from domyn_swarm.cli.names import AsJson, path_of, run_argument

RunA = Annotated[str, run_argument("A")]
RunB = Annotated[str, run_argument("B", "Name or folder of the run to compare it with")]


def diff(
    a: RunA,
    b: RunB,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="COLUMN", help="Match rows by this column of both outputs (default: the id column)"
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", help="Maximum number of differing rows to show", min=0)
    ] = 10,
    as_json: AsJson = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Also write the comparison as an HTML page to FILE.")
    ] = None,
) -> None:
    """Compare run A with run B: options, nodes, rows, tokens and time. Both runs are only read.

    Exit status, as for diff: 0 the outputs are equal, 1 they differ, 2 invalid arguments.
    """
    import msgspec  # noqa: PLC0415 - keeps --help light

    from domyn_swarm.report.comparison.compare import compare  # noqa: PLC0415

    found = compare(path_of(a), path_of(b), on, examples=examples)
    if html is not None:
        from domyn_swarm.report.comparison.html import page  # noqa: PLC0415

        write_whole("html", html, page(found).encode())
    typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else str(found))
    raise typer.Exit(0 if found.same else 1)
