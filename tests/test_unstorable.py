"""What parquet cannot hold: found before a part is written, and the failure of the rows that hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.checkpoint import compact as compaction
from domyn_swarm.checkpoint import part
from domyn_swarm.checkpoint.encode import UnstorableError, encode, storable
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import DamagedPartError, Part, PartMetadata, write_part
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.errors import CheckpointError, JobError
from tests.chaos.damages import truncated
from tests.conftest import rows, write

FS = LocalFileSystem()
EMPTY_LISTS = pa.list_(pa.int64(), 0)
"""Arrow writes the empty list of this type, and cannot read it; null it can."""


class Deep(SwarmJob):
    """Nests as deep as the row says."""

    input_columns = ("levels",)

    def transform_item(self, levels: int) -> Any:
        with Path("calls.txt").open("a") as calls:
            calls.write("x")
        value: Any = 1
        for _ in range(levels):
            value = {"a": [value]}
        return {"made": value, "levels_made": levels}


class Moments(SwarmJob):
    """Makes seconds that are no milliseconds, in which parquet stores them."""

    input_columns = ("levels",)

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> pa.Table:
        return pa.table({"made": pa.array(batch["levels"] * 2**62, pa.int64()).view(pa.timestamp("s"))})


def here(job_class: type[SwarmJob]) -> str:
    return f"{Path(__file__).absolute()}:{job_class.__name__}"


def test_a_value_that_nests_too_deep_is_its_rows_failure_after_one_call() -> None:
    write("in.parquet", {"levels": [2, 45, 2, 2]})
    result = run(make_spec({"job": here(Deep), "input": "in.parquet", "output": "out.parquet", "retries": 0}))
    assert (result.rows, result.failed) == (4, 1)
    assert [row["levels_made"] for row in rows("out.parquet")] == [2, None, 2, 2]
    assert rows("out.parquet")[3]["made"] == {"a": [{"a": [1]}]}
    (failed,) = rows("out.errors.parquet")
    assert (failed["_row_id"], failed["type"]) == (1, "OutputError")
    assert "JSON text" in failed["message"]
    assert Path("calls.txt").read_text() == "xxxx"


def values(*made: Any, kind: pa.DataType) -> pa.Table:
    numbers = pa.array(range(len(made)), pa.int64())
    columns = [numbers, numbers, pa.array(made, kind), pa.nulls(len(made), FAILURE_TYPE)]
    return pa.table(columns, names=[POSITION, "id", "made", FAILURE])


def test_only_the_rows_that_hold_it_fail() -> None:
    table = values(*[None] * 500, [], *[None] * 300, [], kind=EMPTY_LISTS)
    with pytest.raises(UnstorableError):
        encode(table)
    failures = storable(table, "id")[FAILURE].to_pylist()
    assert [row for row, failure in enumerate(failures) if failure] == [500, 801]
    assert "column 'made' (fixed_size_list<item: int64>[0]) cannot be stored" in failures[500]["message"]


def test_what_cannot_be_stored_is_its_rows_failure() -> None:
    store = CheckpointStore(RunFolder("run"), "id", "digest", ["made"])
    store.begin("run", 1, {})
    report = store.flush([values(None, [], None, kind=EMPTY_LISTS)], 10.0)
    assert (report.rows, report.failed, report.parts) == (3, 1, 1)
    (failed,) = (row for table in store.failures() for row in table.to_pylist())
    assert (failed["id"], failed[FAILURE]["type"], failed[FAILURE]["attempts"]) == (1, "OutputError", 1)


@pytest.mark.parametrize(("options", "told"), [
    ({"max_errors": "1"}, "2 of 4 rows have failed, more than max_errors="),
    ({"on_error": "fail"}, "The row with _row_id = 1 failed: OutputError: column 'made'"),
])  # fmt: skip
def test_it_counts_as_any_failed_row(options: dict[str, Any], told: str) -> None:
    write("in.parquet", {"levels": [0, 1, 1, 0]})
    spec = {"job": here(Moments), "input": "in.parquet", "output": "out.parquet", "native_backend": True, **options}
    with pytest.raises(JobError, match=told):
        run(make_spec(spec))
    assert not Path("out.parquet").exists()
    result = run(make_spec({**spec, "max_errors": None, "on_error": "record"}))
    assert (result.rows, result.failed) == (4, 2)


FAR, NEAR = values(10**17, 1, kind=pa.timestamp("us")), values(7, kind=pa.timestamp("ns")).set_column(
    0, POSITION, pa.array([2], pa.int64())
)  # fmt: skip
"""A moment that nanoseconds do not reach, and one that has some."""


def test_values_that_would_become_others_beside_others_fail_or_are_refused() -> None:
    store = CheckpointStore(RunFolder("run"), "id", "digest", ["made"])
    store.begin("run", 1, {})
    refused: list[pa.Table] = []
    report = store.flush([FAR, NEAR], 10.0, refused=refused.append)
    assert (report.rows, report.failed, report.parts) == (3, 1, 1)
    assert [table["id"].to_pylist() for table in refused] == [[0]]
    made = pa.concat_tables(store.outputs().tables())["made"]
    assert made.cast(pa.int64()).to_pylist() == [None, 1000, 7]


def test_parts_whose_values_fit_no_type_stay_apart_and_what_fits_nowhere_fails_in_the_output() -> None:
    store = CheckpointStore(RunFolder("run"), "id", "digest", ["made"])
    store.begin("run", 1, {})
    store.flush([FAR], 10.0)
    store.flush([NEAR], 10.0)
    store.compact()
    assert len(store.folder.parts()) == 2
    made = pa.concat_tables(store.outputs().tables())["made"]
    assert made.cast(pa.int64()).to_pylist() == [None, 1000, 7]
    (failed,) = [row for table in store.failures() for row in table.to_pylist()]
    assert (failed["id"], failed[FAILURE]["type"]) == (0, "OutputError")
    assert "column 'made'" in failed[FAILURE]["message"]


def test_a_run_whose_outputs_fit_no_type_ends_each_time_with_the_rows_that_fail() -> None:
    write("in.parquet", {"at": [10**17, 7]})
    Path("job.py").write_text("import pandas as pd\nfrom datetime import datetime\nfrom domyn_swarm import SwarmJob\n"
                              "class J(SwarmJob):\n    async def transform_item(self, at):\n"
                              "        return datetime(5000, 1, 1) if at > 7 else pd.Timestamp(at)\n")  # fmt: skip
    spec = {"job": "job.py:J", "input": "in.parquet", "output": "out.parquet"}
    run(make_spec({**spec, "limit": 1}))
    for _ in range(2):
        result = run(make_spec(spec))
        assert (result.failed, result.exit_status) == (1, 3)
        assert [row["result"] and row["result"].value for row in rows("out.parquet")] == [None, 7]
        assert [row["_row_id"] for row in rows("out.errors.parquet")] == [0]


@pytest.mark.parametrize("numbers", [[2**63, 5, -1], [5, -1, 2**63], [-1, 2**63, 5]])
def test_numbers_beyond_int64_are_never_others(numbers: list[int]) -> None:
    write("in.parquet", {"key": pa.array(map(str, numbers))})
    Path("job.py").write_text("from domyn_swarm import SwarmJob\nclass J(SwarmJob):\n"
                              "    def transform_item(self, key):\n        return int(key)\n")  # fmt: skip
    result = run(make_spec({"job": "job.py:J", "input": "in.parquet", "output": "out.parquet", "retries": 0}))
    made = [row["result"] for row in rows("out.parquet")]
    assert result.failed == 1  # which one depends on which came first
    assert [number for number in made if number is not None] == [
        n for n, m in zip(numbers, made, strict=True) if m is not None
    ]


def test_nothing_is_written_of_what_cannot_be_read_back() -> None:
    with pytest.raises(UnstorableError):
        write_part(FS, "0001-000001.parquet", values([], kind=EMPTY_LISTS), PartMetadata("run", "digest", "id"))
    assert [*Path().iterdir()] == []


def test_parts_that_cannot_be_stored_together_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder("run")
    folder.make()
    for number in (1, 2):
        write_part(
            FS, f"run/parts/0001-00000{number}.parquet", values(number, kind=pa.int64()), PartMetadata("r", "d", "id")
        )
    monkeypatch.setattr(compaction, "write_part", lambda *_: (_ for _ in ()).throw(UnstorableError("together")))
    paths = folder.parts()
    assert compaction.compact(folder, paths) == paths
    assert [Part(FS, path).read()["made"].to_pylist() for path in folder.parts()] == [[1], [2]]


def test_parts_that_go_bad_after_they_were_written_are_computed_again_so_many_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that loses what it took: each time the rows are computed again, to an end."""
    write("in.parquet", {"levels": [1]})
    original = part.atomic_write
    written: list[str] = []

    def losing(fs: Any, path: str, **options: Any) -> Any:
        written.append(path)
        return original(fs, path, **options)

    opened = CheckpointStore.outputs

    def damaged(store: CheckpointStore) -> Any:
        truncated(Path(written[-1]))
        return opened(store)

    spec = make_spec({"job": here(Deep), "input": "in.parquet", "output": "out.parquet", "retries": 0})
    with monkeypatch.context() as patches:
        patches.setattr(part, "atomic_write", losing)
        patches.setattr(CheckpointStore, "outputs", damaged)
        with pytest.raises(CheckpointError, match="3 parts that this run wrote"):
            run(spec)
    assert Path("calls.txt").read_text() == "xxx"
    assert len([*Path(".domyn-swarm/out.parquet/damaged").iterdir()]) == 3
    assert run(spec).exit_status == 0
    assert pq.read_table("out.parquet")["levels_made"].to_pylist() == [1]


def test_damage_is_told_from_what_cannot_be_stored() -> None:
    assert not issubclass(UnstorableError, DamagedPartError)
