"""`domyn-swarm doctor`: whether this machine can run jobs, one line a check."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations

if TYPE_CHECKING:
    from domyn_swarm.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
MEND = " " * 9


def doctor(
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint", metavar="URL", help="Endpoint to try, or $ENDPOINT; repeat for several; `demo` works"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Model to try (default: the first that is listed)")
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option("--api-key-file", help="File with the key (default: $DOMYN_SWARM_API_KEY or $OPENAI_API_KEY)"),
    ] = None,
    checkpoint_dir: Annotated[
        str, typer.Option("--checkpoint-dir", help="Where runs will keep their rows: a folder or a URL")
    ] = ".domyn-swarm",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Look at this Ray, too: auto, local (starts one), or its address"
        ),
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Look at Slurm, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at all that jobs need: installation, endpoint, checkpoint directory, clusters. One line each, with the mend.

    Nothing is left behind. Exit status: 0, or 1 when a check has failed; a warning is about what some jobs can do
    without.
    """
    from domyn_swarm.doctor.checks import Asked, examine  # noqa: PLC0415 - keeps --help light

    asked = Asked(
        endpoints=endpoint or os.environ.get("ENDPOINT", "").split(), model=model, api_key_file=api_key_file,
        checkpoint_dir=checkpoint_dir, ray=ray, slurm=slurm,
    )  # fmt: skip
    findings = []
    for found in examine(asked):
        findings.append(found)
        if not as_json:
            _tell(found)
    failed, warned = ([one for one in findings if one.state == state] for state in ("failed", "warning"))
    if as_json:
        print_json({"ok": not failed, "checks": findings})
    else:
        typer.echo(f"\n{len(findings)} checks: {len(failed)} failed, {len(warned)} with a warning")
    raise typer.Exit(1 if failed else 0)


def _tell(found: Finding) -> None:
    from domyn_swarm.masking import masked  # noqa: PLC0415

    state = typer.style(f"{found.state:<8}", fg=COLOURS[found.state])
    typer.echo(masked(f"{state} {found.name:<18} {found.found}"))
    if found.mend:
        typer.echo(masked(f"{MEND}{'':<18} mend: {found.mend}"))
