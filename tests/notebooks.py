"""The notebooks of docs/notebooks in kernels of their own, and what they show beside what is stored in them.

`python -m tests.notebooks` runs them, and stores what they show where that is not the same. Times, rates, styles and
temporary folders do not count, nor where a diagram's boxes stand, which depends on the fonts and the layout library of
the machine; a cell that is tagged `volatile` shows something else each time, and only has to work.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
SECONDS = 120
"""What a notebook may take, from a fresh kernel to its last cell."""

STDLIB = (str(Path(sysconfig.get_path("stdlib")).parent), "lib")
"""Where Python's own files are, which frames of a traceback name, and what stands for it."""
SHOWN = {"text/plain", "text/html", "image/svg+xml"}
"""What is stored of a display: what pages show."""
VARIES = (
    (r"[\d,.]+(\+[\d,.]+)? ?(rows/s|requests/s|tokens/s|ms|s left|in flight)", r"# \2"),
    (r"\d+ of \d+ in flight", "# in flight"),
    (r"seconds=[\d.e-]+", "seconds=#"),
    (r"(?s)<style>.*?</style>", "<style>#</style>"),
    (r"domyn-swarm-\w{8}\b", "domyn-swarm-#"),
    (r"\d{4}-\d\d-\d\dT[\d:.+]+", "#"),
    (r"((?:<th>)?(?:seconds|rows/s)(?:</th>)?)(\s|<td.*?>|</td>|[-+\d,.])+", r"\1 #"),
)
"""Times, rates, names of temporary folders, and how things are coloured."""
DIAGRAM = re.compile(r"(?s)<svg\b.*?</svg>")


def executed(path: Path, folder: Path) -> NotebookNode:
    """The notebook with what it shows, run in a copy of the docs' folders below `folder`.

    Raises:
        TimeoutError: it takes too long.
        nbclient.exceptions.CellExecutionError: a cell fails that is not tagged `raises-exception`.
    """
    for part in ("examples", "notebooks"):
        shutil.copytree(ROOT / "docs" / part, folder / "docs" / part, dirs_exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"PATH": scripts, "TMPDIR": str(folder), "RAY_TMPDIR": tempfile.gettempdir(), "IPYTHONDIR": str(folder)}
    client = NotebookClient(notebook, kernel_name="python3", record_timing=False)
    environment = {**os.environ, **places, "COLUMNS": "100"}
    running = client.async_execute(cwd=str(folder / "docs/notebooks"), env=environment)
    asyncio.run(asyncio.wait_for(running, SECONDS))
    for cell in code(notebook):
        cell.outputs = [_storable(output, folder) for output in _joined(cell.outputs)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    return notebook


def code(notebook: NotebookNode) -> list[Any]:
    """The notebook's cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_volatile(cell: Any) -> bool:
    """Whether a cell shows something else each time."""
    return "volatile" in cell.metadata.get("tags", [])


def told(cell: Any) -> list[Any]:
    """What a cell shows, without what varies."""
    return [_told(output) for output in cell.outputs]


def _told(output: Any) -> tuple[str, Any]:
    said = output.get("text") or output.get("data") or output.get("traceback")
    return output.output_type, _steady(said)


def _steady(said: Any) -> Any:
    if isinstance(said, dict):
        return {kind: _steady(text) for kind, text in said.items()}
    if isinstance(said, list):
        return [_steady(text) for text in said]
    said = DIAGRAM.sub(lambda found: diagram_structure(found[0]), said)
    for pattern, steady in VARIES:
        said = re.sub(pattern, steady, said)
    return said


def diagram_structure(svg: str) -> str:
    """The nodes and edges of a Graphviz drawing by their titles, each with its texts, whatever the layout."""
    groups = [group for group in ET.fromstring(svg).iter() if group.get("class") in ("node", "edge", "cluster")]
    found = [
        f"{group.get('class')} {' | '.join(''.join(text.itertext()) for text in group.iter() if is_text(text))}"
        for group in groups
    ]
    return "\n".join(sorted(found))


def is_text(element: ET.Element) -> bool:
    """Whether an element of an SVG holds text that is shown, or the title of its group."""
    return element.tag.rpartition("}")[2] in ("title", "text")


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with what was printed in one go as one: how it is cut depends on the moment."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.get("name", "") == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _storable(output: Any, folder: Path) -> Any:
    """An output without places of this machine, and without kinds of data that no page shows."""
    if "data" in output:
        output.data = {kind: data for kind, data in output.data.items() if kind in SHOWN}
    return nbformat.from_dict(_placeless(output, folder))


def _placeless(said: Any, folder: Path) -> Any:
    if isinstance(said, dict):
        return {name: _placeless(value, folder) for name, value in said.items()}
    if isinstance(said, list):
        return [_placeless(value, folder) for value in said]
    if isinstance(said, str):
        for place, shown in ((f"{folder}/docs/notebooks/", ""), (str(folder), "/tmp"), (f"{ROOT}/", ""), STDLIB):
            said = said.replace(place, shown)
    return said


def main() -> None:
    """Run all of them, and store what those show that show something else; or those that are named, and store that."""
    named = sys.argv[1:]
    for path in NOTEBOOKS:
        if named and path.stem not in named:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        pairs = list(zip(code(nbformat.read(path, as_version=4)), code(notebook), strict=True))
        changed = [now.id for before, now in pairs if not is_volatile(now) and told(before) != told(now)]
        if named or changed:
            nbformat.write(notebook, path)
        print(f"{path.relative_to(ROOT)}: {', '.join(changed) or 'nothing'} shows something else")


if __name__ == "__main__":
    main()
