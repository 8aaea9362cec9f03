"""`domyn-swarm job graph`: the graph that the run options select, as a picture."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domyn_swarm.cli.options import from_environment
from domyn_swarm.errors import ConfigurationError, MissingDependencyError
from domyn_swarm.jobs.spec import DEFAULT_JOB

if TYPE_CHECKING:
    from domyn_swarm.view.model import Graph

NOT_NEEDED = {"input": "INPUT", "output": "OUTPUT"}
"""Run options that the graph's command does without: what stands for them in the picture."""
SUFFIXES = (".svg", ".png", ".html", ".mmd", ".dot")


def graph(
    options: dict[str, Any],
    job: Annotated[str, typer.Argument(metavar="JOB", help="module:Class or path/to/file.py:Class")] = DEFAULT_JOB,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Picture to write: .svg, .png, .html, .mmd or .dot (default: print Mermaid)",
        ),
    ] = None,
    upstream_of: Annotated[
        str | None, typer.Option("--upstream-of", metavar="NODE", help="Only what NODE is made from")
    ] = None,
    path: Annotated[
        tuple[str, str] | None,
        typer.Option("--path", metavar="FROM TO", help="Only what lies on ways from FROM to TO"),
    ] = None,
) -> None:
    """Show the graph that these options select for JOB. No input, endpoint or run is needed, and no row is read.

    Exit status: 0, or 2 for what cannot be drawn; nothing was written then.
    """
    suffix = PurePosixPath(output).suffix.lower() if output else ".mmd"
    if suffix not in SUFFIXES:
        raise ConfigurationError(
            f"--output: {output!r} does not end in the name of a picture's format.", f"It takes: {', '.join(SUFFIXES)}."
        )
    if upstream_of is not None and path is not None:
        raise ConfigurationError("--upstream-of and --path exclude each other.", "Drop one of the two.")
    picture = _drawn(_selected(job, options, upstream_of, path), suffix)
    if output:
        _write(output, picture)
    else:
        typer.echo(picture.decode(), nl=False)


def _selected(job: str, options: dict[str, Any], upstream_of: str | None, path: tuple[str, str] | None) -> Graph:
    from domyn_swarm.jobs import describe  # noqa: PLC0415 - it needs Hamilton
    from domyn_swarm.jobs.loading import job_fields, load_job_class  # noqa: PLC0415 - keeps --help light
    from domyn_swarm.jobs.spec import resolve  # noqa: PLC0415

    job_class = load_job_class(job)
    defaults = {**job_class.defaults, **from_environment()}
    whole = describe.describe(resolve(job, {**NOT_NEEDED, **options}, defaults, job_fields(job_class)))
    if upstream_of is not None:
        return describe.upstream_of(whole, upstream_of)
    return whole if path is None else describe.between(whole, *path)


def _drawn(graph: Graph, suffix: str) -> bytes:
    from domyn_swarm.view.picture import dot_of, draw, mermaid_of, page_of  # noqa: PLC0415

    if suffix == ".mmd":
        return mermaid_of(graph).encode()
    dot = dot_of(graph)
    if suffix == ".dot":
        return dot.encode()
    if suffix == ".png":
        return draw(dot, "png")
    if suffix == ".svg":
        return draw(dot, "svg")
    try:
        return page_of(graph, draw(dot, "svg").decode()).encode()
    except MissingDependencyError:
        return page_of(graph, None).encode()


def _write(path: str, picture: bytes) -> None:
    from domyn_swarm.helpers.io import filesystem, reaching, whole_file  # noqa: PLC0415

    with reaching(path):
        try:
            with whole_file(*filesystem(path)) as file:
                file.write(picture)
        except OSError as error:
            raise ConfigurationError(
                f"--output: {path} cannot be written: {error.strerror or error}.",
                "Name a file in a folder that is there.",
            ) from None
