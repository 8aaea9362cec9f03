"""`--adapter`: Hamilton's adapters that look on see every node of a run; those that would run it are refused."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from domyn_swarm import RunResult, make_spec, run
from domyn_swarm.errors import ConfigurationError, SwarmError
from tests.conftest import Command, job, rows, tree, write

SEEN = '''
import json
from hamilton.lifecycle import GraphExecutionHook, NodeExecutionHook

class Seen(NodeExecutionHook, GraphExecutionHook):
    """Writes down what it sees, a line at a time: on a cluster from more than one process."""

    def run_before_node_execution(self, *, node_name, node_kwargs, **_):
        self.note("before", node_name)

    def run_after_node_execution(self, *, node_name, success, error, result, **_):
        self.note("after", node_name, success, type(error).__name__, type(result).__name__)

    def run_before_graph_execution(self, **_):
        self.note("graph before")

    def run_after_graph_execution(self, *, success, error, **_):
        self.note("graph after", success, type(error).__name__)

    def note(self, *what):
        with open("SEEN", "a") as file:
            file.write(json.dumps(what) + "\\n")

def seen():
    return Seen()
'''

FACTORIES = """
from hamilton import base
from hamilton.lifecycle import NodeExecutionHook, default

def printing(): return default.PrintLn(verbosity=2)
def lenient(): return default.NoEdgeAndInputTypeChecking()
def graceful(): return default.GracefulErrorAdapter(error_to_catch=Exception, sentinel_value=None)
def caching(): return default.CacheAdapter("cache")
def plain(): return base.DefaultAdapter()
def simple(): return base.SimplePythonGraphAdapter(base.PandasDataFrameResult())
def frame(): return base.PandasDataFrameResult()
def nothing(): return None
def number(): return 7
def hook_class(): return NodeExecutionHook
def breaks(): raise RuntimeError("no licence")
def wants(more): return default.PrintLn()
printer = default.PrintLn()
def graph_caching():
    from hamilton.experimental.h_cache import CachingGraphAdapter
    return CachingGraphAdapter("cache")
def ray():
    from hamilton.plugins.h_ray import RayGraphAdapter
    return RayGraphAdapter(base.DictResult())

class Breaking(NodeExecutionHook):
    def __init__(self, where): self.where = where
    def run_before_node_execution(self, *, node_name, **_):
        if node_name == self.where: raise RuntimeError("the tracker is down")
    def run_after_node_execution(self, **_): pass
def breaks_while_planning(): return Breaking("files")
def breaks_while_running(): return Breaking("transformed")
"""

ONCE = ["backend", "files", "source", "schema", "columns", "store", "identified", "limited", "row_count", "found"]
TWICE = ["done", "pending", "pending_count"]
PLANNED = [*ONCE, *TWICE]
RUNNING = ["recovered", *TWICE, "record", "as_pandas", "batches", "transformed", "flushed", "compacted", "finalized"]


@pytest.fixture(autouse=True)
def modules(folder: Path) -> Iterator[None]:
    """The factories' modules stand in the test's folder, where the command is called; a process imports them once."""
    known, path = {*sys.modules}, [*sys.path]
    Path("looking.py").write_text(SEEN.replace("SEEN", str(folder / "seen")))
    Path("factories.py").write_text(FACTORIES)
    write("in.parquet", {"text": ["one", "bad", "three"]})
    yield
    sys.path[:] = path
    for name in ("looking", "factories", "broken_module"):
        if name not in known:
            sys.modules.pop(name, None)


def submit(*adapters: str, name: str = "Upper", **options: Any) -> RunResult:
    defaults = {"job": job(name), "input": "in.parquet", "output": "out.parquet", "input_columns": ["text"]}
    return run(make_spec({**defaults, "output_columns": ["upper"], "adapters": list(adapters), **options}))


def seen() -> list[list[Any]]:
    return [json.loads(line) for line in Path("seen").read_text().splitlines()]


def nodes(when: str) -> list[str]:
    return [what[1] for what in seen() if what[0] == when]


def uppers() -> list[str]:
    return [row["upper"] for row in rows("out.parquet")]


# Those that look on.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize("native", [False, True], ids=["items", "native"])
def test_a_hook_sees_every_node_before_and_after_and_how_it_went(engine: str, native: bool) -> None:
    submit("looking:seen", data_backend=engine, native_backend=native)
    expected = sorted(node for node in [*PLANNED, *RUNNING] if node != "as_pandas" or not native)
    assert sorted(nodes("before")) == sorted(nodes("after")) == expected
    assert {tuple(what[2:4]) for what in seen() if what[0] == "after"} == {(True, "NoneType")}
    graphs = [what for what in seen() if what[0].startswith("graph")]
    assert graphs == [["graph before"], ["graph after", True, "NoneType"]] * 2, "planned, run"
    assert nodes("before").index("files") < nodes("before").index("source") < nodes("before").index("transformed")
    assert uppers() == ["ONE", "BAD", "THREE"]


def test_several_adapters_see_the_same_and_a_class_is_a_factory_too(capsys: pytest.CaptureFixture[str]) -> None:
    submit("looking:Seen", "factories:printing", "looking:seen")
    assert sorted(nodes("before")) == sorted([*PLANNED, *RUNNING] * 2)
    assert "flushed" in capsys.readouterr().out


def test_a_hook_sees_the_node_that_fails_and_its_error() -> None:
    with pytest.raises(SwarmError, match="The row with _row_id = 1 failed"):
        submit("looking:seen", name="Picky", retries=0, on_error="fail", max_concurrency=1)
    after = {what[1]: what[2:4] for what in seen() if what[0] == "after"}
    assert after["flushed"] == [False, "JobError"], "the node that pulls the rows"
    assert {node for node, (success, _) in after.items() if not success} == {"flushed"}
    assert [what for what in seen() if what[0] == "graph after"][-1] == ["graph after", False, "JobError"]


def test_a_hook_sees_that_an_input_is_refused() -> None:
    with pytest.raises(SwarmError):
        submit("looking:seen", input="gone.parquet")
    assert [what[1:4] for what in seen() if what[0] == "after"][-1] == ["files", False, "DataError"]


def test_hamiltons_own_printer_looks_on(capsys: pytest.CaptureFixture[str]) -> None:
    submit("factories:printing")
    said = capsys.readouterr().out
    assert [node for node in [*PLANNED, *RUNNING] if f"Executing node: {node}." not in said] == []
    assert said.count("Status: Success.") == len([*PLANNED, *RUNNING])
    assert uppers() == ["ONE", "BAD", "THREE"]


def test_one_that_checks_types_more_leniently_goes_along() -> None:
    submit("factories:lenient")
    assert uppers() == ["ONE", "BAD", "THREE"]


def test_the_command_finds_factories_in_the_folder_that_it_is_called_in(command: Command) -> None:
    arguments = ("--input", "in.parquet", "--output", "out.parquet", "--adapter", "looking:seen")
    done = command("job", "submit", job("Upper"), *arguments, "--adapter", "factories:lenient")
    assert done.returncode == 0, done.stderr
    assert sorted(nodes("after")) == sorted([*PLANNED, *RUNNING])
    spec = json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())
    assert spec["adapters"] == ["looking:seen", "factories:lenient"]


def test_a_run_that_goes_on_may_have_other_adapters() -> None:
    submit("looking:seen", limit=1)
    assert submit(limit=2).done_before == 1
    assert submit("factories:lenient").done_before == 2


def test_a_hook_that_breaks_while_rows_go_through_ends_the_run_and_loses_nothing() -> None:
    with pytest.raises(SwarmError) as broke:
        submit("factories:breaks_while_running")
    assert (broke.value.exit_status, broke.value.message) == (1, "RuntimeError: the tracker is down")
    assert "Run it again" in broke.value.hint
    assert submit().done_now == 3


@pytest.mark.stress
def test_on_a_cluster_a_hook_sees_every_node_too(command: Command) -> None:
    # Ray keeps its sockets there, and has room for a short path only.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as logs:
        environment = {
            "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": logs, "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}',
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
        }  # fmt: skip
        arguments = ("--input", "in.parquet", "--output", "out.parquet", "--data-backend", "ray")
        done = command("job", "submit", job("Upper"), *arguments, "--adapter", "looking:seen", env=environment)
    assert done.returncode == 0, done.stderr
    expected = {*PLANNED, "recovered", "record", "worker_job", "flushed", "compacted", "finalized"}
    assert set(nodes("before")) == set(nodes("after")) == expected
    assert {tuple(what[2:4]) for what in seen() if what[0] == "after"} == {(True, "NoneType")}
    assert uppers() == ["ONE", "BAD", "THREE"]


# Those that are refused.

REFUSED = {
    "no such module": ("nowhere:seen", "'nowhere:seen' cannot be made: ModuleNotFoundError: No module named 'nowhere'"),
    "no such factory": ("factories:nobody", "'factories:nobody' cannot be made: AttributeError: "),
    "no factory": ("factories", "'factories' names no factory"),
    "half a name": (":seen", "':seen' names no factory"),
    "half a name too": ("factories:", "'factories:' names no factory"),
    "a module that breaks": ("broken_module:seen", "'broken_module:seen' cannot be made: ValueError: not today"),
    "a factory that breaks": ("factories:breaks", "'factories:breaks' cannot be made: RuntimeError: no licence"),
    "a factory that wants more": ("factories:wants", "'factories:wants' cannot be made: TypeError: "),
    "an adapter in place of a factory": ("factories:printer", "'factories:printer' cannot be made: TypeError: "),
    "nothing": ("factories:nothing", "'factories:nothing' makes a NoneType, no Hamilton adapter"),
    "no adapter": ("factories:number", "'factories:number' makes a int, no Hamilton adapter"),
    "a class": ("factories:hook_class", "'factories:hook_class' makes a"),
    "one that goes on after errors": ("factories:graceful", "GracefulErrorAdapter runs the nodes itself"),
    "one that caches nodes": ("factories:caching", "CacheAdapter runs the nodes itself"),
    "one that caches the graph": ("factories:graph_caching", "CachingGraphAdapter runs the nodes itself"),
    "Hamilton's default": ("factories:plain", "DefaultAdapter runs the nodes itself"),
    "an adapter of old": ("factories:simple", "SimplePythonGraphAdapter runs the nodes itself"),
    "a cluster's": ("factories:ray", "RayGraphAdapter runs the nodes itself"),
    "one that makes another result": ("factories:frame", "PandasDataFrameResult"),
}


@pytest.mark.parametrize(("reference", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_go_along_is_refused_before_anything_is_written(reference: str, says: str) -> None:
    Path("broken_module.py").write_text("raise ValueError('not today')\n")
    before = tree()
    with pytest.raises(ConfigurationError) as refused:
        submit("looking:seen", reference)
    assert says in refused.value.message
    assert (refused.value.code, refused.value.option) == ("adapter.invalid", "adapters")
    assert (refused.value.exit_status, refused.value.hint != "") == (2, True)
    assert {path for path in tree() if not path.startswith("hamilton-cache")} == before, "which Hamilton's own makes"


def test_a_hook_that_breaks_while_the_run_is_planned_refuses_it() -> None:
    before = tree()
    with pytest.raises(SwarmError, match="the tracker is down"):
        submit("factories:breaks_while_planning")
    assert tree() == before


@pytest.mark.parametrize("reference", ["nowhere:seen", "factories:graceful"])
def test_the_command_refuses_with_one_message(reference: str, command: Command) -> None:
    before = tree()
    arguments = ("--input", "in.parquet", "--output", "out.parquet", "--adapter", reference)
    done = command("job", "submit", job("Upper"), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: --adapter: ")
    assert "Traceback" not in done.stderr
    assert tree() == before
