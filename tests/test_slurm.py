"""Runs on a real Slurm of one node: sent, looked after, out of time, and when Slurm itself is down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from domyn_swarm.checkpoint.submission import Placement
from domyn_swarm.doctor.clusters import check_slurm
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.runs.launchers.registry import load_launcher
from domyn_swarm.serving.process import MARK
from tests.conftest import Command, command_line, job, rows, run_command, tree, write
from tests.reader import Reader
from tests.servers.slurm import Slurm, is_installed, slurm
from tests.test_docs import SLURM, read

pytestmark = pytest.mark.stress

TEXTS = [f"row {number}" for number in range(240)]
EXPECTED = [{"text": text, "upper": text.upper()} for text in TEXTS]
MODEL_SERVER = Path(__file__).parent / "servers/model_server.py"
LIMITED = "--time=1 --signal=B:USR1@50"
"""Slurm looks at limits twice a minute, counts in minutes, and is early: this is told within half a minute."""

LATER = "--time=2 --signal=B:USR1@80"
"""The same, for runs that need some seconds to begin: at least ten are left."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if not is_installed():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("needs munge, slurmctld, slurmd and slurm-client, and root")
    with slurm(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def at_the_cluster(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))


class Limited:
    """Runs whose time will be up while the other tests go on, each in a folder of its own."""

    def __init__(self, home: Path, cluster: Slurm) -> None:
        self.home = home
        self.environment = {
            **cluster.environment, "XDG_DATA_HOME": str(home / "data"), "XDG_STATE_HOME": str(home / "state"),
        }  # fmt: skip
        sent = [
            self._submitted("again", "--requeue", seconds=0.55),
            self._submitted("once", seconds=0.55),
            self._submitted("stuck", "--requeue", seconds=3600),
            self._served("served", "--requeue", seconds=0.4),
        ]
        assert [process.wait(60) for process in sent] == [0, 0, 0, 0]

    def _submitted(self, name: str, *flags: str, seconds: float) -> subprocess.Popen[bytes]:
        folder = self.home / name
        write(folder / "in.parquet", {"text": TEXTS})
        kwargs = json.dumps({"seconds": seconds, "calls": str(folder / "calls")})
        line = command_line(
            "job", "submit", job("Recorded"), "--input", str(folder / "in.parquet"), "--output",
            str(folder / f"{name}.parquet"), "--job-kwargs", kwargs, "--max-concurrency", "4",
            "--run-on", "slurm", "--slurm-args", LIMITED, *flags,
        )  # fmt: skip
        return subprocess.Popen(line, env=self.environment, cwd=self.home)

    def _served(self, name: str, *flags: str, seconds: float) -> subprocess.Popen[bytes]:
        """A run with two model servers of its own."""
        folder = self.home / name
        write(folder / "in.parquet", {"text": TEXTS})
        line = command_line(
            "job", "submit", "--input", "in.parquet", "--output", f"{name}.parquet", "--input-column", "text",
            "--output-column", "answer", "--serve", f"{sys.executable} -S {MODEL_SERVER} {{port}} child slow={seconds}",
            "--serve-replicas", "2", "--max-concurrency", "2", "--run-on", "slurm", "--slurm-args", LATER, *flags,
        )  # fmt: skip
        return subprocess.Popen(line, env=self.environment, cwd=folder)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command("job", *arguments, timeout=120,
            env=self.environment, cwd=self.home,
        )  # fmt: skip

    def ended(self, name: str) -> dict[str, Any]:
        """What is told of the run when it has ended."""
        waited = self("wait", name, "--timeout", "100", "--json")
        assert waited.returncode != 124, self("logs", name).stdout
        return status_in(waited)


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Limited:
    return Limited(tmp_path_factory.mktemp("limited"), cluster)


def submit(
    command: Command, *more: str, rows: int = 240, seconds: float = 0.0, env: Mapping[str, str] | None = None
) -> Any:
    write("in.parquet", {"text": TEXTS[:rows]})
    kwargs = json.dumps({"seconds": seconds, "calls": str(Path("calls").absolute())})
    return command(
        "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet", "--job-kwargs", kwargs,
        "--max-concurrency", "4", "--run-on", "slurm", *more, env=env,
    )  # fmt: skip


def status_in(told: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Of the one run that a command tells of."""
    assert told.stdout, told.stderr
    found = json.loads(told.stdout)
    return found[0] if isinstance(found, list) else found


def number_of(folder: str = ".domyn-swarm/out.parquet") -> str:
    """That of the run's job in Slurm."""
    return str(json.loads(Path(folder, "submission.json").read_text())["handle"]["job"])


def calls(path: str | Path = "calls") -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def durable(run: str | Path = ".domyn-swarm/out.parquet") -> list[str]:
    parts = Path(run, "parts").glob("*.parquet")
    return [TEXTS[row] for part in parts for row in pq.read_table(part)["_row_id"].to_pylist()]


def wait_for_calls(count: int) -> None:
    deadline = time.monotonic() + 60
    while len(calls()) < count:
        assert time.monotonic() < deadline, "the run does not start"
        time.sleep(0.05)


def test_a_run_is_sent_and_looked_after_in_a_folder_of_any_name(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusable = folder / '50% of "it" isn\'t #1 %j'
    unusable.mkdir()
    monkeypatch.chdir(unusable)
    sent = submit(command, "--job-name", "shout", "--slurm-args", "--comment 'two words' --time=5")
    assert sent.returncode == 0, sent.stderr
    assert "domyn-swarm job logs -f shout" in sent.stdout
    assert status_in(command("job", "status", "shout", "--json"))["state"] in ("pending", "running", "done")

    followed = command("job", "logs", "-f", "shout").stdout
    assert "240 rows, 0 done before" in followed
    assert followed.endswith("exit status 0\n")
    listed = status_in(command("job", "list", "--json"))
    assert (listed["name"], listed["state"], listed["where"], listed["rows"]) == ("shout", "done", "slurm", 240)
    assert rows("out.parquet") == EXPECTED


def test_a_dry_run_shows_the_script_and_writes_nothing(command: Command, folder: Path) -> None:
    write("in.parquet", {"text": TEXTS})
    before = tree()
    shown = submit(command, "--requeue", "--slurm-args", "--partition=main --time=12:00:00", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    run = f"{folder}/.domyn-swarm/out.parquet"
    assert f"""\
sbatch --parsable --partition=main --time=12:00:00 <<'END'
#!/bin/bash
#SBATCH --job-name=out
#SBATCH --output={run}/log.txt
#SBATCH --open-mode=append
#SBATCH --chdir={folder}
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

trap '' USR1  # until the run handles it
exec PYTHON -P -u -m domyn_swarm.jobs.run {run}/spec.json ${{SLURM_RESTART_COUNT:+--resume}} \\
  --when-time-is-up "scontrol show job $SLURM_JOB_ID | grep -qE 'JobState=(RUNNING|SIGNALING)|Reason=TimeLimit' &&
    scontrol requeue $SLURM_JOB_ID"
END
""" in re.sub(r"exec /\S+/bin/python\S* ", "exec PYTHON ", shown.stdout)
    assert tree() == before


def test_what_sbatch_refuses_is_refused_and_leaves_nothing_behind(command: Command) -> None:
    write("in.parquet", {"text": TEXTS})
    before = tree()
    refused = submit(command, "--slurm-args", "--partition=gone")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "sbatch rejected the run: invalid partition specified: gone" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tree() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--array=1-10", "--array=1-10 is not allowed: a run is a single job"),
        ("--outp=x", "--outp=x is not allowed: the log is managed by the run"),
        ("-o elsewhere", "-o is not allowed: the log is managed by the run"),
        ("--signal=USR1@600", "--signal=USR1@600 does not signal the run, which is the batch script itself"),
        ("--comment 'two", '"--comment \'two" cannot be parsed: No closing quotation'),
    ],
)
def test_what_a_run_cannot_take_is_refused(arguments: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)) as refused:
        load_launcher("slurm").check(Placement(run_on="slurm", slurm_args=arguments))
    assert (refused.value.code, refused.value.option) == ("slurm.arguments", "slurm_args")


def test_a_machine_without_slurm_says_so(command: Command) -> None:
    write("in.parquet", {"text": TEXTS})
    before = tree()
    refused = submit(command, env={"PATH": str(Path(sys.executable).parent)})
    assert refused.returncode == 2
    assert "--run-on: sbatch is not on PATH.\nRun the command on a machine" in refused.stderr
    assert tree() == before


def test_a_run_that_is_cancelled_flushes_and_resumes_whoever_cancelled_it(command: Command, cluster: Slurm) -> None:
    """A `scancel` by hand reaches the run like `job cancel` does, and is no reason to queue it again."""
    submit(command, "--requeue", rows=160, seconds=0.2)
    wait_for_calls(10)
    cancelled = status_in(command("job", "cancel", "out", "--json"))
    assert (cancelled["state"], cancelled["detail"]) == ("cancelled", "FAILED, exit status 130")
    first = calls()
    assert sorted(first) == sorted(durable())

    assert command("job", "resume", "out").returncode == 0
    wait_for_calls(len(first) + 10)
    cluster.run("scancel", number_of())
    assert command("job", "wait", "out").returncode == 130
    assert sorted(calls()) == sorted(durable())

    assert command("job", "resume", "out").returncode == 0
    assert command("job", "wait", "out").returncode == 0
    assert sorted(calls()) == sorted(TEXTS[:160])
    assert rows("out.parquet") == EXPECTED[:160]


def test_a_run_whose_process_is_killed_is_lost_within_seconds_and_resumes(command: Command) -> None:
    submit(command, "--checkpoint-interval", "0.2", seconds=0.05)
    wait_for_calls(100)
    os.kill(json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())["pid"], signal.SIGKILL)
    lost = status_in(command("job", "wait", "out", "--timeout", "20", "--json"))
    assert (lost["state"], lost["detail"]) == ("lost", "FAILED, signal 9")
    kept = durable()
    assert command("job", "resume", "out").returncode == 0
    assert command("job", "wait", "out").returncode == 0
    assert rows("out.parquet") == EXPECTED
    assert [text for text in kept if calls().count(text) > 1] == []


def test_a_run_out_of_time_flushes_and_with_requeue_goes_on_until_it_is_done(limited: Limited) -> None:
    done = limited.ended("again")
    log = limited("logs", "again").stdout
    assert done["state"] == "done", log
    assert log.count("time is up: finishing what is in flight") >= 1
    assert log.count("exit status 124") == log.count("time is up")
    assert rows(limited.home / "again/again.parquet") == EXPECTED
    assert sorted(calls(limited.home / "again/calls")) == sorted(TEXTS)


def test_model_servers_end_with_the_time_of_their_job_and_start_again_with_the_next(limited: Limited) -> None:
    done = limited.ended("served")
    log = limited("logs", "served").stdout
    assert (done["state"], done["failed"]) == ("done", 0), log
    assert log.count("exit status 124") >= 1, log
    folder = limited.home / "served"
    assert rows(folder / "served.parquet") == [{"text": text, "answer": "yes"} for text in TEXTS]
    starts = (folder / "starts.txt").read_text().splitlines()
    assert len(starts) == 2 * log.count("exit status")
    mark = str(folder / ".domyn-swarm/served.parquet/servers#")
    assert [one for one in marked_processes() if one.startswith(mark)] == []


def marked_processes() -> list[str]:
    """The marks of all processes that belong to model servers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.append(process.environ().get(MARK, ""))
    return found


def test_a_run_out_of_time_without_requeue_says_so_and_resumes(limited: Limited) -> None:
    ended = limited.ended("once")
    assert (ended["state"], ended["detail"]) == ("cancelled", "time limit reached: FAILED, exit status 124")
    assert 0 < ended["rows"] < 240
    assert ended["resume"] == "domyn-swarm job resume once"
    kept = calls(limited.home / "once/calls")
    assert sorted(kept) == sorted(durable(limited.home / "once/.domyn-swarm/once.parquet"))

    assert limited("resume", "once", "--slurm-args", "--time=10").returncode == 0
    assert limited("wait", "once").returncode == 0
    assert rows(limited.home / "once/once.parquet") == EXPECTED
    assert sorted(calls(limited.home / "once/calls")) == sorted(TEXTS)


def test_a_run_that_gets_nowhere_in_its_time_is_not_queued_for_ever(limited: Limited) -> None:
    failed = limited.ended("stuck")
    assert failed["state"] == "failed"
    assert failed["error"].startswith("Time was up before a row was done that is kept.\nAllow more time.")
    assert "DUE TO JOB REQUEUE" not in limited("logs", "stuck").stdout


def test_a_run_in_the_queue_is_cancelled_at_once_unless_slurm_is_down(cluster: Slurm, command: Command) -> None:
    submit(command, "--requeue", "--slurm-args", "--begin=now+1hour")
    cluster.stop("slurmctld")
    try:
        unknown = status_in(command("job", "status", "out", "--json"))
        assert unknown["state"] == "unknown"
        assert re.fullmatch(
            "scontrol did not respond within 5 s|.*Unable to contact slurm controller.*", unknown["detail"]
        )
    finally:
        cluster.start_controller()
    pending = status_in(command("job", "status", "out", "--json"))
    assert (pending["state"], pending["detail"]) == ("pending", "PENDING (BeginTime)")
    assert status_in(command("job", "cancel", "out", "--json"))["state"] == "cancelled"
    assert calls() == []


def test_the_doctor_finds_slurm_well() -> None:
    found = [(finding.name, finding.state) for finding in check_slurm()]
    assert found == [("slurm", "ok"), ("slurm partitions", "ok")]


def test_every_block_of_the_page_does_what_it_says(folder: Path) -> None:
    with Reader(folder, {}, {}) as reader:
        read(SLURM, reader)
