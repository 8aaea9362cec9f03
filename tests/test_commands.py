"""Every command there is: each tells what it takes, and speaks JSON."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from tests.conftest import job, run_command, start_command, write
from tests.detached import called_here
from tests.reader import commands

UPPER = ("job", "submit", job("Upper"), "--input", "in.parquet", "--output")
EXAMPLES = {
    "checkpoint compact": "answers",
    "checkpoint export": "answers exported.parquet",
    "checkpoint inspect": "answers",
    "checkpoint verify": "answers",
    "endpoint demo": "--port 0",
    "init job": "my_job.py",
    "job cancel": "answers",
    "job diff": "answers spare",
    "job errors": "answers",
    "job graph": "",
    "job list": "",
    "job logs": "answers",
    "job resume": "answers",
    "job rm": "gone --yes",
    "job row": "answers 0",
    "job show": "answers",
    "job status": "answers spare",
    "job submit": f"{job('Upper')} --input in.parquet --output new.parquet",
    "job view": "answers",
    "job wait": "answers",
}
"""Arguments that each command works with, where the runs `answers`, `spare` and `gone` are done."""
SERVE = ("endpoint demo", "job view")
ELSEWHERE = ("doctor",)
"""Takes seconds: what it says as JSON is what tests/test_doctor.py looks at."""
ALL = [pytest.param(path, command, id=path) for path, command in commands()]
LEAVES = [path.removeprefix("domyn-swarm ") for path, command in commands() if not getattr(command, "commands", None)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with runs that are done, and the environment that knows of them."""
    place, home = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("home")
    environment = {"XDG_DATA_HOME": str(home / "data"), "XDG_STATE_HOME": str(home / "state"), "PWD": str(place)}
    write(place / "in.parquet", {"text": ["a", "b"]})
    for name, *flags in (("answers", "--detach"), ("spare",), ("gone",)):
        done = run_command(*UPPER, f"{name}.parquet", *flags, cwd=place, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr
    waited = run_command("job", "wait", "answers", cwd=place, env={**os.environ, **environment})
    assert waited.returncode == 0, waited.stderr
    return environment


@pytest.fixture
def there(runs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in runs.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(runs["PWD"])


@pytest.mark.parametrize(("path", "command"), ALL)
def test_help_says_what_a_command_does_and_what_each_flag_is_for(
    path: str, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    called_here(*path.split()[1:], "--help")
    printed = capsys.readouterr().out
    assert f"Usage: {path}" in printed.replace("root", "domyn-swarm")
    assert command.help
    flags = [parameter for parameter in command.params if parameter.opts[0].startswith("-")]
    assert [parameter.name for parameter in flags if not parameter.help] == []
    assert all(flag in printed for parameter in flags for flag in parameter.opts)


def test_every_command_has_an_example_here() -> None:
    assert sorted([*EXAMPLES, *ELSEWHERE]) == sorted(LEAVES)


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in ELSEWHERE])
def test_every_command_speaks_json(path: str, there: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*path.split(), *EXAMPLES[path].split(), "--json"]
    printed = first_line(*arguments) if path in SERVE else None
    if printed is None:
        called_here(*arguments)
        printed = capsys.readouterr().out
    assert isinstance(json.loads(printed), dict | list)


def first_line(*arguments: str) -> str:
    """What a command prints that goes on until it is ended."""
    process = start_command(*arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        return process.stdout.readline()
    finally:
        process.terminate()
        process.communicate()
