"""The graph's page is honest: one driver, two executions, and those nodes write that are tagged so.

`checkpoint.part` names nodes as records have them; the page's tags must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hamilton import driver

from domyn_swarm import make_spec, plan, run
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import ROW_NODES
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.engine.graph.build import build_graph
from domyn_swarm.engine.planning import make_plan
from tests.conftest import job, tree, write

RUN = ".domyn-swarm/out.parquet"
PHASES = ["plan", "recover", "stream", "output"]
ADAPTERS = '''
from pathlib import Path
from hamilton.lifecycle import GraphConstructionHook, GraphExecutionHook, NodeExecutionHook

EVENTS = []

class Counting(GraphConstructionHook, GraphExecutionHook):
    def run_after_graph_construction(self, **_): EVENTS.append("built")
    def run_before_graph_execution(self, **_): EVENTS.append("executed")
    def run_after_graph_execution(self, **_): pass

def files():
    """Files with what changes when they are written; locks and updates by other threads are left out."""
    found = {str(path): path for path in Path().rglob("*") if path.is_file()}
    return {name: (path.stat().st_ino, path.stat().st_size) for name, path in found.items() if "lock-" not in name}

def kind(name):
    inside = name.removeprefix(".domyn-swarm/out.parquet/")
    if inside == name:
        return "writes output"
    return "writes parts" if inside.startswith(("parts/", "damaged/", ".")) else "writes record"

class Tracing(NodeExecutionHook):
    def run_before_node_execution(self, **_): self.before = files()
    def run_after_node_execution(self, *, node_name, **_):
        after = files()
        changed = {name for name in {*self.before, *after} if self.before.get(name) != after.get(name)}
        EVENTS.append((node_name, sorted({kind(name) for name in changed if not name.endswith(".py")})))
'''


@pytest.fixture
def events(folder: Path) -> Iterator[list[Any]]:
    """What the adapters of the module `watching` have seen."""
    Path("watching.py").write_text(ADAPTERS)
    sys.path.insert(0, str(folder))
    try:
        import watching

        yield watching.EVENTS
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("watching", None)


def options(**more: Any) -> dict[str, Any]:
    return {
        "job": job("Upper"), "input": "in.parquet", "output": "out.parquet", "input_columns": ["text"],
        "output_columns": ["upper"], **more,
    }  # fmt: skip


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_local_run_builds_one_driver_and_executes_it_twice(
    engine: str, events: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    built: list[Any] = []
    build = driver.Builder.build
    monkeypatch.setattr(driver.Builder, "build", lambda builder: built.append(builder) or build(builder))
    assert run(make_spec(options(data_backend=engine, adapters=["watching:Counting"]))).done_now == 2
    assert events == ["built", "executed", "executed"]
    assert len(built) == 1, "also of those without the run's adapters"


def test_a_plan_executes_once_and_writes_nothing(events: list[Any]) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    before = tree()
    made = make_plan(make_spec(options(adapters=["watching:Counting", "watching:Tracing"])))
    assert (made.rows, made.pending) == (2, 2)
    assert [event for event in events if isinstance(event, str)] == ["built", "executed"]
    assert {node for node, _ in (event for event in events if isinstance(event, tuple))} == {
        *made.graph.of_phase("plan")
    }
    assert [event for event in events if isinstance(event, tuple) and event[1]] == []
    assert {path for path in tree() if "pycache" not in path} == before


def test_a_function_in_place_of_a_node_is_executed_twice_too(events: list[Any]) -> None:
    def limited(backend: Any, identified: Any) -> Any:
        return backend.head(identified, 1)

    write("in.parquet", {"text": ["a", "b"]})
    made = plan(**options(adapters=["watching:Counting"])).with_nodes(limited)
    assert made.run().done_now == 1
    assert events.count("executed") == 2


def test_the_nodes_that_write_are_those_that_the_page_says(events: list[Any]) -> None:
    write("in.parquet", {"text": [f"text {number}" for number in range(9)]})
    for limit in (3, 6):
        run(make_spec(options(limit=limit)))
    folder = RunFolder(RUN)
    record = RunRecord.load(folder)
    assert record is not None
    Path(f".out.parquet.{record.run_id}-1.tmp").touch()
    Path(f"{RUN}/parts/0001-000007.parquet").write_bytes(b"damaged")
    made = run(make_spec(options(adapters=["watching:Tracing"])))
    assert (made.done_before, made.done_now) == (6, 3)
    wrote = [event for event in events if event[1]]
    nodes = build_graph(make_spec(options())).nodes
    tagged = [
        (name, sorted(effect for effect in node.effects if effect.startswith("writes")))
        for name, node in nodes.items()
        if node.writes
    ]
    assert wrote == tagged, "in the page's order"
    assert [node for node, _ in wrote] == ["recovered", "record", "flushed", "compacted", "finalized"]


@pytest.mark.parametrize("engine", ["pandas", "ray"])
@pytest.mark.parametrize("native", [False, True], ids=["items", "native"])
@pytest.mark.parametrize("resume", [False, True], ids=["anew", "resumed"])
def test_every_node_has_a_phase_and_planning_needs_nothing_of_a_later_one_but_recovered(
    engine: str, native: bool, resume: bool
) -> None:
    graph = build_graph(make_spec(options(data_backend=engine, native_backend=native, resume=resume)))
    assert {node.phase for node in graph.nodes.values()} == {*PHASES}
    for name in graph.of_phase("plan"):
        needed = graph.upstream_of(name, ["recovered"]) & graph.nodes.keys()
        assert {graph.nodes[one].phase for one in needed - {"recovered"}} == {"plan"}
        assert not any(graph.nodes[one].writes for one in needed - {"recovered"})


def test_nodes_in_records_are_those_that_input_rows_pass_through() -> None:
    nodes = build_graph(make_spec(options())).nodes
    assert tuple(name for name, node in nodes.items() if node.rows == "input") == ROW_NODES
