"""Runs on a real Ray cluster, which `ray start` has made: sent through its job server, looked after from here."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from domyn_swarm.checkpoint.submission import Placement
from domyn_swarm.doctor.clusters import check_ray
from domyn_swarm.doctor.finding import Finding
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.runs.launchers import ray_files, ray_jobs
from domyn_swarm.runs.launchers.base import Launch
from tests.conftest import Command, rows, tree, write
from tests.servers.ray_cluster import SETTINGS, RayCluster, ray_cluster

KEY = "sk-of-the-one-who-submits"
TEXTS = [f"row {number}" for number in range(24)]
EXPECTED = [{"text": text, "loud": f"{text.upper()}!"} for text in TEXTS]
AT_ONCE = 8

JOB = '''
import time
from pathlib import Path

from domyn_swarm import SwarmJob
from words import loud, noted


class Loud(SwarmJob):
    """One that `waits` takes until the file `hurry` is there, or four seconds more when the run is cancelled."""

    input_columns = ("text",)
    output_columns = ("loud",)
    folder: str = "."
    waits: bool = False

    def transform_item(self, text: str) -> str:
        noted(self.folder, text)
        submission = Path(self.folder, ".domyn-swarm/out.parquet/submission.json")
        while self.waits and not Path(self.folder, "hurry").exists():
            if '"cancelled": "' in submission.read_text():
                time.sleep(4)
                break
            time.sleep(0.05)
        return loud(text)
'''
WORDS = '''
import os
from pathlib import Path

from marks import MARK


def loud(text):
    return text.upper() + MARK


def noted(folder, text):
    """One append of one line is one step, whichever thread makes it."""
    calls = os.open(Path(folder, "calls"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(calls, f"{text}\\n".encode())
    os.close(calls)
'''
HERE = 'import os\n\nos.environ["ONLY_HERE"]\n'
WHERE = '''
import ray

from domyn_swarm import SwarmJob
from elsewhere import port_of


class Where(SwarmJob):
    """Tells which cluster computes the row."""

    input_columns = ("text",)
    output_columns = ("cluster",)

    def transform_item(self, text: str) -> int:
        return port_of(ray.get_runtime_context())
'''

pytestmark = pytest.mark.stress

Told = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as found:
        yield found


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def told(command: Command) -> Told:
    """What a command tells as JSON."""

    def tell(*arguments: str, status: int = 0, **options: Any) -> Any:
        done = command(*arguments, "--json", **options)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    return tell


def loud(*more: str, waits: bool = False) -> list[str]:
    """Write the job, its neighbours and its input, and submit it."""
    files = {"loud.py": JOB, "words.py": WORDS, "marks.py": 'MARK = "!"\n', "queue.py": "import nobody_elses_queue\n"}
    for name, text in files.items():
        Path("job").mkdir(exist_ok=True)
        Path("job", name).write_text(text)
    write("in.parquet", {"text": TEXTS})
    kwargs = json.dumps({"folder": str(Path.cwd()), "waits": waits})
    return [
        "job", "submit", "job/loud.py:Loud", "--input", "in.parquet", "--output", "out.parquet", "--run-on", "ray",
        "--job-kwargs", kwargs, "--max-concurrency", str(AT_ONCE), *more,
    ]  # fmt: skip


def calls() -> Counter[str]:
    return Counter(Path("calls").read_text().splitlines() if Path("calls").exists() else [])


def wait_for_calls(count: int) -> None:
    deadline = time.monotonic() + 60
    while calls().total() < count:
        assert time.monotonic() < deadline, "the job makes no progress"
        time.sleep(0.05)


def durable() -> set[str]:
    parts = Path(".domyn-swarm/out.parquet/parts").glob("*.parquet")
    return {TEXTS[row] for part in parts for row in pq.read_table(part)["_row_id"].to_pylist()}


def recorded(name: str) -> Any:
    return json.loads(Path(".domyn-swarm/out.parquet", name).read_text())


def test_a_run_goes_with_its_files_and_is_looked_after_from_here(
    cluster: RayCluster, told: Told, command: Command
) -> None:
    sent = told(*loud("--ray-address", cluster.url, "--job-name", "shouting"), env={"DOMYN_SWARM_API_KEY": KEY})
    assert (sent["name"], sent["where"]) == ("shouting", "ray")
    printed = command("job", "logs", "shouting", "--follow")
    assert "24 of 24 rows" in printed.stdout, printed.stderr
    assert printed.stdout.endswith("exit status 0\n")
    assert told("job", "wait", "shouting", "--timeout", "60")["state"] == "done"
    assert rows("out.parquet") == EXPECTED
    # Another cluster in the environment is not asked instead.
    assert "exit status 0" in command("job", "logs", "shouting", env={"RAY_ADDRESS": "http://127.0.0.1:1"}).stdout
    assert Path(recorded("spec.json")["job"]) == Path("job/loud.py:Loud").absolute()
    handle = recorded("submission.json")["handle"]
    assert handle["submission"].startswith("shouting-")
    assert KEY not in cluster.job(handle["submission"])


def test_a_cancelled_run_keeps_its_calls_in_flight_and_one_whose_driver_is_killed_is_lost_and_both_resume(
    cluster: RayCluster, told: Told, command: Command
) -> None:
    there = {"RAY_API_SERVER_ADDRESS": cluster.url}
    assert told(*loud(waits=True), env=there)["state"] in ("pending", "running")
    wait_for_calls(AT_ONCE)
    assert [(run["name"], run["state"], run["where"]) for run in told("job", "list")] == [("out", "running", "ray")]
    assert told("job", "cancel", "out")["state"] == "cancelled"
    assert len(durable()) == AT_ONCE  # all that there were in flight, though Ray usually kills after three seconds

    before = calls()
    told("job", "resume", "out")
    wait_for_calls(before.total() + AT_ONCE)
    os.kill(recorded("run.json")["pid"], signal.SIGKILL)
    lost = told("job", "wait", "out", "--timeout", "30", status=1)
    assert (lost["state"], lost["detail"]) == ("lost", "FAILED, ended by signal 9")

    Path("hurry").touch()
    told("job", "resume", "out")
    assert told("job", "wait", "out", "--timeout", "60")["state"] == "done"
    assert rows("out.parquet") == EXPECTED
    assert max(calls()[text] for text in before) == 1


def test_a_run_on_the_backend_ray_uses_the_cluster_that_it_runs_on(
    cluster: RayCluster, told: Told, command: Command
) -> None:
    Path("where.py").write_text(WHERE)
    Path("elsewhere.py").write_text("def port_of(context):\n    return int(context.gcs_address.rpartition(':')[2])\n")
    write("in.parquet", {"text": ["a", "b"]})
    told(
        "job", "submit", "where.py:Where", "--input", "in.parquet", "--output", "out.parquet",
        "--data-backend", "ray", "--run-on", "ray", "--ray-address", cluster.url,
    )  # fmt: skip
    ended = command("job", "wait", "out", "--timeout", "120")
    assert ended.returncode == 0, command("job", "logs", "out").stdout
    assert [row["cluster"] for row in rows("out.parquet")] == [cluster.port, cluster.port]


def test_a_dry_run_shows_what_would_be_sent(cluster: RayCluster, command: Command) -> None:
    submit = loud("--ray-address", cluster.url)
    before = tree()
    done = command(*submit, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"ray job submit --address {cluster.url} " in done.stdout
    assert "-- python -m domyn_swarm.jobs.run spec.json" in done.stdout
    assert done.stdout.rstrip().endswith(
        "spec.json\n    job/loud.py\n    job/marks.py\n    job/queue.py\n    job/words.py"
    )
    assert tree() == before


def test_a_module_of_the_working_folder_goes_along_and_a_run_that_cannot_begin_there_says_why(
    cluster: RayCluster, told: Told
) -> None:
    for name, text in {"steps/__init__.py": "", "steps/jobs.py": f"{HERE}{JOB}", "words.py": WORDS}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("marks.py").write_text('MARK = "?"\n')
    write("in.parquet", {"text": TEXTS})
    told(
        "job", "submit", "steps.jobs:Loud", "--input", "in.parquet", "--output", "out.parquet",
        "--run-on", "ray", "--ray-address", cluster.url, env={"ONLY_HERE": "yes"},
    )  # fmt: skip
    ended = told("job", "wait", "out", "--timeout", "60", status=2)
    assert (ended["state"], ended["exit_status"], ended["detail"]) == ("failed", 2, "FAILED, exit status 2")
    assert "Job 'steps.jobs:Loud' cannot be imported: KeyError: 'ONLY_HERE'" in ended["error"]


def test_a_server_that_does_not_answer_is_refused(command: Command) -> None:
    submit = loud("--ray-address", "http://127.0.0.1:1")
    before = tree()
    done = command(*submit)
    assert done.returncode == 2
    assert "--ray-address: http://127.0.0.1:1 cannot be used: Failed to establish a new connection" in done.stderr
    assert "'ray[default]' installed" in done.stderr
    assert tree() == before


@pytest.mark.parametrize(
    ("address", "instead"),
    [
        ("auto", "http://127.0.0.1:8265"),
        ("head:6379", "http://head:8265"),
        ("ray://10.0.0.7:10001", "http://10.0.0.7:8265"),
        (None, "RAY_API_SERVER_ADDRESS"),
    ],
)
def test_other_kinds_of_addresses_are_refused_with_the_one_to_give(address: str | None, instead: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        ray_jobs.check(Placement(run_on="ray", ray_address=address))
    assert instead in refusal.value.hint


def test_only_python_goes_along(folder: Path) -> None:
    for name in (
        "job.py", "words.py", "parts/text.py", "parts/prompt.txt", ".venv/lib/a.py", "venv/lib/b.py", "data/c.parquet",
        ".hidden.py", "key.txt", "not-a-module/d.py",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    (folder / "parts/again").symlink_to(folder)  # round and round
    (folder / "linked").symlink_to(folder / "parts")

    def sent(job: str) -> list[str]:
        return sorted(ray_files.python_files(Launch(
            name="job", job=job, spec="", log="", folder=str(folder), placement=Placement(run_on="ray"),
        )))  # fmt: skip

    everything = ["job/job.py", "job/linked/text.py", "job/parts/text.py", "job/words.py"]
    assert sent(f"{folder}/job.py:Job") == everything
    assert sent("parts.text:Job") == everything
    assert sent("domyn_swarm.jobs:ChatCompletionJob") == []


def test_the_doctor_finds_the_cluster_by_either_of_its_addresses(cluster: RayCluster) -> None:
    assert [*check_ray(f"127.0.0.1:{cluster.port}"), *check_ray(cluster.url)] == [
        Finding("ray cluster", "ok", f"Ray {version('ray')}, 1 machine, 2 CPUs"),
        Finding("ray cluster", "ok", f"the job server at {cluster.url} has Ray {version('ray')}, the same as here"),
    ]


def test_a_run_whose_cluster_is_gone_is_lost_and_resumes_elsewhere(cluster: RayCluster, told: Told) -> None:
    """The last one: it takes the cluster away."""
    told(*loud("--ray-address", cluster.url, waits=True))
    wait_for_calls(AT_ONCE)
    cluster.stop()
    status = told("job", "status", "out")[0]
    assert status["state"] == "lost"
    assert f"the Ray cluster at {cluster.url} does not respond" in status["detail"]
    Path("hurry").touch()
    told("job", "resume", "out", "--run-on", "local")
    assert told("job", "wait", "out", "--timeout", "60")["state"] == "done"
    assert rows("out.parquet") == EXPECTED
