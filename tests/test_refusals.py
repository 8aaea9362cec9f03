"""What cannot work is refused: status 2, one message that names the culprit and the way out, and nothing is written."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from domyn_swarm.edges import on_command_line
from domyn_swarm.endpoint.demo import demo_server
from tests import wording
from tests.conftest import Command, job, rows, start_command, stop, tree, write
from tests.refused import refusal

JOB_FILES = {
    "abstract.py": """
        import abc
        from domyn_swarm import SwarmJob
        class Abstract(SwarmJob, abc.ABC):
            @abc.abstractmethod
            async def transform_item(self, item): ...
    """,
    "broken.py": """
        from domyn_swarm import SwarmJob
        raise RuntimeError("no licence")
    """,
    "unparsable.py": """
        from domyn_swarm import SwarmJob
        class Shout(SwarmJob:
    """,
    "leaving.py": """
        import sys
        sys.exit("usage: leaving.py FILE")
    """,
    "lacking.py": """
        import nosuchlibrary
    """,
    "classes.py": """
        from domyn_swarm import SwarmJob
        class Nothing(SwarmJob):
            input_columns = ("text",)
        class Elsewhere:
            pass
        class Bare(SwarmJob):
            input_columns = "text"
            def transform_item(self, item): ...
        class Required(SwarmJob):
            input_columns = ("text",)
            level: int
            def transform_item(self, item): ...
        class Defaulted(SwarmJob):
            input_columns = ("text",)
            defaults = {"max_concurency": 4}
            def transform_item(self, item): ...
        class Choosy(SwarmJob):
            input_columns = ("text",)
            def __init__(self, level: int = 0) -> None:
                raise RuntimeError("no level suits")
            def transform_item(self, item): ...
    """,
}


@pytest.fixture(autouse=True)
def prepared() -> None:
    write_files()


def write_files() -> None:
    """Inputs and job files in the working directory, good ones and bad ones."""
    table = pa.table({
        "id": ["a", "b", "c", "d"],
        "text": ["one", "two", "three", "four"],
        "number": [1, 2, 3, 4],
        "fraction": [0.5, 1.5, 2.5, 3.5],
        "holes": ["a", "b", None, "d"],
        "twins": ["a", "b", "a", "a"],
    })  # fmt: skip
    write("in.parquet", table)
    write("taken.parquet", {"precious": [1]})
    write("counted.parquet", {"_row_id": [7, 8], "text": ["a", "b"]})
    write("ours.parquet", {"__position__": [7, 8], "text": ["a", "b"]})
    write("twice.parquet", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["text", "text"]))
    write("parts/a.parquet", {"text": ["a"]})
    write("parts/b.parquet", {"text": [1]})
    write("good/a.parquet", {"text": ["a"]})
    write("lines.csv", {"text": ["a"]})
    Path("notes.parquet").write_text("these are notes, no parquet file, though they are long enough to be one")
    whole = Path(write("cut.parquet", table)).read_bytes()
    Path("cut.parquet").write_bytes(whole[:-20])
    Path("nothing.parquet").touch()
    Path("empty").mkdir()
    for name, text in JOB_FILES.items():
        lines = text.splitlines()[1:]
        Path(name).write_text("\n".join(line[8:] for line in lines) + "\n")


@dataclass(frozen=True)
class Refused:
    """The flags of `domyn-swarm job submit JOB --input in.parquet --output out.parquet`, and the error's data."""

    what: str
    flags: str
    code: str
    about: dict[str, Any]
    job: str = job("Upper")

    @property
    def arguments(self) -> list[str]:
        return [self.job, "--input", "in.parquet", "--output", "out.parquet", *shlex.split(self.flags)]


REFUSED = [
    # Input
    Refused("input that is not there", "--input gone.parquet", "input.missing", {"option": "input"}),
    Refused("input that is text", "--input notes.parquet", "input.unreadable", {"option": "input"}),
    Refused("input that was cut off", "--input cut.parquet", "input.unreadable", {"option": "input"}),
    Refused("input of zero bytes", "--input nothing.parquet", "input.unreadable", {"option": "input"}),
    Refused("input that lies to be CSV", "--input lines.csv", "input.unreadable", {"option": "input"}),
    Refused("empty directory", "--input empty", "input.empty", {"option": "input"}),
    Refused("glob without a match", "--input 'x*.parquet'", "input.missing", {"option": "input"}),
    Refused("one of a range missing", "--input 'in{,_2}.parquet'", "input.missing", {"option": "input"}),
    Refused("unbalanced braces", "--input 'in{.parquet'", "input.braces", {"option": "input"}),
    Refused("files of two formats", "--input '{in.parquet,lines.csv}'", "input.format", {"option": "input"}),
    Refused(
        "files of two schemas",
        "--input parts",
        "input.schemas",
        {"option": "input", "column": "text"},
    ),
    Refused(
        "column name that occurs twice",
        "--input twice.parquet",
        "column.duplicate",
        {"option": "input", "column": "text"},
    ),
    Refused("protocol of no filesystem", "--input nosuch://x/in.parquet", "storage.unknown", {}),
    Refused(
        "storage options that are no object",
        """--backend-read-kwargs '{"storage_options": 5}'""",
        "storage.options",
        {},
    ),
    # Columns
    Refused(
        "input column that is not there",
        "--input-column txt",
        "column.missing",
        {"option": "input_columns", "column": "txt"},
    ),
    Refused("ambiguous input column", "", "column.unnamed", {"option": "input_columns"}, job("Same")),
    Refused(
        "bare text as the class's input columns",
        "",
        "job.columns",
        {},
        "classes.py:Bare",
    ),
    Refused(
        "id column that is not there", "--id-column key", "column.missing", {"option": "id_column", "column": "key"}
    ),
    Refused("null among the ids", "--id-column holes", "id.null", {"option": "id_column", "column": "holes", "row": 2}),
    Refused("duplicate ids", "--id-column twins", "id.duplicate", {"option": "id_column", "column": "twins"}),
    Refused("fractions as ids", "--id-column fraction", "id.type", {"option": "id_column", "column": "fraction"}),
    Refused(
        "input with a column _row_id",
        "--input counted.parquet",
        "column.reserved",
        {"option": "input", "column": "_row_id"},
    ),
    Refused(
        "input with a column of ours",
        "--input ours.parquet",
        "column.reserved",
        {"option": "input", "column": "__position__"},
    ),
    Refused(
        "output column of the input",
        "--output-column number",
        "column.clash",
        {"option": "output_columns", "column": "number"},
    ),
    Refused(
        "output column with the name of generated ids",
        "--output-column _row_id",
        "column.clash",
        {"option": "output_columns", "column": "_row_id"},
    ),
    Refused(
        "output column given twice",
        "--output-column a --output-column a",
        "column.duplicate",
        {"option": "output_columns", "column": "a"},
    ),
    # JSON
    Refused("job kwargs that are no JSON", "--job-kwargs '{plus: 1}'", "option.invalid", {"option": "job_kwargs"}),
    Refused("job kwargs that are no object", "--job-kwargs '[1]'", "option.invalid", {"option": "job_kwargs"}),
    Refused(
        "read kwargs that are no JSON", "--backend-read-kwargs x", "option.invalid", {"option": "backend_read_kwargs"}
    ),
    Refused(
        "read kwargs that are no object", "--backend-read-kwargs 1", "option.invalid", {"option": "backend_read_kwargs"}
    ),
    Refused(
        "write kwargs that are no JSON",
        "--backend-write-kwargs x",
        "option.invalid",
        {"option": "backend_write_kwargs"},
    ),
    Refused(
        "write kwargs that are no object",
        "--backend-write-kwargs 1",
        "option.invalid",
        {"option": "backend_write_kwargs"},
    ),
    Refused(
        "unknown read kwarg",
        """--backend-read-kwargs '{"colums": ["text"]}'""",
        "option.unknown_key",
        {"option": "backend_read_kwargs"},
    ),
    Refused(
        "read kwarg that names a column that is not there",
        """--backend-read-kwargs '{"columns": ["txt"]}'""",
        "column.missing",
        {"option": "backend_read_kwargs", "column": "txt"},
    ),
    Refused(
        "read kwarg of the wrong type",
        """--backend-read-kwargs '{"columns": 5}'""",
        "option.invalid",
        {"option": "backend_read_kwargs"},
    ),
    Refused(
        "filters of the wrong type",
        """--backend-read-kwargs '{"filters": {"number": 1}}'""",
        "filter.invalid",
        {"option": "backend_read_kwargs"},
    ),
    Refused(
        "filter on a column that is not there",
        """--backend-read-kwargs '{"filters": [["nmber", ">", 1]]}'""",
        "column.missing",
        {"option": "backend_read_kwargs", "column": "nmber"},
    ),
    Refused(
        "filter that compares a text with a number",
        """--backend-read-kwargs '{"filters": [["text", ">", 1]]}'""",
        "filter.type",
        {"option": "backend_read_kwargs", "column": "text"},
    ),
    Refused(
        "unknown write kwarg",
        """--backend-write-kwargs '{"compresion": "zstd"}'""",
        "option.invalid",
        {"option": "backend_write_kwargs"},
    ),
    Refused(
        "unknown compression",
        """--backend-write-kwargs '{"compression": "zip"}'""",
        "option.invalid",
        {"option": "backend_write_kwargs"},
    ),
    Refused(
        "row groups of no number of rows",
        """--backend-write-kwargs '{"row_group_size": "many"}'""",
        "option.invalid",
        {"option": "backend_write_kwargs"},
    ),
    # Job
    Refused(
        "unknown job kwarg",
        """--job-kwargs '{"pluss": 1}'""",
        "job.unknown_field",
        {"option": "job_kwargs"},
        job("Length"),
    ),
    Refused(
        "job kwarg of the wrong type",
        """--job-kwargs '{"plus": "many"}'""",
        "job.fields",
        {"option": "job_kwargs"},
        job("Length"),
    ),
    Refused("job kwarg that is missing", "", "job.fields", {"option": "job_kwargs"}, "classes.py:Required"),
    Refused(
        "default that is no option",
        "",
        "job.defaults",
        {},
        "classes.py:Defaulted",
    ),
    Refused("constructor that refuses", "", "job.fields", {"option": "job_kwargs"}, "classes.py:Choosy"),
    Refused("job without a class", "", "step.none", {}, "classes.py"),
    Refused("job of an unknown module", "", "job.missing", {}, "nosuch:Job"),
    Refused("job of an unknown file", "", "job.missing", {}, "nosuch.py:Job"),
    Refused("job of an unknown class", "", "job.missing", {}, job("Up")),
    Refused(
        "job of an unknown class of the package",
        "",
        "job.missing",
        {},
        "domyn_swarm.jobs:ChatJob",
    ),
    Refused("class that is no job", "", "job.not_a_job", {}, "classes.py:Elsewhere"),
    Refused("abstract job", "", "job.abstract", {}, "abstract.py:Abstract"),
    Refused("SwarmJob itself", "", "job.abstract", {}, "domyn_swarm:SwarmJob"),
    Refused("file that raises", "", "job.import", {}, "broken.py:Shout"),
    Refused("module that raises", "", "job.import", {}, "broken:Shout"),
    Refused("file with a syntax error", "", "job.import", {}, "unparsable.py:Shout"),
    Refused("file that exits", "", "job.import", {}, "leaving.py:Shout"),
    Refused("file whose import is missing", "", "job.import", {}, "lacking.py:Shout"),
    Refused("module whose import is missing", "", "job.import", {}, "lacking:Shout"),
    Refused("job without a method", "", "job.no_method", {}, "classes.py:Nothing"),
    Refused(
        "native mode for a job that has none",
        "--native-backend",
        "job.no_method",
        {"option": "native_backend", "step": "transform_items_native"},
        job("Length"),
    ),
    Refused(
        "timeout for a plain def",
        "--timeout 5",
        "job.not_async",
        {"option": "timeout", "step": "transform_item"},
        job("Length"),
    ),
    # Output
    Refused("output that is CSV", "--output out.csv", "output.suffix", {"option": "output"}),
    Refused("output that is JSON", "--output out.json", "output.suffix", {"option": "output"}),
    Refused("output without a name", "--output ''", "output.invalid", {"option": "output"}),
    Refused("output that is this folder", "--output .", "output.invalid", {"option": "output"}),
    Refused("output of another program", "--output taken.parquet", "output.exists", {"option": "output"}),
    Refused("output that is the input", "--output in.parquet", "output.overlap", {"option": "output"}),
    Refused(
        "output in the input's directory",
        "--input good --output good/out.parquet",
        "output.overlap",
        {"option": "output"},
    ),
    Refused(
        "output that the input's glob matches",
        "--input 'i*.parquet' --output into.parquet",
        "output.overlap",
        {"option": "output"},
    ),
    Refused(
        "output that a glob with braces matches",
        "--input '{in,i*}.parquet' --output into.parquet",
        "output.overlap",
        {"option": "output"},
    ),
    Refused(
        "output directory whose files the input's glob matches",
        "--input 'good*/*.parquet' --output goods",
        "output.overlap",
        {"option": "output"},
    ),
    Refused(
        "output whose errors file the input's glob matches",
        "--input 'i*.parquet' --output into",
        "output.overlap",
        {"option": "output"},
    ),
    Refused("output around the input", "--input good/a.parquet --output good", "output.overlap", {"option": "output"}),
    Refused("output below a file", "--output notes.parquet/out.parquet", "output.invalid", {"option": "output"}),
    Refused("output of no filesystem", "--output nosuch://x/out.parquet", "storage.unknown", {}),
    # Options
    Refused("limit of zero", "--limit 0", "option.invalid", {"option": "limit"}),
    Refused("limit below zero", "--limit -1", "option.invalid", {"option": "limit"}),
    Refused("no concurrency", "--max-concurrency 0", "option.invalid", {"option": "max_concurrency"}),
    Refused(
        "native batches of nothing",
        "--native-batch-size 0",
        "option.invalid",
        {"option": "native_batch_size"},
    ),
    Refused("batches of nothing", "--batch-size 0", "option.invalid", {"option": "batch_size"}),
    Refused("fewer than no retries", "--retries -1", "option.invalid", {"option": "retries"}),
    Refused("no time at all", "--timeout 0", "option.invalid", {"option": "timeout"}),
    Refused("no interval", "--checkpoint-interval 0", "option.invalid", {"option": "checkpoint_interval"}),
    Refused(
        "option of the wrong type among job kwargs",
        """--job-kwargs '{"max_concurrency": "many"}'""",
        "option.invalid",
        {"option": "max_concurrency"},
    ),
    Refused("unknown --on-error", "--on-error ignore", "option.invalid", {"option": "on_error"}),
    Refused(
        "unknown --output-mode",
        "--output-mode merge",
        "option.invalid",
        {"option": "output_mode"},
    ),
    Refused("unknown backend", "--data-backend dask", "backend.unknown", {"option": "data_backend"}),
    Refused("tag with a slash", "--checkpoint-tag a/b", "option.invalid", {"option": "checkpoint_tag"}),
    Refused("tag that leaves the folder", "--checkpoint-tag ..", "option.invalid", {"option": "checkpoint_tag"}),
    Refused(
        "neither resuming nor keeping",
        "--no-resume --no-checkpointing",
        "option.conflict",
        {"option": "resume"},
    ),
    # Endpoint
    Refused(
        "no endpoint for a job that needs one",
        "--input-column text",
        "endpoint.missing",
        {"option": "endpoints"},
        "domyn_swarm.jobs:ChatCompletionJob",
    ),
    *(
        Refused(
            f"endpoint {url}",
            f"--input-column text --endpoint '{url}'",
            "endpoint.url",
            {"option": "endpoints"},
            "domyn_swarm.jobs:ChatCompletionJob",
        )
        for url in ("localhost:8000", "ftp://localhost/v1", "http://", "http://[::1/v1")
    ),
    Refused(
        "request parameter that the job sets itself",
        """--input-column text --endpoint demo --job-kwargs '{"request": {"model": "x"}}'""",
        "request.reserved",
        {"option": "job_kwargs"},
        "domyn_swarm.jobs:ChatCompletionJob",
    ),
]


SHOWN = (
    "input that is not there",
    "null among the ids",
    "job kwargs that are no JSON",
    "file that exits",
    "file with a syntax error",
    "output of another program",
    "limit of zero",
    "no endpoint for a job that needs one",
)
"""Cases that a real command shows. All others are refused in this process, by the same command line."""

MISUSED = [
    ("--limit x", ("'--limit'", "integer", "See domyn-swarm job submit --help")),
    ("--rows 5", ("No such option: --rows", "See domyn-swarm job submit --help")),
    ("--limit", ("--limit", "requires an argument", "--help")),
    ("other.py:Job", ("extra argument", "other.py:Job", "--help")),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.what)
def test_what_cannot_work_is_refused_before_anything_is_written(case: Refused) -> None:
    before = contents()
    error = refusal(*case.arguments)
    about = {name: getattr(error, name) for name in case.about}
    assert (error.exit_status, error.code, about) == (2, case.code, case.about), on_command_line(error)
    assert contents() == before
    if wording.is_recorded(case):  # `python -m tests.wording` updates the record
        assert wording.entry(case, error) in wording.recorded()


@pytest.mark.parametrize("case", [case for case in REFUSED if case.what in SHOWN], ids=lambda case: case.what)
def test_a_command_shows_a_refusal_as_one_message(case: Refused, command: Command) -> None:
    before = contents()
    ran = command("job", "submit", *case.arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"Error: {on_command_line(refusal(*case.arguments))}\n"
    assert contents() == before


@pytest.mark.parametrize(("flags", "says"), MISUSED, ids=[flags for flags, _ in MISUSED])
def test_a_command_line_that_cannot_be_read_is_refused(flags: str, says: tuple[str, ...], command: Command) -> None:
    assert_refused(submit(command, "Upper", *shlex.split(flags)), *says)


def test_no_other_wording_is_recorded() -> None:
    headings = {f"# {case.what} [{case.code}]" for case in REFUSED if wording.is_recorded(case)}
    assert {entry.partition("\n")[0] for entry in wording.recorded()} == headings


@pytest.mark.parametrize(("left_out", "flag"), [("--output", "--input"), ("--input", "--output")])
def test_without_an_input_or_an_output_there_is_no_run(left_out: str, flag: str, command: Command) -> None:
    before = contents()
    assert_refused(
        command("job", "submit", job("Upper"), flag, "in.parquet"), f"{left_out} is missing", f"Add {left_out}"
    )
    assert contents() == before


def test_an_output_of_another_program_is_replaced_with_overwrite(command: Command) -> None:
    ran = submit(command, "Upper", "--output", "taken.parquet", "--overwrite", "--output-mode", "replace")
    assert ran.returncode == 0
    assert rows("taken.parquet")[0] == {"_row_id": 0, "upper": "ONE"}


def test_an_output_of_another_run_is_replaced_only_with_overwrite(command: Command) -> None:
    assert submit(command, "Upper", "--output-mode", "replace").returncode == 0
    other = ("Length", "--output-mode", "replace", "--checkpoint-tag", "other")
    before = contents()
    assert_refused(submit(command, *other), "--output", "'out.parquet' exists, and another run", "--overwrite")
    assert contents() == before
    assert submit(command, *other, "--overwrite").returncode == 0
    assert rows("out.parquet")[0] == {"_row_id": 0, "length": 3}


def test_importing_a_job_file_leaves_no_bytecode_beside_it(command: Command) -> None:
    submit(command, "classes.py:Nothing")
    assert not list(Path().rglob("__pycache__"))


def test_an_endpoint_that_nobody_serves_costs_no_row(command: Command) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    before = contents()
    assert_refused(chat(command, "--endpoint", url), "--endpoint", url, "cannot be used", "Is the server up")
    assert contents() == before


def test_an_address_beside_the_endpoint_costs_no_row(command: Command) -> None:
    with demo_server() as url:
        before = contents()
        wrong = url.replace("/v1", "/v2")
        assert_refused(chat(command, "--endpoint", wrong), "--endpoint", wrong, "status 404", "ends in /v1")
    assert contents() == before


def test_a_model_that_the_endpoint_does_not_have_costs_no_row(command: Command) -> None:
    with demo_server() as url:
        before = contents()
        ran = chat(command, "--endpoint", url, "--model", "gpt-nosuch")
    assert_refused(ran, "--model", url, "no model 'gpt-nosuch'", "It lists: demo")
    assert contents() == before


def test_the_second_of_two_runs_on_one_folder_is_told_who_holds_it(command: Command) -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(2000)]})
    slow = ["--job-kwargs", '{"seconds": 0.05}', "--checkpoint-interval", "1000", "--max-concurrency", "1"]
    arguments = [job("Recorded"), "--input", "in.parquet", "--output", "out.parquet", *slow]
    first = start_command("job", "submit", *arguments, stderr=subprocess.DEVNULL)
    try:
        while not Path(".domyn-swarm/out.parquet/report.html").exists():  # the last of its files for half a minute
            assert first.poll() is None
            time.sleep(0.05)
        before = tree()
        second = command("job", "submit", *arguments)
        assert first.poll() is None
        assert tree() == before
    finally:
        stop(first, signal.SIGTERM)
        first.wait()
    assert_refused(
        second, "Another process", f"process {first.pid} on ", ".domyn-swarm/out.parquet", "--checkpoint-tag"
    )


@pytest.mark.parametrize(
    ("name", "flags", "difference"),
    [
        ("Length", ["--job-kwargs", '{"plus": 1}'], "job_kwargs.plus: 0, now 1"),
        ("Upper", [], "job: 'jobs.py:Length', now 'jobs.py:Upper'"),
        ("Length", ["--input-column", "id"], "input_columns: ['text'], now ['id']"),
        ("Length", ["--output-column", "size"], "output_columns: ['length'], now ['size']"),
        ("Length", ["--id-column", "id"], "id_column: None, now 'id'"),
        ("Length", ["--model", "large"], "model: None, now 'large'"),
        (
            "Length",
            ["--backend-read-kwargs", '{"filters": [["number", ">", 1]]}'],
            "filters: None, now [['number', '>', 1]]",
        ),
    ],
    ids=["job kwargs", "class", "input columns", "output columns", "id column", "model", "filters"],
)
def test_a_folder_of_another_job_is_refused_with_the_difference_and_the_ways_out(
    name: str, flags: list[str], difference: str, command: Command
) -> None:
    assert submit(command, "Length").returncode == 0
    before = contents()
    ran = submit(command, name, *flags)
    assert_refused(ran, ".domyn-swarm/out.parquet", difference, "--no-resume", "--checkpoint-tag")
    assert contents() == before


def test_a_changed_input_under_generated_ids_is_refused(command: Command) -> None:
    assert submit(command, "Upper").returncode == 0
    write("in.parquet", {"text": ["zero", "one", "two", "three", "four"]})
    before = contents()
    ran = submit(command, "Upper")
    assert_refused(
        ran, "The input changed", ".domyn-swarm/out.parquet", "--no-resume", "--checkpoint-tag", "--id-column"
    )
    assert contents() == before


def test_the_demo_endpoint_is_refused_a_port_that_is_taken(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(command("endpoint", "demo", "--port", str(port)), f"--port: {port} cannot be used", "another")


def submit(command: Command, name: str, *flags: str) -> Any:
    reference = name if ":" in name else job(name)
    return command("job", "submit", reference, "--input", "in.parquet", "--output", "out.parquet", *flags)


def chat(command: Command, *flags: str) -> Any:
    return submit(command, "domyn_swarm.jobs:ChatCompletionJob", "--input-column", "text", *flags)


def assert_refused(ran: Any, *says: str) -> None:
    message = ran.stderr
    assert (ran.returncode, ran.stdout) == (2, ""), message
    assert [line[:7] for line in message.splitlines() if line.startswith("Error: ")] == ["Error: "], message
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    assert [part for part in says if part not in message] == [], message


def contents() -> dict[str, bytes | None]:
    """Each file below the test's folder with its bytes, and each directory."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in Path().rglob("*")
        if "__pycache__" not in path.parts
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_name_that_is_not_utf_8_is_refused_wherever_it_stands(command: Command) -> None:
    Path("folder").mkdir()
    odd = os.fsdecode(b"caf\xe9.parquet")
    shutil.copy("in.parquet", Path("folder", odd))
    before = contents()
    assert_refused(submit(command, "Upper", "--input", f"folder/{odd}"), "--input", "is not UTF-8")
    assert_refused(submit(command, "Upper", "--input", "folder"), "--input", "is not UTF-8", "Rename the file")
    assert_refused(submit(command, "Upper", "--output", odd), "--output", "is not UTF-8")
    assert contents() == before


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    """As in a container that runs as a user whom its system does not know."""
    script = "import pwd; pwd.getpwuid = {}.__getitem__; from domyn_swarm.cli.main import main; main()"
    arguments = ["job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet"]
    before = contents()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False, capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: HOME is not set, and this user is not known to the system")
    assert contents() == before
