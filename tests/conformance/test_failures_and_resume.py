"""A failed row affects no other row, and finished rows are never computed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from domyn_swarm.errors import CheckpointError, JobError
from tests.conformance.conftest import Run
from tests.conftest import rows, write

OPTIONS = {"input": "in.parquet", "retries": 0}


def calls() -> list[str]:
    """The rows that the job was called for since the last look."""
    found = Path("calls").read_text().splitlines() if Path("calls").exists() else []
    Path("calls").unlink(missing_ok=True)
    return sorted(found)


@pytest.mark.clusters
def test_a_failed_row_has_null_outputs_and_an_entry_in_the_errors_file(run_job: Run) -> None:
    write("in.parquet", {"id": ["x", "y", "z"], "text": ["a", "bad", "c"]})
    result = run_job("Picky", id_column="id", **OPTIONS)
    assert [row["upper"] for row in rows("out.parquet")] == ["A", None, "C"]
    assert rows("out.errors.parquet") == [
        {"id": "y", "type": "ValueError", "message": "cannot do 'bad'", "attempts": 1}
    ]
    assert (result.done_now, result.failed, result.exit_status) == (2, 1, 3)


@pytest.mark.clusters
def test_a_rerun_tries_failed_rows_again_and_no_others(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "bad 1", "c", "bad 2"]})
    run_job("Picky", **OPTIONS)
    assert calls() == ["a", "bad 1", "bad 2", "c"]
    run_job("Picky", **OPTIONS)
    assert calls() == ["bad 1", "bad 2"]
    Path("mended").touch()
    result = run_job("Picky", **OPTIONS)
    assert calls() == ["bad 1", "bad 2"]
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "BAD 1", "C", "BAD 2"]
    assert not Path("out.errors.parquet").exists()
    assert (result.done_before, result.done_now, result.failed) == (2, 2, 0)


def test_a_finished_run_has_nothing_to_do(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    run_job("Picky", **OPTIONS)
    written = Path("out.parquet").stat().st_mtime_ns
    assert calls() == ["a", "b"]
    result = run_job("Picky", **OPTIONS)
    assert calls() == []
    assert (result.done_before, result.done_now) == (2, 0)
    assert Path("out.parquet").stat().st_mtime_ns == written


@pytest.mark.clusters
def test_a_limit_is_the_beginning_of_the_whole_run(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b", "c", "d"]})
    run_job("Picky", limit=2, **OPTIONS)
    assert calls() == ["a", "b"]
    run_job("Picky", **OPTIONS)
    assert calls() == ["c", "d"]
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "B", "C", "D"]


def test_no_resume_computes_every_row_again(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    run_job("Picky", **OPTIONS)
    calls()
    run_job("Picky", resume=False, **OPTIONS)
    assert calls() == ["a", "b"]


def test_without_checkpointing_nothing_but_the_output_is_left(run_job: Run) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    run_job("Picky", checkpointing=False, **OPTIONS)
    assert sorted(path.name for path in Path().iterdir()) == ["calls", "in.parquet", "out.parquet"]
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "B"]


@pytest.mark.clusters
def test_on_error_fail_stops_at_the_first_failure_and_keeps_what_was_done(run_job: Run) -> None:
    write("in.parquet", {"text": ["bad", *(f"row {number}" for number in range(10_000))]})
    options = {**OPTIONS, "native_batch_size": 10, "max_concurrency": 1}
    with pytest.raises(JobError, match="_row_id = 0 failed: ValueError: cannot do 'bad'"):
        run_job("Picky", on_error="fail", **options)
    first = calls()
    assert not Path("out.parquet").exists()
    Path("mended").touch()
    result = run_job("Picky", on_error="fail", **options)
    assert len(first) + len(calls()) == 10_001 + 1  # `bad` was tried twice
    assert result.exit_status == 0
    assert [row["upper"] for row in rows("out.parquet")][:2] == ["BAD", "ROW 0"]


def test_an_output_that_is_gone_is_written_again_without_a_call(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Picky", **OPTIONS)
    calls()
    Path("out.parquet").unlink()
    run_job("Picky", **OPTIONS)
    assert calls() == []
    assert rows("out.parquet") == [{"text": "a", "upper": "A"}]


def test_another_output_mode_reuses_what_was_computed(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"], "other": [1]})
    run_job("Picky", **OPTIONS)
    calls()
    run_job("Picky", output_mode="replace", **OPTIONS)
    assert calls() == []
    assert rows("out.parquet") == [{"_row_id": 0, "upper": "A"}]


def test_another_jobs_parts_are_not_taken_for_this_ones(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Picky", **OPTIONS)
    with pytest.raises(CheckpointError, match="job_kwargs"):
        run_job("Picky", job_kwargs={"bad": "worse"}, **OPTIONS)


def test_a_changed_input_is_refused_under_generated_ids(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"]})
    run_job("Picky", **OPTIONS)
    write("in.parquet", {"text": ["b"]})
    with pytest.raises(CheckpointError, match="The input changed"):
        run_job("Picky", **OPTIONS)


@pytest.mark.parametrize("damage", ["truncate", "empty", "text", "foreign"])
def test_a_damaged_part_is_set_aside_and_its_rows_are_computed_again(run_job: Run, damage: str) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    run_job("Picky", **OPTIONS)
    calls()
    part = next(Path().glob(".domyn-swarm/*/parts/*.parquet"))
    content = part.read_bytes()
    if damage == "foreign":
        write(part, {"something": ["else"]})
    else:
        part.write_bytes({"truncate": content[:-20], "empty": b"", "text": b"hello"}[damage])
    Path("out.parquet").unlink()
    run_job("Picky", **OPTIONS)
    assert calls() == ["a", "b"]
    assert [row["upper"] for row in rows("out.parquet")] == ["A", "B"]
    assert [path.name for path in part.parents[1].glob("damaged/*")] == [part.name]


@pytest.mark.clusters
def test_rows_of_a_part_with_a_rotten_page_are_computed_again_before_the_output_is_written(run_job: Run) -> None:
    write("in.parquet", {"text": ["a" * 1000, "b" * 1000]})
    run_job("Picky", **OPTIONS)
    calls()
    part = next(Path().glob(".domyn-swarm/*/parts/*.parquet"))
    content = bytearray(part.read_bytes())
    import pyarrow.parquet as pq

    column = pq.read_metadata(part).row_group(0).column(2)
    middle = column.data_page_offset + column.total_compressed_size - 8
    content[middle : middle + 4] = b"\x55\x55\x55\x55"
    part.write_bytes(content)
    Path("out.parquet").unlink()
    run_job("Picky", **OPTIONS)
    assert len(calls()) == 2
    assert [path.name for path in Path().glob(".domyn-swarm/*/damaged/*")] == [part.name]
    assert [row["upper"] for row in rows("out.parquet")] == ["A" * 1000, "B" * 1000]


def test_types_of_earlier_runs_bind_later_ones(run_job: Run) -> None:
    write("in.parquet", {"value": ["text", "1"]})
    options = {"input": "in.parquet", "input_columns": ["value"], "output_columns": ["made"], "retries": 0}
    run_job("Numeric", limit=1, **options)
    result = run_job("Numeric", **options)
    assert rows("out.parquet") == [{"value": "text", "made": "text"}, {"value": "1", "made": None}]
    assert result.failed == 1
    assert "column 'made' is string, the output is int 1" in rows("out.errors.parquet")[0]["message"]
