"""Which rows a job sees, and that each comes out once, in input order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from domyn_swarm import make_spec
from domyn_swarm.engine.runner import make_plan
from domyn_swarm.errors import DataError
from tests.conformance.conftest import Run
from tests.conftest import job, rows, table, write

ABC = [{"text": "a", "upper": "A"}, {"text": "b", "upper": "B"}, {"text": "c", "upper": "C"}]


def test_a_file(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b", "c"]})
    result = run_job("Upper", input="in.parquet")
    assert rows("out.parquet") == ABC
    assert (result.rows, result.done_before, result.done_now, result.failed) == (3, 0, 3, 0)


@pytest.mark.parametrize("pattern", ["in", "in/", "in/*.parquet", "in/part_{0..2}.parquet", "in/part_{0,1,2}.parquet"])
def test_many_files_are_read_by_name(run_job: Run, pattern: str) -> None:
    for number, text in [(2, "c"), (0, "a"), (1, "b")]:
        write(f"in/part_{number}.parquet", {"text": [text]})
    run_job("Upper", input=pattern)
    assert rows("out.parquet") == ABC


def test_a_directory_is_searched_for_parquet_and_what_is_hidden_is_left_out(run_job: Run) -> None:
    write("in/deep/a.parquet", {"text": ["a"]})
    write("in/deeper/b.parquet", {"text": ["b", "c"]})
    write("in/_temporary/x.parquet", {"text": ["x"]})
    write("in/.hidden.parquet", {"text": ["y"]})
    Path("in/_SUCCESS").touch()
    Path("in/notes.txt").write_text("not data")
    run_job("Upper", input="in")
    assert rows("out.parquet") == ABC


def test_a_url_of_any_filesystem(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b", "c"]})
    run_job("Upper", input=Path("in.parquet").absolute().as_uri(), output=Path("out.parquet").absolute().as_uri())
    assert rows("out.parquet") == ABC


@pytest.mark.clusters
def test_many_row_groups_keep_their_order(run_job: Run) -> None:
    texts = [f"row {number}" for number in range(1000)]
    write("in.parquet", {"text": texts}, row_group_size=7)
    run_job("Upper", input="in.parquet", native_batch_size=64)
    assert [row["upper"] for row in rows("out.parquet")] == [text.upper() for text in texts]


@pytest.mark.clusters
def test_no_rows_give_an_output_without_rows_and_with_all_columns(run_job: Run) -> None:
    write("in.parquet", pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int32())}))
    result = run_job("Upper", input="in.parquet")
    assert result.exit_status == 0
    assert rows("out.parquet") == []
    assert table("out.parquet").column_names == ["text", "n", "upper"]
    assert table("out.parquet").schema.field("n").type == pa.int32()


def test_a_file_without_rows_among_others(run_job: Run) -> None:
    write("in/0.parquet", pa.table({"text": pa.array([], pa.string())}))
    write("in/1.parquet", {"text": ["a", "b", "c"]})
    run_job("Upper", input="in")
    assert rows("out.parquet") == ABC


@pytest.mark.parametrize(("limit", "expected"), [(1, ABC[:1]), (2, ABC[:2]), (3, ABC), (4, ABC)])
def test_a_limit_means_the_first_rows(run_job: Run, limit: int, expected: object) -> None:
    write("in/0.parquet", {"text": ["a"]})
    write("in/1.parquet", {"text": ["b", "c"]})
    result = run_job("Upper", input="in", limit=limit)
    assert rows("out.parquet") == expected
    assert result.rows == len(expected)


@pytest.mark.clusters
def test_several_input_columns_make_one_item(run_job: Run) -> None:
    write("in.parquet", {"number": [1, 2], "text": ["a", "b"], "other": [0.5, 1.5]})
    run_job("Joined", input="in.parquet")
    assert [row["joined"] for row in rows("out.parquet")] == ["a-1", "b-2"]


def test_reading_only_some_columns(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b", "c"], "heavy": ["x" * 100] * 3})
    run_job("Upper", input="in.parquet", backend_read_kwargs={"columns": ["text"]})
    assert rows("out.parquet") == ABC


FILTERS = {
    "one": [["number", ">", 1]],
    "and": [["number", ">=", 2], ["text", "!=", "d"]],
    "or": [[["text", "==", "b"]], [["text", "==", "c"]]],
    "in": [["text", "in", ["b", "c"]]],
    "not in": [["text", "not in", ["a", "d"]]],
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS.keys())
def test_filters_decide_which_rows_there_are(run_job: Run, filters: object) -> None:
    write("in/0.parquet", {"text": ["a", "b"], "number": [1, 2]})
    write("in/1.parquet", {"text": ["c", "d"], "number": [3, 0]})
    options = {"input": "in", "output_mode": "replace", "backend_read_kwargs": {"filters": filters}}
    result = run_job("Upper", **options)
    assert rows("out.parquet") == [{"_row_id": 0, "upper": "B"}, {"_row_id": 1, "upper": "C"}]
    assert (result.rows, result.done_now) == (2, 2)
    assert run_job("Upper", **options).done_before == 2


def test_a_filter_that_no_row_passes(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"], "number": [1]})
    run_job("Upper", input="in.parquet", backend_read_kwargs={"filters": [["number", ">", 1]]})
    assert rows("out.parquet") == []


@pytest.mark.refused_by("polars", "ray", "toy-arrow", reason="only pandas reads other formats, for debugging")
@pytest.mark.parametrize(
    ("name", "content"), [("in.csv", "text\na\nb\nc\n"), ("in.jsonl", '{"text":"a"}\n{"text":"b"}\n{"text":"c"}\n')]
)
def test_csv_and_json_lines_as_input(run_job: Run, name: str, content: str) -> None:
    Path(name).write_text(content)
    run_job("Upper", input=name)
    assert rows("out.parquet") == ABC


def test_the_schema_names_types_alike(run_job: Run, backend: str) -> None:
    write("in.parquet", SCHEMA_TABLE)
    plan = make_plan(make_spec({"job": job("Upper"), "input": "in.parquet", "output": "out.parquet",
                                "input_columns": ["text"], "data_backend": backend}))  # fmt: skip
    assert list(plan.nodes["schema"].items()) == [
        ("text", "string"),
        ("large", "string"),
        ("category", "string"),
        ("small", "int8"),
        ("at", "timestamp[ms, tz=UTC]"),
        ("messages", "list<struct<role: string>>"),
        ("bytes", "binary"),
    ]


SCHEMA_TABLE = pa.table(
    {
        "text": ["a"],
        "large": pa.array(["a"], pa.large_string()),
        "category": pa.array(["a"]).dictionary_encode(),
        "small": pa.array([1], pa.int8()),
        "at": pa.array([0], pa.timestamp("ms", "UTC")),
        "messages": pa.array([[{"role": "user"}]]),
        "bytes": [b"x"],
    }
)


def test_an_id_column_that_is_an_input_too(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b", "c"]})
    run_job("Upper", input="in.parquet", id_column="text")
    assert rows("out.parquet") == ABC


@pytest.mark.parametrize("ids", [["x", None, "z"], ["x", "y", "x"]], ids=["null", "duplicate"])
def test_ids_that_do_not_identify_are_refused_before_anything_is_written(run_job: Run, ids: list[str | None]) -> None:
    write("in.parquet", {"id": ids, "text": ["a", "b", "c"]})
    with pytest.raises(DataError) as refused:
        run_job("Upper", input="in.parquet", id_column="id")
    error = refused.value
    assert (error.code, error.option, error.column) == (
        "id.null" if None in ids else "id.duplicate", "id_column", "id",
    )  # fmt: skip
    assert [path.name for path in Path().iterdir()] == ["in.parquet"]
