"""One run, any engine: any engine resumes another's run, and nothing is computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from domyn_swarm import make_spec, run
from tests.conftest import job, rows, write


@pytest.mark.clusters
def test_a_run_that_began_on_one_engine_is_resumed_by_the_others(backend: str, backends: list[str]) -> None:
    texts = [f"row {number}" for number in range(30)]
    write("in/0.parquet", {"id": list(range(20)), "text": texts[:20]}, row_group_size=3)
    write("in/1.parquet", {"id": list(range(20, 30)), "text": texts[20:]}, row_group_size=4)
    options = {
        "job": job("Recorded"), "input": "in", "output": "out.parquet", "input_columns": ["text"],
        "output_columns": ["upper"], "id_column": "id", "job_kwargs": {"calls": str(Path("calls").absolute())},
    }  # fmt: skip
    first = backends.index(backend)
    for stage, engine in enumerate([*backends[first:], *backends[:first]], start=1):
        limit = 30 * stage // len(backends)
        run(make_spec({**options, "data_backend": engine, "limit": limit}))
    assert rows("out.parquet") == [{"id": at, "text": text, "upper": text.upper()} for at, text in enumerate(texts)]
    assert sorted(Path("calls").read_text().splitlines()) == sorted(texts)
