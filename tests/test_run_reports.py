"""What a run tells of itself while it goes and when it ends, however it ends: run.json, report.html, graph.svg."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import RunResult, SwarmJob, make_spec, masking, run
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.cli.options import with_spec_options
from domyn_swarm.data import samples
from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.engine.recording import reporter
from domyn_swarm.engine.recording.command_line import command_of
from domyn_swarm.errors import ConfigurationError, Interrupted, SwarmError
from domyn_swarm.jobs.loading import job_fields, load_job_class
from domyn_swarm.jobspec import JobSpec
from domyn_swarm.option_groups import DEFAULT_JOB
from domyn_swarm.options.named import with_named
from domyn_swarm.options.resolve import resolve
from domyn_swarm.report.files import report_of
from domyn_swarm.report.model import Report
from tests.chaos.damages import truncated
from tests.conftest import Command, job, rows, start_command, stop, write
from tests.servers.chaos import chaos
from tests.test_secrets import FROM_ENVIRONMENT, check_nothing_is_shown

RUN = ".domyn-swarm/out.parquet"
FAILED = "failed: no output, an entry in the errors file, tried again by the next run"
BEFORE = "done before, by earlier runs"
ENGINES = pytest.mark.parametrize("engine", ["pandas", "polars"])
MODES = pytest.mark.parametrize("native", [False, True], ids=["items", "native"])
PLANNED = dict.fromkeys([
    "backend", "files", "source", "schema", "columns", "store", "identified", "limited", "row_count", "found",
    "recovered", "done", "pending_count", "record", "worker_job", "compacted",
])  # fmt: skip


class CannotOpen(SwarmJob):
    """Its licence server is down."""

    output_columns = ("upper",)

    async def open(self, spec: JobSpec) -> None:
        raise RuntimeError("no licence")

    async def transform_item(self, text: str) -> str:
        return text.upper()


class TakesTheOutput(SwarmJob):
    """Somebody else makes a folder where the output is going to be."""

    output_columns = ("upper",)

    def transform_item(self, item: str) -> str:
        Path("taken/out.parquet").mkdir(parents=True, exist_ok=True)
        return item.upper()


class Exits(SwarmJob):
    """Ends the process, or tries to, at its 8th row."""

    output_columns = ("upper",)

    async def transform_item(self, text: str) -> str:
        if text == "text 7":
            sys.exit(3)
        return text.upper()


class Stops(SwarmJob):
    """Asks for the run's end from within, as somebody at the keyboard would, and goes on when it is run again."""

    output_columns = ("upper",)
    stopped: ClassVar[bool] = False

    async def transform_item(self, text: str) -> str:
        return self.stopping([text])[0]

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[str]:
        return self.stopping(pa.table(batch).column(input_cols[0]).to_pylist())

    def stopping(self, texts: list[str]) -> list[str]:
        if "text 7" in texts and not Stops.stopped:
            Stops.stopped = True
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # the main thread hears of it
        return [text.upper() for text in texts]


class FailsAtOnce(SwarmJob):
    """Fails at the row `bad`; whatever comes after it is slow."""

    output_columns = ("upper",)
    failed: ClassVar[bool] = False

    async def transform_item(self, text: str) -> str:
        if text.startswith("bad"):
            FailsAtOnce.failed = True
            raise ValueError(f"cannot do {text!r}")
        await asyncio.sleep(0.05 if FailsAtOnce.failed else 0)
        return text.upper()


def write_input(count: int = 40, bad: tuple[int, ...] = (), **options: Any) -> None:
    texts = [f"{'bad' if number in bad else 'text'} {number}" for number in range(count)]
    write("in.parquet", {"text": texts}, **options)


def submit(name: str | type[SwarmJob] = "Upper", **options: Any) -> RunResult:
    reference = job(name) if isinstance(name, str) else f"{__name__}:{name.__name__}"
    defaults = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["text"], "output_columns": ["upper"]}
    return run(make_spec({**defaults, "job": reference, **options}))


def broken(error: type[SwarmError], name: str | type[SwarmJob], **options: Any) -> SwarmError:
    """How a run ends that does not end well."""
    with pytest.raises(error) as ended:
        submit(name, **options)
    return ended.value


def recorded(run_dir: str = RUN) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(f"{run_dir}/run.json").read_text())
    return content


def report(run_dir: str = RUN) -> Report:
    return report_of(RunFolder(run_dir))


def ways(told: Report) -> dict[str, tuple[str, int | None, int | None]]:
    """State, rows in and rows out of each node."""
    return {node: (one.state, one.rows_in, one.rows) for node, one in told.figures.items()}


def streams(told: Report, *nodes: str) -> dict[str, tuple[str, int | None]]:
    """State and rows out of those nodes that rows pass through, where there are such nodes."""
    return {node: (told.figures[node].state, told.figures[node].rows) for node in nodes if node in told.figures}


def lost(told: Report) -> dict[str, list[tuple[int, str]]]:
    """Rows that did not leave a node, and why."""
    return {node: [(it.rows, it.why) for it in one.lost] for node, one in told.figures.items() if one.lost}


def check_files(run_dir: str = RUN) -> None:
    """The report and the picture lie in the folder, whole, and nothing half written beside them."""
    names = {path.name for path in Path(run_dir).iterdir()}
    assert {"report.html", "graph.svg", "run.json", "spec.json"} <= names
    assert [name for name in names if name.endswith(".tmp")] == []
    page = Path(f"{run_dir}/report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "<svg" in Path(f"{run_dir}/graph.svg").read_text()


# Runs that end well.


@ENGINES
@MODES
def test_a_finished_run_tells_of_each_node_what_came_what_left_and_what_fell_away(engine: str, native: bool) -> None:
    write_input(40, row_group_size=9)
    submit(data_backend=engine, native_backend=native, limit=30)
    told = report()
    assert (told.state, told.total, told.done_before, told.rows, told.failed) == ("done", 30, 0, 30, 0)
    assert (told.broken, told.resume, told.errors_path, told.failures) == (None, "", "", [])
    items = {} if native else {"as_pandas": ("done", None, 30)}
    others = ("row_count", "found", "recovered", "pending_count", "record", "compacted")
    assert ways(told) == {
        "backend": ("done", None, None), "files": ("done", None, 40), "source": ("done", 40, 40),
        "schema": ("done", None, None), "columns": ("done", None, None), "store": ("done", None, None),
        "identified": ("done", 40, 40), "limited": ("done", 40, 30), "done": ("done", None, 0),
        "pending": ("done", 30, 30), **items, "batches": ("done", None, 30), "transformed": ("done", 30, 30),
        "flushed": ("done", 30, 30), "finalized": ("done", 30, 30), **dict.fromkeys(others, ("done", None, None)),
    }  # fmt: skip
    assert lost(told) == {"limited": [(10, "beyond --limit 30")]}
    assert [node.name for node in told.graph.nodes if node.kind == "node"] == list(told.figures)
    assert told.figures["transformed"].sample[0]["upper"] == "TEXT 0"
    assert told.figures["files"].note == "1 file(s)"
    assert (told.parts, told.parts_bytes > 0, told.output) == (1, True, "out.parquet")
    check_files()


@ENGINES
@MODES
def test_a_resumed_run_tells_of_its_own_rows_and_how_many_were_done_before(engine: str, native: bool) -> None:
    write_input()
    submit(data_backend=engine, native_backend=native, limit=10)
    submit(data_backend=engine, native_backend=native, limit=30)
    told = report()
    assert (told.state, told.number, told.total, told.done_before, told.rows) == ("done", 2, 30, 10, 20)
    assert lost(told) == {"limited": [(10, "beyond --limit 30")], "pending": [(10, BEFORE)]}
    assert ways(told)["pending"] == ("done", 30, 20)
    assert ways(told)["transformed"] == ("done", 20, 20)
    assert ways(told)["finalized"] == ("done", 30, 30)
    assert told.figures["done"].rows == 10
    check_files()


@ENGINES
@MODES
def test_rows_that_failed_are_told_with_their_kinds_and_where_they_are_written_down(engine: str, native: bool) -> None:
    write_input(40, bad=(3, 17, 20))
    submit("Picky", data_backend=engine, native_backend=native, retries=0)
    told = report()
    assert (told.state, told.rows, told.failed, told.errors_path) == ("done", 40, 3, "out.errors.parquet")
    assert lost(told) == {"transformed": [(3, FAILED)]}
    assert ways(told)["transformed"] == ("done", 40, 40)
    assert told.figures["finalized"].note == "out.parquet, 3 rows without an output"
    (kind,) = told.failures
    assert (kind.type, kind.count) == ("ValueError", 3)
    assert kind.message.startswith("cannot do 'bad #'" if native else "jobs.py, line ")
    assert sorted(example.id for example in kind.examples) == ["17", "20", "3"]
    assert {example.message for example in kind.examples} == {f"cannot do 'bad {row}'" for row in (3, 17, 20)}
    check_files()

    Path("mended").touch()
    submit("Picky", data_backend=engine, native_backend=native, retries=0)
    told = report()
    assert (told.rows, told.failed, told.done_before, told.failures, told.errors_path) == (3, 0, 37, [], "")
    assert told.figures["done"].note == "3 rows failed before and are tried again"


def test_a_run_that_only_writes_its_output_anew_tells_that_no_row_went_through() -> None:
    write_input()
    submit()
    submit(limit=5)
    told = report()
    assert (told.state, told.total, told.done_before, told.rows) == ("done", 5, 5, 0)
    assert lost(told) == {"limited": [(35, "beyond --limit 5")], "pending": [(5, BEFORE)]}
    assert streams(told, "batches", "transformed", "finalized") == {
        "batches": ("waiting", None), "transformed": ("waiting", None), "finalized": ("done", 5)
    }  # fmt: skip


def test_a_run_that_has_nothing_to_do_leaves_the_report_as_it_was() -> None:
    write_input()
    submit()
    before = Path(f"{RUN}/run.json").read_bytes(), Path(f"{RUN}/report.html").read_bytes()
    submit()
    assert (Path(f"{RUN}/run.json").read_bytes(), Path(f"{RUN}/report.html").read_bytes()) == before


def test_filters_are_told_where_they_leave_rows_out() -> None:
    write("in.parquet", {"n": list(range(40)), "text": [f"text {number}" for number in range(40)]})
    submit(backend_read_kwargs={"filters": [["n", ">=", 25]]})
    told = report()
    assert ways(told)["source"] == ("done", 40, 15)
    assert lost(told) == {"source": [(25, "filtered out by --backend-read-kwargs")]}


def test_a_part_that_was_damaged_is_told() -> None:
    write_input()
    submit(limit=10)
    truncated(Path(f"{RUN}/parts/0001-000001.parquet"))
    submit()
    told = report()
    assert (told.damaged, told.done_before, told.rows) == (["0001-000001.parquet"], 0, 40)
    assert told.figures["recovered"].note == "1 damaged part(s) were set aside"


def test_requests_are_told_as_traffic() -> None:
    write_input(20, bad=(3,))
    with chaos("--when", "bad=400") as server:
        submit_chat(server.url, max_concurrency=4)
    told = report()
    assert (told.traffic["requests"], told.traffic["answers"], told.traffic["retries"]) == (20, 19, 0)
    assert (told.traffic["tokens_in"], told.traffic["tokens_out"]) == (2 * 19, 6 * 19)
    assert 0 < told.traffic["p50"] <= told.traffic["p95"]
    assert [(kind.type, kind.message) for kind in told.failures] == [
        ("EndpointError", "POST chat/completions: status 400: this is a #, nobody!")
    ]  # fmt: skip
    assert sum(told.timeline.requests) == 20


def submit_chat(url: str, **options: Any) -> RunResult:
    defaults = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["text"]}
    return run(make_spec({**defaults, "output_columns": ["answer"], "endpoints": [url], **options}))


def test_options_that_were_given_stand_first_and_versions_are_those_of_what_ran() -> None:
    write_input()
    submit(limit=7, retries=0)
    told = report()
    given = {option.flag: option.value for option in told.options if not option.is_default}
    assert given == {
        "JOB": job("Upper"), "--input": "in.parquet", "--output": "out.parquet", "--input-column": '["text"]',
        "--output-column": '["upper"]', "--limit": "7", "--retries": "0",
    }  # fmt: skip
    defaults = [option.is_default for option in told.options]
    assert defaults == sorted(defaults)
    assert told.versions["python"] == sys.version.partition(" ")[0]
    assert told.versions["pyarrow"] == version("pyarrow")
    assert told.host == recorded()["host"] != ""


def test_the_run_over_time_has_every_row_and_no_moment_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "LOOK_SECONDS", 0.1)
    write_input(120)
    submit("Recorded", job_kwargs={"seconds": 0.02}, max_concurrency=2)
    line = report().timeline
    assert (sum(line.rows), sum(line.failed)) == (120, 0)
    assert len({len(getattr(line, name)) for name in line.__struct_fields__}) == 1
    assert len(line.seconds) > 5
    assert line.seconds == sorted(line.seconds)
    gaps = [after - before for before, after in zip(line.seconds[:-2], line.seconds[1:-1], strict=True)]
    assert min(gaps) > 0.03, "each entry is about some time"
    assert all(memory > 10 * 2**20 for memory in line.memory)


# Runs that break.


@ENGINES
def test_a_run_that_stops_at_the_first_failure_tells_the_row_and_what_it_did_not_reach(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(400, bad=(100,))
    monkeypatch.setattr(FailsAtOnce, "failed", False)
    options = {"data_backend": engine, "retries": 0, "max_concurrency": 1, "on_error": "fail"}
    error = broken(SwarmError, FailsAtOnce, **options)
    told = report()
    assert told.state == recorded()["state"] == "failed"
    assert told.broken is not None
    assert (told.broken.type, told.broken.node) == ("JobError", "transformed")
    assert (told.broken.message, told.broken.hint, told.broken.traceback) == (*error.rendered(COMMAND_LINE), "")
    assert told.broken.message.startswith("The row with _row_id = 100 failed: ValueError: cannot do 'bad 100'")
    reached = told.rows
    assert 101 <= reached < 400
    assert lost(told) == {"transformed": [(1, FAILED), (400 - reached, "not reached")]}
    assert streams(told, "transformed", "flushed", "finalized") == {
        "transformed": ("failed", reached), "flushed": ("stopped", reached), "finalized": ("waiting", None)
    }  # fmt: skip
    assert told.ended == told.as_of
    check_files()


@ENGINES
def test_a_job_that_cannot_open_is_blamed_with_its_traceback(engine: str) -> None:
    write_input()
    broken(SwarmError, CannotOpen, data_backend=engine)
    told = report()
    assert told.broken is not None
    assert (told.state, told.broken.type, told.broken.node) == ("failed", "RuntimeError", "transformed")
    assert told.broken.message == "RuntimeError: no licence"
    assert 'raise RuntimeError("no licence")' in told.broken.traceback
    assert "test_run_reports.py" in told.broken.traceback
    assert (told.rows, lost(told)) == (0, {"transformed": [(40, "not reached")]})
    check_files()


def test_a_job_that_ends_the_process_is_blamed() -> None:
    write_input()
    broken(SwarmError, Exits, max_concurrency=1)
    told = report()
    assert told.broken is not None
    assert (told.state, told.broken.type, told.broken.node) == ("failed", "SystemExit", "transformed")
    assert "sys.exit(3)" in told.broken.traceback
    assert (told.rows, lost(told)) == (7, {"transformed": [(33, "not reached")]})
    check_files()


@ENGINES
@MODES
def test_an_input_that_breaks_in_mid_run_is_blamed_on_the_node_that_reads_it(
    engine: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "LOOKED_AT_BYTES", 1)  # of a larger file planning does not read so much either
    write_input(3000, row_group_size=250)
    blank(Path("in.parquet"), group=7)
    broken(SwarmError, "Upper", data_backend=engine, native_backend=native, native_batch_size=100)
    told = report()
    reads = "batches" if native else "as_pandas"
    assert told.broken is not None
    assert (told.state, told.broken.node, told.figures[reads].state) == ("failed", reads, "failed")
    assert told.broken.type == "DataError", "the file's fault, with the file and the column: nothing to trace"
    assert told.rows < 2000
    assert lost(told) == {"transformed": [(3000 - told.rows, "not reached")]}
    after = {"batches", "transformed", "flushed"} - {reads}
    assert {told.figures[node].state for node in after} == {"stopped"}
    check_files()


def blank(path: Path, group: int) -> None:
    """Zeroes in place of a row group's pages; the footer knows nothing of it."""
    column = pq.read_metadata(path).row_group(group).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)


def test_a_run_that_cannot_write_its_output_is_blamed_on_the_node_that_writes_it() -> None:
    write_input()
    error = broken(SwarmError, TakesTheOutput, output="taken/out.parquet", checkpoint_dir="runs")
    told = report("runs/out.parquet")
    assert told.broken is not None
    assert (error.exit_status, told.state, told.broken.node) == (1, "failed", "finalized")
    assert (told.rows, told.figures["flushed"].state) == (40, "done")


def test_a_refused_run_leaves_no_report() -> None:
    write_input()
    with pytest.raises(ConfigurationError):
        submit(output="in.parquet")
    assert not Path(".domyn-swarm").exists()


def test_too_many_failures_are_told() -> None:
    write_input(40, bad=tuple(range(40)))
    broken(SwarmError, "Picky", retries=0, max_errors="3", max_concurrency=1)
    told = report()
    assert told.broken is not None
    assert (told.state, told.broken.node) == ("failed", None)
    assert "--max-errors 3 allows" in told.broken.message
    assert told.failed == sum(kind.count for kind in told.failures) > 3
    assert sum(count for count, _ in lost(told)["transformed"]) == 40


@MODES
def test_an_interrupted_run_tells_how_far_it_got(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(40)
    monkeypatch.setattr(Stops, "stopped", False)
    options: dict[str, Any] = {"max_concurrency": 1, "native_backend": native, "native_batch_size": 5}
    broken(Interrupted, Stops, **options)
    told = report()
    assert (told.state, told.broken) == ("interrupted", None)
    assert 0 < told.rows < 40
    assert lost(told) == {"transformed": [(40 - told.rows, "not reached")]}
    assert {told.figures[node].state for node in ("transformed", "flushed")} == {"stopped"}
    assert told.figures["finalized"].state == "waiting"
    assert "SIGINT: finishing the calls in flight; once more to stop at once" in told.warnings
    check_files()
    assert submit(Stops, **options).done_before == told.rows


# Runs that go on, and runs that are gone.


def started(*options: str) -> subprocess.Popen[str]:
    arguments = [
        "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet",
        "--job-kwargs", '{"seconds": 0.01}', "--max-concurrency", "2", *options,
    ]  # fmt: skip
    return start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def rows_told() -> int:
    try:
        return report().rows
    except ConfigurationError:  # it has not begun
        return -1


@pytest.mark.stress
def test_a_run_that_goes_on_tells_how_it_goes_and_one_that_was_killed_is_lost(command: Command) -> None:
    write_input(4000)
    process = started()
    try:
        wait_for(lambda: rows_told() > 0, process)
        first = report()
        assert (first.state, first.total, first.ended, first.broken) == ("running", 4000, None, None)
        assert {first.figures[node].state for node in ("as_pandas", "transformed", "flushed")} <= {"running", "done"}
        assert first.figures["transformed"].state == first.figures["flushed"].state == "running"
        assert first.figures["finalized"].state == "waiting"
        assert "not reached" not in str(lost(first))
        wait_for(lambda: rows_told() > first.rows, process)
        assert report().figures["transformed"].rows > (first.figures["transformed"].rows or 0)  # type: ignore[operator]
        assert report().seconds > first.seconds
        check_files()
    finally:
        stop(process, signal.SIGKILL)
        process.communicate()
    told, called = report(), Path("calls").read_text().count("\n")
    assert (told.state, recorded()["state"], told.ended) == ("lost", "running", None)
    assert 0 < told.rows <= called
    check_files()

    done = command(*command_words())
    assert done.returncode == 0, done.stderr
    assert (report().state, report().number) == ("done", 2)


def command_words() -> list[str]:
    return [
        "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet",
        "--job-kwargs", '{"seconds": 0}', "--limit", "1000",
    ]  # fmt: skip


def test_a_run_that_begins_has_its_report_at_once() -> None:
    """Not only when its first second is over."""
    write_input(1)
    process = started("--job-kwargs", '{"seconds": 3600}')
    try:
        wait_for(lambda: Path("calls").exists(), process)
        told = report()
        assert (told.state, told.total, told.rows) == ("running", 1, 0)
    finally:
        stop(process, signal.SIGKILL)
        process.communicate()
    assert report().state == "lost"


# The way on.


def by_shell(line: str) -> subprocess.CompletedProcess[str]:
    """What somebody does who pastes the line: the command is found where this Python is."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        line, shell=True, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}
    )


def test_the_line_that_goes_on_does_so_whatever_has_to_be_quoted() -> None:
    write("my $in/a b.parquet", {"it's": [f"text {number}" for number in range(400)], "-key": list(range(400))})
    output = "o'u\"t $HOME/`x`.parquet"
    options = {
        "input": "my $in/*.parquet", "output": output, "input_columns": ["it's"], "output_columns": ["the \\ answer"],
        "id_column": "-key", "job_kwargs": {"bad": "text 200", "calls": "the calls"}, "retries": 0, "on_error": "fail",
        "max_concurrency": 1,
    }  # fmt: skip
    with pytest.raises(SwarmError):
        submit("Picky", **options)
    told = report(make_spec({"input": "i", "output": output}).run_dir)
    Path("mended").touch()
    done = by_shell(told.resume)
    assert done.returncode == 0, done.stderr
    assert f"done before  {told.rows - 1}\n" in done.stdout
    assert [row["the \\ answer"] for row in rows(output)] == [f"TEXT {number}" for number in range(400)]


@pytest.mark.stress
def test_the_line_that_an_interrupted_command_leaves_goes_on_with_it() -> None:
    write_input(600)
    process = started()
    try:
        wait_for(lambda: Path("calls").exists() and Path("calls").read_text().count("\n") > 50, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        stop(process, signal.SIGKILL)
        process.communicate()
    told = report()
    assert (told.state, told.broken) == ("interrupted", None)
    assert {told.figures[node].state for node in ("transformed", "flushed")} == {"stopped"}
    done = by_shell(told.resume.replace('"seconds":0.01', '"seconds":0'))
    assert done.returncode == 2, "a job kwarg is part of what a row is"
    done = by_shell(told.resume)
    assert done.returncode == 0, done.stderr
    assert f"done before  {told.rows:,}\n" in done.stdout
    assert sorted(Path("calls").read_text().splitlines()) == sorted(f"text {number}" for number in range(600))


def test_the_line_that_goes_on_does_not_begin_anew_though_the_run_did() -> None:
    write_input(40, bad=(20,))
    options = {"retries": 0, "max_concurrency": 1, "on_error": "fail"}
    broken(SwarmError, "Picky", resume=False, **options)
    told = report()
    Path("mended").touch()
    done = by_shell(told.resume)
    assert done.returncode == 0, done.stderr
    assert f"done before  {told.rows - 1}\n" in done.stdout


@cache
def command_line_of_submit() -> tuple[typer.Typer, list[JobSpec]]:
    """The command line's own options, and the specs that they were found to mean."""
    found: list[JobSpec] = []

    def capture(options: dict[str, Any], job: str = typer.Argument(DEFAULT_JOB)) -> None:
        job_class = load_job_class(job)
        given = with_named(options, of_steps=True)
        found.append(resolve(job, given, job_class.defaults, job_fields(job_class)))

    app = typer.Typer()
    app.command()(with_spec_options(capture))
    return app, found


def parsed(line: str) -> JobSpec:
    """What the command line makes of `line`, without running it."""
    words = shlex.split(line)
    assert words[:3] == ["domyn-swarm", "job", "submit"]
    app, found = command_line_of_submit()
    app(words[3:], standalone_mode=False)
    return found.pop()


Words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12) | (
    st.sampled_from(["-x", "--", "--limit", "a b", "it's", '"', "$HOME", "`ls`", "\\", "\n", "*", "null", "é", "auto"])
)
Json = st.dictionaries(
    st.sampled_from(["bad", "a b", "é", "compression"]),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | Words,
    max_size=3,
)
Positive, Seconds = st.integers(1, 10**9), st.floats(1e-9, 1e9)
Named = st.builds("{}={}".format, st.sampled_from(["judge", "_x"]), st.text(st.characters(codec="ascii"), min_size=1))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "job_kwargs": Json, "input": Words, "output": st.sampled_from(["o.parquet", "a b/ü.parquet", "-x.parquet", "out/"]),
    "input_columns": st.lists(Words, max_size=3), "output_columns": st.lists(Words, max_size=3),
    "keep": st.lists(Words, max_size=3), "recompute": st.lists(Words, max_size=3),
    "models": st.lists(Named, max_size=2), "api_key_files": st.lists(Named, max_size=2),
    "id_column": st.none() | Words, "limit": st.none() | Positive,
    "output_mode": st.sampled_from(["append", "replace", "io_only"]), "overwrite": st.booleans(),
    "data_backend": st.sampled_from(["pandas", "polars", "ray"]), "native_backend": st.booleans(),
    "native_batch_size": Positive, "batch_size": Positive, "backend_read_kwargs": Json, "backend_write_kwargs": Json,
    "serve": st.none() | Words, "serve_replicas": st.none() | Positive, "serve_gpus": st.none() | st.integers(0, 8),
    "serve_timeout": Seconds, "serve_restarts": st.integers(0, 100),
    "ray_address": st.none() | Words, "endpoints": st.lists(Words, max_size=3), "api_key_file": st.none() | Words,
    "headers": st.lists(st.sampled_from(["User-Agent: me", "X-Key: env:KEY", "Accept: a: b"]), max_size=1),
    "api_key_header": st.sampled_from([None, "api-key"]),
    "model": st.none() | Words, "max_concurrency": st.none() | st.just("auto") | Positive,
    "max_rpm": st.none() | Seconds, "max_tpm": st.none() | Seconds, "retries": st.integers(0, 100),
    "retry_timeout": Seconds, "timeout": st.none() | Seconds, "connect_timeout": Seconds, "dedupe": st.booleans(),
    "on_error": st.sampled_from(["record", "fail"]), "max_errors": st.sampled_from([None, "0", "17", "5%", "0.1%"]),
    "checkpoint_dir": st.none() | Words, "checkpoint_tag": st.sampled_from([None, "mine", "a-b_c.d@e+f=g"]),
    "checkpoint_interval": Seconds, "resume": st.just(True), "checkpointing": st.booleans(), "trace": st.booleans(),
    "adapters": st.lists(Words, max_size=2), "allow_model_change": st.booleans(), "preflight": st.just(True),
    "preflight_timeout": Seconds, "grace": Seconds, "keep_changed": st.booleans(),
}  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    """A spec that differs from the defaults in some fields."""
    names = draw(st.sets(st.sampled_from(sorted(FIELDS)))) | {"input", "output"}
    return make_spec({"job": job("Picky"), **{name: draw(FIELDS[name]) for name in sorted(names)}})


def test_every_option_is_tried() -> None:
    assert {"job", *FIELDS} == set(JobSpec.__struct_fields__)


@given(spec=specs())
def test_the_line_of_a_spec_means_that_spec(spec: JobSpec) -> None:
    masking._known.clear()
    assert msgspec.to_builtins(parsed(command_of(spec))) == msgspec.to_builtins(spec)


@pytest.mark.parametrize("given_", [{"retries": 2}, {"retries": 5}, {"retries": 0}, {}], ids=str)
def test_the_line_means_the_same_where_the_job_has_defaults_of_its_own(given_: dict[str, Any]) -> None:
    """A job that asks an endpoint tries 5 times unless it is told otherwise; 2 is what other jobs do."""
    job_class = load_job_class(DEFAULT_JOB)
    flags = {"input": "in.parquet", "output": "out.parquet", "endpoints": ["demo"], **given_}
    spec = resolve(DEFAULT_JOB, flags, job_class.defaults, job_fields(job_class))
    assert parsed(command_of(spec)) == spec


def test_the_line_holds_no_credentials() -> None:
    storage = {"storage_options": {"key": "AKIA-secret", "endpoint_url": "http://here"}}
    line = command_of(make_spec({"input": "in.parquet", "output": "out.parquet", "backend_read_kwargs": storage}))
    assert "AKIA" not in line
    assert "http://here" in line


# Keys, and what cannot be written.


@pytest.mark.parametrize("form", ["plain", "half", "base64", "quoted", "escaped"])
def test_neither_the_report_nor_the_picture_holds_a_key(form: str, command: Command) -> None:
    write("in.parquet", {"text": ["fine", "rude", "odd"]})
    with chaos("--when", "rude=400", "--when", "odd=error-200", "--repeat-key", form) as server:
        arguments = ["--input", "in.parquet", "--input-column", "text", "--output", "out.parquet"]
        options = ["--endpoint", server.url, "--retries", "0", "--on-error", "fail", "--max-concurrency", "1"]
        done = command("job", "submit", *arguments, *options, env=FROM_ENVIRONMENT)
    assert done.returncode == 1, done.stderr
    told = report()
    assert told.broken is not None
    assert "this is a 400, ***!" in told.broken.message
    assert "this is a 400, ***!" in Path(f"{RUN}/report.html").read_text()
    check_files()
    check_nothing_is_shown(done)


@pytest.mark.parametrize("name", ["report.html", "graph.svg"])
def test_a_report_that_cannot_be_written_is_warned_of_once_and_breaks_no_run(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_input()
    Path(f"{RUN}/{name}/in the way").mkdir(parents=True)
    assert submit().done_now == 40
    assert (report().state, report().rows) == ("done", 40)
    warned = [
        one.getMessage() for one in caplog.records if "report of the run could not be written" in one.getMessage()
    ]
    assert len(warned) == 1
    assert [one.name for one in Path(RUN).iterdir() if one.name.endswith(".tmp")] == []
    shutil.rmtree(f"{RUN}/{name}")
    assert submit(limit=5).done_before == 5
    check_files()


def test_a_report_that_cannot_be_written_hides_no_error() -> None:
    write_input()
    Path(f"{RUN}/report.html/in the way").mkdir(parents=True)
    assert broken(SwarmError, CannotOpen).message == "RuntimeError: no licence"
    assert report().state == "failed"


def test_without_checkpointing_no_report_stays() -> None:
    write_input()
    submit(checkpointing=False)
    assert sorted(path.name for path in Path().iterdir()) == ["in.parquet", "out.parquet"]


@ENGINES
def test_a_run_that_touches_no_local_disk_has_its_report_beside_its_parts(engine: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    with memory.open("/in.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["a", "bad", "c"]}), file)
    paths = {"input": "memory://in.parquet", "output": "memory://out/out.parquet"}
    submit("Picky", data_backend=engine, retries=0, **paths)
    run_dir = "memory://out/.domyn-swarm/out.parquet"
    told = report(run_dir)
    assert (told.path, told.state, told.rows, told.failed) == (run_dir, "done", 3, 1)
    assert memory.cat("/out/.domyn-swarm/out.parquet/report.html").startswith(b"<!doctype html>")
    assert b"<svg" in memory.cat("/out/.domyn-swarm/out.parquet/graph.svg")


def test_hostile_names_and_texts_can_be_reported() -> None:
    name = "</script><script>\u2028\x1b"
    write("in.parquet", {name: ["bad </script> \x00 \U0001f600", "b"]})
    submit("Picky", input_columns=[name], retries=0)
    told = report()
    assert told.failures[0].examples[0].message == "cannot do 'bad </script> \\x00 😀'"
    assert "</script><script>" not in Path(f"{RUN}/report.html").read_text()
    check_files()


def test_a_record_of_an_earlier_version_tells_too_little() -> None:
    write_input()
    submit()
    content = recorded()
    del content["figures"]
    Path(f"{RUN}/run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"run.json is missing or incomplete in"):
        report()
    submit(limit=3)
    assert report().state == "done"


# Ray.


@pytest.mark.stress
def test_a_run_on_ray_tells_what_its_workers_did_as_one(command: Command) -> None:
    write_input(400, bad=(3, 17), row_group_size=50)
    # Ray keeps its sockets there, and has room for a short path only.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as logs:
        environment = {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": logs, "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
        kwargs = json.dumps({"calls": str(Path("calls").absolute()), "mended": str(Path("mended").absolute())})
        options = ("--data-backend", "ray", "--retries", "0", "--limit", "300", "--job-kwargs", kwargs)
        arguments = ("--input", "in.parquet", "--output", "out.parquet")
        done = command("job", "submit", job("Picky"), *arguments, *options, env=environment)
    assert done.returncode == 3, done.stderr
    told = report()
    assert (told.state, told.total, told.rows, told.failed) == ("done", 300, 300, 2)
    assert ways(told) | PLANNED == PLANNED | {
        "pending": ("done", 300, 300), "flushed": ("done", 300, 300),
        "finalized": ("done", 300, 300),
    }  # fmt: skip
    assert lost(told) == {"limited": [(100, "beyond --limit 300")], "flushed": [(2, FAILED)]}
    (kind,) = told.failures
    assert (kind.type, kind.count, sorted(one.id for one in kind.examples)) == ("ValueError", 2, ["17", "3"])
    assert kind.message.startswith("jobs.py, line ")
    assert told.figures["flushed"].seconds > 0
    assert (told.figures["flushed"].memory or 0) > 10 * 2**20
    assert "ray" in told.versions
    check_files()
