"""SIGUSR1 tells a run that its time is up: what it was doing ends well, and its exit status says whether to go on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import command_line, job, rows, stop, write

TEXTS = [f"row {number}" for number in range(400)]
SUBMIT = (
    "job",
    "submit",
    job("Recorded"),
    "--input",
    "in.parquet",
    "--output",
    "out.parquet",
    "--max-concurrency",
    "8",
)
RUN = Path(".domyn-swarm/out.parquet")


def called() -> list[str]:
    return Path("calls").read_text().splitlines() if Path("calls").exists() else []


def told() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RUN / "run.json").read_text())
    return record


def told_time_is_up(*arguments: str, calls: int) -> subprocess.CompletedProcess[str]:
    """The run, once it has begun so many calls and was sent the signal."""
    process = subprocess.Popen([*arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while len(called()) < calls:
            assert time.monotonic() < deadline, "the job does not start"
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        out, err = process.communicate(timeout=60)
    finally:
        stop(process, signal.SIGKILL)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_calls_in_flight_are_kept_and_whoever_asked_for_it_is_told_to_go_on() -> None:
    write("in.parquet", {"text": TEXTS})
    ended = told_time_is_up(*command_line(*SUBMIT, "--job-kwargs", '{"seconds": 0.02}'), calls=50)
    first = called()
    assert (ended.returncode, ended.stdout) == (124, "")
    assert "time is up: finishing what is in flight" in ended.stderr
    assert (
        f"Time was up.\n{len(first):,} rows of this run are kept in {RUN}. Run the same command again" in ended.stderr
    )
    assert told()["state"] == "interrupted"

    driver = [sys.executable, "-m", "domyn_swarm.jobs.run", f"{RUN}/spec.json"]
    ended = told_time_is_up(*driver, "--when-time-is-up", "touch asked", calls=len(first) + 50)
    assert ended.returncode == 124
    assert ended.stderr.endswith(" exit status 124\n")
    assert Path("asked").exists()

    Path("anew.json").write_text(json.dumps({**json.loads((RUN / "spec.json").read_text()), "resume": False}))
    subprocess.run([*driver[:-1], "anew.json", "--resume"], check=True)  # what a batch system starts again
    assert sorted(called()) == sorted(TEXTS)
    assert rows("out.parquet") == [{"text": text, "upper": text.upper()} for text in TEXTS]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"job_kwargs": {"seconds": 3600}}, "0 rows of this run are kept", marks=pytest.mark.stress),
        ({"job_kwargs": {"seconds": 0.02}, "checkpointing": False}, "Nothing is kept, because checkpointing is off."),
    ],
    ids=["no row was done", "rows are not kept"],
)
def test_where_nothing_comes_of_it_nobody_is_asked_to_go_on(options: dict[str, Any], says: str) -> None:
    write("in.parquet", {"text": TEXTS})
    spec = {"job": job("Recorded"), "input": "in.parquet", "output": "out.parquet", "max_concurrency": 2, **options}
    Path("spec.json").write_text(json.dumps(spec))
    driver = [sys.executable, "-m", "domyn_swarm.jobs.run", "spec.json", "--when-time-is-up", "touch asked"]
    ended = told_time_is_up(*driver, calls=2)
    assert ended.returncode == 1
    assert f"Time was up before a row was done that is kept.\nAllow more time. {says}" in ended.stderr
    assert not Path("asked").exists()


def told_at(node: str, *signals: str) -> subprocess.CompletedProcess[str]:
    """A run that gets the signals in the very moment when `node` begins."""
    Path("timed.py").write_text(
        "import os, signal\n"
        "from hamilton.lifecycle import NodeExecutionHook\n"
        "class Tells(NodeExecutionHook):\n"
        "    def run_before_node_execution(self, *, node_name, **more):\n"
        f"        for name in {signals} if node_name == {node!r} else ():\n"
        "            os.kill(os.getpid(), getattr(signal, name))\n"
        "    def run_after_node_execution(self, **more): pass\n"
    )
    write("in.parquet", {"text": ["a", "b"]})
    spec = {"job": job("Recorded"), "input": "in.parquet", "output": "out.parquet", "adapters": ["timed:Tells"]}
    Path("spec.json").write_text(json.dumps(spec))
    driver = [sys.executable, "-m", "domyn_swarm.jobs.run", "spec.json"]
    return subprocess.run(driver, check=False, capture_output=True, text=True, timeout=60)


def test_an_output_that_is_being_written_is_written() -> None:
    done = told_at("finalized", "SIGUSR1")
    assert done.returncode == 0, done.stderr
    assert "time is up" in done.stderr
    assert rows("out.parquet") == [{"text": "a", "upper": "A"}, {"text": "b", "upper": "B"}]


def test_an_output_that_time_cuts_short_after_all_is_worth_going_on_with() -> None:
    ended = told_at("finalized", "SIGUSR1", "SIGTERM")
    assert ended.returncode == 124
    assert f"Time was up.\n2 rows of this run are kept in {RUN}." in ended.stderr
    assert not Path("out.parquet").exists()


def test_a_run_that_is_still_being_planned_ends_before_its_first_call() -> None:
    ended = told_at("limited", "SIGUSR1")
    assert (ended.returncode, called()) == (1, [])
    assert "Time was up before a row was done that is kept.\nAllow more time." in ended.stderr
    assert told()["state"] == "failed"


def test_a_run_that_is_asked_to_end_while_it_is_being_planned_says_so() -> None:
    ended = told_at("limited", "SIGTERM")
    assert (ended.returncode, ended.stdout) == (130, "")
    assert re.fullmatch(r"Interrupted\.\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d exit status 130\n", ended.stderr)
    assert not RUN.exists()
