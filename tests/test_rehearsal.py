"""What cannot be read, handed over or written is found in planning; what is found later keeps what was paid for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from domyn_swarm import make_spec, run
from domyn_swarm.data import samples
from domyn_swarm.data.arrow import Tables
from domyn_swarm.data.backends import pandas_backend
from domyn_swarm.data.input_files import list_files
from domyn_swarm.engine.planning import make_plan
from domyn_swarm.errors import ConfigurationError, DataError, JobError
from tests.conftest import job, rows, write

ENGINES = ("pandas", "polars")


def options(backend: str, **more: Any) -> dict[str, Any]:
    return {
        "job": job("Upper"), "input": "in", "output": "out.parquet", "input_columns": ["text"], "data_backend": backend,
        **more,
    }  # fmt: skip


def damaged(path: str, column: str, group: int = 0) -> None:
    """Overwrite the beginning of a page."""
    chunk = pq.read_metadata(path).row_group(group).column(pq.read_schema(path).names.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(Path(path).read_bytes())
    content[start : start + 40] = b"\xff" * 40
    Path(path).write_bytes(content)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("column", ["text", "carried"])
def test_a_damaged_page_of_any_small_file_is_found_in_planning(engine: str, column: str) -> None:
    texts = [f"row {number}" for number in range(3000)]
    for name in "abc":
        write(f"in/{name}.parquet", {"text": texts, "carried": texts}, row_group_size=1000)
    damaged("in/b.parquet", column, group=2)
    with pytest.raises(DataError, match=rf"column '{column}' of .*in/b\.parquet"):
        make_plan(make_spec(options(engine)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fix", ["restored", "left out of the output"])
def test_a_page_that_is_found_damaged_when_the_output_is_written_costs_no_answer(
    engine: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "LOOKED_AT_BYTES", 1)
    texts = [f"row {number}" for number in range(3000)]
    path = write("in/a.parquet", {"text": texts, "carried": texts}, row_group_size=1000)
    whole = Path(path).read_bytes()
    damaged(path, "carried", group=1)
    with pytest.raises(JobError, match=r"column 'carried' of .*a\.parquet") as told:
        run(make_spec(options(engine)))
    assert "3,000 rows of this run are kept" in told.value.hint
    assert "output_mode='io_only'" in told.value.hint
    more = {}
    if fix == "restored":
        Path(path).write_bytes(whole)
    else:
        more = {"output_mode": "io_only"}
    result = run(make_spec(options(engine, **more)))
    assert (result.done_before, result.done_now, result.failed) == (3000, 0, 0)
    assert rows("out.parquet")[-1]["upper"] == "ROW 2999"


SPOILERS: dict[str, Callable[[Any], Any]] = {
    "value": lambda moments: pc.add(moments, pa.scalar(1, pa.duration("us"))),
    "type": lambda moments: moments.cast(pa.timestamp("us")),
}


@pytest.mark.parametrize("spoiled", SPOILERS)
def test_values_that_become_others_in_the_output_are_found_in_planning(
    spoiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("in/a.parquet", {"text": ["a"], "moment": pa.array([5], pa.timestamp("us", "UTC"))})
    write_it = pandas_backend.write

    def spoiling(frame: Tables, *arguments: Any, **more: Any) -> int:
        made = list(frame.tables())
        if "moment" in frame.schema.names:
            at = frame.schema.names.index("moment")
            made = [one.set_column(at, "moment", SPOILERS[spoiled](one["moment"])) for one in made]
        return write_it(replace(frame, schema=made[0].schema, tables=lambda: iter(made)), *arguments, **more)

    monkeypatch.setattr(pandas_backend, "write", spoiling)
    with pytest.raises(ConfigurationError, match="column 'moment' is timestamp"):
        make_plan(make_spec(options("pandas")))


def test_the_sample_has_the_first_rows_the_extremes_and_nulls() -> None:
    far = pa.array([*range(100), 10**7], pa.int32()).view(pa.date32())
    write("in/a.parquet", {"far": far, "number": pa.array(range(101), pa.int16()), "text": ["x"] * 101})
    write("in/b.parquet", {"far": far[:1], "number": pa.array([-7], pa.int16()), "text": ["y"]})
    sample = samples.sample_of(list_files("in"), ["far", "number", "text"])
    assert (sample.first, sample.rows.num_rows, sorted(sample.may_be_null)) == (16, 19, ["far", "number", "text"])
    assert sample.rows["far"].cast(pa.int32()).to_pylist() == [*range(16), 0, 10**7, None]
    assert sample.rows["number"].to_pylist() == [*range(16), -7, 100, None]
    assert sample.rows["text"].to_pylist() == ["x"] * 18 + [None]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_column_that_is_never_null_is_not_refused_for_a_value_that_python_cannot_hold(engine: str) -> None:
    fields = [pa.field("day", pa.date32(), nullable=False)]
    column = pa.StructArray.from_arrays([pa.array([10**7, 0], pa.int32()).view(pa.date32())], fields=fields)
    write("in/a.parquet", pa.table({"text": column, "other": [1, 2]}))
    result = run(make_spec(options(engine, job=job("Same"), input_columns=["text", "other"], output_mode="replace")))
    assert (result.rows, result.failed) == (2, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_old_timestamps_are_read_as_what_they_are_or_not_at_all(engine: str) -> None:
    never = pa.array(np.array(["9999-12-31", "2024-01-02"], "datetime64[us]"))
    table = pa.table({"text": ["a", "b"], "moment": never})
    Path("in").mkdir()
    old = {"use_deprecated_int96_timestamps": True, "store_schema": False}
    with pq.ParquetWriter("in/a.parquet", table.schema, **old) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"org.apache.spark.version": "3.5"})
    run(make_spec(options(engine)))
    assert [str(row["moment"]) for row in rows("out.parquet")] == ["9999-12-31 00:00:00", "2024-01-02 00:00:00"]
    write("in/a.parquet", table, **old)
    with pytest.raises(DataError, match="column 'moment' has a moment that nanoseconds do not reach"):
        make_plan(make_spec(options(engine, resume=False)))
