"""`domyn-swarm doctor`: check that this machine can run jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from domyn_swarm.cli.files import print_json
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.report.terminal import coloured

if TYPE_CHECKING:
    from collections.abc import Iterable

    from domyn_swarm.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "grey"}
FIX = " " * 9


def doctor(  # noqa: PLR0913, PLR0917 - each is a flag
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="Endpoint to check, or $ENDPOINT; repeat for several; `demo` starts the bundled one",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Model to check (default: the first that the endpoint lists)"),
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File that contains the API key (default: $DOMYN_SWARM_API_KEY or $OPENAI_API_KEY)",
        ),
    ] = None,
    serve: Annotated[
        str | None, typer.Option("--serve", metavar="COMMAND", help="Command of model servers to check, as for a run")
    ] = None,
    checkpoint_dir: Annotated[
        str, typer.Option("--checkpoint-dir", metavar="DIR", help="Folder or URL for the checkpoints of runs")
    ] = ".domyn-swarm",
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Also check Ray: auto, local (starts a cluster), or an address"),
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Also check Slurm")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that this machine can run jobs: installation, endpoint, model servers, checkpoint directory, clusters.

    Prints one line per check, and how to fix a problem. Leaves no files behind. Exit status: 0, or 1 when a check has
    failed; a warning concerns something that only some jobs need.
    """
    from domyn_swarm.doctor.checks import Request, run_checks  # noqa: PLC0415 - keeps --help light

    request = Request(
        endpoints=endpoint or os.environ.get("ENDPOINT", "").split(), model=model, api_key_file=api_key_file,
        checkpoint_dir=checkpoint_dir, ray=ray, slurm=slurm, serve=serve,
    )  # fmt: skip
    raise typer.Exit(_report(run_checks(request), as_json=as_json))


def _report(checks: Iterable[Finding], *, as_json: bool) -> int:
    """Print each finding when it is known, or all of them as JSON; the exit status."""
    findings = []
    for found in checks:
        findings.append(found)
        if not as_json:
            _tell(found)
    failed, warned = ([one for one in findings if one.state == state] for state in ("failed", "warning"))
    if as_json:
        print_json({"ok": not failed, "checks": findings})
    else:
        typer.echo(f"\n{len(findings)} checks: {len(failed)} failed, {len(warned)} with a warning")
    return 1 if failed else 0


def _tell(found: Finding) -> None:
    from domyn_swarm.masking import masked  # noqa: PLC0415

    coloured(f"{found.state:<8}", COLOURS[found.state], masked(f" {found.name:<18} {found.found}"))
    if found.fix:
        typer.echo(masked(f"{FIX}{'':<18} fix: {found.fix}"))
