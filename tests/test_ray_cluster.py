"""Ray for real: two nodes on this machine, workers and nodes and drivers that are killed, a client's address."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Command, job, rows, start_command, stop, tree, write
from tests.servers.ray_cluster import SETTINGS

pytestmark = pytest.mark.stress

CLIENT_PORT = 25079
ROWS = 4000
TEXTS = [f"row {number}" for number in range(ROWS)]
EXPECTED = [{"text": text, "upper": text.upper()} for text in TEXTS]


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(settings: None) -> Iterator[Any]:
    """A head without a CPU for work, as clusters have, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def a_node(cluster: Any) -> Iterator[Any]:
    """One of the two nodes, to be killed: another one takes its place."""
    yield next(iter(cluster.worker_nodes))
    cluster.add_node(num_cpus=1)


def submit(address: str, *more: str, seconds: float = 0.01) -> list[str]:
    calls = Path("calls").absolute()
    kwargs = f'{{"seconds": {seconds}, "calls": "{calls}"}}'
    return [
        "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet", "--data-backend", "ray",
        "--ray-address", address, "--job-kwargs", kwargs, "--checkpoint-interval", "0.5", "--max-concurrency", "8",
        *more,
    ]  # fmt: skip


def started(arguments: list[str]) -> subprocess.Popen[str]:
    write("in.parquet", {"text": TEXTS}, row_group_size=250)
    return start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def calls() -> Counter[str]:
    return Counter(Path("calls").read_text().splitlines() if Path("calls").exists() else [])


def durable() -> set[str]:
    parts = Path(".domyn-swarm/out.parquet/parts").glob("*.parquet")
    return {TEXTS[row] for part in parts for row in pq.read_table(part)["_row_id"].to_pylist()}


def wait_for_durable(count: int) -> None:
    deadline = time.monotonic() + 60
    while len(durable()) < count:
        assert time.monotonic() < deadline, "the job makes no progress"
        time.sleep(0.1)


def finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    assert rows("out.parquet") == EXPECTED


def pids_of_workers() -> list[int]:
    """The processes of the actors that hold jobs."""
    found = subprocess.run(["pgrep", "-f", r"^ray::_Actor"], check=False, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_worker_that_is_killed_costs_only_what_it_had_not_made_durable(cluster: Any) -> None:
    process = started(submit(cluster.address))
    try:
        wait_for_durable(500)
        kept = durable()
        os.kill(pids_of_workers()[0], signal.SIGKILL)
        finish(process)
    finally:
        stop(process, signal.SIGKILL)
    assert set(calls()) == set(TEXTS)
    assert [text for text in kept if calls()[text] > 1] == []


def test_a_node_that_is_killed_costs_only_what_it_had_not_made_durable(cluster: Any, a_node: Any) -> None:
    process = started(submit(cluster.address))
    try:
        wait_for_durable(500)
        kept = durable()
        cluster.remove_node(a_node, allow_graceful=False)
        finish(process)
    finally:
        stop(process, signal.SIGKILL)
    assert set(calls()) == set(TEXTS)
    assert [text for text in kept if calls()[text] > 1] == []


def test_a_driver_that_is_killed_resumes(cluster: Any, command: Command) -> None:
    process = started(submit(cluster.address))
    wait_for_durable(500)
    process.kill()
    process.communicate()
    _wait_until_nobody_works()
    kept, seen = durable(), calls()
    again = command(*submit(cluster.address))
    assert again.returncode == 0, again.stderr
    assert rows("out.parquet") == EXPECTED
    assert kept & set(calls() - seen) == set()


def test_an_interrupt_reaches_the_workers_and_what_they_finished_is_kept(cluster: Any, command: Command) -> None:
    process = started(submit(cluster.address))
    wait_for_durable(100)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Run the same command again" in err
    assert set(calls()) == durable()
    assert command(*submit(cluster.address)).returncode == 0
    assert rows("out.parquet") == EXPECTED
    assert max(calls().values()) == 1


@pytest.mark.parametrize("files", [1, 8])
def test_workers_share_the_rows_whatever_files_they_are_in(cluster: Any, command: Command, files: int) -> None:
    for number in range(files):
        write(f"in/{number}.parquet", {"text": TEXTS[number:500:files]})
    done = command(
        "job", "submit", job("Process"), "--input", "in", "--output", "out.parquet", "--data-backend", "ray",
        "--ray-address", cluster.address,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shares = Counter(row["process"] for row in rows("out.parquet"))
    assert len(shares) == 2
    assert min(shares.values()) >= 500 // 5


@given(most=st.integers(1, 500), pending=st.integers(0, 10**9), batch=st.integers(1, 100_000))
def test_every_worker_gets_rows_and_no_batch_is_cut(most: int, pending: int, batch: int) -> None:
    from domyn_swarm.data.backends.ray_cluster import Shares

    shares = Shares.among(most, pending, batch)
    assert shares.rows % batch == 0
    assert 1 <= shares.workers <= most
    assert shares.workers == 1 or (shares.workers - 1) * shares.rows < pending
    assert shares.workers == most or pending < most * max(64, batch)


def test_the_address_of_a_client(cluster: Any, command: Command) -> None:
    write("in.parquet", {"text": TEXTS[:100]})
    done = command(*submit(f"ray://127.0.0.1:{CLIENT_PORT}"))
    assert done.returncode == 0, done.stderr
    assert rows("out.parquet") == EXPECTED[:100]


def test_two_cpus_are_enough_fresh_and_resuming(command: Command) -> None:
    write("in.parquet", {"text": TEXTS[:300]}, row_group_size=10)
    environment = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    first = command(*submit("local", "--limit", "200", seconds=0), env=environment, timeout=240)
    assert first.returncode == 0, first.stderr
    second = command(*submit("local", seconds=0), env=environment, timeout=240)
    assert second.returncode == 0, second.stderr
    assert "done before  200" in second.stdout
    assert rows("out.parquet") == EXPECTED[:300]


def test_a_cluster_that_does_not_answer_is_refused(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    done = command(*submit("127.0.0.1:1"), timeout=240)
    assert done.returncode == 2
    assert "--ray-address: 127.0.0.1:1 cannot be used" in done.stderr
    assert tree() == {"in.parquet"}


def _wait_until_nobody_works() -> None:
    deadline = time.monotonic() + 60
    while pids_of_workers():
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.2)
