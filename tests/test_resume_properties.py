"""The laws of resuming: wherever a run was cut, and however often, the output is that of a run that was not."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from domyn_swarm import make_spec, run
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.engine.recording.metrics import NullProgress
from domyn_swarm.errors import JobError
from domyn_swarm.telemetry.counts import Counts
from tests.conftest import job, rows, write


class Cut(NullProgress):
    """Breaks a run after so many rows, from outside the job."""

    def __init__(self, after: int) -> None:
        self._left = after

    def advanced(self, more: Counts) -> None:
        self._left -= more.rows
        if self._left < 0:
            raise RuntimeError("cut")


@settings(max_examples=8)
@given(
    count=st.integers(0, 150),
    group=st.integers(1, 60),
    batch=st.integers(1, 40),
    native=st.booleans(),
    cuts=st.lists(st.tuples(st.integers(0, 150), st.none() | st.integers(1, 150)), max_size=4),
)
def test_a_run_that_was_cut_equals_one_that_was_not(
    count: int, group: int, batch: int, native: bool, cuts: list[tuple[int, int | None]]
) -> None:
    texts = [f"row {number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        source = write(f"{folder}/in.parquet", pa.table({"text": pa.array(texts, pa.string())}), row_group_size=group)
        options: dict[str, Any] = {
            "job": job("Picky"), "input": source, "output": f"{folder}/out.parquet", "input_columns": ["text"],
            "output_columns": ["upper"], "native_backend": native, "native_batch_size": batch, "max_concurrency": 3,
            "job_kwargs": {"calls": f"{folder}/calls"},
        }  # fmt: skip
        for after, limit in cuts:
            try:
                run(make_spec({**options, "limit": limit}), Cut(after))
            except JobError as error:
                assert "RuntimeError: cut" in str(error)  # noqa: PT017 - whether a cut comes before the end is left to chance
        result = run(make_spec(options))
        assert rows(f"{folder}/out.parquet") == [{"text": text, "upper": text.upper()} for text in texts]
        assert result.rows == result.done_before + result.done_now == count
        calls = Counter(Path(folder, "calls").read_text().splitlines() if count else [])
        assert set(calls) == set(texts)


Outcome = st.tuples(st.integers(0, 40), st.none() | st.integers())


def _finished(outcomes: list[tuple[int, int | None]]) -> pa.Table:
    """A table as a run makes it: a position with an output, or with a failure where the output is None."""
    failures = [None if value is not None else {"type": "E", "message": "m", "attempts": 1} for _, value in outcomes]
    return pa.table(
        {
            POSITION: pa.array([position for position, _ in outcomes], pa.int64()),
            "id": pa.array([f"id-{position}" for position, _ in outcomes], pa.string()),
            "made": pa.array([None if value is None else value % 1000 for _, value in outcomes], pa.int64()),
            FAILURE: pa.array(failures, FAILURE_TYPE),
        }
    )


@given(runs=st.lists(st.lists(st.lists(Outcome, max_size=8, unique_by=lambda o: o[0]), max_size=4), max_size=4))
def test_the_store_holds_the_latest_success_of_each_row(runs: list[list[list[tuple[int, int | None]]]]) -> None:
    latest: dict[int, int] = {}
    tried: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        for number, tables in enumerate(runs, start=1):
            store = CheckpointStore(RunFolder(f"{folder}/run"), "id", "digest", ["made"])
            store.begin("run", number, {})
            report = store.flush(map(_finished, tables), interval=1e-9)
            assert report.rows == sum(len(outcomes) for outcomes in tables)
            for position, value in (outcome for outcomes in tables for outcome in outcomes):
                tried.add(position)
                if value is not None:
                    latest[position] = value % 1000
        store = CheckpointStore(RunFolder(f"{folder}/run"), "id", "digest", ["made"])
        done = store.done(_no_ids_move)
        assert set(np.flatnonzero(done.finished).tolist()) == set(latest)
        assert done.failed == len(tried - set(latest))
        found = [row for table in store.outputs().tables() for row in table.to_pylist()]
        assert found == [
            {POSITION: position, "id": f"id-{position}", "made": latest.get(position)} for position in sorted(tried)
        ]
        failures = [row[POSITION] for table in store.failures() for row in table.to_pylist()]
        assert failures == sorted(tried - set(latest))


def _no_ids_move(ids: pa.Array[Any]) -> pa.Array[Any]:
    raise AssertionError(f"all parts count in today's input, yet {ids} was looked up")
