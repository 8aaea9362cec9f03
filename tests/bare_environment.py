"""What an installation without polars and Ray does. Run by CI in an environment of that kind, by name.

python -m pytest tests/bare_environment.py
"""

from __future__ import annotations

import importlib.util

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
        f"Error: --data-backend {engine}: the package '{engine}' is not installed.\n"
        f"Install it: pip install 'domyn-swarm[{engine}]'\n"
    )


def test_a_run_on_pandas_needs_neither(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    done = command("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    assert done.returncode == 0, done.stderr
    assert rows("out.parquet") == [{"text": "a", "upper": "A"}]
