"""Files of the input: what a path names, columns of folders, metadata, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from domyn_swarm import make_spec
from domyn_swarm.data.listing import summary
from domyn_swarm.engine.planning import RunPlan, make_plan
from domyn_swarm.errors import DataError, SwarmError
from tests.conformance.conftest import Run
from tests.conftest import job, rows, table, write


class Keys(encryption.KmsClient):
    """A key store that keeps no secret."""

    def __init__(self, config: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> str:
        return key.hex()

    def unwrap_key(self, key: str, name: str) -> bytes:
        return bytes.fromhex(key)


def plan(backend: str, **options: Any) -> RunPlan:
    return make_plan(make_spec({"job": job("Upper"), "output": "out.parquet", "input_columns": ["text"],
                                "output_columns": ["upper"], "data_backend": backend, **options}))  # fmt: skip


@pytest.mark.parametrize("pattern", ["h", "h/", "h/k=*", "h/*/*.parquet", "h/**", "h/k={1,2}", "h/k={1,2}/a.parquet"])
def test_folders_with_a_name_and_a_value_are_columns(run_job: Run, pattern: str) -> None:
    write("h/k=1/a.parquet", {"text": ["a"]})
    write("h/k=2/a.parquet", {"text": ["b"]})
    run_job("Upper", input=pattern)
    assert rows("out.parquet") == [{"text": "a", "k": 1, "upper": "A"}, {"text": "b", "k": 2, "upper": "B"}]


def test_columns_of_folders_in_every_role(run_job: Run) -> None:
    write("h/number=1/id=x/a.parquet", {"text": ["a"]})
    write("h/number=2/id=y/a.parquet", {"text": ["b"]})
    write("h/number=3/id=z/a.parquet", {"text": ["c"]})
    run_job("Joined", input="h", id_column="id", backend_read_kwargs={"filters": [["number", ">", 1]]})
    assert rows("out.parquet") == [
        {"text": "b", "number": 2, "id": "y", "joined": "b-2"}, {"text": "c", "number": 3, "id": "z", "joined": "c-3"},
    ]  # fmt: skip
    run_job("Same", input="h", input_columns=["number", "id"], output="n.parquet", output_mode="io_only", limit=2)
    assert rows("n.parquet") == [
        {"_row_id": 0, "number": 1, "id": "x", "same_number": 1, "same_id": "x"},
        {"_row_id": 1, "number": 2, "id": "y", "same_number": 2, "same_id": "y"},
    ]


def test_columns_of_folders_can_be_left_out(run_job: Run) -> None:
    write("h/k=1/a.parquet", {"text": ["a"]})
    run_job("Upper", input="h", backend_read_kwargs={"hive": False})
    assert rows("out.parquet") == [{"text": "a", "upper": "A"}]


def test_values_of_folders_are_numbers_only_if_they_are_written_so(run_job: Run) -> None:
    for number, (day, code, some) in enumerate([("2024-01-01", "007", "5000000000"), ("2024-01-02", "1", "-1")]):
        write(f"h/day={day}/code={code}/some={some}/{number}.parquet", {"text": [str(number)]})
    write("h/day=__HIVE_DEFAULT_PARTITION__/code=a%2Fb/some=0/2.parquet", {"text": ["2"]})
    run_job("Upper", input="h")
    assert table("out.parquet").select(["day", "code", "some"]).to_pylist() == [
        {"day": "2024-01-01", "code": "007", "some": 5_000_000_000},
        {"day": "2024-01-02", "code": "1", "some": -1},
        {"day": None, "code": "a/b", "some": 0},
    ]


def test_a_column_of_the_files_comes_before_one_of_the_folders(run_job: Run) -> None:
    write("h/text=folder/a.parquet", {"text": ["file"]})
    run_job("Upper", input="h")
    assert rows("out.parquet") == [{"text": "file", "upper": "FILE"}]


def test_moving_a_file_to_another_folder_changes_the_input(run_job: Run) -> None:
    write("h/k=1/a.parquet", {"text": ["a"]})
    run_job("Upper", input="h")
    Path("h/k=1").rename("h/k=2")
    with pytest.raises(SwarmError) as refused:
        run_job("Upper", input="h")
    assert refused.value.exit_status == 2


@pytest.mark.parametrize("pattern", ["g/*", "g/*.parquet", "g/**", "g/**/*.parquet", "g/[ab]*"])
def test_folders_that_a_pattern_matches_are_read(run_job: Run, pattern: str) -> None:
    write("g/a.parquet", {"text": ["a"]})
    write("g/b.parquet/part-0.parquet", {"text": ["b"]})
    run_job("Upper", input=pattern)
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "B"]


def test_what_a_folder_leaves_out_is_counted(backend: str) -> None:
    write("s/a.parquet", {"text": ["a"]})
    write("s/b.parq", {"text": ["b"]})
    write("s/c.pq", {"text": ["c"]})
    write("else/d.parquet", {"text": ["d"]})
    write("s/.hidden/e.parquet", {"text": ["e"]})
    Path("s/link").symlink_to("../else")
    Path("s/linked.parquet").symlink_to("../else/d.parquet")
    Path("s/f.parq").write_text("something else")
    for name in ("_SUCCESS", "notes.txt"):
        Path("s", name).touch()
    planned = plan(backend, input="s")
    assert planned.rows == 4
    skipped = planned.nodes["files"].skipped
    assert sorted((one.reason, Path(one.path).name) for one in skipped) == [
        ("hidden", ".hidden"), ("hidden", "_SUCCESS"), ("of another kind", "f.parq"), ("of another kind", "notes.txt"),
        ("symlinked folder", "link"),
    ]  # fmt: skip
    assert summary(skipped).startswith("5: ")
    assert plan(backend, input="s/*.parquet").rows == 2, "a pattern reads files by links, too"
    assert plan(backend, input="s/[ab].p*").rows == 2
    assert plan(backend, input="s/*/*.parquet").rows == 1, "and looks into linked folders, as shells do"


def test_metadata_of_files_is_kept_where_it_holds(run_job: Run) -> None:
    geo = {"version": "1.0.0", "primary_column": "shape", "columns": {"shape": {}, "text": {}}}
    features = {"info": {"features": {"text": {"_type": "Value"}, "shape": {"_type": "Value"}}}}
    metadata = {
        "geo": json.dumps(geo), "huggingface": json.dumps(features), "mine": "1",
        "org.apache.spark.sql.parquet.row.metadata": "{}", "domyn_swarm.run": "another",
    }  # fmt: skip
    columns = pa.table({"text": ["a"], "shape": [b"x"]})
    for name in ("a", "b"):
        write(f"in/{name}.parquet", columns.replace_schema_metadata({**metadata, "only": name}))
    run_job("Upper", input="in")
    kept = pq.read_schema("out.parquet").metadata
    assert json.loads(kept[b"geo"]) == geo
    assert json.loads(kept[b"huggingface"]) == features
    assert (kept[b"mine"], b"only" in kept, b"org.apache.spark.sql.parquet.row.metadata" in kept) == (
        b"1",
        False,
        False,
    )
    assert kept[b"domyn_swarm.run"] != b"another"
    run_job("Upper", input="in", output="less.parquet", output_mode="io_only")
    kept = pq.read_schema("less.parquet").metadata
    assert b"geo" not in kept, "its primary column is not there"
    assert json.loads(kept[b"huggingface"]) == {"info": {"features": {"text": {"_type": "Value"}}}}


@pytest.mark.parametrize("column", ["text", "other"])
def test_a_damaged_page_is_reported_with_its_file_and_column(run_job: Run, column: str) -> None:
    write("in/a.parquet", {"text": ["a"], "other": ["b"]})
    write("in/b.parquet", {name: [f"{name} {row}" for row in range(5000)] for name in ("text", "other")})
    whole = bytearray(Path("in/b.parquet").read_bytes())
    chunk = pq.read_metadata("in/b.parquet").row_group(0).column(["text", "other"].index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    whole[start : start + 60] = b"\xff" * 60
    Path("in/b.parquet").write_bytes(whole)
    with pytest.raises(SwarmError) as told_:
        run_job("Upper", input="in")
    assert f"column {column!r} of {Path('in/b.parquet').absolute()}" in str(told_.value)
    assert "leave it out" in told_.value.hint
    assert not Path("out.parquet").exists()


def test_an_encrypted_file_is_refused(backend: str) -> None:
    Path("in.parquet").write_bytes(b"PARE" + b"\0" * 40 + b"\4\0\0\0PARE")
    with pytest.raises(DataError, match=r"in\.parquet .* encrypted"):
        plan(backend, input="in.parquet")


def test_a_column_that_is_encrypted_is_named(run_job: Run) -> None:
    factory = encryption.CryptoFactory(Keys)
    secret = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=True
    )
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), secret)
    columns = pa.table({"text": ["a"], "other": ["b"]})
    with pq.ParquetWriter("in.parquet", columns.schema, encryption_properties=properties) as writer:
        writer.write_table(columns)
    with pytest.raises(SwarmError, match=r"column 'text' of .* is encrypted"):
        run_job("Upper", input="in.parquet")
    filters = {"filters": [["other", "==", "b"]]}
    run_job("Upper", input="in.parquet", input_columns=["other"], output_mode="io_only", backend_read_kwargs=filters)
    assert rows("out.parquet") == [{"_row_id": 0, "other": "b", "upper": "B"}]
