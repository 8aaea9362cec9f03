"""What a crash costs: with the defaults, the rows that finished in its last second."""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import start_command, write
from tests.servers.chaos import chaos

LATENCY, SECONDS = 0.1, 1.2
AGAIN = pytest.mark.stress


@pytest.mark.parametrize(
    ("engine", "concurrency", "times"),
    [
        ("pandas", 10, 1),
        *(
            pytest.param(engine, concurrency, 5, marks=AGAIN)
            for engine, concurrency in itertools.product(["pandas", "polars"], [10, 50])
        ),
    ],
)
def test_a_kill_loses_no_more_than_the_last_second(engine: str, concurrency: int, times: int) -> None:
    write("in.parquet", {"messages": [f"row {number}" for number in range(5000)]})
    chance = random.Random(11)
    with chaos("--latency", str(LATENCY)) as server:
        for number in range(times):
            names = ["--input", "in.parquet", "--output", f"{number}.parquet", "--data-backend", engine]
            options = ["--endpoint", server.url, "--max-concurrency", str(concurrency)]
            before = server.count()
            with start_command("job", "submit", *names, *options, stderr=subprocess.DEVNULL) as run:
                while server.count() < before + concurrency:
                    time.sleep(0.01)
                time.sleep(chance.uniform(2, 4))
                run.kill()
            asked = server.count() - before
            kept = sum(
                pq.read_metadata(part).num_rows
                for part in Path(f".domyn-swarm/{number}.parquet/parts").glob("*.parquet")
            )
            assert asked - concurrency - kept <= SECONDS * concurrency / LATENCY
