"""Input, parts and output on a filesystem that is no local disk: everything goes through fsspec."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm import RunResult, make_spec, run
from domyn_swarm.data import parquet_writer
from tests.conftest import job, rows


def submit(engine: str, *, native: bool, **options: object) -> RunResult:
    return run(make_spec({
        "job": job("Upper"), "input": "memory://in", "output": "memory://out/result.parquet", "input_columns": ["text"],
        "output_columns": ["upper"], "data_backend": engine, "native_backend": native, **options,
    }))  # fmt: skip


@pytest.mark.parametrize("native", [False, True], ids=["compatibility", "native"])
@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_run_that_touches_no_local_disk(engine: str, native: bool) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for number, texts in enumerate([["a", "b"], ["c"]]):
        with memory.open(f"/in/{number}.parquet", "wb") as file:
            pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), file)
    first = submit(engine, native=native, limit=1)
    assert (first.rows, first.done_now) == (1, 1)
    second = submit(engine, native=native)
    assert (second.rows, second.done_before, second.done_now) == (3, 1, 2)
    with memory.open("/out/result.parquet", "rb") as file:
        assert pq.read_table(file).to_pylist() == [
            {"text": "a", "n": 0, "upper": "A"},
            {"text": "b", "n": 1, "upper": "B"},
            {"text": "c", "n": 0, "upper": "C"},
        ]
    filtered = {"backend_read_kwargs": {"filters": [["n", "==", 0]]}, "output": "memory://out/filtered.parquet"}
    assert submit(engine, native=native, **filtered).rows == 2


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 12, 13])
def test_a_directory_is_cut_into_files_that_are_full_but_for_the_last(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "FILE_ROWS", 6)
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_ROWS", 4)
    numbers = pa.table({"number": pa.array(range(count), pa.int64())})
    batches = numbers.to_batches(max_chunksize=5)
    tables = parquet_writer.Tables(numbers.schema, lambda: (pa.Table.from_batches([batch]) for batch in batches))
    assert parquet_writer.write_parquet(tables, "out", directory=True, metadata={}, write_kwargs={}) == count
    sizes = [pq.read_metadata(file).num_rows for file in sorted(Path("out").iterdir())]
    assert sizes == [min(6, count - start) for start in range(0, max(1, count), 6)]
    assert rows("out") == numbers.to_pylist()
