"""Overrides: any node can be overridden with a value or a function, and rows never mix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

from domyn_swarm import Plan, plan
from domyn_swarm.checkpoint.done_rows import DoneRows
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.data.backends.base import JobBatch
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.columns import POSITION
from domyn_swarm.data.input_files import list_files
from domyn_swarm.engine.columns import Columns, choose_columns
from domyn_swarm.engine.output_writer import Artifact
from domyn_swarm.engine.recovery import Recovery
from domyn_swarm.errors import SwarmError
from tests.conftest import job, rows, write

INPUT = {"id": ["a", "b", "c"], "text": ["x", "y", "z"]}
OTHER = {"id": ["d", "e"], "text": ["u", "v"]}
DONE = [
    {"id": "a", "text": "x", "upper": "X"},
    {"id": "b", "text": "y", "upper": "Y"},
    {"id": "c", "text": "z", "upper": "Z"},
]
DONE_OTHER = [{"id": "d", "text": "u", "upper": "U"}, {"id": "e", "text": "v", "upper": "V"}]


def upper(backend: str, **options: Any) -> Plan:
    """A plan of the job Upper over INPUT."""
    write("in.parquet", INPUT)
    write("other.parquet", OTHER)
    return plan(
        job("Upper"), input="in.parquet", output="out.parquet", id_column="id", input_columns="text",
        data_backend=backend, **options,
    )  # fmt: skip


@pytest.fixture
def shout(backend: str) -> Plan:
    """How rows reach the job is of no account for what replaces nodes before or after that."""
    return upper(backend)


@pytest.fixture
def shout_in_mode(backend: str, mode: str) -> Plan:
    """For nodes that rows pass through on their way to the job, and from it."""
    return upper(backend, native_backend=mode == "native")


def outputs(made: Plan, **overrides: Any) -> list[dict[str, Any]]:
    made.run(overrides=overrides or None)
    return rows(made.spec.output)


def other_frame() -> pd.DataFrame:
    return pd.DataFrame(OTHER)


def batch(backend: str, mode: str, texts: list[str]) -> JobBatch:
    table = pa.table({"id": INPUT["id"], "text": texts})
    ids, positions = table["id"].combine_chunks(), pa.array(range(len(texts)))
    if mode == "items":
        return JobBatch(ids, positions, items=texts)
    return JobBatch(ids, positions, batch=load_backend(backend).in_memory(table))


def elsewhere(made: Plan) -> CheckpointStore:
    """A run's folder of its own, of the same rows."""
    files = list_files("in.parquet")
    return CheckpointStore(RunFolder("elsewhere", {}), "id", files.digest, ["upper"])


# By value


def test_the_backend_may_be_given(shout: Plan, backend: str) -> None:
    assert outputs(shout, backend=load_backend(backend)) == DONE


def test_files_may_be_given(shout: Plan) -> None:
    assert outputs(shout, files=list_files("other.parquet")) == DONE_OTHER


@pytest.mark.parametrize("node", ["source", "identified", "limited", "pending"])
def test_rows_may_be_given_in_place_of_a_frame(shout: Plan, node: str) -> None:
    assert outputs(shout, **{node: other_frame()}) == DONE_OTHER


@pytest.mark.parametrize("kind", ["arrow", "columns", "engine"])
def test_rows_may_be_given_as_any_frame(shout: Plan, backend: str, kind: str) -> None:
    table = pa.table(OTHER)
    frames = {"arrow": table, "columns": OTHER, "engine": load_backend(backend).in_memory(table)}
    assert outputs(shout, limited=frames[kind]) == DONE_OTHER


def test_nothing_upstream_of_a_value_is_computed(shout: Plan) -> None:
    Path("in.parquet").unlink()
    assert outputs(shout, limited=other_frame()) == DONE_OTHER


def test_the_schema_may_be_given(shout: Plan) -> None:
    write("in.parquet", {**INPUT, "number": [1, 2, 3]})
    assert outputs(shout, schema={"id": "string", "text": "string"}) == DONE


def test_the_columns_may_be_given(shout: Plan) -> None:
    made = outputs(shout, columns=Columns("id", ["text"], ["id"], ["upper"]))
    assert made == [{"id": "a", "upper": "X"}, {"id": "b", "upper": "Y"}, {"id": "c", "upper": "Z"}]


def test_the_store_may_be_given(shout: Plan) -> None:
    assert outputs(shout, store=elsewhere(shout)) == DONE
    assert list(Path("elsewhere/parts").iterdir()) != []


def test_what_is_done_may_be_given(shout: Plan) -> None:
    again = shout.with_values(done=DoneRows())
    assert [again.run().done_now, again.run().done_now] == [3, 3]
    assert rows("out.parquet") == DONE


def test_what_the_job_sees_may_be_given_as_pandas_frames(shout_in_mode: Plan, mode: str) -> None:
    frame = pd.DataFrame({"id": INPUT["id"], "text": ["p", "q", "r"]})
    if mode == "native":
        with pytest.raises(SwarmError, match="no node 'as_pandas'"):
            shout_in_mode.run(overrides={"as_pandas": frame})
        return
    assert [row["upper"] for row in outputs(shout_in_mode, as_pandas=frame)] == ["P", "Q", "R"]
    assert [row["text"] for row in rows("out.parquet")] == ["x", "y", "z"]


@pytest.mark.clusters
def test_batches_may_be_given(shout_in_mode: Plan, backend: str, mode: str) -> None:
    made = outputs(shout_in_mode, batches=[batch(backend, "native" if mode == "native" else "items", ["p", "q", "r"])])
    assert [row["upper"] for row in made] == ["P", "Q", "R"]


def test_finished_rows_may_be_given(shout_in_mode: Plan) -> None:
    made = outputs(shout_in_mode, transformed=pd.DataFrame({"id": INPUT["id"], "upper": ["1", "2", "3"]}))
    assert [row["upper"] for row in made] == ["1", "2", "3"]


def test_the_report_of_flushing_may_be_given_where_the_store_has_the_rows(shout: Plan) -> None:
    shout.with_values(store=elsewhere(shout)).run()
    Path("out.parquet").unlink()
    assert outputs(shout, store=elsewhere(shout), done=DoneRows(), flushed=FlushReport()) == DONE


def test_the_output_may_be_given(shout: Plan) -> None:
    result = shout.run(overrides={"finalized": Artifact("nowhere", 3, 1, "key")})
    assert (result.rows, result.failed) == (3, 1)
    assert not Path("out.parquet").exists()


# By function


def test_a_function_may_make_the_backend(shout: Plan) -> None:
    def backend(data_backend: str) -> Any:
        return load_backend(data_backend)

    assert outputs(shout.with_nodes(backend)) == DONE


def test_a_function_may_find_the_files(shout: Plan) -> None:
    def files() -> Any:
        return list_files("other.parquet")

    assert outputs(shout.with_nodes(files)) == DONE_OTHER


def test_a_function_may_make_the_source(shout: Plan) -> None:
    def source(files: Any) -> pd.DataFrame:
        return pd.read_parquet(files.pattern.replace("in.", "other."))

    assert outputs(shout.with_nodes(source)) == DONE_OTHER


def test_a_function_may_say_the_schema(shout: Plan) -> None:
    write("in.parquet", {**INPUT, "number": [1, 2, 3]})

    def schema(backend: Any, source: Any) -> dict[str, str]:
        return {name: kind for name, kind in backend.schema(source).items() if name != "number"}

    assert outputs(shout.with_nodes(schema)) == DONE


def test_a_function_may_choose_the_columns(shout: Plan) -> None:
    def columns(schema: dict[str, str], spec: Any) -> Columns:
        return choose_columns(schema, msgspec.structs.replace(spec, output_mode="replace"))

    assert outputs(shout.with_nodes(columns))[0] == {"id": "a", "upper": "X"}


def test_a_function_may_open_the_store(shout: Plan) -> None:
    def store() -> CheckpointStore:
        return elsewhere(shout)

    assert outputs(shout.with_nodes(store)) == DONE
    assert list(Path("elsewhere/parts").iterdir()) != []


def test_a_function_may_identify_rows(shout: Plan) -> None:
    def identified(source: pd.DataFrame) -> pd.DataFrame:
        return source.assign(id=["p", "q", "r"])

    assert [row["upper"] for row in outputs(shout.with_nodes(identified))] == ["X", "Y", "Z"]


def test_a_function_may_choose_rows(shout: Plan) -> None:
    def limited(identified: pd.DataFrame) -> pd.DataFrame:
        return identified[identified["text"] != "y"]

    assert outputs(shout.with_nodes(limited)) == [DONE[0], DONE[2]]


def test_a_function_may_choose_rows_with_the_engine(shout: Plan) -> None:
    def limited(backend: Any, identified: Any) -> Any:
        return backend.head(identified, 2)

    assert outputs(shout.with_nodes(limited)) == DONE[:2]


def test_a_function_may_say_what_is_done(shout: Plan) -> None:
    def done() -> DoneRows:
        return DoneRows()

    again = shout.with_nodes(done)
    assert [again.run().done_now, again.run().done_now] == [3, 3]


@pytest.mark.clusters
def test_a_function_may_change_what_is_pending(shout_in_mode: Plan) -> None:
    def pending(limited: pd.DataFrame) -> pd.DataFrame:
        return limited.assign(text=limited["text"] + "!").iloc[::-1]

    assert outputs(shout_in_mode.with_nodes(pending)) == [{**row, "upper": row["upper"] + "!"} for row in DONE]


def test_a_function_may_make_what_the_job_sees_as_pandas_frames(shout_in_mode: Plan, mode: str) -> None:
    def as_pandas(backend: Any, pending: Any, columns: Columns) -> Iterator[pd.DataFrame]:
        for frame in backend.to_pandas(pending, columns.read, 2):
            yield frame.assign(text=frame["text"] + "?")

    if mode == "native":
        with pytest.raises(SwarmError, match="no node 'as_pandas'"):
            shout_in_mode.with_nodes(as_pandas)
        return
    assert [row["upper"] for row in outputs(shout_in_mode.with_nodes(as_pandas))] == ["X?", "Y?", "Z?"]


def test_a_function_may_make_batches(shout_in_mode: Plan, backend: str, mode: str) -> None:
    def batches() -> Iterator[JobBatch]:
        yield batch(backend_name, "native" if mode == "native" else "items", ["p", "q", "r"])

    backend_name = backend
    assert [row["upper"] for row in outputs(shout_in_mode.with_nodes(batches))] == ["P", "Q", "R"]


def test_a_function_may_make_the_finished_rows(shout_in_mode: Plan) -> None:
    def transformed(batches: Iterable[JobBatch], columns: Columns) -> Iterator[pa.Table]:
        for one in batches:
            yield pa.table({POSITION: one.positions, columns.id: one.ids, "upper": ["same"] * len(one.ids)})

    assert [row["upper"] for row in outputs(shout_in_mode.with_nodes(transformed))] == ["same", "same", "same"]


def test_a_function_may_flush(shout_in_mode: Plan) -> None:
    flushes: list[int] = []

    def flushed(store: CheckpointStore, transformed: Any, meter: Any) -> FlushReport:
        with contextlib.closing(transformed) as tables:
            report = store.flush(map(meter, tables), 0.5)
        flushes.append(report.rows)
        return report

    assert outputs(shout_in_mode.with_nodes(flushed)) == DONE
    assert flushes == [3]


def test_a_function_may_leave_small_parts_as_they_are(shout: Plan) -> None:
    def compacted(store: CheckpointStore, flushed: FlushReport) -> CheckpointStore:
        assert flushed.rows == 3
        return store

    assert outputs(shout.with_nodes(compacted)) == DONE


def test_a_function_may_recover_nothing(shout: Plan) -> None:
    def recovered(found: DoneRows) -> Recovery:
        return Recovery(found)

    assert outputs(shout.with_nodes(recovered)) == DONE


def test_a_function_may_write_the_output(shout: Plan) -> None:
    def finalized(store: CheckpointStore, flushed: FlushReport, spec: Any) -> Artifact:
        tables = pa.concat_tables(store.outputs().tables())
        write(spec.output, tables.select(["id", "upper"]))
        return Artifact(spec.output, tables.num_rows, flushed.failed, "mine")

    assert outputs(shout.with_nodes(finalized))[2] == {"id": "c", "upper": "Z"}


# What never happens


@pytest.mark.clusters
def test_rows_of_an_overridden_run_and_of_the_real_one_never_mix(shout: Plan) -> None:
    def pending(limited: pd.DataFrame) -> pd.DataFrame:
        return limited.assign(text="other")

    assert outputs(shout) == DONE
    changed = shout.with_nodes(pending).with_options(output="changed.parquet")
    assert [row["upper"] for row in outputs(changed)] == ["OTHER"] * 3
    assert changed.run_dir != shout.run_dir
    assert (shout.run().done_now, changed.run().done_now) == (0, 0)
    assert rows("out.parquet") == DONE


def test_an_overridden_run_resumes_where_it_stopped(shout: Plan) -> None:
    first = shout.run(overrides={"limited": other_frame()})
    again = shout.run(overrides={"limited": other_frame()})
    assert (first.done_now, again.done_now, again.done_before) == (2, 0, 2)


@pytest.mark.parametrize("name", ["limitd", "limit", "_limited"])
def test_an_unknown_node_is_refused_with_the_names_that_there_are(shout: Plan, name: str) -> None:
    with pytest.raises(SwarmError) as refused:
        shout.run(overrides={name: other_frame()})
    assert refused.value.exit_status == 2
    assert "source, schema, columns, store, identified, limited, row_count, found, recovered, done" in str(
        refused.value
    )
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize(
    "node", ["backend", "files", "source", "schema", "columns", "store", "identified", "limited", "done", "pending",
             "batches", "transformed", "flushed", "finalized", "found", "recovered", "record", "compacted"],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_with_what_the_node_takes(shout: Plan, node: str) -> None:
    with pytest.raises(SwarmError, match=rf"Node '{node}' cannot be a int\.\nIt takes \w+") as refused:
        shout.run(overrides={node: 7})
    assert refused.value.exit_status == 2
    assert not Path("out.parquet").exists()
