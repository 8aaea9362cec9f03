"""What an engine cannot do with a column is refused before the first call."""

from __future__ import annotations

import pyarrow as pa
import pytest

from domyn_swarm.errors import ConfigurationError
from tests.conformance.conftest import Run
from tests.conformance.test_types import CARRIED
from tests.conftest import rows, tree, write

FRAMELESS = {
    "pandas": ("uuids", "list<element: extension<arrow.uuid>>"),
    "polars": ("decimal256", r"decimal256\(60, 2\)"),
}
"""A column that each engine's frames cannot hold."""


def test_items_of_every_type_reach_the_job(run_job: Run, mode: str) -> None:
    unread = ("far_date", "far_time", "latin_1", "latin_1_category")
    columns = {name: values for name, values in CARRIED.items() if name not in unread}
    write("in.parquet", pa.table({"text": ["a", "b", "c"], **columns}))
    inputs = list(columns) if mode == "compatibility" else ["text"]
    assert run_job("Rows", input="in.parquet", input_columns=inputs).failed == 0
    assert [row["made"] for row in rows("out.parquet")] == [len(inputs)] * 3


@pytest.mark.parametrize("mode", ["native"])
def test_a_type_that_frames_cannot_hold_is_refused_before_the_first_call(run_job: Run, backend: str) -> None:
    name, kind = FRAMELESS.get(backend, ("", ""))
    write(
        "in.parquet",
        pa.table({"text": ["a", "b", "c"], "uuids": CARRIED["uuids"], "decimal256": CARRIED["decimal256"]}),
    )
    options = {"input": "in.parquet", "input_columns": ["text", "uuids", "decimal256"]}
    if not name:
        assert run_job("Rows", **options).failed == 0
        return
    with pytest.raises(ConfigurationError, match=f"column '{name}' is {kind}, which the {backend} backend") as refused:
        run_job("Rows", **options)
    assert refused.value.exit_status == 2
    assert tree() == {"in.parquet"}


@pytest.mark.parametrize("mode", ["compatibility"])
def test_a_time_zone_that_is_not_known_here_is_refused_before_the_first_call(run_job: Run) -> None:
    moments = pa.array([0, None, 2], pa.timestamp("us", "Nowhere/City"))
    write(
        "in.parquet",
        pa.table({"text": ["a", "b", "c"], "times": pa.array([[0], [], None], pa.list_(moments.type)), "at": moments}),
    )
    before = tree()
    for name in ("at", "times"):
        with pytest.raises(ConfigurationError, match=f"column '{name}' is "):
            run_job("Rows", input="in.parquet", input_columns=["text", name])
    assert tree() == before
