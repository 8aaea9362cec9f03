"""Any table of any types is refused in planning, or comes out the same on every engine, however the run was cut."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from domyn_swarm import make_spec, run
from domyn_swarm.errors import SwarmError
from tests.conftest import Command, start_command
from tests.corpus.arrow_values import tables
from tests.corpus.compare import differences, output, same_values
from tests.corpus.engines import JOB
from tests.corpus.jobs import CALLS_LEFT, END, OUTPUT
from tests.servers.ray_cluster import SETTINGS

ENGINES = ("pandas", "polars")
KILLING_JOB = JOB.replace(":Echo", ":KillsItsDriver")
REFUSED, ENDED, INTERRUPTED = 2, (0, 3), 130
MANY = 2 * settings.default.max_examples
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@settings(PATIENT, max_examples=3)
@given(table=tables(), cut=st.integers(0, 5))
def test_a_table_comes_out_the_same_on_every_engine_through_an_interrupt(table: pa.Table, cut: int) -> None:
    check(table, ENGINES, cut)


@pytest.mark.stress
@settings(PATIENT, max_examples=MANY)
@given(table=tables(rows=12), cut=st.integers(0, 11))
def test_the_same_for_many_tables(table: pa.Table, cut: int) -> None:
    check(table, ENGINES, cut)


@pytest.mark.stress
@settings(PATIENT, max_examples=15)
@given(table=tables(rows=12), cut=st.integers(1, 11))
def test_the_same_through_a_kill(table: pa.Table, cut: int, command: Command) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = written(table, Path(folder))
        for engine in ENGINES:
            options = ["--input", str(source), "--output", f"{folder}/{engine}.parquet", "--data-backend", engine]
            options += [f"--input-column={name}" for name in table.column_names]
            arguments = ("job", "submit", JOB, *options, "--checkpoint-interval", "0.01", "--retries", "0")
            killed = command(*arguments, env={CALLS_LEFT: str(cut), END: "kill"})
            resumed = command(*arguments)
            assert killed.returncode in (REFUSED, -9, *ENDED), killed.stderr
            assert resumed.returncode in (REFUSED, *ENDED), resumed.stderr
        compare(Path(folder), source)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster that all examples share."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield cluster.address
        cluster.shutdown()


@pytest.mark.stress
@settings(PATIENT, max_examples=3, phases=[Phase.generate])  # few and wide ones: each starts two drivers
@given(table=tables(rows=12, most_columns=12), cut=st.integers(1, 11))
def test_the_same_on_a_cluster_through_a_kill(table: pa.Table, cut: int, cluster: str, command: Command) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = written(table, Path(folder))
        driver = Path(folder, "driver")
        shared = ["--input", str(source), "--checkpoint-interval", "0.01", "--retries", "0", "--max-concurrency", "1"]
        shared += [f"--input-column={name}" for name in table.column_names]
        plain = command("job", "submit", JOB, "--output", f"{folder}/pandas.parquet", *shared)
        kwargs = json.dumps({"driver": str(driver), "calls": cut})
        on_ray = ["--data-backend", "ray", "--ray-address", cluster, "--job-kwargs", kwargs]
        arguments = ["job", "submit", KILLING_JOB, "--output", f"{folder}/ray.parquet", *shared, *on_ray]
        with start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
            driver.write_text(str(first.pid))
            _, said = first.communicate(timeout=120)
        driver.unlink()
        assert first.returncode in ((REFUSED,) if plain.returncode == REFUSED else (-9, *ENDED)), said
        assert command(*arguments).returncode == plain.returncode
        compare(Path(folder), source)


def check(table: pa.Table, engines: Sequence[str], cut: int) -> None:
    """Run the table through `engines`, interrupted after `cut` calls and resumed, and compare what comes out."""
    with tempfile.TemporaryDirectory() as folder:
        source = written(table, Path(folder))
        for engine in engines:
            options = {"input": str(source), "output": f"{folder}/{engine}.parquet", "data_backend": engine}
            options |= {"input_columns": table.column_names}
            os.environ[CALLS_LEFT] = str(cut)
            first = status(options)
            os.environ.pop(CALLS_LEFT)
            assert first in (REFUSED, INTERRUPTED, *ENDED)
            assert status(options) == (REFUSED if first == REFUSED else pytest.approx(0, abs=3))
        compare(Path(folder), source)


def written(table: pa.Table, folder: Path) -> Path:
    """The table as a parquet file, if parquet holds it."""
    path = folder / "in.parquet"
    try:
        pq.write_table(table, path)
        pq.read_table(path)
    except (pa.ArrowException, OSError):
        assume(False)
    return path


def status(options: dict[str, Any]) -> int:
    """The exit status of a run. An error that is none of ours is raised, and one that is ours but broke the run."""
    try:
        return run(make_spec({"job": JOB, "retries": 0, **options})).exit_status
    except SwarmError as error:
        if error.exit_status in (REFUSED, INTERRUPTED):
            return error.exit_status
        raise


def compare(folder: Path, source: Path) -> None:
    """What came out is the same everywhere, and the input's columns are the input's."""
    outputs = {
        path.stem: output(path) for path in folder.glob("*.parquet") if path != source and ".errors" not in path.name
    }
    assert outputs == {} or list(differences(outputs)) == []
    expected = output(source)
    for table in outputs.values():
        assert table.column_names == [*expected.column_names, OUTPUT]
        for name in expected.column_names:
            assert table.schema.field(name).type == expected.schema.field(name).type
            assert same_values(table[name], expected[name]), name
    failures = {path.name.partition(".")[0]: output(path) for path in folder.glob("*.errors.parquet")}
    assert failures == {} or list(differences(failures)) == []
