"""What tests share: a folder to work in, the command as people type it, tables in and rows out."""

from __future__ import annotations

import compileall
import functools
import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

import domyn_swarm
from domyn_swarm.data.backends.registry import backend_names
from tests import forked
from tests.conformance.table import Table

if TYPE_CHECKING:
    from tests.kernel import Kernel

JOBS = Path(__file__).with_name("jobs.py")
# Ray gives way to all other processes, and beside busy tests its workers stood still for a minute and more.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - the name is Ray's

# No test depends on how fast the machine is. `-m hypothesis --hypothesis-profile thorough` tries more.
settings.register_profile("suite", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=200)
settings.load_profile("suite")

SECRETS_AND_DEFAULTS = ("ENDPOINT", "DOMYN_SWARM_API_KEY", "OPENAI_API_KEY")

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", action="append", help="run the conformance suite on this backend; repeatable")
    parser.addoption("--write-compatibility", type=Path, help="write what the conformance suite finds to this page")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--write-compatibility"):
        config.pluginmanager.register(Table(path))
    if not hasattr(config, "workerinput"):  # where Python keeps no bytecode, each process would compile it all
        compileall.compile_dir(Path(domyn_swarm.__file__).parent, quiet=2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays until the end: the garbage collector does not look at it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes a file stays in one, and all of conformance does: its Ray starts once."""
    from xdist.scheduler import LoadFileScheduling

    class ByEngineAndFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "conformance" if "/conformance/" in file else file

    config.option.loadscopereorder = False  # by their number of tests: the longest files have few, and would be last
    return ByEngineAndFile(config, log)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A backend that is registered and cannot be imported fails the suite: nothing is skipped."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", _selected(metafunc.config), scope="session")


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> list[str]:
    """The backends that the suite runs on: all that are registered, unless some are asked for."""
    return _selected(request.config)


def _selected(config: pytest.Config) -> list[str]:
    return config.getoption("--backend") or _all_backends()


@functools.cache
def _all_backends() -> list[str]:
    """Looks through the metadata of everything that is installed, and is asked by each test function."""
    return backend_names()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty folder of its own, without the settings and the runs of whoever runs it."""
    monkeypatch.chdir(tmp_path)
    for name in SECRETS_AND_DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")  # outside of the test's folder, all of which may be looked at
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))  # platformdirs honours both on Linux and macOS
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    return tmp_path


@pytest.fixture
def command() -> Command:
    """Run `domyn-swarm` in the test's folder, as a process of its own."""

    def run(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120) -> Any:
        return run_command(*arguments, env={**os.environ, **(env or {})}, timeout=timeout)

    return run


@pytest.fixture
def kernel(folder: Path) -> Iterator[Kernel]:
    """A real kernel of Jupyter's, which works in the test's folder."""
    from tests.kernel import started

    with started(folder) as kernel:
        yield kernel


@pytest.fixture
def key_file(request: pytest.FixtureRequest) -> Iterator[str]:
    """A file with the KEY of the test's module, outside the test's folder, all of which may be searched."""
    with tempfile.NamedTemporaryFile("w", suffix=".key") as file:
        file.write(f"{request.module.KEY}\n")
        file.flush()
        yield file.name


def start_command(*arguments: str, **options: Any) -> Any:
    """`domyn-swarm` as a process that runs beside the test: see `forked.start`."""
    return forked.start(forked.PROGRAM, *arguments, **options)


def run_command(*arguments: str, **options: Any) -> Any:
    """`domyn-swarm` as a process that has ended: see `forked.run`."""
    return forked.run(forked.PROGRAM, *arguments, **options)


def command_line(*arguments: str) -> list[str]:
    """The console script of the environment that the tests run in."""
    return forked.command_line(forked.PROGRAM, *arguments)


def write(path: str | Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> str:
    """Write a parquet file, folders included; returns its path."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return str(path)


def rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a parquet file or directory, in order."""
    return table(path).to_pylist()


def table(path: str | Path) -> pa.Table:
    """A parquet file, or the files of a directory by name, as one table."""
    files: Sequence[Path] = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    return pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)


def job(name: str) -> str:
    """The reference to a job of tests/jobs.py."""
    return f"{JOBS}:{name}"


def tree() -> set[str]:
    """Everything below the test's folder."""
    return {str(path) for path in Path().rglob("*") if "__pycache__" not in path.parts}


def stop(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal, unless the process has ended by itself."""
    if process.poll() is None:
        process.send_signal(number)
