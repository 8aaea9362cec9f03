"""Graphviz as a program: DOT to SVG and PNG."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from domyn_swarm.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["svg", "png"]

SECONDS_TO_DRAW = 60
PROGRAMS = ("dot", "graphviz-pure")
"""Graphviz programs, in order of preference."""
FONTS = "Helvetica,Arial,'Liberation Sans',Arimo,sans-serif"
"""Fonts with the same metrics, for where the diagram is shown."""
REASON_CHARS = 200


def draw(dot: str, kind: Kind) -> bytes:
    """Render `dot` with Graphviz. An SVG has no prolog, so that it can be embedded in a page.

    Raises:
        MissingDependencyError: Graphviz is missing or does not work.
    """
    failures = []
    for program in programs():
        try:
            done = subprocess.run(  # noqa: S603 - no shell, fixed arguments
                [program, f"-T{kind}"], input=dot.encode(), capture_output=True, timeout=SECONDS_TO_DRAW, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(f"{program}: {type(error).__name__}")
            continue
        if done.returncode == 0 and (picture := _checked(done.stdout, kind)):
            return picture
        reason = done.stderr.decode(errors="replace").strip() or "no output"
        failures.append(f"{program}: {' '.join(reason.split())[:REASON_CHARS]}")
    broken = f" ({'; '.join(failures)})" if failures else ""
    raise MissingDependencyError(
        f"Graphviz for {kind.upper()} is missing or does not work{broken}.",
        "Install it: pip install graphviz-pure. Not needed for graph.html, graph.mmd or graph.dot.",
        "pip install graphviz-pure, or your system's graphviz",
        code="dependency.graphviz",
    )


def programs() -> Iterator[str]:
    """Each Graphviz on PATH or next to this interpreter, because the environment may not be activated."""
    environment = str(Path(sys.executable).parent)
    for name in PROGRAMS:
        if program := shutil.which(name) or shutil.which(name, path=environment):
            yield program


def _checked(output: bytes, kind: Kind) -> bytes:
    """The image alone; empty when the output is not an image."""
    if kind == "png":
        return output if output.startswith(b"\x89PNG\r\n\x1a\n") else b""
    text = output.decode(errors="replace")
    found = re.search(r"<svg\b.*</svg>", text, re.DOTALL)
    if not found:
        return b""
    # Comments contain the program's version, so that equal diagrams would differ.
    svg = re.sub(r"<!--.*?-->\n?", "", found[0], flags=re.DOTALL)
    return (re.sub(r'font-family="[^"]*"', f'font-family="{FONTS}"', svg) + "\n").encode()
