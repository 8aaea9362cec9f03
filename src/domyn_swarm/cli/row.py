"""`domyn-swarm job row`: the history of one row in a run."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.names import AsJson, RunName, folder_of


def row(
    run: RunName,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The row's id, as in the input")],
    as_json: AsJson = False,
) -> None:
    """Show one row's history: position and values in the input, requests and responses, and output."""
    import msgspec  # noqa: PLC0415 - keeps --help light

    from domyn_swarm.report.row import look_up, render_text  # noqa: PLC0415
    from domyn_swarm.storage.files import translating_io_errors  # noqa: PLC0415

    with translating_io_errors(run):
        found = look_up(folder_of(run), id_)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found, enc_hook=repr)).decode())
    else:
        typer.echo(render_text(found))
