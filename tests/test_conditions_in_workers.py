"""Conditions that workers in other processes meet: they are nobody's failure there either, and end the whole run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, rows, write
from tests.test_completion_jobs import echo
from tests.test_conditions import NO_CREDIT, TEXTS, after, limited, submit
from tests.test_endpoint import serving

pytestmark = [pytest.mark.stress, pytest.mark.timeout(300)]


@pytest.fixture
def on_ray(command: Command) -> Iterator[Any]:
    """The command on a Ray of two CPUs, which it starts itself. Sockets' paths have to be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        env = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
        yield lambda *line: command(*line, "--data-backend", "ray", "--max-concurrency", "8", env=env, timeout=200)


def test_with_a_rate_limit_no_row_fails_that_a_worker_asks_for(on_ray: Any) -> None:
    write("in.parquet", {"item": TEXTS}, row_group_size=10)
    with serving(limited(15, 5, **{"Retry-After": "1"})) as server:
        done = on_ray(*submit(server.url, "--retries", "0"))
        assert len(server.bodies) <= 1.5 * len(TEXTS)
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in rows("out.parquet")] == [f"<{text}>" for text in TEXTS]


def test_no_credit_ends_the_run_of_all_workers_and_another_model_does_not_resume_it(on_ray: Any) -> None:
    write("in.parquet", {"item": TEXTS}, row_group_size=10)
    with serving(after(20, 402, NO_CREDIT)) as server:
        ended = on_ray(*submit(server.url))
        assert len(server.bodies) <= 20 + 8
    assert ended.returncode == 1, ended.stderr
    assert "Insufficient Balance" in ended.stderr
    assert "20 rows of this run are kept" in ended.stderr
    assert json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())["failed"] == 0
    with serving(echo, ("another",)) as server:
        refused = on_ray(*submit(server.url))
        assert server.bodies == []
    assert refused.returncode == 2, refused.stderr
    with serving(echo) as server:
        done = on_ray(*submit(server.url))
        assert len(server.bodies) == 40
    assert done.returncode == 0, done.stderr
