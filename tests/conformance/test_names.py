"""What columns may be called: anything, in any role, or it is refused before the first call."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from domyn_swarm.errors import SwarmError
from tests.conformance.conftest import Run
from tests.conftest import rows, table, write

NAMES = [
    "ids",
    "items",
    "batch",
    "columns",
    "index",
    "type",
    "message",
    "attempts",
    "*",
    "^a.*$",
    "^.*$",
    "a.b",
    "",
    "é",
]
STRUCTS = [{"b": 7, "c": "x"}, {"b": 8, "c": "y"}]
"""A field of it has the path of the column `a.b`."""


@pytest.mark.parametrize("name", ["ids", "message", "*", "^.*$", "a.b", "", "_row_id"])
def test_any_name_identifies(run_job: Run, name: str) -> None:
    write("in.parquet", pa.table([["a", "bad"], [1, 2], pa.array(STRUCTS)], names=["text", name, "a"]))
    assert run_job("Picky", input="in.parquet", id_column=name, retries=0).failed == 1
    assert rows("out.parquet") == [
        {"text": "a", name: 1, "a": {"b": 7, "c": "x"}, "upper": "A"},
        {"text": "bad", name: 2, "a": {"b": 8, "c": "y"}, "upper": None},
    ]
    (failed,) = rows("out.errors.parquet")
    prefix = "error_" if name == "message" else ""
    assert (failed[name], failed[f"{prefix}type"], failed[f"{prefix}attempts"]) == (2, "ValueError", 1)
    Path("mended").touch()
    assert run_job("Picky", input="in.parquet", id_column=name, retries=0).done_before == 1
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "BAD"]


def test_any_name_is_an_input_and_a_carried_column(run_job: Run) -> None:
    columns = {name: [f"{name} 1", f"{name} 2"] for name in NAMES}
    write("in.parquet", pa.table([*columns.values(), pa.array(STRUCTS)], names=[*columns, "a"]))
    run_job("Same", input="in.parquet", input_columns=[*NAMES, "a"])
    made = table("out.parquet")
    assert made.column_names == [*NAMES, "a", *(f"same_{name}" for name in NAMES), "same_a"]
    for name, values in {**columns, "a": STRUCTS}.items():
        assert made[name].to_pylist() == values
        assert made[f"same_{name}"].to_pylist() == values


@pytest.mark.parametrize("names", [("*", "a.b"), ("message", ""), ("^.*$", "ids")])
def test_any_name_is_an_output(run_job: Run, names: tuple[str, str]) -> None:
    write("in.parquet", {"text": ["ab", "c"]})
    run_job("Pair", input="in.parquet", output_columns=[*names])
    assert rows("out.parquet") == [
        {"text": "ab", names[0]: "a", names[1]: 2},
        {"text": "c", names[0]: "c", names[1]: 1},
    ]


def test_any_key_of_a_dict_is_an_output(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Named", input="in.parquet", job_kwargs={"key": "*"})
    assert rows("out.parquet") == [{"text": "a", "*": "A"}]


@pytest.mark.parametrize("key", ["_row_id", "__position__", "__failure__", "text", "n\0ul"])
def test_a_key_that_cannot_be_a_column_is_its_rows_failure(run_job: Run, key: str) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    assert run_job("Named", input="in.parquet", job_kwargs={"key": key}).failed == 2
    assert [row["type"] for row in rows("out.errors.parquet")] == ["OutputError"] * 2


@pytest.mark.parametrize("name", ["n\0ul", "__position__", "__failure__", "__failure__.type", "__trace__"])
def test_names_that_cannot_be_kept_apart_are_refused(run_job: Run, name: str) -> None:
    write("in.parquet", {"text": ["a"], name: ["b"]})
    write("fine.parquet", {"text": ["a"]})
    for options in (
        {"input": "in.parquet"},
        {"input": "in.parquet", "id_column": name},
        {"input": "in.parquet", "input_columns": [name]},
        {"input": "fine.parquet", "output_columns": [name]},
    ):
        with pytest.raises(SwarmError) as refused:
            run_job("Upper", **options)
        assert refused.value.exit_status == 2
    assert sorted(path.name for path in Path().iterdir()) == ["fine.parquet", "in.parquet"]
