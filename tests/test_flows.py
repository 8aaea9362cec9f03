"""Figures of nodes: rows and time that are each node's own, errors in the node that raised them, and sums that hold."""

from __future__ import annotations

import pickle
import random
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domyn_swarm import make_spec
from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION, TRACE
from domyn_swarm.engine.graph.build import build_graph
from domyn_swarm.engine.graph.observer import Observer
from domyn_swarm.engine.recording import timeline
from domyn_swarm.engine.recording.metrics import MOST_KINDS, Meter, NullProgress, kinds_of
from domyn_swarm.engine.recording.node_stats import VALUE_CHARS, Flows, attach_node, node_of, shown
from domyn_swarm.engine.recording.timeline import TimeSeries
from domyn_swarm.errors import DataError, JobError
from domyn_swarm.telemetry.counts import EXAMPLES, Counts, Failed, Flow, Latencies
from domyn_swarm.telemetry.trace import Attempt, encoded

NAP = 0.02


def tables(*sizes: int, seconds: float = 0.0) -> Iterator[pa.Table]:
    """Tables of so many rows, each of which takes a while."""
    start = 0
    for size in sizes:
        time.sleep(seconds)
        yield pa.table({"n": pa.array(range(start, start + size), pa.int64())})
        start += size


def passed_on(stream: Iterable[Any], seconds: float = 0.0, every: Callable[[Any], Any] = lambda one: one) -> Any:
    """What comes, a while later."""
    for one in stream:
        time.sleep(seconds)
        yield every(one)


def as_ray_does(value: Any) -> bytes:
    """`value` on its way to another process of Ray's."""
    from ray import cloudpickle  # takes a second

    dumped: bytes = cloudpickle.dumps(value)
    return dumped


def share(flows: Flows, node: str) -> float:
    """How much of all nodes' time was the node's."""
    return flows.of(node).seconds / sum(flow.seconds for flow in flows.by_node.values())


# Time.


@pytest.mark.parametrize("slow", ["first", "second", "third"])
def test_the_time_of_nested_streams_is_that_of_the_one_that_took_it(slow: str) -> None:
    flows = Flows()
    naps = dict.fromkeys(("first", "second", "third"), 0.0) | {slow: NAP}
    stream = flows.measured("first", tables(*[1] * 8, seconds=naps["first"]))
    stream = flows.measured("second", passed_on(stream, naps["second"]))
    stream = flows.measured("third", passed_on(stream, naps["third"]))
    started = time.perf_counter()
    assert len(list(stream)) == 8
    took = time.perf_counter() - started
    assert share(flows, slow) > 0.5
    assert flows.of(slow).seconds >= 8 * NAP * 0.9
    assert sum(flow.seconds for flow in flows.by_node.values()) <= took


def test_the_time_of_whoever_pulls_is_its_own_and_nobodys_while_nobody_pulls() -> None:
    flows = Flows()
    with flows.running("sink"):
        for _ in flows.measured("source", tables(1, 1, 1)):
            time.sleep(NAP)
    assert share(flows, "sink") > 0.5
    between = Flows()
    for _ in between.measured("source", tables(1, 1, 1)):
        time.sleep(NAP)
    assert between.of("source").seconds < 3 * NAP


def test_a_node_that_calls_another_one_has_only_its_own_time() -> None:
    flows = Flows()
    with flows.running("outer"):
        with flows.running("inner"):
            time.sleep(3 * NAP)
        with flows.running("inner"):
            time.sleep(3 * NAP)
        time.sleep(NAP)
    assert share(flows, "inner") > 0.5
    assert flows.of("outer").seconds >= NAP * 0.9


def test_a_stream_that_splits_batches_takes_no_time_of_the_one_before_it() -> None:
    def halves(stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for one in stream:
            yield one.slice(0, len(one) // 2)
            yield one.slice(len(one) // 2)

    flows = Flows()
    list(flows.measured("halves", halves(flows.measured("source", tables(10, 20, seconds=NAP)))))
    assert (flows.of("source").batches, flows.of("halves").batches) == (2, 4)
    assert (flows.of("source").rows, flows.of("halves").rows) == (30, 30)
    assert share(flows, "source") > 0.5


@given(data=st.data())
def test_the_times_of_all_nodes_together_are_the_time_that_went_by_in_them(data: st.DataObject) -> None:
    """However they call one another, and whatever breaks."""
    flows, budget = Flows(), [12]

    def work(depth: int) -> None:
        for _ in range(data.draw(st.integers(0, 3))):
            budget[0] -= 1
            if depth == 4 or budget[0] < 0:
                return
            try:
                with flows.timed(data.draw(st.sampled_from("abc"))):
                    time.sleep(data.draw(st.sampled_from([0.0, 0.001])))
                    work(depth + 1)
                    if data.draw(st.booleans()):
                        raise ValueError
            except ValueError:
                pass

    with flows.timed("whole"):
        started = time.perf_counter()
        work(0)
        took = time.perf_counter() - started
    total = sum(flow.seconds for flow in flows.by_node.values())
    assert all(flow.seconds >= 0 for flow in flows.by_node.values())
    assert took <= total <= took + 0.05


# Rows, batches, samples.


def test_rows_and_batches_and_bytes_are_counted_as_they_pass_and_pass_as_they_are() -> None:
    flows = Flows()
    sent = list(tables(3, 0, 5))
    assert [one is other for one, other in zip(flows.measured("node", sent), sent, strict=True)] == [True] * 3
    flow = flows.of("node")
    assert (flow.rows, flow.batches, flow.bytes) == (8, 3, 64)
    assert flow.schema == {"n": "int64"}
    assert flow.sample == [{"n": "0"}, {"n": "1"}, {"n": "2"}]


def test_the_sample_is_of_the_first_rows_though_batches_without_any_came_before() -> None:
    flows = Flows()
    list(flows.measured("node", tables(0, 0, 1, 5)))
    assert flows.of("node").sample == [{"n": "0"}]
    nothing = Flows()
    list(nothing.measured("node", tables(0)))
    assert (nothing.of("node").schema, nothing.of("node").sample) == ({}, [])


def test_frames_of_pandas_are_shown_with_their_columns() -> None:
    flows = Flows()
    frame = pd.DataFrame({"name": ["a", "b", "c", "d"], "n": [1, 2, 3, 4]}, index=[9, 8, 7, 6])
    list(flows.measured("node", [frame]))
    flow = flows.of("node")
    assert (flow.rows, flow.batches, flow.bytes) == (4, 1, 0)
    assert (flow.schema["name"].removeprefix("large_"), flow.schema["n"]) == ("string", "int64")  # as pandas has it
    assert flow.sample == [{"name": "a", "n": "1"}, {"name": "b", "n": "2"}, {"name": "c", "n": "3"}]


def test_batches_of_items_are_shown_as_the_job_gets_them() -> None:
    ids, positions = pa.array(["x", "y"]), pa.array([0, 1])
    flows = Flows()
    list(flows.measured("one", [JobBatch(ids, positions, items=["text", "more"])]))
    list(flows.measured("several", [JobBatch(ids, positions, items=[{"a": 1, "b": None}, {"a": 2, "b": [3]}])]))
    assert flows.of("one").schema == {"id": "string", "item": "str"}
    assert flows.of("one").sample == [{"id": "x", "item": "text"}, {"id": "y", "item": "more"}]
    assert flows.of("several").schema == {"id": "string", "a": "int", "b": "NoneType"}
    assert flows.of("several").sample == [{"id": "x", "a": "1", "b": "None"}, {"id": "y", "a": "2", "b": "[3]"}]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (pa.table({"id": ["x"], "text": ["t"]}), "pyarrow.lib.Table: id, text"),
        (pd.DataFrame({"id": ["x"], "text": ["t"]}), "pandas.*DataFrame: id, text"),
    ],
    ids=["arrow", "pandas"],
)
def test_batches_of_an_engine_are_told_by_their_kind_and_columns(batch: Any, told: str) -> None:
    flows = Flows()
    list(flows.measured("node", [JobBatch(pa.array(["x"]), pa.array([0]), batch=batch)]))
    flow = flows.of("node")
    assert flow.schema["id"] == "string"
    kind, _, name = told.partition("*")
    assert flow.schema["batch"].startswith(kind)
    assert flow.schema["batch"].endswith(name)
    assert flow.sample == [{"id": "x"}]


@given(
    value=st.text(st.characters(codec=None, exclude_categories=[]), max_size=400)
    | st.binary(max_size=300)
    | st.floats()
)
@example(value="\ud800" * 300)
def test_any_value_is_shown_as_a_short_text_that_can_be_stored(value: Any) -> None:
    text = shown(value)
    text.encode()
    assert len(text) <= 10 * VALUE_CHARS


def test_values_are_cut_beyond_their_most_characters() -> None:
    assert shown("x" * VALUE_CHARS) == "x" * VALUE_CHARS
    assert shown("x" * (VALUE_CHARS + 1)) == "x" * VALUE_CHARS + "…"
    assert shown(None) == "None"
    assert shown({"a": [1]}) == "{'a': [1]}"


# Errors.


def broken(stream: Iterable[Any] = (), error: BaseException | None = None) -> Iterator[Any]:
    """What comes, then an error."""
    yield from stream
    raise error or ValueError("broken")


@pytest.mark.parametrize(
    "error", [ValueError("no"), JobError("no", "fix it"), KeyboardInterrupt(), SystemExit(3), DataError("no")]
)
def test_an_error_is_blamed_on_the_innermost_node_and_passes_on_as_it_is(error: BaseException) -> None:
    flows = Flows()
    inner = flows.measured("inner", broken(tables(2), error))
    with pytest.raises(type(error)) as raised, flows.running("outer"):
        list(flows.measured("middle", passed_on(inner)))
    assert raised.value is error
    assert node_of(error) == "inner"
    assert flows.of("inner").rows == flows.of("middle").rows == 2
    assert flows.ended == set()
    assert flows.at_work == set(), "none is at work any more"


def test_an_error_of_the_one_that_pulls_is_not_blamed_on_what_it_pulls_from() -> None:
    flows = Flows()

    def pull() -> None:
        with flows.running("sink"):
            for _ in flows.measured("source", tables(1, 1)):
                raise ValueError("no sink")

    with pytest.raises(ValueError, match="no sink") as raised:
        pull()
    assert node_of(raised.value) == "sink"


def test_an_error_that_is_raised_from_another_one_is_blamed_on_its_own_node() -> None:
    flows = Flows()

    def explain() -> None:
        with flows.running("outer"):
            try:
                list(flows.measured("inner", broken()))
            except ValueError as error:
                raise JobError("explained") from error

    with pytest.raises(JobError) as raised:
        explain()
    assert node_of(raised.value) == "outer"
    assert raised.value.__cause__ is not None
    assert node_of(raised.value.__cause__) == "inner"


class SlottedError(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_an_error_that_cannot_be_marked_passes_on_all_the_same() -> None:
    with pytest.raises(SlottedError) as raised, Flows().running("node"):
        raise SlottedError
    assert node_of(raised.value) is None


@pytest.mark.parametrize("dumps", [pickle.dumps, as_ray_does], ids=["pickle", "as Ray hands it over"])
@pytest.mark.parametrize("error", [ValueError("no"), JobError("no", "fix it"), DataError("no")])
def test_whom_an_error_is_blamed_on_survives_the_way_to_another_process(
    error: BaseException, dumps: Callable[[Any], bytes]
) -> None:
    attach_node(error, "transformed")
    attach_node(error, "flushed")
    found = pickle.loads(dumps(error))
    assert (type(found), str(found), node_of(found)) == (type(error), str(error), "transformed")


# Which nodes are at work.


def test_a_stream_is_at_work_from_its_first_batch_to_its_end() -> None:
    flows = Flows()
    stream = flows.measured("node", tables(1, 1))
    assert (flows.at_work, flows.ended) == (set(), set())
    next(stream)
    assert (flows.at_work, flows.ended) == ({"node"}, set())
    assert len(list(stream)) == 1
    assert (flows.at_work, flows.ended) == (set(), {"node"})


def test_a_stream_that_is_closed_early_has_not_ended_and_closes_what_it_pulls_from() -> None:
    closed = []

    def source() -> Generator[pa.Table, None, None]:
        try:
            yield from tables(1, 1, 1)
        finally:
            closed.append("source")

    flows = Flows()
    stream = flows.measured("outer", passed_on(flows.measured("inner", source())))
    next(stream)
    stream.close()
    assert (flows.at_work, flows.ended, closed) == (set(), set(), ["source"])


def test_a_node_that_runs_is_at_work_for_just_that_time_and_weighs_something() -> None:
    flows = Flows()
    with flows.running("node"):
        assert flows.at_work == {"node"}
        assert flows.ended == set()
    assert (flows.at_work, flows.ended) == (set(), {"node"})
    assert flows.of("node").memory > 10 * 2**20
    assert flows.sample_memory() > 10 * 2**20
    assert set(flows.by_node) == {"node"}


def test_a_stream_that_is_measured_again_goes_on_counting_and_is_ended_when_it_ends_again() -> None:
    """A run that finds a damaged part goes over the rows again."""
    flows = Flows()
    list(flows.measured("node", tables(2)))
    again = flows.measured("node", tables(3))
    next(again)
    assert flows.ended == set()
    list(again)
    assert (flows.of("node").rows, flows.ended) == (5, {"node"})


def test_a_snapshot_stays_as_it_is_and_may_be_taken_while_another_thread_counts() -> None:
    flows = Flows()
    meter = Meter(NullProgress(), flows=flows)
    stop = threading.Event()
    broken_by: list[BaseException] = []

    def look() -> None:
        while not stop.is_set():
            try:
                meter.snapshot()
            except BaseException as error:  # noqa: BLE001
                broken_by.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(300):
            list(flows.measured(f"node {number}", tables(7, 7)))
            meter(finished([None] * 3, run=number))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert broken_by == []
    counts = meter.snapshot()
    list(flows.measured("node 0", tables(7)))
    assert (counts.flows["node 0"].rows, meter.snapshot().flows["node 0"].rows) == (14, 21)
    assert (counts.rows, len(counts.flows)) == (900, 300)


# Hamilton's nodes.


def test_the_nodes_of_the_graph_are_measured_by_their_names_and_their_streams_as_they_are_pulled() -> None:
    flows = Flows()
    observer = Observer(flows)

    def slow(rows: int) -> str:
        time.sleep(NAP)
        return "value" * rows

    assert observer.run_to_execute_node(node_name="plain", node_callable=slow, node_kwargs={"rows": 2}) == "valuevalue"
    assert flows.of("plain").seconds >= NAP * 0.9
    stream = observer.run_to_execute_node(node_name="stream", node_callable=tables, node_kwargs={})
    assert "stream" in flows.ended
    assert list(stream) == []
    stream = observer.run_to_execute_node(node_name="rows", node_callable=lambda: tables(2, 3), node_kwargs={})
    assert [len(one) for one in stream] == [2, 3]
    assert (flows.of("rows").rows, flows.of("rows").batches) == (5, 2)
    columns = ["a", "b"]
    same = observer.run_to_execute_node(node_name="list", node_callable=lambda: columns, node_kwargs={})
    assert same is columns, "what is no stream is left alone"


def test_a_driver_with_flows_measures_the_nodes_that_it_computes() -> None:
    spec = make_spec({"input": "in.parquet", "output": "out.parquet"})
    flows = Flows()
    build_graph(spec, flows=flows).driver.execute(["backend"], inputs={"data_backend": "pandas"})
    assert flows.ended == set(flows.by_node) == {"backend"}


def test_a_node_that_breaks_is_to_blame() -> None:
    spec = make_spec({"input": "in.parquet", "output": "out.parquet"})
    flows = Flows()
    graph = build_graph(spec, flows=flows)
    with pytest.raises(DataError) as raised:
        graph.driver.execute(["files"], inputs={"input": "gone.parquet", "backend_read_kwargs": {}})
    assert node_of(raised.value) == "files"
    assert flows.ended == set()


# Counts with flows and failures.

Whole = st.integers(0, 10**9)
Names = st.sampled_from(["as_pandas", "batches", "transformed", "flushed"])
Kinds = st.tuples(st.sampled_from(["ValueError", "KeyError"]), st.sampled_from(["no #", "job.py, line 3, in work"]))
Examples = st.tuples(st.text("ab", max_size=2), st.just("no"), st.integers(1, 3), st.just(""))
FlowsOf = st.builds(
    Flow, Whole, Whole, Whole, st.integers(0, 2**20).map(lambda n: n / 1024), Whole,
    st.dictionaries(st.sampled_from("ab"), st.just("int64"), max_size=2), st.just([]),
)  # fmt: skip
FailedOf = st.builds(Failed, st.integers(0, 10**6), st.lists(Examples, max_size=7))


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    latencies = Latencies()
    for seconds in draw(st.lists(st.floats(1e-3, 1e3), max_size=5)):
        latencies.record(seconds)
    return Counts(
        draw(Whole), draw(Whole), latencies=latencies,
        flows=draw(st.dictionaries(Names, FlowsOf)), failures=draw(st.dictionaries(Kinds, FailedOf)),
    )  # fmt: skip


def numbers(one: Counts) -> Any:
    """What adds up; what came to nothing is as if it had never been."""
    flows = {
        node: (flow.rows, flow.batches, flow.bytes, flow.seconds)
        for node, flow in one.flows.items()
        if flow.rows or flow.batches or flow.bytes or flow.seconds
    }
    failures = {kind: failed.count for kind, failed in one.failures.items() if failed.count}
    return one.rows, one.failed, dict(one.latencies), flows, failures


@given(one=counts(), other=counts(), third=counts())
def test_flows_and_failures_add_up_in_any_order_and_their_difference_is_what_was_added(
    one: Counts, other: Counts, third: Counts
) -> None:
    assert numbers(one + other - other) == numbers(one)
    assert numbers(one + other) == numbers(other + one)
    assert numbers((one + other) + third) == numbers(one + (other + third))
    assert numbers(one - one) == numbers(Counts())
    assert numbers(one + Counts()) == numbers(one) == numbers(one.copy())
    assert numbers(sum([one, other, third], Counts())) == numbers(one + other + third)


@given(steps=st.lists(counts(), min_size=1, max_size=5))
def test_what_was_reported_step_by_step_is_what_there_is(steps: list[Counts]) -> None:
    """A worker counts on; who reports sends the difference to what was sent before."""
    total, reported, received = Counts(), Counts(), Counts()
    for step in steps:
        total += step
        received += total - reported
        reported = total
    assert numbers(received) == numbers(total)
    for kind, failed in total.failures.items():
        if failed.examples:
            assert received.failures[kind].examples
    for node, flow in total.flows.items():
        assert received.flows[node].memory == flow.memory
        assert received.flows[node].schema == flow.schema


@given(one=counts(), other=counts())
def test_examples_are_few_and_each_is_one_that_was_there(one: Counts, other: Counts) -> None:
    for kind, failed in (one + other).failures.items():
        there = [*one.failures.get(kind, Failed()).examples, *other.failures.get(kind, Failed()).examples]
        assert len(failed.examples) <= EXAMPLES
        assert set(failed.examples) <= set(there)
        if there:
            assert failed.examples


@given(one=counts())
def test_counts_with_flows_and_failures_survive_the_way_to_another_process(one: Counts) -> None:
    assert pickle.loads(pickle.dumps(one)) == one
    assert pickle.loads(as_ray_does(one)) == one


def test_a_sum_stays_as_it_is_when_counting_goes_on() -> None:
    one = Counts(flows={"n": Flow(rows=1)}, failures={("E", "m"): Failed(1, [("x", "m", 1, "")])})
    total = one + Counts()
    one.flows["n"].rows += 10
    one.failures["E", "m"].count += 10
    one.failures["E", "m"].examples.append(("y", "m", 1, ""))
    assert total.flows["n"].rows == 1
    assert total.failures["E", "m"] == Failed(1, [("x", "m", 1, "")])


def test_what_does_not_add_up_is_the_most_or_the_first() -> None:
    one, other = Flow(memory=5, schema={"a": "int64"}), Flow(memory=9, schema={"b": "string"}, sample=[{"b": "x"}])
    total = one.combined(other, 1)
    assert (total.memory, total.schema, total.sample) == (9, {"a": "int64"}, [{"b": "x"}])


# Kinds of failures.


def finished(failures: list[tuple[str, str, str] | None], run: int = 0) -> pa.Table:
    """Rows that are done (None), or that failed: the error's type, its message, a traceback."""
    told = [one and {"type": one[0], "message": one[1], "attempts": 2} for one in failures]
    traces = [one and one[2] and encoded([Attempt(1.0, error=one[1], traceback=one[2])]) for one in failures]
    positions = range(len(failures))
    return pa.table({
        POSITION: pa.array(positions, pa.int64()), "id": [f"row {run}.{row}" for row in positions],
        FAILURE: pa.array(told, FAILURE_TYPE), TRACE: pa.array([one or None for one in traces], pa.string()),
    })  # fmt: skip


FRAMES = '  File "/home/me/my_job.py", line {}, in transform_item\n    x\n'


def test_rows_that_failed_alike_are_of_one_kind_by_their_place_or_else_by_their_message() -> None:
    table = finished([
        ("ValueError", "row 1 is odd", FRAMES.format(8)), None, ("ValueError", "row 2 is even", FRAMES.format(8)),
        ("ValueError", "row 3 is odd", FRAMES.format(9)), ("KeyError", "row 4 is odd", FRAMES.format(8)),
        ("ValueError", "status 500: 17 of 20", ""), ("ValueError", "status 503: 1 of 20", ""),
    ])  # fmt: skip
    kinds = kinds_of(table)
    assert {kind: failed.count for kind, failed in kinds.items()} == {
        ("ValueError", "my_job.py, line 8, in transform_item"): 2,
        ("ValueError", "my_job.py, line 9, in transform_item"): 1,
        ("KeyError", "my_job.py, line 8, in transform_item"): 1,
        ("ValueError", "status 500: # of #"): 1,
        ("ValueError", "status 503: # of #"): 1,
    }
    assert kinds["ValueError", "my_job.py, line 8, in transform_item"].examples == [
        ("row 0.0", "row 1 is odd", 2, FRAMES.format(8)), ("row 0.2", "row 2 is even", 2, FRAMES.format(8))
    ]  # fmt: skip


def test_without_traces_rows_are_told_apart_by_their_messages() -> None:
    table = finished([("ValueError", "row 1 is odd", FRAMES.format(8)), None]).drop_columns([TRACE])
    assert {kind: failed.examples for kind, failed in kinds_of(table).items()} == {
        ("ValueError", "row # is odd"): [("row 0.0", "row 1 is odd", 2, "")]
    }


def test_many_rows_of_a_kind_are_all_counted_and_few_are_shown() -> None:
    kinds = kinds_of(finished([("E", f"no {number}", "") for number in range(1000)]))
    assert [(failed.count, len(failed.examples)) for failed in kinds.values()] == [(1000, 5)]


def test_kinds_beyond_a_number_are_put_together_by_type_and_no_row_is_lost() -> None:
    letters = ["".join(random.Random(number).choices("abcdefgh", k=12)) for number in range(3 * MOST_KINDS)]
    meter = Meter(NullProgress())
    for start in range(0, len(letters), 50):
        meter(finished([("E" if at % 2 else "F", word, "") for at, word in enumerate(letters[start : start + 50])]))
    failures = meter.snapshot().failures
    assert len(failures) <= MOST_KINDS + 2
    assert sum(failed.count for failed in failures.values()) == 3 * MOST_KINDS
    assert failures["E", "other messages"].count + failures["F", "other messages"].count >= MOST_KINDS
    meter(finished([("F", letters[0], "")]))
    assert meter.snapshot().failures["F", letters[0]].count == 2, "a kind that is known stays one"


def test_a_table_without_failures_has_no_kinds() -> None:
    assert kinds_of(finished([None, None])) == {}
    assert kinds_of(finished([])) == {}


# The run over time.

LISTS = ("seconds", "rows", "failed", "requests", "tokens", "p50", "p95", "in_flight", "memory")


@st.composite
def steps(draw: st.DrawFn) -> Counts:
    latencies = Latencies()
    for seconds in draw(st.lists(st.sampled_from([0.01, 0.5, 8.0]), max_size=3)):
        latencies.record(seconds)
    few = st.integers(0, 1000)
    return Counts(draw(few), draw(few), draw(few), tokens_in=draw(few), tokens_out=draw(few), latencies=latencies)


@pytest.mark.parametrize("most", [2, 4, 10])
@given(taken=st.lists(st.tuples(steps(), st.booleans()), max_size=120))
def test_however_often_it_is_asked_the_timeline_stays_short_and_keeps_all_sums(
    most: int, taken: list[tuple[Counts, bool]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "MOST_POINTS", most)
        chronicle, now, noted = TimeSeries(), Counts(), Counts()
        for number, (step, last) in enumerate(taken):
            now += step
            before = [*chronicle.line.seconds]
            chronicle.note(float(number), now, memory=number, last=last)
            line = chronicle.line
            assert len({len(getattr(line, name)) for name in LISTS}) == 1
            assert len(line.seconds) < most
            assert line.seconds == sorted(set(line.seconds))
            if last or line.seconds != before:
                noted = now
            told = sum(line.rows), sum(line.failed), sum(line.requests), sum(line.tokens)
            assert told == (noted.rows, noted.failed, noted.requests, noted.tokens_in + noted.tokens_out)
            if last:
                assert line.seconds[-1] == number
                assert line.memory[-1] == number


def test_each_entry_is_about_the_time_since_the_one_before() -> None:
    chronicle = TimeSeries()
    fast, slow = Latencies(), Latencies()
    fast.record(0.1)
    slow.record(0.1)
    slow.record(10.0)
    chronicle.note(1.0, Counts(10, 1, 3, tokens_in=5, in_flight=4, latencies=fast), 100)
    chronicle.note(2.004, Counts(10, 1, 3, tokens_in=5, in_flight=2, latencies=fast), 90)
    chronicle.note(3.0, Counts(25, 4, 9, tokens_in=5, tokens_out=7, in_flight=9, latencies=slow), 120)
    line = chronicle.line
    assert (line.seconds, line.rows, line.failed) == ([1.0, 2.0, 3.0], [10, 0, 15], [1, 0, 3])
    assert (line.requests, line.tokens, line.in_flight, line.memory) == (
        [3, 0, 6],
        [5, 0, 7],
        [4, 2, 9],
        [100, 90, 120],
    )
    assert line.p50[1] is None
    assert line.p50[0] == pytest.approx(0.1, rel=0.09)
    assert line.p95[2] == pytest.approx(10.0, rel=0.09)


def test_a_long_run_is_told_in_a_few_hundred_entries_evenly_over_its_time() -> None:
    chronicle = TimeSeries()
    for second in range(1, 20_001):
        chronicle.note(float(second), Counts(rows=second), 0)
    line = chronicle.line
    assert 290 <= len(line.seconds) < 600
    gaps = {round(after - before, 2) for before, after in zip(line.seconds, line.seconds[1:], strict=False)}
    assert gaps == {64.0}
    assert set(line.rows) == {64}
