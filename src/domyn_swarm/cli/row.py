"""`domyn-swarm job row`: one row's whole way through a run."""

from __future__ import annotations

from typing import Annotated

import typer

from domyn_swarm.cli.names import AsJson, RunName, folder_of


def row(
    run: RunName,
    id_: Annotated[str, typer.Argument(metavar="ID", help="The row's id, as the input has it")],
    as_json: AsJson = False,
) -> None:
    """Show where a row stood in the input, what was asked and answered for it, and what came out."""
    import msgspec  # noqa: PLC0415 - keeps --help light

    from domyn_swarm.report.row import look_up, told  # noqa: PLC0415
    from domyn_swarm.storage.files import reaching  # noqa: PLC0415

    with reaching(run):
        story = look_up(folder_of(run), id_)
    typer.echo(msgspec.json.format(msgspec.json.encode(story, enc_hook=repr)).decode() if as_json else told(story))
