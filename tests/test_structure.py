"""What keeps the code readable: the graph is one page, functions fit on a screen, only backends name an engine."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from domyn_swarm.data.backends.registry import backend_names
from domyn_swarm.runs.launchers.registry import launcher_names

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("dags/**/*.py")])
NODES = (
    "backend", "files", "source", "schema", "columns", "store", "identified", "limited", "row_count", "found",
    "recovered", "done", "pending", "pending_count", "record", "as_pandas", "batches", "transformed", "worker_job",
    "flushed", "compacted", "finalized",
)  # fmt: skip


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _nodes() -> dict[str, list[object]]:
    """The graph's nodes in the order of the page, each with the functions that implement it."""
    module = importlib.import_module("domyn_dags.job")
    found: dict[str, list[object]] = {}
    for name, function in vars(module).items():
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
            found.setdefault(name.partition("__")[0], []).append(function)
    return found


def test_the_graph_is_one_page_in_data_order() -> None:
    assert tuple(_nodes()) == NODES
    assert len((ROOT / "dags/domyn_dags/job.py").read_text().splitlines()) <= 250


def test_every_node_says_what_it_is() -> None:
    assert [name for name, variants in _nodes().items() if not all(map(inspect.getdoc, variants))] == []


def test_functions_fit_on_a_screen() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {f.name}": f.end_lineno - f.lineno + 1
        for path in SOURCES
        for f in _functions(path)
        if f.end_lineno - f.lineno >= 60
    }
    assert long == {}


def test_every_file_says_what_it_is_for() -> None:
    assert [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_code_outside_a_backend_asks_for_an_engine_by_name() -> None:
    engines = set(backend_names())
    named = {
        (path.relative_to(ROOT).as_posix(), node.value)
        for path in SOURCES
        if not {"backends", "launchers"} & set(path.parts)  # a launcher may be called like an engine
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in engines
    }
    assert named == {("src/domyn_swarm/option_groups.py", "pandas")}, "the default, and nothing else"


def test_no_code_outside_a_launcher_asks_for_a_place_by_name() -> None:
    places = {*launcher_names()}
    asked = {
        (path.relative_to(ROOT).as_posix(), constant.value)
        for path in SOURCES
        if not {"backends", "launchers"} & set(path.parts)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Compare, ast.Match))
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in places
    }
    assert asked == set()
