"""Results belong to ids."""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pytest

from tests.conformance.conftest import Run
from tests.conftest import rows, table, write

UUIDS = [uuid.UUID(int=3), uuid.UUID(int=1), uuid.UUID(int=2)]
IDS = {
    "strings": pa.array(["z", "x", "y"]),
    "int64": pa.array([30, 10, 20]),
    "int8": pa.array([3, 1, 2], pa.int8()),
    "uint64": pa.array([2**64 - 1, 1, 2], pa.uint64()),
    "large strings": pa.array(["z", "x", "y"], pa.large_string()),
    "bytes": pa.array([b"\xff", b"\x00", b"\x01"]),
    "uuid": pa.array([value.bytes for value in UUIDS], pa.uuid()),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS.keys())
def test_a_given_id_identifies(run_job: Run, ids: pa.Array[Any]) -> None:
    write("in.parquet", pa.table({"id": ids, "text": ["c", "a", "b"]}))
    run_job("Upper", input="in.parquet", id_column="id", output_mode="replace")
    output = table("out.parquet")
    assert output.column_names == ["id", "upper"]
    assert output["id"].to_pylist() == ids.to_pylist()
    assert output["upper"].to_pylist() == ["C", "A", "B"]
    assert output.schema.field("id").type == ids.type


@pytest.mark.clusters
def test_a_generated_id_counts_the_rows_over_all_files(run_job: Run) -> None:
    write("in/a.parquet", {"text": ["a", "b"]}, row_group_size=1)
    write("in/b.parquet", {"text": ["c"]})
    run_job("Upper", input="in", output_mode="replace")
    assert rows("out.parquet") == [
        {"_row_id": 0, "upper": "A"},
        {"_row_id": 1, "upper": "B"},
        {"_row_id": 2, "upper": "C"},
    ]
    assert table("out.parquet").schema.field("_row_id").type == pa.int64()


@pytest.mark.clusters
def test_rows_follow_their_ids_through_a_changed_input(run_job: Run) -> None:
    write("in.parquet", {"id": [1, 2, 3], "text": ["a", "b", "c"]})
    run_job("Picky", input="in.parquet", id_column="id")
    write("in.parquet", {"id": [9, 3, 1], "text": ["new", "c", "a"]})
    result = run_job("Picky", input="in.parquet", id_column="id")
    assert rows("out.parquet") == [
        {"id": 9, "text": "new", "upper": "NEW"},
        {"id": 3, "text": "c", "upper": "C"},
        {"id": 1, "text": "a", "upper": "A"},
    ]
    assert (result.done_before, result.done_now) == (2, 1)
