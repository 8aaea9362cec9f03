"""What each way in loads, in a clean interpreter: engines only where a graph is built, and only the selected one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from tests.conftest import job, write

HEAVY = ("pandas", "numpy", "pyarrow", "polars", "ray", "hamilton", "aiohttp")

HELP = """
import sys
from domyn_swarm.cli.main import main
for line in {lines}:
    sys.argv = ["domyn-swarm", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""


def loaded(code: str) -> list[str]:
    """Which of HEAVY are loaded after `code`."""
    code = f"{code}\nimport sys\nprint('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1].split()[1:]


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded("import domyn_swarm") == []


def test_help_loads_nothing_heavy() -> None:
    lines = (
        "--help", "--version", "job --help", "job submit --help", "job show --help", "init job --help", "doctor --help",
        "endpoint --help", "endpoint demo --help",
    )  # fmt: skip
    assert loaded(HELP.format(lines=lines)) == []


def test_describing_a_job_loads_nothing_heavy() -> None:
    assert loaded("from domyn_swarm import JobSpec, SwarmError, SwarmJob, make_spec") == []


def test_a_pandas_run_loads_no_other_engine() -> None:
    assert importlib.util.find_spec("polars")
    assert importlib.util.find_spec("ray")
    write("in.parquet", {"text": ["a"]})
    options = {"job": job("Upper"), "input": "in.parquet", "output": "out.parquet", "input_columns": ["text"]}
    assert loaded(f"from domyn_swarm import make_spec, run\nrun(make_spec({options}))") == [
        "pandas", "numpy", "pyarrow", "hamilton",
    ]  # fmt: skip
