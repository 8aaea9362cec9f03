"""`domyn-swarm job graph`: draw the graph that the run options select."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domyn_swarm.cli.files import print_json, write_whole
from domyn_swarm.cli.names import AsJson  # noqa: TC001 - typer evaluates the annotations
from domyn_swarm.errors import ConfigurationError, MissingDependencyError, opt
from domyn_swarm.option_groups import DEFAULT_JOB

if TYPE_CHECKING:
    from domyn_swarm.report.model import Graph

NOT_NEEDED = {"input": "INPUT", "output": "OUTPUT"}
"""Required run options that `job graph` does not need, and the placeholders shown for them."""
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
            help="File to write: .svg, .png, .html, .mmd or .dot (default: print Mermaid)",
        ),
    ] = None,
    upstream_of: Annotated[
        str | None, typer.Option("--upstream-of", metavar="NODE", help="Only NODE and the nodes that it depends on")
    ] = None,
    path: Annotated[
        tuple[str, str] | None,
        typer.Option("--path", metavar="FROM TO", help="Only nodes on a path from FROM to TO"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the graph that these options select for JOB. Needs no input, endpoint or run, and reads no rows.

    Exit status: 0, or 2 when the graph cannot be drawn; then nothing is written.
    """
    suffix = PurePosixPath(output).suffix.lower() if output else ".mmd"
    _check(output, suffix, upstream_of, path, as_json=as_json)
    if as_json:
        print_json(_selected(job, options, upstream_of, path))
        return
    picture = _drawn(_selected(job, options, upstream_of, path), suffix)
    if output:
        write_whole("output", output, picture)
    else:
        typer.echo(picture.decode(), nl=False)


def _check(output: str | None, suffix: str, upstream_of: str | None, path: object, *, as_json: bool) -> None:
    if suffix not in SUFFIXES:
        raise ConfigurationError(
            f"{output!r} does not have a supported suffix.",
            f"Use one of: {', '.join(SUFFIXES)}.",
            code="option.invalid",
            option="output",
            choices=SUFFIXES,
        )
    for first, second, both in (
        ("upstream_of", opt("path"), upstream_of is not None and path is not None),
        ("output", opt("json", True), as_json and output is not None),
    ):
        if both:
            raise ConfigurationError(
                f"{opt(first)} and {second} exclude each other.",
                "Drop one of the two.",
                code="option.conflict",
                option=first,
            )


def _selected(job: str, options: dict[str, Any], upstream_of: str | None, path: tuple[str, str] | None) -> Graph:
    from domyn_swarm.engine.recording import describe  # noqa: PLC0415 - it needs Hamilton
    from domyn_swarm.options.resolve import spec_for  # noqa: PLC0415 - keeps --help light

    whole = describe.describe(spec_for(job, {**NOT_NEEDED, **options}))
    if upstream_of is not None:
        return describe.upstream_of(whole, upstream_of)
    return whole if path is None else describe.between(whole, *path)


def _drawn(graph: Graph, suffix: str) -> bytes:
    from domyn_swarm.report.diagram import dot_of, mermaid_of, page_of  # noqa: PLC0415
    from domyn_swarm.report.graphviz import draw  # noqa: PLC0415

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
