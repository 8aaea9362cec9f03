"""A value that cannot be converted, or stored, is its own row's failure: the others do not notice."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from domyn_swarm.errors import DataError
from tests.conformance.conftest import Run
from tests.conftest import rows, table, write

LATIN_1 = pa.Array.from_buffers(pa.string(), 4, pa.array([b"a", b"R\xc9UNION", b"c", b"d"]).buffers())
FAR_DATE = pa.array([0, 0, 10**7, None], pa.date32())
FAR_TIME = pa.array([0, None, 0, 3 * 10**17], pa.timestamp("us"))


def failures() -> list[tuple[Any, str, str]]:
    """Id, error type and the column that the message names, for each row that failed."""
    return [(row["id"], row["type"], row["message"].split("'")[1]) for row in rows("out.errors.parquet")]


def test_a_value_that_cannot_be_converted_fails_its_row_alone(run_job: Run, mode: str) -> None:
    write("in.parquet", pa.table({"id": [5, 6, 7, 8], "text": LATIN_1, "date": FAR_DATE, "time": FAR_TIME}))
    inputs = ["text", "date", "time"] if mode == "compatibility" else ["text"]  # frames may well hold such dates
    result = run_job("Same", input="in.parquet", id_column="id", input_columns=inputs, output_mode="replace")
    expected = [(6, "InputError", "text"), (7, "InputError", "date"), (8, "InputError", "time")]
    assert failures() == expected[: len(inputs)]
    assert (result.failed, result.exit_status) == (len(inputs), 3)
    assert table("out.parquet").column("same_text").to_pylist()[0] == "a"


def test_a_category_that_cannot_be_converted_fails_its_rows_alone(run_job: Run) -> None:
    kinds = pa.DictionaryArray.from_arrays(pa.array([0, 1, 3, 1], pa.int32()), LATIN_1)
    inside = pa.StructArray.from_arrays([kinds], ["kind"])
    write("in.parquet", pa.table({"id": [5, 6, 7, 8], "text": kinds, "inside": inside}))
    for column in ("text", "inside"):
        options = {"input": "in.parquet", "input_columns": ["id", column], "output": f"{column}.parquet"}
        result = run_job("Same", id_column="id", output_mode="replace", native_batch_size=2, **options)
        assert result.failed == 2
        assert [row["id"] for row in rows(f"{column}.errors.parquet")] == [6, 8]


def test_such_values_may_stand_in_columns_that_nobody_reads(run_job: Run) -> None:
    write("in.parquet", pa.table({"text": ["a", "b", "c", "d"], "latin": LATIN_1, "date": FAR_DATE, "time": FAR_TIME}))
    assert run_job("Upper", input="in.parquet", limit=2).failed == 0
    assert run_job("Upper", input="in.parquet").failed == 0
    assert table("out.parquet")["latin"].cast(pa.binary()).to_pylist() == [b"a", b"R\xc9UNION", b"c", b"d"]


def test_an_id_that_is_no_text_is_refused(run_job: Run) -> None:
    write("in.parquet", pa.table({"id": LATIN_1, "text": ["a", "b", "c", "d"]}))
    with pytest.raises(DataError) as refused:
        run_job("Upper", input="in.parquet", id_column="id")
    error = refused.value
    assert (error.code, error.option, error.column, error.row) == ("id.not_text", "id_column", "id", 1)


def test_an_output_that_no_column_holds_fails_its_row_alone(run_job: Run) -> None:
    write("in.parquet", {"id": [1, 2, 3, 4], "text": ["a", "mute", "deep", "d"]})
    run_job("Odd", input="in.parquet", id_column="id")
    assert table("out.parquet")["made"].to_pylist() == [1, None, None, 1]
    assert [(row["id"], row["type"]) for row in rows("out.errors.parquet")] == [(2, "OutputError"), (3, "OutputError")]


def test_nanoseconds_are_kept(run_job: Run) -> None:
    moments = pa.array([1, 2**60 + 1], pa.timestamp("ns"))
    write("in.parquet", pa.table({"at": moments, "took": moments.cast(pa.int64()).cast(pa.duration("ns"))}))
    run_job("Same", input="in.parquet", input_columns=["at", "took"])
    made = table("out.parquet")
    for name in ("at", "took"):
        assert made[f"same_{name}"].cast(pa.int64()).to_pylist() == [1, 2**60 + 1]


@pytest.mark.parametrize("mode", ["native"])
def test_categories_of_polars_are_texts(run_job: Run) -> None:
    pytest.importorskip("polars")  # the job's, whatever the engine
    write("in.parquet", {"text": ["a", "b", "a"]})
    run_job("Frames", input="in.parquet", native_batch_size=2)
    assert table("out.parquet").schema.field("enum").type == pa.string()
    assert [(row["category"], row["enum"]) for row in rows("out.parquet")] == [("a", "a"), ("b", "b"), ("a", "a")]


@pytest.mark.parametrize("mode", ["native"])
def test_a_frame_that_cannot_be_stored_fails_its_batch(run_job: Run) -> None:
    pytest.importorskip("polars")  # the job's, whatever the engine
    write("in.parquet", {"text": ["a", "b", "object", "d"]})
    result = run_job("Frames", input="in.parquet", native_batch_size=2)
    assert result.failed == 2
    assert [row["enum"] for row in rows("out.parquet")] == ["a", "b", None, None]
    assert run_job("Union", input="in.parquet", output="union.parquet").failed == 4
