"""One run, any engine: what one began another ends, and nothing is computed twice."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from domyn_swarm import make_spec, run
from tests.conftest import job, rows, write


@pytest.mark.parametrize("order", list(permutations(["pandas", "polars", "ray"])), ids="-".join)
def test_a_run_that_began_on_one_engine_goes_on_with_another(order: tuple[str, ...]) -> None:
    texts = [f"row {number}" for number in range(30)]
    write("in/0.parquet", {"id": list(range(20)), "text": texts[:20]}, row_group_size=3)
    write("in/1.parquet", {"id": list(range(20, 30)), "text": texts[20:]}, row_group_size=4)
    options = {
        "job": job("Recorded"), "input": "in", "output": "out.parquet", "input_columns": ["text"],
        "output_columns": ["upper"], "id_column": "id", "job_kwargs": {"calls": str(Path("calls").absolute())},
    }  # fmt: skip
    for engine, limit in zip(order, [7, 25, None], strict=True):
        run(make_spec({**options, "data_backend": engine, "limit": limit}))
    assert rows("out.parquet") == [{"id": at, "text": text, "upper": text.upper()} for at, text in enumerate(texts)]
    assert sorted(Path("calls").read_text().splitlines()) == sorted(texts)
