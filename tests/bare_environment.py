"""What an installation without polars and Ray does. Run by CI in an environment of that kind, by name.

python -m pytest tests/bare_environment.py
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.conftest import Command, job, rows, write


def test_this_environment_has_neither_engine() -> None:
    assert [name for name in ("polars", "ray") if importlib.util.find_spec(name)] == []


@pytest.mark.parametrize("engine", ["polars", "ray"])
def test_an_engine_that_is_missing_is_refused_with_the_command_that_installs_it(engine: str, command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    arguments = ["--input", "in.parquet", "--output", "out.parquet", "--data-backend", engine]
    done = command("job", "submit", job("Upper"), *arguments)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: --data-backend: the package '{engine}' is not installed.\n"
        f"Install it: pip install 'domyn-swarm[{engine}]'\n"
    )


def test_a_run_for_a_ray_cluster_is_refused_with_the_command_that_installs_what_is_missing(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    arguments = ["--input", "in.parquet", "--output", "out.parquet", "--run-on", "ray"]
    done = command("job", "submit", job("Upper"), *arguments, "--ray-address", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: --run-on: the package 'ray' is not installed.\nInstall it: pip install 'domyn-swarm[ray]'\n"
    )


def test_a_run_on_pandas_needs_neither(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    done = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    assert done.returncode == 0, done.stderr
    assert rows("out.parquet") == [{"text": "a", "upper": "A"}]


def test_the_doctor_says_what_is_missing_and_that_nothing_has_failed(command: Command) -> None:
    done = command("doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert found["backend pandas"]["state"] == "ok"
    for engine in ("polars", "ray"):
        assert found[f"backend {engine}"] == {
            "name": f"backend {engine}", "state": "warning", "found": f"the package '{engine}' is not installed.",
            "fix": f"pip install 'domyn-swarm[{engine}]'",
        }  # fmt: skip
    assert [found[f"extra {extra}"]["state"] for extra in ("openai", "s3", "structured")] == ["warning"] * 3
