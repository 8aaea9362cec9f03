"""The output: columns, their order, their types; as one file or a directory."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conformance.conftest import Run
from tests.conftest import rows, table, write

MODES = {
    "append": ["id", "text", "number", "upper"],
    "replace": ["id", "upper"],
    "io_only": ["id", "text", "upper"],
}


@pytest.mark.parametrize(("output_mode", "names"), MODES.items())
def test_output_modes(run_job: Run, output_mode: str, names: list[str]) -> None:
    write("in.parquet", {"id": [7, 8], "text": ["a", "b"], "number": [1.5, 2.5]})
    run_job("Upper", input="in.parquet", id_column="id", output_mode=output_mode)
    row = {"id": 7, "text": "a", "number": 1.5, "upper": "A"}
    assert table("out.parquet").column_names == names
    assert rows("out.parquet")[0] == {name: row[name] for name in names}


def test_append_does_not_add_a_generated_id(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Upper", input="in.parquet")
    assert table("out.parquet").column_names == ["text", "upper"]


def test_a_tuple_fills_the_output_columns_by_position(run_job: Run) -> None:
    write("in.parquet", {"text": ["one", "three"]})
    run_job("Pair", input="in.parquet")
    assert rows("out.parquet") == [
        {"text": "one", "first": "o", "length": 3},
        {"text": "three", "first": "t", "length": 5},
    ]


@pytest.mark.clusters
def test_the_keys_of_a_dict_become_columns(run_job: Run) -> None:
    write("in.parquet", {"text": ["to be", "or not to be"]})
    run_job("Facts", input="in.parquet")
    assert rows("out.parquet") == [
        {"text": "to be", "words": ["to", "be"], "length": 5},
        {"text": "or not to be", "words": ["or", "not", "to", "be"], "length": 12},
    ]


def test_named_output_columns_choose_among_the_keys_of_a_dict(run_job: Run) -> None:
    write("in.parquet", {"text": ["to be"]})
    run_job("Facts", input="in.parquet", output_columns=["length"])
    assert rows("out.parquet") == [{"text": "to be", "length": 5}]


def test_a_method_that_takes_lists(run_job: Run) -> None:
    write("in.parquet", {"text": [f"text {number}" for number in range(10)]})
    run_job("Reverse", input="in.parquet", batch_size=3)
    assert [row["reversed"] for row in rows("out.parquet")] == [f"text {number}"[::-1] for number in range(10)]


@pytest.mark.parametrize("output", ["out", "out.dir/"])
def test_a_directory(run_job: Run, output: str) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    run_job("Upper", input="in.parquet", output=output)
    assert Path(output).is_dir()
    assert rows(output) == [{"text": "a", "upper": "A"}, {"text": "b", "upper": "B"}]


def test_folders_on_the_way_to_the_output_are_made(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Upper", input="in.parquet", output="far/away/out.parquet")
    assert rows("far/away/out.parquet") == [{"text": "a", "upper": "A"}]


def test_how_the_output_is_written_can_be_chosen(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"] * 100})
    run_job("Upper", input="in.parquet", backend_write_kwargs={"compression": "gzip", "row_group_size": 40})
    metadata = pq.read_metadata("out.parquet")
    assert metadata.row_group(0).column(0).compression == "GZIP"
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [40, 40, 20]


EXOTIC: dict[str, pa.Array[Any]] = {
    "messages": pa.array(
        [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}], [], None],
        pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    ),
    "null": pa.nulls(3),
    "nulls": pa.array([None, 1, None], pa.int64()),
    "bool": pa.array([True, None, False]),
    "int8": pa.array([-128, None, 127], pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "float": pa.array([1.5, None, float("inf")], pa.float32()),
    "binary": pa.array([b"\x00\xff", None, b""]),
    "decimal": pa.array([decimal.Decimal("12.30"), None, decimal.Decimal("-0.01")], pa.decimal128(10, 2)),
    "timestamp": pa.array([dt.datetime(2026, 1, 2, 3, 4, 5, 6), None, None], pa.timestamp("us")),
    "zoned": pa.array([dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), None, None], pa.timestamp("ms", "Europe/Rome")),
    "date": pa.array([dt.date(2026, 1, 2), None, None]),
    "time": pa.array([dt.time(1, 2, 3), None, None], pa.time64("us")),
    "duration": pa.array([dt.timedelta(seconds=1), None, None], pa.duration("us")),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "large_string": pa.array(["x", None, ""], pa.large_string()),
    "large_list": pa.array([[1, None], None, []], pa.large_list(pa.int16())),
    "fixed_list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "fixed_binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "nested": pa.array([{"a": {"b": [1]}}, None, {"a": None}]),
}


@pytest.mark.clusters
def test_input_columns_come_through_append_unchanged(run_job: Run) -> None:
    write("in.parquet", pa.table({"text": ["a", "b", "c"], **EXOTIC}))
    run_job("Upper", input="in.parquet")
    before, output = pq.read_table("in.parquet"), table("out.parquet")
    assert {name: output.schema.field(name).type for name in EXOTIC} == {
        name: before.schema.field(name).type for name in EXOTIC
    }
    assert [name for name in EXOTIC if not output[name].equals(before[name])] == []
    assert output["upper"].to_pylist() == ["A", "B", "C"]


NOT_OUTPUTS = {
    "uint64": "Python's ints become int64, and pandas makes floats of integers beside nulls",
    "map": "a list of pairs is no type of its own in Python",
}


@pytest.mark.clusters
def test_values_of_every_type_reach_the_job_and_come_back(run_job: Run) -> None:
    columns = {name: values for name, values in EXOTIC.items() if name not in NOT_OUTPUTS}
    write("in.parquet", pa.table(columns))
    result = run_job("Same", input="in.parquet", input_columns=list(columns))
    assert result.failed == 0
    different = {
        name: (row[f"same_{name}"], row[name])
        for row in rows("out.parquet")
        for name in columns
        if row[f"same_{name}"] != row[name]
    }
    assert different == {}


@pytest.mark.parametrize("texts", [["", "7", "abba"], ["abba", "", "7"]])
def test_types_that_the_job_declares_are_the_columns_whatever_comes_first(run_job: Run, texts: list[str]) -> None:
    write("in.parquet", {"text": texts})
    assert run_job("Letters", input="in.parquet").failed == 0
    schema = table("out.parquet").schema
    assert schema.field("letters").type == pa.map_(pa.string(), pa.int64())
    assert schema.field("number").type == pa.float64()
    found = {row["text"]: (row["letters"], row["number"]) for row in rows("out.parquet")}
    assert found == {"": ([], None), "7": ([("7", 1)], 7.0), "abba": ([("a", 2), ("b", 2)], None)}


def test_a_value_that_does_not_fit_a_declared_type_is_its_rows_failure(run_job: Run) -> None:
    write("in.parquet", {"text": ["9" * 400, "7"]})
    assert run_job("Letters", input="in.parquet").failed == 1
    assert [row["number"] for row in rows("out.parquet")] == [None, 7.0]


def test_metadata_of_columns_is_kept(run_job: Run) -> None:
    field = pa.field("text", pa.string(), metadata={"unit": "words"})
    write("in.parquet", pa.table({"text": ["a"]}).cast(pa.schema([field])))
    run_job("Upper", input="in.parquet")
    assert (table("out.parquet").schema.field("text").metadata or {})[b"unit"] == b"words"
