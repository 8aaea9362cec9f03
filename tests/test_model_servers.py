"""`--serve`: model servers that live as long as their run, whatever becomes of either. Each is a real process."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from domyn_swarm import make_spec, plan
from domyn_swarm.engine.runner import run
from domyn_swarm.errors import ConditionError, ConfigurationError, SwarmError
from domyn_swarm.jobs.base import MODEL
from domyn_swarm.redaction import public_options
from domyn_swarm.serving import health, server
from domyn_swarm.serving.command import read_command
from domyn_swarm.serving.gpus import shares, visible_gpus
from domyn_swarm.serving.process import LOG_BYTES, MARK, end_marked
from tests.conftest import Command, command_line, rows, start_command, tree, write

SERVER = Path(__file__).parent / "servers/model_server.py"
ROWS = 60
FOLDER = Path(".domyn-swarm/out.parquet")
LOGS = FOLDER / "servers"
JOB = ("--input", "in.parquet", "--output", "out.parquet", "--input-column", "text", "--output-column", "answer")


def serve(*behaviour: str) -> str:
    """The command of a server that does as it is told."""
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(SERVER))} {{port}} {' '.join(behaviour)}".strip()


def options(*behaviour: str, **more: Any) -> dict[str, Any]:
    return {
        "input": "in.parquet", "output": "out.parquet", "input_columns": ["text"], "output_columns": ["answer"],
        "serve": serve(*behaviour), **more,
    }  # fmt: skip


def starts() -> list[list[Any]]:
    """Process, port, CUDA_VISIBLE_DEVICES and variables of each server that was started."""
    return [json.loads(line) for line in Path("starts.txt").read_text().splitlines()]


def states() -> dict[str, dict[str, Any]]:
    """What the run wrote down of its servers."""
    return {one["name"]: one for one in json.loads((LOGS / "state.json").read_text())}


def processes() -> list[psutil.Process]:
    """All processes of servers that runs in the test's folder have started, and their supervisors."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(str(FOLDER.absolute())):
                found.append(process)
    return [one for one in found if is_alive(one)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended may wait for its parent to notice."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def until(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has an input of ROWS rows, and no server outlives it."""
    write("in.parquet", {"text": [f"row {number}" for number in range(ROWS)]})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(server, "FIRST_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(server, "STOP_SECONDS", 2.0)
    yield
    left = processes()
    end_marked(str(folder))
    assert left == []


def assert_complete() -> None:
    assert rows("out.parquet") == [{"text": f"row {number}", "answer": "yes"} for number in range(ROWS)]


# A run that goes well.


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_two_servers_serve_all_rows_and_end_with_the_run(command: Command, engine: str) -> None:
    ran = command(
        "job", "submit", *JOB, "--serve", serve("slow=0.02"), "--serve-replicas", "2", "--data-backend", engine,
        env={"ENDPOINT": "http://127.0.0.1:9/v1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert_complete()
    assert {one["state"] for one in states().values()} == {"stopped"}
    assert list(states()) == ["server-0", "server-1"]
    assert len({port for _, port, *_ in starts()}) == 2
    report = json.loads((FOLDER / "run.json").read_text())
    assert [(one["name"], one["starts"]) for one in report["servers"]] == [("server-0", 1), ("server-1", 1)]
    assert report["identity"][MODEL] == "tiny"
    assert "loading the weights" in command("job", "logs", str(FOLDER), "--server", "server-1").stdout
    assert "server-0 stopped since" in command("job", "status", str(FOLDER)).stdout
    unknown = command("job", "logs", str(FOLDER), "--server", "../spec")
    assert (unknown.returncode, "server-0, server-1" in unknown.stderr) == (2, True)


def test_a_run_with_nothing_to_do_starts_no_server() -> None:
    run(make_spec(options()))
    first = len(starts())
    run(make_spec(options()))
    assert len(starts()) == first == 1


def test_a_detached_run_has_its_servers_and_shows_what_it_waits_for(command: Command) -> None:
    ran = command("job", "submit", *JOB, "--serve", serve("ready=3"), "--detach")
    assert ran.returncode == 0, ran.stderr
    until(lambda: (LOGS / "state.json").exists() and states()["server-0"]["state"] == "starting")
    [status] = json.loads(command("job", "status", str(FOLDER), "--json").stdout)
    assert (status["state"], status["servers"][0]["state"]) == ("running", "starting")
    assert command("job", "wait", str(FOLDER)).returncode == 0
    log = command("job", "logs", str(FOLDER)).stdout
    assert "model server server-0 starts" in log
    assert "server-0 is ready" in log
    assert_complete()


def test_a_log_that_is_a_link_is_not_followed(command: Command) -> None:
    run(make_spec(options()))
    Path("private.log").write_text("private")
    (LOGS / "server-0.log").unlink()
    (LOGS / "server-0.log").symlink_to(Path("private.log").absolute())
    assert command("job", "logs", str(FOLDER), "--server", "server-0").stdout == ""


def test_a_dry_run_shows_the_command_and_starts_nothing(command: Command) -> None:
    before = tree()
    ran = command("job", "submit", *JOB, "--serve", f"{serve()} 'a b'", "--dry-run", "--json")
    assert json.loads(ran.stdout)["serve"].endswith("model_server.py {port} 'a b'")
    assert tree() == before


def test_servers_get_their_share_of_gpus_and_no_secret_of_the_run(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {
        "CUDA_VISIBLE_DEVICES": "4,5,6,7", "OPENAI_API_KEY": "of-the-run", "AWS_SECRET_ACCESS_KEY": "of-the-run",
        "HF_TOKEN": "for-models", "MINE": "anything", "PROXY_PASSWORD": "of-the-run", "WANTED_SECRET": "named",
    }  # fmt: skip
    ran = command(
        "job", "submit", *JOB, "--serve", f"GIVEN=env:WANTED_SECRET {serve()}", "--serve-replicas", "2",
        env={**env, "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert sorted(gpus for _, _, gpus, _ in starts()) == ["4,5", "6,7"]
    for *_, names in starts():
        assert {"HF_TOKEN", "MINE", "GIVEN"} <= set(names)
        assert not {"OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PROXY_PASSWORD", "WANTED_SECRET"} & set(names)


# What is refused before anything is written.


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"serve": "python3 server.py --port 8000"}, "server.port"),
        ({"serve": "no-such-program --port {port}"}, "server.program"),
        ({"serve": "./in.parquet {port}"}, "server.program"),
        ({"serve": "python3 'server.py {port}"}, "server.command"),
        ({"serve": "A=b"}, "server.command"),
        ({"serve": " "}, "server.command"),
        ({"serve": "vllm:"}, "server.command"),
        ({"serve": "A=env:NOT_SET python3 {port}"}, "secret.missing"),
        ({"serve_gpus": 2}, "server.gpus"),
        ({"endpoints": ["http://127.0.0.1:9/v1"]}, "option.conflict"),
    ],
    ids=str,
)
def test_what_cannot_be_started_is_refused(given: dict[str, Any], code: str) -> None:
    before = tree()
    with pytest.raises(ConfigurationError) as refused:
        run(make_spec(options(**given)))
    assert (refused.value.code, refused.value.exit_status) == (code, 2)
    assert tree() == before


def test_a_detached_run_is_refused_at_its_submission(command: Command) -> None:
    before = tree()
    ran = command("job", "submit", *JOB, "--serve", "no-such-program {port}", "--detach")
    assert (ran.returncode, tree()) == (2, before)
    assert "no-such-program" in ran.stderr


def test_a_model_that_the_server_does_not_have_is_refused_and_leaves_nothing() -> None:
    before = tree()
    with pytest.raises(ConfigurationError) as refused:
        run(make_spec(options(model="large")))
    assert refused.value.code == "model.unknown"
    assert tree() - {"starts.txt"} == before


# Servers that do not start.


def test_a_server_that_exits_at_once_ends_the_run_with_its_last_lines() -> None:
    with pytest.raises(ConditionError) as failed:
        run(make_spec(options("exit=3")))
    assert (failed.value.code, failed.value.exit_status) == ("server.failed", 1)
    assert "exited with status 3 before it was ready" in failed.value.message
    assert "CUDA out of memory" in failed.value.message
    assert "serve_gpus" in failed.value.hint
    assert len(starts()) == 1
    assert not Path("out.parquet").exists()


def test_a_server_that_never_becomes_ready_ends_the_run() -> None:
    with pytest.raises(ConditionError) as failed:
        run(make_spec(options("never", serve_timeout=1.5)))
    assert failed.value.code == "server.failed"
    assert "was not ready within 1.5 s (GET /health: status 503)" in failed.value.message


def test_a_run_that_is_interrupted_before_its_server_is_ready_leaves_nothing() -> None:
    process = start_command("job", "submit", *JOB, "--serve", serve("ready=60"), stderr=subprocess.PIPE)
    until(lambda: Path("starts.txt").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert processes() == []


def test_a_port_that_is_taken_meanwhile_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first server finds its port used, as if another process had taken it just before."""
    import socket

    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    ports = iter([taken.getsockname()[1]])
    free = __import__("domyn_swarm.serving.servers", fromlist=["free_port"]).free_port
    monkeypatch.setattr("domyn_swarm.serving.servers.free_port", lambda used: next(ports, None) or free(used))
    with taken:
        run(make_spec(options(serve_timeout=20.0)))
    assert_complete()
    first, second = (port for _, port, *_ in starts())
    assert first != second


# Servers that fail while the run is running.


def test_a_server_that_is_killed_comes_back_and_costs_no_row() -> None:
    process = start_command(
        "job", "submit", *JOB, "--serve", serve("slow=0.1"), "--serve-replicas", "2", "--max-concurrency", "2",
        stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: Path("starts.txt").exists() and len(starts()) == 2 and (FOLDER / "run.json").exists())
    (first, port, *_), _ = starts()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(starts()) == 3)
    assert starts()[2][1] == port
    assert process.wait(60) == 0
    assert_complete()
    assert sorted(one["starts"] for one in states().values()) == [1, 2]


def test_a_supervisor_that_is_killed_takes_all_of_its_server_along() -> None:
    process = start_command(
        "job", "submit", *JOB, "--serve", serve("child", "slow=0.1"), "--max-concurrency", "2", stderr=subprocess.PIPE
    )
    until(lambda: Path("starts.txt").exists() and (FOLDER / "run.json").exists())
    before = processes()
    assert len(before) == 3
    next(one for one in before if "supervisor.py" in " ".join(one.cmdline())).kill()
    until(lambda: len(starts()) == 2)
    assert not [one for one in before if is_alive(one)]
    assert process.wait(60) == 0
    assert_complete()


def test_the_only_server_dies_again_and_again_and_rows_wait_for_it() -> None:
    result = run(make_spec(options("dies=25", serve_restarts=10, max_concurrency=4)))
    assert (result.failed, result.done_now) == (0, ROWS)
    assert_complete()
    assert 3 <= len(starts()) <= 6


def test_past_its_budget_the_run_ends_and_resumes() -> None:
    with pytest.raises(ConditionError) as ended:
        run(make_spec(options("dies=10", serve_restarts=1, max_concurrency=4)))
    assert (ended.value.code, ended.value.exit_status) == ("server.lost", 1)
    assert "exited with status 7" in ended.value.message
    assert len(starts()) == 2
    assert json.loads((FOLDER / "run.json").read_text())["state"] == "failed"
    kept = json.loads((FOLDER / "run.json").read_text())["rows"]
    assert 10 <= kept <= 20
    result = run(make_spec(options()))
    assert (result.done_before, result.failed) == (kept, 0)
    assert_complete()


def test_a_server_that_hangs_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(health, "HUNG_SECONDS", 1.0)
    result = run(make_spec(options("hangs=hung", "deaf", max_concurrency=4)))
    assert result.failed == 0
    assert_complete()
    assert len(starts()) == 2


def test_100_mb_of_output_do_not_fill_the_disk() -> None:
    run(make_spec(options(f"loud={100 * 2**20}")))
    assert_complete()
    sizes = [file.stat().st_size for file in LOGS.glob("server-0.log*")]
    assert LOG_BYTES / 4 < sum(sizes) <= LOG_BYTES


# The run ends otherwise.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_no_process_is_left_when_the_run_is_killed(number: signal.Signals) -> None:
    process = subprocess.Popen(
        command_line("job", "submit", *JOB, "--serve", serve("child", "deaf", "slow=1"), "--max-concurrency", "1"),
        stderr=subprocess.DEVNULL,
    )
    try:
        until((FOLDER / "run.json").exists, 60)
        assert len(processes()) == 3
        process.send_signal(number)
        process.wait(10)
        until(lambda: not processes(), 5)
    finally:
        process.kill()


def test_what_a_killed_run_and_its_killed_supervisor_left_is_ended_by_the_next_run() -> None:
    mark = f"{(LOGS).absolute()}#server-0#"
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: mark})
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, MARK: f"{LOGS.absolute()}2#server-0#"},
    )
    try:
        run(make_spec(options()))
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# What options mean.


@pytest.mark.parametrize(
    ("gpus", "replicas", "each", "expected"),
    [
        ("0123", None, None, ["0", "1", "2", "3"]),
        ("0123", None, 2, ["01", "23"]),
        ("01234", None, 2, ["01", "23"]),
        ("0123", 2, None, ["01", "23"]),
        ("0123", 2, 1, ["0", "1"]),
        ("0123", 1, None, ["0123"]),
        ("0123", 3, 0, ["", "", ""]),
        ("0", 2, None, [None, None]),
        ("", None, None, [None]),
        ("", 3, None, [None] * 3),
    ],
)
def test_gpus_are_shared_out(gpus: str, replicas: int | None, each: int | None, expected: list[str | None]) -> None:
    found = shares(list(gpus), replicas, each)
    assert [one if one is None else "".join(one) for one in found] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", []), ("NoDevFiles", []), ("-1", []), ("2, 3", ["2", "3"]), ("GPU-1,MIG-2", ["GPU-1", "MIG-2"])],
)
def test_the_gpus_of_a_run_are_those_that_it_was_given(
    given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_short_forms_are_written_out() -> None:
    assert read_command("vllm:org/m --max-model-len 4096", 2).at(81) == [
        "vllm", "serve", "org/m", "--host", "127.0.0.1", "--port", "81", "--tensor-parallel-size", "2",
        "--max-model-len", "4096",
    ]  # fmt: skip
    assert read_command("sglang:org/m").at(81)[1:] == [
        "-m", "sglang.launch_server", "--model-path", "org/m", "--host", "127.0.0.1", "--port", "81",
    ]  # fmt: skip
    assert read_command("llama.cpp:models/tiny.gguf")[0][-7:] == (
        "models/tiny.gguf", "--alias", "tiny", "--host", "127.0.0.1", "--port", "{port}",
    )  # fmt: skip
    assert read_command("my:server --port={port}").at(9) == ["my:server", "--port=9"]


@pytest.mark.parametrize(
    ("command", "public"),
    [
        ("vllm serve m --api-key abcdef --port {port}", "vllm serve m --api-key *** --port {port}"),
        ("vllm serve m --api-key=abcdef", "vllm serve m --api-key=***"),
        ("API_TOKEN='a b' python s.py {port}", "API_TOKEN=*** python s.py {port}"),
        ("API_TOKEN=env:MY_TOKEN python s.py {port}", "API_TOKEN=env:MY_TOKEN python s.py {port}"),
        ("python s.py sk-0123456789abcdef", "python s.py ***"),
        (
            "vllm serve m --tokenizer t --max-num-batched-tokens 8",
            "vllm serve m --tokenizer t --max-num-batched-tokens 8",
        ),
        ("python 'my secret' {port}", "python 'my secret' {port}"),
    ],
)
def test_credentials_in_a_command_are_not_stored(command: str, public: str) -> None:
    assert public_options({"serve": command}) == {"serve": public}


def test_a_command_that_lost_its_credential_is_not_run() -> None:
    with pytest.raises(SwarmError) as refused:
        run(make_spec(options(serve="vllm serve m --api-key *** --port {port}")))
    assert refused.value.code == "option.secret"


def test_a_notebook_looks_at_a_few_answers_of_a_server_that_is_there_for_them() -> None:
    before = tree()
    with plan("domyn_swarm.jobs:ChatCompletionJob", **options()) as planned:
        found = planned.compute("transformed", limit=3)
    assert found["answer"].tolist()[:3] == ["yes"] * 3
    assert tree() - {"starts.txt"} == before


# A job of steps.


def test_models_without_an_endpoint_of_their_own_are_served_and_others_keep_theirs(command: Command) -> None:
    Path("judge.py").write_text(
        "from domyn_swarm import Chat\n"
        "async def answer(text: str, model: Chat) -> str:\n"
        "    return await model(text)\n"
        "async def verdict(answer: str, judge: Chat) -> str:\n"
        "    return await judge(f'Is it good? {answer}')\n"
    )
    ran = command(
        "job", "submit", "judge.py", "--input", "in.parquet", "--output", "out.parquet", "--keep", "answer",
        "--serve", serve(), "--endpoint", "judge=demo",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert {row["answer"] for row in rows("out.parquet")} == {"yes"}
    assert {row["verdict"] for row in rows("out.parquet")} == {"You wrote 4 words: Is it good? yes"}
