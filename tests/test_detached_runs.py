"""Runs that go on by themselves on this machine: they outlive terminals, and what is told of them is true."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.errors import JobError
from domyn_swarm.runs.find import all_runs
from domyn_swarm.runs.index import register
from domyn_swarm.runs.state import statuses
from tests.conftest import Command, command_line, job, rows, start_command, stop, tree, write
from tests.detached import (
    FOLDER,
    LONG,
    SUBMIT,
    called,
    called_here,
    driver,
    end_all,
    members,
    refusal,
    said,
    slow,
    state,
    texts,
    until,
)
from tests.servers.object_store import KEY, SECRET, object_store

DETACH = (*SUBMIT, "--detach")


@pytest.fixture(autouse=True)
def nothing_goes_on_behind_a_test(folder: Path) -> Iterator[None]:
    yield
    end_all(folder)


def index() -> Path:
    return Path(os.environ["XDG_DATA_HOME"]) / "domyn-swarm/runs.sqlite"


def durable() -> int:
    return sum(len(rows(part)) for part in FOLDER.glob("parts/*.parquet"))


# Terminals and processes that go away


def test_a_run_outlives_its_terminal_and_says_how_to_follow_it(command: Command) -> None:
    expected = texts(LONG)
    shell = pexpect.spawn("bash", ["--norc"], encoding="utf-8", timeout=60, env={**os.environ, "PS1": "$ "})
    shell.sendline(shlex.join([*command_line(*DETACH), *slow(0.05), "--job-name", "night-shift"]))
    shell.expect(r"cancel +domyn-swarm job cancel night-shift")
    printed = str(shell.before)
    assert "name       night-shift" in printed
    assert "state      running (process " in printed
    assert "folder     .domyn-swarm/out.parquet" in printed
    assert "follow     domyn-swarm job logs -f night-shift" in printed
    until(called)
    shell.kill(signal.SIGKILL)  # the leader of the session, whose end closes the terminal and hangs up on all in it
    shell.close(force=True)
    assert os.getsid(driver()) == driver() != shell.pid
    os.kill(driver(), signal.SIGHUP)  # as some logouts do to whatever is left of their user
    assert [(run["name"], run["state"]) for run in said("job", "list")] == [("night-shift", "running")]
    follower = start_command("job", "logs", "-f", "-n", "1", "night-shift", stdout=subprocess.PIPE)
    assert follower.stdout
    assert "rows" in follower.stdout.readline()
    Path("fast").touch()
    followed, _ = follower.communicate(timeout=60)
    assert "6,000 of 6,000 rows" in followed
    assert followed.endswith("exit status 0\n")
    waited = command("job", "wait", "night-shift")
    assert (waited.returncode, waited.stdout) == (0, "night-shift is done: 6,000 of 6,000 rows\n")
    assert sorted(called()) == sorted(expected)
    assert rows("out.parquet") == [{"text": text, "upper": text.upper()} for text in expected]
    again = command(*DETACH, *slow(0.05))
    assert again.returncode == 0
    assert "every row is done, nothing to do" in again.stdout


def test_a_killed_run_is_lost_a_cancelled_one_flushes_and_both_resume_to_every_row_once(command: Command) -> None:
    expected = texts(LONG)
    assert said(*DETACH, *slow(0.05))["state"] == "running"
    until(lambda: durable() > 8)
    kept = durable()
    os.kill(driver(), signal.SIGKILL)
    lost = said("job", "status", "out")[0]
    assert (lost["state"], lost["resume"]) == ("lost", "domyn-swarm job resume out")
    before = len(called())
    assert said("job", "resume", "out")["state"] == "running"
    refused = command(*DETACH, *slow(0.05))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: out is running (process {driver()} on ")
    assert refusal("job", "rm", "out", "--yes").startswith("out is running (process ")
    until(lambda: len(called()) > before + 20)
    cancelled = said("job", "cancel", "out")
    assert cancelled["state"] == "cancelled"
    assert cancelled["rows"] == durable() == len(set(called()))  # what was in flight was finished and kept
    repeated = len(called()) - len(set(called()))
    assert repeated <= before - kept  # only what was not durable
    assert members(driver()) == []
    assert said("job", "wait", "out", status=130)["exit_status"] == 130
    assert said("job", "cancel", "out")["state"] == "cancelled", "it stays as it is"
    Path("fast").touch()
    said("job", "resume", "out")
    assert said("job", "wait", "out")["state"] == "done"
    assert len(called()) - len(set(called())) == repeated
    assert rows("out.parquet") == [{"text": text, "upper": text.upper()} for text in expected]


def test_a_run_that_does_not_end_is_killed_with_all_of_its_session(command: Command) -> None:
    texts(2)
    said(*DETACH, *slow(3600))
    until(called)
    timed_out = command("job", "wait", "out", "--timeout", "0.1")
    assert (timed_out.returncode, timed_out.stdout) == (124, "")
    leader, sent = driver(), (FOLDER / "submission.json").read_text()
    (FOLDER / "submission.json").write_text(sent.replace('"machine": "', '"machine": "not '))
    assert state("out") == "running", "on a machine that cannot be looked into its lock tells"
    with pytest.raises(JobError, match="signals do not reach other machines"):
        called_here("job", "cancel", "out")
    (FOLDER / "submission.json").write_text(sent)
    assert said("job", "cancel", "out", "--grace", "0")["state"] == "cancelled"
    assert members(leader) == []


def test_of_two_that_are_submitted_at_once_one_wins_and_the_other_names_it() -> None:
    texts(LONG)
    both = [start_command(*DETACH, *slow(0.05), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    ends = sorted((process.wait(), *process.communicate()) for process in both)
    assert [status for status, _, _ in ends] == [0, 2]
    assert "process " in ends[1][2]
    Path("fast").touch()
    assert said("job", "wait", "out")["state"] == "done"
    assert len(called()) == LONG


# What is told


def test_rows_that_fail_are_told_by_state_and_exit_status_and_a_resume_tries_them_again(command: Command) -> None:
    write("in.parquet", {"text": ["a", "bad", "c"]})
    files = ("--input", "in.parquet", "--output", "out/answers.parquet")
    picky = ("job", "submit", job("Picky"), *files, "--retries", "0")
    assert said(*picky, "--detach")["name"] == "answers"
    waited = command("job", "wait", "answers")
    assert (waited.returncode, waited.stdout) == (3, "answers is done with failures: 3 of 3 rows, 1 failed\n")
    assert "done with failures  3/3   1       local" in command("job", "list", "--state", "done with failures").stdout
    assert said("job", "list", "--state", "running") == []
    shown = command("job", "status", "answers").stdout
    assert "rows       3 of 3 (100%), 1 failed" in shown
    assert "resume     domyn-swarm job resume answers" in shown
    Path("mended").touch()
    said("job", "resume", "answers")
    assert said("job", "wait", "answers")["exit_status"] == 0
    assert "is done" in command("job", "wait", "out/.domyn-swarm/answers.parquet").stdout  # a folder does as well
    assert said("job", "resume", "answers")["state"] == "done"
    Path("out/.domyn-swarm/answers.parquet/notes.txt").touch()
    assert said("job", "rm", "answers", "--yes")["left"] == ["notes.txt"]
    assert {path.name for path in Path("out").rglob("*") if path.is_file()} == {"answers.parquet", "notes.txt"}


def test_a_run_that_refuses_to_begin_has_failed_for_the_reason_in_its_log(command: Command) -> None:
    Path("wary.py").write_text(
        "from pathlib import Path\n"
        "from domyn_swarm import SwarmError, SwarmJob\n"
        "from domyn_swarm.errors import ConfigurationError\n"
        "class Wary(SwarmJob):\n"
        "    input_columns, output_columns = ('text',), ('same',)\n"
        "    def preflight(self, spec):\n"
        "        if Path('seen').exists():\n"
        "            raise ConfigurationError('The second time, it does not work.')\n"
        "        Path('seen').touch()\n"
        "    def transform_item(self, text):\n"
        "        return text\n"
    )
    texts(1)
    assert (
        said("job", "submit", "wary:Wary", "--input", "in.parquet", "--output", "out.parquet", "--detach")["name"]
        == "out"
    )
    assert said("job", "wait", "out", status=2)["error"] == "The second time, it does not work."
    assert not (FOLDER / "run.json").exists()
    listed = command("job", "list").stdout.splitlines()
    assert listed[1].split()[:4] == ["out", "failed", "-", "-"]


@pytest.mark.stress
def test_a_run_in_a_terminal_is_listed_too_and_one_that_was_lost_goes_on_detached(command: Command) -> None:
    expected = texts(LONG)
    Path("deeper").mkdir()
    arguments = command_line(*SUBMIT, *slow(0.05), "--job-name", "here")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: durable() > 0)
        assert said("job", "status", "here")[0]["where"] == "terminal"
        assert state("here") == "running"
        assert "ran in a terminal" in refusal("job", "logs", "here")
    finally:
        stop(process, signal.SIGKILL)
        process.wait()
    assert state("here") == "lost"
    Path("fast").touch()
    os.chdir("deeper")  # what it was given as relative paths is found from anywhere
    assert said("job", "resume", "here")["where"] == "local"
    assert said("job", "wait", "here")["state"] == "done"
    assert rows("../out.parquet") == [{"text": text, "upper": text.upper()} for text in expected]


@pytest.mark.stress
def test_where_only_the_output_was_relative_a_resume_from_elsewhere_finds_it_too(command: Command) -> None:
    source = write(Path("in.parquet").absolute(), {"text": ["a", "bad"]})
    arguments = ("job", "submit", job("Picky"), "--input", source, "--output", "out.parquet", "--retries", "0")
    assert command(*arguments).returncode == 3
    Path("mended").touch()
    Path("deeper").mkdir()
    os.chdir("deeper")
    said("job", "resume", "out")
    assert said("job", "wait", "out")["state"] == "done"
    assert rows("../out.parquet") == [{"text": "a", "upper": "A"}, {"text": "bad", "upper": "BAD"}]
    assert list(Path().iterdir()) == []


def test_what_cannot_be_sent_is_refused_and_nothing_is_written(command: Command) -> None:
    texts(1)
    before = tree()
    for flags, said_of_it in {
        ("--no-checkpointing",): "--no-checkpointing: a detached run is managed through its folder",
        ("--slurm-args", "--time=1"): "--slurm-args requires --run-on slurm.",
        ("--run-on", "mars"): "--run-on: unknown launcher 'mars'.\nAvailable: local, ray, slurm.",
        ("--job-name", "a b"): "--job-name: 'a b' is not a plain name.",
        ("--backend-read-kwargs", '{"storage_options": {"secret": "x"}}'): "--backend-read-kwargs: its storage_options",
        ("--input-column", "nope"): "'nope'",
    }.items():
        assert said_of_it in refusal(*DETACH, *flags)
    shown = command(*DETACH, "--dry-run")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1].startswith(f"cd {Path.cwd()} && ")
    assert shown.stdout.rstrip().endswith(f">> {Path.cwd()}/.domyn-swarm/out.parquet/log.txt 2>&1")
    assert tree() == before
    assert not index().exists()


@pytest.mark.stress
def test_a_run_on_an_object_store_has_its_log_here_and_everything_else_there(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts(2)
    with object_store(log=folder / "requests.jsonl") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        store.fs.mkdir("bucket")
        files = ("--input", "in.parquet", "--output", "s3://bucket/out/answers.parquet")
        said("job", "submit", job("Upper"), *files, "--detach")
        assert said("job", "wait", "answers")["path"] == "s3://bucket/out/.domyn-swarm/answers.parquet"
        assert "2 of 2 rows" in command("job", "logs", "s3://bucket/out/.domyn-swarm/answers.parquet").stdout
        log = Path(os.environ["XDG_STATE_HOME"]) / "domyn-swarm/runs/answers/log.txt"
        assert log.exists()
        said("job", "rm", "answers", "--yes")
        assert store.fs.find("bucket") == ["bucket/out/answers.parquet"]
        assert not log.parent.exists()
        for name in store.environment:
            monkeypatch.delenv(name)
        storage = {"endpoint_url": store.url, "key": KEY, "secret": SECRET}
        kwargs = ("--backend-write-kwargs", json.dumps({"storage_options": storage}))
        assert "write-kwargs: its storage_options contain secrets" in refusal(
            "job", "submit", job("Upper"), *files, *kwargs, "--detach"
        )
        done = command("job", "submit", job("Upper"), *files, *kwargs, "--overwrite")
        assert done.returncode == 0, done.stderr
        assert store.url.encode() in index().read_bytes()
        assert SECRET.encode() not in index().read_bytes()


# Names


def test_names_are_nearly_known_completed_and_found_again_without_an_index(command: Command) -> None:
    texts(1)
    for output in ("out/answers.parquet", "other/answers.parquet"):
        command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", output, "--detach")
    assert said("job", "wait", "answers-2")["output"] == str(Path("other/answers.parquet").absolute())
    for line in ("job status answrs", "job row answrs 1", "job diff answers answrs", "checkpoint inspect answrs"):
        assert refusal(*line.split()).startswith("No run is named 'answrs'.\nDid you mean: answers, answers-2?")
    unknown = command("job", "wait", "answrs")
    assert (unknown.returncode, unknown.stderr[:31]) == (2, "Error: No run is named 'answrs'")
    taken = refusal(*DETACH, "--job-name", "answers")
    assert taken.startswith(
        f"--job-name: 'answers' is already the name of the run in {Path.cwd()}/out/.domyn-swarm/answers.parquet."
    )
    for damage in (index().unlink, lambda: index().write_bytes(os.urandom(5000)), lambda: os.truncate(index(), 3000)):
        damage()
        assert {run["name"]: run["state"] for run in said("job", "list")} == {"answers": "done", "answers-2": "done"}
    assert said("checkpoint", "inspect", "answers")["finished"] == 1
    assert said("job", "diff", "answers", "answers-2")["rows"]["same"] == 1
    words = {"COMP_WORDS": "domyn-swarm job status a", "COMP_CWORD": "3", "_DOMYN_SWARM_COMPLETE": "complete_bash"}
    assert command(env=words).stdout.split() == ["answers", "answers-2"]
    index().write_bytes(b"no index")
    silent = command(env=words)
    assert (silent.stdout.strip(), silent.stderr) == ("", "")
    subprocess.run(["rm", "-r", "out"], check=True)
    assert said("job", "list", "--checkpoint-dir", "other/.domyn-swarm")[0]["name"] == "answers-2"


def test_a_run_whose_folder_is_gone_is_said_to_be_and_can_be_dropped(command: Command) -> None:
    texts(1)
    command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    subprocess.run(["rm", "-r", ".domyn-swarm"], check=True)
    assert [run["state"] for run in said("job", "list")] == ["gone"]
    assert said("job", "rm", "out", "--yes")["left"] == []
    assert said("job", "list") == []


def test_a_run_that_ends_while_it_is_asked_after_is_done_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    write("in.parquet", {"text": ["a"]})
    called_here("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    record = Path(".domyn-swarm/out.parquet/run.json")
    last_word = record.read_bytes()
    record.write_bytes(json.dumps({**json.loads(last_word), "state": "running"}).encode())

    def meanwhile(_folder: RunFolder) -> None:
        record.write_bytes(last_word)

    monkeypatch.setattr("domyn_swarm.runs.state.living_holder", meanwhile)
    assert [one.state for one in statuses(all_runs())] == ["done"]


def test_a_place_that_never_answers_keeps_nobody_waiting() -> None:
    write("in.parquet", {"text": ["a"]})
    called_here("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "quick.parquet")
    with socket.create_server(("127.0.0.1", 0)) as server:  # which accepts what comes, and says nothing
        storage = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}", "key": KEY, "secret": SECRET}
        register("s3://bucket/silent", storage, "silent")
        found = statuses(all_runs(), limit=8)
    assert [(one.name, one.state, one.detail) for one in found] == [
        ("quick", "done", ""), ("silent", "unknown", "no response within 8 s"),
    ]  # fmt: skip


AT_ONCE = """
import multiprocessing, os
from domyn_swarm.runs import index

def register(number):
    barrier.wait()
    name = index.register(f"/runs/{number}", {}, "same")
    os.write(1, f"{name}\\n".encode())  # a line in one write: `print` may make two, with another's between them

fork = multiprocessing.get_context("fork")
barrier = fork.Barrier(50)
processes = [fork.Process(target=register, args=(number,)) for number in range(50)]
for process in processes: process.start()
for process in processes: process.join()
"""
"""Fifty processes that ask for a name in the same moment."""


def test_fifty_processes_that_write_to_the_index_in_one_moment_all_get_a_name_of_their_own() -> None:
    done = subprocess.run([sys.executable, "-c", AT_ONCE], check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"same", *(f"same-{number}" for number in range(2, 51))}
    with sqlite3.connect(index()) as db:
        assert db.execute("SELECT count(*), count(DISTINCT path) FROM runs").fetchall() == [(50, 50)]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.stress
def test_fifty_jobs_submitted_at_once_are_all_listed_and_none_is_mixed_with_another(command: Command) -> None:
    names = [f"job-{number}" for number in range(50)]

    def submit(name: str) -> tuple[int, str]:
        write(f"{name}.parquet", {"text": [f"{name} row {row}" for row in range(3)]})
        files = ("--input", f"{name}.parquet", "--output", f"out/{name}/same.parquet")
        done = command("job", "submit", job("Upper"), *files, "--detach", timeout=240)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(10) as loop:  # each run takes a second of CPU: more would only wait for one another
        assert list(loop.map(submit, names)) == [(0, "")] * 50
    expected = {"same", *(f"same-{number}" for number in range(2, 51))}
    listed = said("job", "list")
    assert {run["name"] for run in listed} == expected
    assert len({run["path"] for run in listed}) == 50
    assert command("job", "wait", *expected, timeout=240).returncode == 0
    for name in names:
        texts = [f"{name} row {row}" for row in range(3)]
        assert rows(f"out/{name}/same.parquet") == [{"text": text, "upper": text.upper()} for text in texts]
    with sqlite3.connect(index()) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
