"""`domyn-swarm init job`: what it writes works as it stands, by the command that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from domyn_swarm.cli import init
from domyn_swarm.errors import ConfigurationError
from tests.conftest import Command, rows, tree


def typed(line: str) -> subprocess.CompletedProcess[str]:
    """A command line, pasted into a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        line, shell=True, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}
    )


def commands_in(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("domyn-swarm job submit")]


def test_a_new_job_runs_by_the_command_that_is_printed_and_stands_in_its_docstring(command: Command) -> None:
    made = command("init", "job", "my_job.py")
    assert made.returncode == 0
    line = "domyn-swarm job submit my_job.py:MyJob --input my_job.parquet --output out/my_job.parquet"
    assert made.stdout == f"Created my_job.py (the job) and my_job.parquet (5 sample rows). Run it with:\n\n  {line}\n"
    assert commands_in(Path("my_job.py").read_text()) == [line]
    assert tree() == {"my_job.py", "my_job.parquet"}

    ran = typed(line)
    assert ran.returncode == 0, ran.stderr
    assert rows("out/my_job.parquet")[:2] == [
        {"text": "What is the capital of Italy?", "words": 6, "loud": "WHAT IS THE CAPITAL OF ITALY?!"},
        {"text": "Name three colours of the rainbow.", "words": 6, "loud": "NAME THREE COLOURS OF THE RAINBOW.!"},
    ]


def test_a_new_chat_job_asks_the_demo_endpoint_wherever_it_stands_and_whatever_it_is_called(command: Command) -> None:
    Path("the jobs").mkdir()
    made = command("init", "job", "the jobs/sum-up.py", "--kind", "chat", "--json")
    assert made.returncode == 0
    told = json.loads(made.stdout)
    assert told == {
        "job": "the jobs/sum-up.py",
        "sample": "the jobs/sum-up.parquet",
        "command": "domyn-swarm job submit 'the jobs/sum-up.py:SumUp' --input 'the jobs/sum-up.parquet' "
        "--output out/sum-up.parquet --endpoint demo",
    }
    assert commands_in(Path("the jobs/sum-up.py").read_text()) == [told["command"]]

    ran = typed(told["command"])
    assert ran.returncode == 0, ran.stderr
    found = rows("out/sum-up.parquet")
    assert [row["text"] for row in found] == list(init.TEXTS)
    assert found[0]["answer"] == "You wrote 6 words: What is the capital of Italy?"
    assert [row for row in found if not row["seconds"] > 0] == []


@pytest.mark.parametrize("there", ["my_job.py", "my_job.parquet"])
def test_what_is_there_is_replaced_only_on_request(there: str) -> None:
    Path(there).write_text("mine")
    with pytest.raises(ConfigurationError) as refused:
        init.job("my_job.py")
    assert (refused.value.code, refused.value.option, refused.value.path) == ("output.exists", "FILE", there)
    assert {path: Path(path).read_text() for path in tree()} == {there: "mine"}

    init.job("my_job.py", overwrite=True)
    assert tree() == {"my_job.py", "my_job.parquet"}
    assert b"mine" not in Path(there).read_bytes()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_job", "FILE: 'my_job' is not the path of a Python file."),
        ("s3://bucket/my_job.py", "FILE: 's3://bucket/my_job.py' is not the path of a Python file."),
        ("nowhere/my_job.py", "FILE: nowhere/my_job.py cannot be written: No such file or directory."),
    ],
)
def test_a_path_that_cannot_be_written_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        init.job(path)
    assert refused.value.message == message
    assert tree() == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [("none.py", "MyJob"), ("swarm_job.py", "MyJob"), ("2nd.py", "MyJob"), ("dataSets.py", "DataSets")],
)
def test_a_class_has_a_name_that_python_takes(path: str, name: str) -> None:
    init.job(path)
    namespace: dict[str, object] = {}
    exec(compile(Path(path).read_text(), path, "exec"), namespace)
    assert name in namespace
