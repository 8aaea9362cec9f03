"""A plan: looking into a job before it runs, changing it, running it from Python as from the command line."""

from __future__ import annotations

import gc
import importlib
import inspect
import shlex
import types
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import domyn_swarm
from domyn_swarm import Plan, RunResult, SwarmJob, plan
from domyn_swarm.errors import ConfigurationError, DataError, JobError, SwarmError
from domyn_swarm.jobs import ChatCompletionJob
from domyn_swarm.report.diagram import dot_of, mermaid_of, page_of
from tests.conftest import Command, job, rows, table, tree, write

TEXTS = {"id": ["a", "b", "c", "d"], "text": ["one", "two", "three", "four"]}


class Shout(SwarmJob):
    """Upper case, with a mark."""

    input_columns = ("text",)
    output_columns = ("loud",)
    mark: str = "!"

    async def transform_item(self, text: str) -> str:
        return text.upper() + self.mark


class Counting(SwarmJob):
    """Writes down each call."""

    input_columns = ("text",)
    output_columns = ("length",)

    def transform_item(self, text: str) -> int:
        with Path("calls").open("a") as file:
            file.write(f"{text}\n")
        return len(text)


def calls() -> list[str]:
    return Path("calls").read_text().split() if Path("calls").exists() else []


# Input and output in memory


@pytest.mark.parametrize(
    "make",
    [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.table, dict, pa.RecordBatch.from_pydict],
    ids=["pandas", "polars", "polars-lazy", "arrow", "columns", "record-batch"],
)
@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_frame_in_memory_goes_in_and_a_frame_of_the_engine_comes_out(make: Any, engine: str) -> None:
    with plan(Shout, input=make(TEXTS), data_backend=engine) as shout:
        out = shout.run()
    assert type(out).__module__.partition(".")[0] == engine
    assert pa.table(out).to_pydict() == {**TEXTS, "loud": ["ONE!", "TWO!", "THREE!", "FOUR!"]}
    assert tree() == set()


@pytest.mark.stress
def test_a_dataset_of_ray_goes_in_and_a_table_comes_out() -> None:
    import ray

    is_mine = not ray.is_initialized()  # other tests of this process may have one
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        with plan(job("Upper"), input=ray.data.from_pandas(pd.DataFrame(TEXTS)), data_backend="ray") as upper:
            out = upper.run()
    finally:
        if is_mine:
            ray.shutdown()
    assert out.to_pydict() == {**TEXTS, "upper": ["ONE", "TWO", "THREE", "FOUR"]}


@pytest.mark.stress
def test_a_job_that_no_worker_can_import_is_told_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(Shout)
    Path("vanishing.py").write_text(f"from domyn_swarm import SwarmJob\n\n\n{source}")
    monkeypatch.syspath_prepend(folder)
    vanishing = importlib.import_module("vanishing")
    Path("vanishing.py").unlink()
    with pytest.raises(JobError, match=r"No worker can be made: .*there is no module 'vanishing'"):
        plan(vanishing.Shout, input=TEXTS, data_backend="ray").run()


def test_ids_of_a_frame_are_checked_like_those_of_a_file() -> None:
    twice = plan(Shout, input={**TEXTS, "id": ["a", "a", "c", "d"]}, id_column="id")
    with pytest.raises(DataError, match="'a'"):
        twice.run()


def test_a_frame_whose_values_have_no_one_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot convert pandas.DataFrame to Arrow"):
        plan(Shout, input=pd.DataFrame({"text": [1, "two"]}))


def test_an_input_that_is_neither_path_nor_frame_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="input: a int is neither a path nor a frame"):
        plan(Shout, input=3)


def test_what_would_be_done_while_reading_is_refused_for_a_frame() -> None:
    with pytest.raises(ConfigurationError, match="backend_read_kwargs: the input is a frame in memory"):
        plan(Shout, input=TEXTS, backend_read_kwargs={"columns": ["text"]})


def test_with_an_output_run_writes_it_and_says_how_it_went() -> None:
    result = plan(Shout, input=TEXTS, output=Path("out.parquet")).run()
    assert isinstance(result, RunResult)
    assert (result.rows, result.done_now, result.failed) == (4, 4, 0)
    assert [row["loud"] for row in rows("out.parquet")] == ["ONE!", "TWO!", "THREE!", "FOUR!"]


def test_the_folder_of_a_plan_whose_output_is_a_frame_goes_with_it() -> None:
    made = plan(Shout, input=TEXTS)
    made.run()
    folder = Path(made.run_dir)
    assert folder.is_dir()
    again = made.with_options(limit=2)
    del made
    gc.collect()
    assert folder.is_dir(), "another plan still uses it"
    del again
    gc.collect()
    assert not folder.exists()


def test_a_second_run_computes_nothing_again() -> None:
    counting = plan(Counting, input=TEXTS)
    first, second = counting.run(), counting.run()
    assert first.equals(second)
    assert sorted(calls()) == sorted(TEXTS["text"])
    assert counting.result is not None
    assert counting.result.done_before == 4


# Jobs


def test_a_job_is_given_as_a_class_as_an_instance_or_by_its_name() -> None:
    by_class = plan(Shout, input=TEXTS, job_kwargs={"mark": "?"})
    by_instance = plan(Shout(mark="?"), input=TEXTS)
    by_name = plan(job("Upper"), input=TEXTS)
    assert by_class.spec.job_kwargs == by_instance.spec.job_kwargs == {"mark": "?"}
    assert list(by_instance.run()["loud"]) == ["ONE?", "TWO?", "THREE?", "FOUR?"]
    assert list(by_name.run()["upper"]) == ["ONE", "TWO", "THREE", "FOUR"]


def test_a_class_made_in_a_function_runs() -> None:
    def made(suffix: str) -> type[SwarmJob]:
        class Suffixed(SwarmJob):
            input_columns = ("text",)
            output_columns = ("made",)

            async def transform_item(self, text: str) -> str:
                return text + suffix

        return Suffixed

    assert list(plan(made("-1"), input=TEXTS).run()["made"]) == ["one-1", "two-1", "three-1", "four-1"]
    assert list(plan(made("-2"), input=TEXTS).run()["made"]) == ["one-2", "two-2", "three-2", "four-2"]


def test_an_instance_of_a_class_with_an_init_of_its_own_is_refused_with_the_way_out() -> None:
    class Own(SwarmJob):
        def __init__(self, table: dict[str, str]) -> None:
            self.table = table

        def transform_item(self, text: str) -> str:
            return self.table[text]

    with pytest.raises(ConfigurationError, match="as job_kwargs"):
        plan(Own({"one": "1"}), input=TEXTS)


def test_options_are_those_of_the_spec_and_one_text_will_do_for_a_list() -> None:
    made = plan(Shout, input=TEXTS, input_columns="text", max_concurrency=7)
    assert (made.spec.input_columns, made.spec.max_concurrency) == (["text"], 7)


def test_an_unknown_option_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="Unknown option 'outputs'") as refused:
        plan(Shout, input=TEXTS, outputs=["x"])
    assert "output_columns" in refused.value.hint


# Looking


def test_peek_shows_the_first_pending_rows_and_calls_nothing() -> None:
    peeked = plan(Counting, input=TEXTS).peek(n=2)
    assert peeked.to_dict("list") == {"id": ["a", "b"], "text": ["one", "two"], "_row_id": [0, 1]}
    assert calls() == []


def test_peek_shows_what_is_pending_now() -> None:
    counting = plan(Counting, input=TEXTS, output="out.parquet")
    counting.with_options(limit=1).run()
    assert list(counting.peek()["text"]) == ["two", "three", "four"]


def test_peek_at_finished_rows_calls_the_job_for_these_alone_and_writes_nothing() -> None:
    counting = plan(Counting, input=TEXTS, output="out.parquet")
    assert counting.peek("transformed", 2).to_dict("list") == {"_row_id": [0, 1], "length": [3, 3]}
    assert sorted(calls()) == ["one", "two"]
    assert tree() == {"calls"}


def test_peek_at_finished_rows_tells_failures() -> None:
    class Picky(SwarmJob):
        input_columns = ("text",)
        output_columns = ("made",)

        def transform_item(self, text: str) -> str:
            if text == "two":
                raise ValueError("not that one")
            return text

    peeked = plan(Picky, input=TEXTS, retries=0).peek("transformed", 2)
    assert peeked["__failure__"][1]["message"] == "not that one"


@pytest.mark.parametrize("engine", ["pandas", "polars", "ray"])
def test_each_node_can_be_looked_at_without_a_cluster(engine: str) -> None:
    write("in.parquet", TEXTS)
    shout = plan(Shout, input="in.parquet", output="out.parquet", data_backend=engine)
    values = {name: shout.peek(name, 2) for name in (node.name for node in shout.graph.nodes if node.kind == "node")}
    assert values["schema"] == {"id": "string", "text": "string"}
    for name in ("source", "identified", "limited", "pending", "finalized"):
        assert pa.table(values[name]).num_rows == 2
    assert values["flushed"].rows == 2
    assert tree() == {"in.parquet"}


def test_the_schema_can_be_looked_at_before_the_columns_are_chosen() -> None:
    unsure = plan(job("Same"), input=TEXTS)
    assert unsure.peek("schema") == {"id": "string", "text": "string"}
    with pytest.raises(DataError, match="the input has several columns"):
        unsure.peek("columns")


def test_compute_takes_values_in_place_of_nodes() -> None:
    shout = plan(Shout, input=TEXTS)
    computed = shout.compute("transformed", overrides={"limited": {"id": ["z"], "text": ["zed"]}})
    assert computed.to_dict("list") == {"_row_id": [0], "loud": ["ZED!"]}


def test_an_unknown_node_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no node 'pendign'") as refused:
        plan(Shout, input=TEXTS).peek("pendign")
    assert "Did you mean 'pending'? Nodes: backend, files, source" in refused.value.hint


# The same as a command


def submitted(made: Plan, command: Command) -> Any:
    words = shlex.split(made.command())
    assert words[0] == "domyn-swarm"
    return command(*words[1:])


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize("output", ["out.parquet", "out/"])
def test_the_command_of_a_plan_writes_the_same_bytes(engine: str, output: str, command: Command) -> None:
    write("in.parquet", TEXTS)
    made = plan(job("Upper"), input="in.parquet", output=output, data_backend=engine, id_column="id", limit=3)
    made.run()
    written = contents(output)
    first = table(output)
    for folder in ("out", ".domyn-swarm"):
        Path(folder).rename(f"first-{folder}") if Path(folder).exists() else None
    Path("out.parquet").unlink(missing_ok=True)
    assert submitted(made, command).returncode == 0
    assert table(output).equals(first)
    assert without_run(contents(output)) == without_run(written)


def contents(output: str) -> list[bytes]:
    path = Path(output)
    return [file.read_bytes() for file in ([path] if path.is_file() else sorted(path.rglob("*.parquet")))]


def without_run(files: list[bytes]) -> list[bytes]:
    """The bytes before the footer, which names the run."""
    return [file[: -8 - int.from_bytes(file[-8:-4], "little")] for file in files]


def test_a_plan_of_a_class_goes_on_with_what_a_command_began(command: Command) -> None:
    write("in.parquet", TEXTS)
    options = ["--input-column", "text", "--endpoint", "demo", "--limit", "2"]
    assert command("job", "submit", "--input", "in.parquet", "--output", "out.parquet", *options).returncode == 0
    asked = plan(ChatCompletionJob, input="in.parquet", output="out.parquet", input_columns="text", endpoints="demo")
    assert asked.run().done_before == 2


def test_a_command_may_be_had_with_other_options() -> None:
    write("in.parquet", TEXTS)
    small = plan(job("Upper"), input=TEXTS, limit=2)
    command = small.command(input="in.parquet", output="all.parquet", limit=None)
    assert command == f"domyn-swarm job submit {job('Upper')} --input in.parquet --output all.parquet"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: plan(job("Upper"), input=TEXTS, output="out.parquet"), "its input is in memory"),
        (lambda: plan(job("Upper"), input="in.parquet"), "it has no output path"),
        (lambda: plan(job("Upper"), input="in.parquet", output="o.parquet").with_values(limited=TEXTS), "nodes"),
    ],
    ids=["input", "output", "nodes"],
)
def test_a_plan_that_no_command_can_submit_says_why(made: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"No command line submits this plan: .*{why}"):
        made().command()


# Replacing nodes


def test_functions_of_a_module_replace_nodes() -> None:
    module = types.ModuleType("mine")
    exec("def limited(identified, backend):\n    return backend.head(identified, 1)\n_helper = 1", vars(module))
    assert len(plan(Shout, input=TEXTS).with_nodes(module).run()) == 1


def test_a_function_gets_rows_as_the_frame_that_it_asks_for() -> None:
    seen: list[Any] = []

    def limited(identified: pa.Table) -> pa.Table:
        seen.append(identified)
        return identified.slice(1)

    assert plan(Shout, input=TEXTS, data_backend="polars").with_nodes(limited).run()["loud"][0] == "TWO!"
    assert isinstance(seen[0], pa.Table)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: named("limitd", "identified"), "no node 'limitd'"),
        (
            lambda: named("limited", "identifed"),
            r"neither a node nor an option 'identifed'.\nDid you mean 'identified'",
        ),
        (lambda: named("limited", "pending"), "made from itself: .*limited"),
        (lambda: named("limited", "*rows"), "takes its inputs by their names"),
        (lambda: returning(int), r"is to make a int.\nNode 'limited' takes a pandas or polars frame"),
    ],
    ids=["name", "parameter", "cycle", "star", "returned"],
)
def test_a_function_that_cannot_replace_its_node_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        plan(Shout, input=TEXTS).with_nodes(function())
    assert refused.value.exit_status == 2


def named(name: str, parameter: str) -> Any:
    space: dict[str, Any] = {}
    exec(f"def {name}({parameter}): return {parameter.strip('*')}", space)
    return space[name]


def returning(kind: type) -> Any:
    def limited(identified: Any) -> Any:
        return identified

    limited.__annotations__["return"] = kind
    return limited


def test_what_a_function_returns_is_checked() -> None:
    def limited(identified: Any) -> Any:
        return 3

    with pytest.raises(SwarmError, match=r"limited\(\) made a int"):
        plan(Shout, input=TEXTS).with_nodes(limited).run()


def test_a_function_for_pending_may_not_leave_rows_out() -> None:
    def pending(limited: pd.DataFrame) -> pd.DataFrame:
        return limited.head(1)

    with pytest.raises(ConfigurationError, match="made 1 rows, and 4 rows of `limited` have no output yet"):
        plan(Shout, input=TEXTS).with_nodes(pending).run()


def test_code_that_changed_has_another_folder() -> None:
    def first() -> Plan:
        def limited(backend: Any, identified: Any) -> Any:
            return backend.head(identified, 1)

        return plan(Shout, input="in.parquet", output="out.parquet").with_nodes(limited)

    def second() -> Plan:
        def limited(backend: Any, identified: Any) -> Any:
            return backend.head(identified, 2)

        return plan(Shout, input="in.parquet", output="out.parquet").with_nodes(limited)

    assert first().run_dir == first().run_dir
    assert first().run_dir != second().run_dir


# What it looks like


def test_a_plan_shows_itself_as_its_graph() -> None:
    shown = plan(Shout, input=TEXTS)._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg")
    assert shown["text/plain"].startswith("<Plan: Shout on pandas, frame://")


def test_replaced_nodes_are_drawn_as_such_and_what_nobody_needs_is_not() -> None:
    def batches(pending: Any) -> Any:
        """Mine."""
        return []

    made = plan(Shout, input="in.parquet", output="out.parquet").with_nodes(batches).with_values(limited=TEXTS)
    nodes = {node.name: node for node in made.graph.nodes}
    assert (nodes["limited"].overridden, nodes["limited"].inputs) == ("value", [])
    assert nodes["limited"].value == "dict, 2 items"
    assert (nodes["batches"].overridden, nodes["batches"].doc, nodes["batches"].inputs) == (
        "function",
        "Mine.",
        ["pending"],
    )
    assert "as_pandas" not in nodes
    for picture in (dot_of(made.graph), mermaid_of(made.graph), page_of(made.graph, None)):
        assert "overridden" in picture


def test_the_report_of_a_run_tells_what_was_replaced() -> None:
    made = plan(Shout, input=TEXTS, output="out.parquet").with_values(limited={"id": ["z"], "text": ["zed"]})
    made.run()
    assert "overridden" in (Path(made.run_dir) / "graph.svg").read_text()
    assert made.run_dir.startswith(".domyn-swarm/out.parquet+limited-")


def test_the_input_is_not_asked_for_rows_that_replaced_nodes_made(command: Command) -> None:
    write("in.parquet", TEXTS)

    def limited(identified: pd.DataFrame) -> pd.DataFrame:
        return identified.tail(2)

    calm, loud = (
        plan(Shout(mark=mark), input="in.parquet", output=f"{name}.parquet").with_nodes(limited)
        for mark, name in ((".", "calm"), ("!", "loud"))
    )
    calm.run(), loud.run()
    compared = domyn_swarm.compare(calm, loud)
    assert [example.input for example in compared.examples] == [{}, {}]
    told = command("job", "row", calm.run_dir, "3").stdout
    assert "Node 'limited' was overridden in this run" in told
    assert "FOUR." in told


def test_an_experiment_does_not_replace_the_real_output() -> None:
    write("in.parquet", TEXTS)
    real = plan(Shout, input="in.parquet", output="out.parquet")
    real.run()
    with pytest.raises(ConfigurationError, match="another run or program wrote it") as refused:
        real.run(overrides={"limited": TEXTS})
    assert refused.value.hint == "Give a run with replaced nodes an output of its own: with_options(output=...)."
    assert len(real.with_options(output=None).run(overrides={"limited": TEXTS})) == 4


def test_two_runs_of_one_plan_compare() -> None:
    calm, loud = (plan(Shout(mark=mark), input=TEXTS, id_column="id") for mark in (".", "!"))
    calm.run(), loud.run()
    assert "mark" in str(domyn_swarm.compare(calm, loud))
