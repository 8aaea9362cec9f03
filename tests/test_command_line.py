"""What the command says, returns and leaves behind, typed as people type it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from domyn_swarm.declared import flag_of
from domyn_swarm.endpoint.demo import demo_server
from domyn_swarm.jobs import run as run_a_spec
from domyn_swarm.jobs.field_options import FieldOptions
from domyn_swarm.jobspec import JobSpec
from tests import forked
from tests.conftest import JOBS, Command, job, rows, start_command, table, tree, write

CHAT = "domyn_swarm.jobs:ChatCompletionJob"
RATE = r"\d+\.\d \([\d,]+ rows/s\)"


@pytest.fixture
def texts() -> list[str]:
    """200 rows in in.parquet."""
    texts = [f"text {number}" for number in range(200)]
    write("in.parquet", {"text": texts, "key": [f"k{number}" for number in range(200)]})
    return texts


# The summary, and what is done again


def test_a_fresh_run_sums_up_what_it_did(texts: list[str], command: Command) -> None:
    ran = submit(command, "Upper")
    assert ran.returncode == 0
    told = summary(ran)
    assert re.fullmatch(RATE, told.pop("seconds"))
    assert told == {"rows": "200", "done before": "0", "done now": "200", "failed": "0", "output": "out.parquet"}
    assert [row["upper"] for row in rows("out.parquet")] == [text.upper() for text in texts]


def test_a_rerun_has_nothing_to_do(texts: list[str], command: Command) -> None:
    submit(command, "Recorded")
    written = Path("out.parquet").stat().st_mtime_ns
    ran = submit(command, "Recorded")
    assert ran.returncode == 0
    told = summary(ran)
    assert re.fullmatch(r"\d+\.\d \(nothing to do\)", told.pop("seconds"))
    assert told == {"rows": "200", "done before": "200", "done now": "0", "failed": "0", "output": "out.parquet"}
    assert sorted(calls()) == sorted(texts)
    assert Path("out.parquet").stat().st_mtime_ns == written


def test_a_limited_run_is_the_beginning_of_the_whole_one(texts: list[str], command: Command) -> None:
    told = summary(submit(command, "Recorded", "--limit", "100"))
    assert (told["rows"], told["done before"], told["done now"]) == ("100", "0", "100")
    assert [row["text"] for row in rows("out.parquet")] == texts[:100]
    assert sorted(calls()) == sorted(texts[:100])

    told = summary(submit(command, "Recorded"))
    assert (told["rows"], told["done before"], told["done now"]) == ("200", "100", "100")
    assert [row["text"] for row in rows("out.parquet")] == texts
    assert sorted(calls()) == sorted(texts)


def test_a_limit_after_the_whole_run_shortens_the_output_and_computes_nothing(
    texts: list[str], command: Command
) -> None:
    submit(command, "Recorded")
    told = summary(submit(command, "Recorded", "--limit", "50"))
    assert (told["rows"], told["done before"], told["done now"]) == ("50", "50", "0")
    assert [row["text"] for row in rows("out.parquet")] == texts[:50]
    submit(command, "Recorded")
    assert [row["text"] for row in rows("out.parquet")] == texts
    assert len(calls()) == 200


def test_a_limit_beyond_the_input_is_all_of_it(texts: list[str], command: Command) -> None:
    told = summary(submit(command, "Recorded", "--limit", "1000"))
    assert (told["rows"], told["done now"]) == ("200", "200")


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-concurrency", "7"],
        ["--native-batch-size", "9", "--batch-size", "9"],
        ["--retries", "0", "--on-error", "fail"],
        ["--checkpoint-interval", "1", "--backend-write-kwargs", '{"compression": "snappy"}'],
        ["--data-backend", "pandas", "--backend-read-kwargs", '{"dtype_backend": "pyarrow"}'],
    ],
    ids=lambda flags: flags[0],
)
def test_options_that_make_no_other_rows_may_change_between_runs(
    flags: list[str], texts: list[str], command: Command
) -> None:
    submit(command, "Recorded")
    told = summary(submit(command, "Recorded", *flags))
    assert (told["done before"], told["done now"]) == ("200", "0")
    assert len(calls()) == 200


@pytest.mark.parametrize(
    ("mode", "columns"),
    [
        ("append", ["text", "key", "upper"]),
        ("replace", ["_row_id", "upper"]),
        ("io_only", ["_row_id", "text", "upper"]),
    ],
)
def test_another_output_mode_writes_other_columns_and_computes_nothing(
    mode: str, columns: list[str], texts: list[str], command: Command
) -> None:
    submit(command, "Recorded", "--output-mode", "io_only" if mode == "append" else "append")
    told = summary(submit(command, "Recorded", "--output-mode", mode))
    assert (told["done before"], told["done now"]) == ("200", "0")
    assert table("out.parquet").column_names == columns
    assert len(calls()) == 200


def test_no_resume_computes_every_row_again(texts: list[str], command: Command) -> None:
    submit(command, "Recorded")
    told = summary(submit(command, "Recorded", "--no-resume"))
    assert (told["rows"], told["done before"], told["done now"]) == ("200", "0", "200")
    assert sorted(calls()) == sorted([*texts, *texts])


def test_without_checkpointing_nothing_stays_but_the_output(texts: list[str], command: Command) -> None:
    assert submit(command, "Recorded", "--no-checkpointing").returncode == 0
    assert tree() == {"in.parquet", "out.parquet", "calls"}


def test_a_finished_job_needs_its_endpoint_no_more(texts: list[str], command: Command) -> None:
    with demo_server() as url:
        first = submit(command, CHAT, "--input-column", "text", "--endpoint", url)
    assert summary(first)["done now"] == "200"
    assert rows("out.parquet")[3]["answer"] == "You wrote 2 words: text 3"
    again = submit(command, CHAT, "--input-column", "text", "--endpoint", url)
    assert (again.returncode, summary(again)["done before"]) == (0, "200")


# Rows that fail


def test_failed_rows_end_in_status_3_and_a_rerun_tries_them_alone(command: Command) -> None:
    write("in.parquet", {"text": ["one", "bad 1", "two", "bad 3"]})
    ran = submit(command, "Picky", "--retries", "1")
    assert (ran.returncode, summary(ran)["failed"]) == (3, "2 (see out.errors.parquet)")
    assert summary(ran)["done now"] == "2"
    assert [row["upper"] for row in rows("out.parquet")] == ["ONE", None, "TWO", None]
    assert rows("out.errors.parquet") == [
        {"_row_id": 1, "type": "ValueError", "message": "cannot do 'bad 1'", "attempts": 2},
        {"_row_id": 3, "type": "ValueError", "message": "cannot do 'bad 3'", "attempts": 2},
    ]

    Path("calls").unlink()
    Path("mended").touch()
    ran = submit(command, "Picky", "--retries", "1")
    assert (ran.returncode, summary(ran)["failed"]) == (0, "0")
    assert (summary(ran)["done before"], summary(ran)["done now"]) == ("2", "2")
    assert sorted(calls()) == ["bad 1", "bad 3"]
    assert [row["upper"] for row in rows("out.parquet")] == ["ONE", "BAD 1", "TWO", "BAD 3"]
    assert not Path("out.errors.parquet").exists()


def test_the_errors_file_names_rows_by_their_id_column(command: Command) -> None:
    write("in.parquet", {"name": ["x", "y"], "text": ["one", "bad"]})
    assert submit(command, "Picky", "--retries", "0", "--id-column", "name").returncode == 3
    assert rows("out.errors.parquet") == [
        {"name": "y", "type": "ValueError", "message": "cannot do 'bad'", "attempts": 1}
    ]


def test_failed_rows_beyond_the_limit_are_nobodys_business(command: Command) -> None:
    write("in.parquet", {"text": ["one", "two", "bad"]})
    assert submit(command, "Picky", "--retries", "0").returncode == 3
    ran = submit(command, "Picky", "--retries", "0", "--limit", "2")
    assert (ran.returncode, summary(ran)["failed"]) == (0, "0")
    assert not Path("out.errors.parquet").exists()


def test_on_error_fail_ends_in_status_1_says_how_to_go_on_and_goes_on(command: Command) -> None:
    texts = [f"text {number}" for number in range(400)]
    write("in.parquet", {"text": [*texts[:200], "bad", *texts[200:]]})
    flags = ("--on-error", "fail", "--retries", "0", "--max-concurrency", "1")
    ran = submit(command, "Picky", *flags)
    assert (ran.returncode, ran.stdout) == (1, "")
    message = ran.stderr[ran.stderr.index("Error: ") :]
    assert "The row with _row_id = 200 failed: ValueError: cannot do 'bad'" in message
    assert "--on-error record" in message
    assert re.search(r"[\d,]+ rows of this run are kept in \.domyn-swarm/out\.parquet\.", message)
    assert "Run the same command again to resume." in message
    assert "Traceback" not in ran.stderr
    assert not Path("out.parquet").exists()

    Path("mended").touch()
    ran = submit(command, "Picky", *flags)
    assert ran.returncode == 0
    assert [row["upper"] for row in rows("out.parquet")][199:202] == ["TEXT 199", "BAD", "TEXT 200"]
    assert sorted(calls()) == sorted(["bad", "bad", *texts])


# --dry-run


def test_dry_run_shows_what_would_run_and_touches_nothing(texts: list[str], command: Command) -> None:
    before = tree()
    ran = submit(command, "Recorded", "--dry-run")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"job        {JOBS}:Recorded (transform_item)",
        "backend    pandas, compatibility mode",
        "input      in.parquet (1 file(s))",
        "items      text",
        "ids        generated (_row_id)",
        "rows       200",
        "pending    200 (0 done before)",
        "checkpoint .domyn-swarm/out.parquet",
        "output     out.parquet (one file, append)",
    ]
    assert tree() == before


def test_dry_run_counts_what_is_done_and_shows_what_was_chosen(texts: list[str], command: Command) -> None:
    chosen = ["--id-column", "key", "--output", "out/", "--output-mode", "replace", "--checkpoint-tag", "mine"]
    submit(command, "Upper", *chosen, "--limit", "50")
    ran = submit(command, "Upper", *chosen, "--limit", "120", "--native-backend", "--dry-run")
    assert ran.stdout.splitlines() == [
        f"job        {JOBS}:Upper (transform_items_native)",
        "backend    pandas, native mode",
        "input      in.parquet (1 file(s))",
        "items      text",
        "ids        column 'key'",
        "rows       120 (limit 120)",
        "pending    70 (50 done before)",
        "checkpoint .domyn-swarm/mine",
        "output     out/ (directory, replace)",
    ]


def test_dry_run_asks_no_endpoint(texts: list[str], command: Command) -> None:
    ran = submit(command, CHAT, "--input-column", "text", "--endpoint", "http://127.0.0.1:9/v1", "--dry-run")
    assert ran.returncode == 0
    assert "pending    200 (0 done before)" in ran.stdout


def test_what_happens_while_python_takes_itself_apart_is_not_the_command_s_end(
    texts: list[str], command: Command
) -> None:
    """Threads of libraries abort processes then, or hang."""
    Path("end.py").write_text(
        "import atexit, os, threading, time\nfrom pathlib import Path\nfrom domyn_swarm import SwarmJob\n"
        "class Upper(SwarmJob):\n    input_columns, output_columns = ('text',), ('upper',)\n"
        "    def transform_item(self, text):\n        return text.upper()\n"
        "class Aborts:\n    def __del__(self):\n        os.abort()\naborts = Aborts()\n"
        "atexit.register(Path('ended').touch)\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), Path('waited for').touch())).start()\n"
    )
    ran = submit(command, "end.py:Upper", "--dry-run")
    assert (ran.returncode, Path("ended").exists(), Path("waited for").exists()) == (0, True, True), ran.stderr


# Flags, job kwargs, defaults, environment


@pytest.mark.parametrize(
    ("flags", "concurrency"),
    [
        ([], 3),
        (["--job-kwargs", '{"max_concurrency": 5}'], 5),
        (["--job-kwargs", '{"max_concurrency": 5}', "--max-concurrency", "7"], 7),
        (["--max-concurrency", "7"], 7),
    ],
    ids=["class", "job kwargs over class", "flag over job kwargs", "flag over class"],
)
def test_flags_win_over_job_kwargs_which_win_over_the_class(
    flags: list[str], concurrency: int, texts: list[str], command: Command
) -> None:
    Path("shout.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "class Shout(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    defaults = {'max_concurrency': 3, 'output_mode': 'replace'}\n"
        "    async def transform_item(self, text): return text.upper()\n"
    )
    assert submit(command, "shout.py:Shout", *flags).returncode == 0
    spec = recorded_spec()
    assert (spec["max_concurrency"], spec["output_mode"], spec["job_kwargs"]) == (concurrency, "replace", {})


def test_a_job_kwarg_is_the_jobs_own_field_before_it_is_an_option(texts: list[str], command: Command) -> None:
    Path("times.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "class Times(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    retries: int = 1\n"
        "    async def transform_item(self, text): return text * self.retries\n"
    )
    assert submit(command, "times.py:Times", "--job-kwargs", '{"retries": 2}').returncode == 0
    assert rows("out.parquet")[7]["result"] == "text 7text 7"
    assert (recorded_spec()["retries"], recorded_spec()["job_kwargs"]) == (2, {"retries": 2})


def test_columns_named_on_the_command_line_replace_those_of_the_class(texts: list[str], command: Command) -> None:
    assert submit(command, "Upper", "--input-column", "key", "--output-column", "loud").returncode == 0
    assert rows("out.parquet")[0] == {"text": "text 0", "key": "k0", "loud": "K0"}


def test_several_input_columns_make_a_dict(command: Command) -> None:
    write("in.parquet", {"number": [1, 2], "text": ["a", "b"], "other": [0, 0]})
    assert submit(command, "Joined", "--input-column", "text", "--input-column", "number").returncode == 0
    assert [row["joined"] for row in rows("out.parquet")] == ["a-1", "b-2"]


@pytest.mark.parametrize("known_by", ["environment", "job kwargs over environment", "flag over environment"])
def test_the_endpoint_is_known_by_what_was_said_last(known_by: str, texts: list[str], command: Command) -> None:
    with demo_server() as url:
        flags, variable = {
            "environment": ([], url),
            "job kwargs over environment": (
                ["--job-kwargs", json.dumps({"endpoints": [url]})],
                "http://127.0.0.1:9/v1",
            ),
            "flag over environment": (["--endpoint", url], "http://127.0.0.1:9/v1"),
        }[known_by]
        ran = submit(command, CHAT, "--input-column", "text", *flags, env={"ENDPOINT": variable})
        assert ran.returncode == 0, ran.stderr
        assert rows("out.parquet")[0]["answer"] == "You wrote 2 words: text 0"
        assert recorded_spec()["endpoints"] == [url]


# Help and version


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["Usage: domyn-swarm [OPTIONS] COMMAND [ARGS]...", "job", "endpoint", "--version", "--verbose"]),
        (["job"], ["Usage: domyn-swarm job [OPTIONS] COMMAND [ARGS]...", "submit"]),
        (["job", "submit"], ["Usage: domyn-swarm job submit [OPTIONS] [JOB]", "Exit status:", "--dry-run"]),
        (["endpoint"], ["Usage: domyn-swarm endpoint [OPTIONS] COMMAND [ARGS]...", "demo"]),
        (["endpoint", "demo"], ["Usage: domyn-swarm endpoint demo [OPTIONS]", "--port", "--latency", "--rate-limit"]),
    ],
    ids=["domyn-swarm", "job", "job submit", "endpoint", "endpoint demo"],
)
def test_every_command_has_help(arguments: list[str], says: list[str], command: Command) -> None:
    ran = command(*arguments, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [text for text in says if text not in ran.stdout] == []


FLAGS = {
    "--job-kwargs": None,
    "--prompt": None,
    "--system-prompt": None,
    "--schema": None,
    "--input": None,
    "--output": None,
    "--input-column": None,
    "--output-column": None,
    "--keep": None,
    "--id-column": "a counter",
    "--limit": None,
    "--output-mode": "append",
    "--overwrite": "--no-overwrite",
    "--data-backend": "pandas",
    "--native-backend": "--no-native-backend",
    "--native-batch-size": "8192",
    "--batch-size": "64",
    "--backend-read-kwargs": None,
    "--backend-write-kwargs": None,
    "--ray-address": "local",
    "--endpoint": None,
    "--serve": None,
    "--serve-replicas": "the GPUs by --serve-gpus, else 1",
    "--serve-gpus": "1, or with --serve-replicas an equal share",
    "--serve-timeout": "1800",
    "--serve-restarts": "5",
    "--model": "the first that the endpoint lists",
    "--allow-model-change": "--no-allow-model-change",
    "--preflight": "--preflight",
    "--preflight-timeout": "5",
    "--grace": "5",
    "--recompute": None,
    "--keep-changed": "--no-keep-changed",
    "--api-key-file": "$DOMYN_SWARM_API_KEY or $OPENAI_API_KEY",
    "--api-key-header": "Authorization",
    "--header": None,
    "--max-concurrency": "32 for async methods, else one per core",
    "--max-rpm": None,
    "--max-tpm": None,
    "--retries": "2",
    "--retry-timeout": "600",
    "--timeout": "none; 600 for requests",
    "--connect-timeout": "10",
    "--dedupe": "--no-dedupe",
    "--on-error": "record",
    "--max-errors": None,
    "--checkpoint-dir": ".domyn-swarm next to the output",
    "--checkpoint-tag": "the output's name",
    "--checkpoint-interval": "1; 10 on object stores",
    "--resume": "--resume",
    "--checkpointing": "--checkpointing",
    "--trace": "--trace",
    "--adapter": None,
}
"""The flags of `job submit`, and the default that the help shows."""


def test_the_help_has_a_flag_for_each_field_of_the_spec_and_shows_its_default(command: Command) -> None:
    fields = {flag_of(kind, field) for kind in (JobSpec, FieldOptions) for field in kind.__struct_fields__}
    assert fields == {"job", *FLAGS}
    entries = re.split(r"\n(?: {2}(?=-)|\n)", command("job", "submit", "--help").stdout)
    shown = {}
    for entry in entries[1:]:
        words = "".join(entry.split())  # lines are broken at spaces and hyphens
        flag = next((flag for flag in FLAGS if re.match(rf"(-\w,)?{flag}(?![\w-])", entry.replace(", ", ","))), None)
        shown[flag] = next(iter(re.findall(r"\(default:(.*?)\)$", words)), None)
    del shown[None]  # --dry-run, --help
    assert shown == {flag: default and default.replace(" ", "") for flag, default in FLAGS.items()}


def test_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version").stdout == f"domyn-swarm {version('domyn-swarm')}\n"


@pytest.mark.parametrize("arguments", [[], ["job"], ["endpoint"], ["job", "sumbit"]])
def test_half_a_command_gets_help_and_status_2(arguments: list[str], command: Command) -> None:
    ran = command(*arguments)
    assert ran.returncode == 2
    assert "--help" in ran.stdout + ran.stderr


# Progress


def test_log_lines_tell_how_it_goes_where_stderr_is_no_terminal(command: Command) -> None:
    write("in.parquet", {"text": [f"{'bad' if number % 50 == 0 else 'text'} {number}" for number in range(1200)]})
    log = submit(command, "Picky", "--retries", "0").stderr.splitlines()
    clock = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{clock} 1,200 rows, 0 done before", log[0])
    assert re.fullmatch(rf"{clock} 1,200 of 1,200 rows, [\d,]+ rows/s, 24 failed, 0 s left", log[-1])
    log = submit(command, "Picky", "--retries", "0").stderr.splitlines()
    assert re.fullmatch(rf"{clock} 1,200 rows, 1,176 done before", log[0])


def test_a_bar_tells_how_it_goes_where_stderr_is_a_terminal() -> None:
    write("in.parquet", {"text": [f"{'bad' if number % 50 == 0 else 'text'} {number}" for number in range(1200)]})
    arguments = [job("Picky"), "--input", "in.parquet", "--output", "out.parquet", "--retries", "0"]
    shown, told, status = on_a_terminal("job", "submit", *arguments)
    assert status == 3
    assert re.search(r"100% 1,200 of 1,200 rows, [\d,]+ rows/s, 24 failed", shown)
    assert "done before" not in shown
    assert told.startswith("rows         1,200\ndone before  0\n")


def test_verbose_shows_where_an_error_comes_from(texts: list[str], command: Command) -> None:
    Path("broken.py").write_text("raise RuntimeError('no licence')\n")
    arguments = ("job", "submit", "broken.py:Job", "--input", "in.parquet", "--output", "out.parquet")
    assert "Traceback" not in command(*arguments).stderr
    ran = command("--verbose", *arguments)
    assert ran.returncode == 2
    assert "Traceback" in ran.stderr
    assert "RuntimeError: no licence" in ran.stderr


# Paths


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/a.parquet", ["A"]),
        ("./in/../in/a.parquet", ["A"]),
        ("in", ["A", "B", "C", "X 10", "X 8", "X 9"]),
        ("in/", ["A", "B", "C", "X 10", "X 8", "X 9"]),
        ("in/[ab].parquet", ["A", "B"]),
        ("in/**/*.parquet", ["A", "B", "C", "X 10", "X 8", "X 9"]),
        ("in/x_{8..10}.parquet", ["X 10", "X 8", "X 9"]),
        ("in/{b,a}.parquet", ["A", "B"]),
        ("file://HERE/in/a.parquet", ["A"]),
        ("file://HERE/in/x_*.parquet", ["X 10", "X 8", "X 9"]),
        ("HERE/in/b.parquet", ["B"]),
    ],
)
def test_files_are_found_by_many_patterns_and_read_in_the_order_of_their_paths(
    pattern: str, expected: list[str], folder: Path, command: Command
) -> None:
    for name, text in {"b": "b", "a": "a", "sub/c": "c", "x_8": "x 8", "x_9": "x 9", "x_10": "x 10"}.items():
        write(f"in/{name}.parquet", {"text": [text]})
    Path("in/notes.txt").write_text("no data")
    if "*" not in pattern:
        write("in/_old/z.parquet", {"text": ["hidden"]})
        write("in/.trash/z.parquet", {"text": ["hidden"]})
    ran = submit(command, "Upper", "--input", pattern.replace("HERE", str(folder)), "--output-mode", "replace")
    assert ran.returncode == 0, ran.stderr
    assert [(row["_row_id"], row["upper"]) for row in rows("out.parquet")] == [*enumerate(expected)]


@pytest.mark.parametrize(
    ("output", "written"),
    [
        ("out.parquet", "out.parquet"),
        ("new/deep/out.parquet", "new/deep/out.parquet"),
        ("out", "out/part-00000.parquet"),
        ("out/", "out/part-00000.parquet"),
        ("out.parquet/", "out.parquet/part-00000.parquet"),
        ("file://HERE/out.parquet", "out.parquet"),
        ("file://HERE/new/out/", "new/out/part-00000.parquet"),
        ("HERE/out.parquet", "out.parquet"),
    ],
)
def test_an_output_is_a_file_or_a_directory_and_is_known_again(
    output: str, written: str, folder: Path, texts: list[str], command: Command
) -> None:
    output = output.replace("HERE", str(folder))
    assert submit(command, "Upper", "--output", output).returncode == 0
    assert [row["upper"] for row in rows(written)] == [text.upper() for text in texts]
    files = {path for path in tree() if Path(path).is_file() and ".domyn-swarm" not in path}
    assert files == {"in.parquet", written}
    again = submit(command, "Upper", "--output", output)
    assert (again.returncode, summary(again)["done before"]) == (0, "200")


@pytest.mark.parametrize(
    ("output", "errors"),
    [("out.parquet", "out.errors.parquet"), ("out/", "out.errors.parquet"), ("new/out", "new/out.errors.parquet")],
)
def test_the_errors_file_stands_beside_the_output(output: str, errors: str, command: Command) -> None:
    write("in.parquet", {"text": ["one", "bad"]})
    ran = submit(command, "Picky", "--retries", "0", "--output", output)
    assert summary(ran)["failed"] == f"1 (see {errors})"
    assert len(rows(errors)) == 1


def test_a_folder_below_that_of_the_inputs_glob_can_hold_the_output(texts: list[str], command: Command) -> None:
    ran = submit(command, "Upper", "--input", "*.parquet", "--output", "out/answers.parquet")
    assert ran.returncode == 0, ran.stderr
    again = submit(command, "Upper", "--input", "*.parquet", "--output", "out/answers.parquet")
    assert (again.returncode, summary(again)["done before"]) == (0, "200")


def test_runs_live_where_checkpoint_dir_and_tag_say(texts: list[str], command: Command) -> None:
    assert submit(command, "Upper", "--checkpoint-dir", "runs", "--checkpoint-tag", "mine").returncode == 0
    assert {"runs/mine/spec.json", "runs/mine/run.json", "runs/mine/parts/0001-000001.parquet"} <= tree()
    assert not Path(".domyn-swarm").exists()


# Job files


def test_a_job_file_anywhere_imports_its_neighbours_when_it_loads_and_when_it_runs(
    texts: list[str], command: Command
) -> None:
    elsewhere = Path("far/away")
    elsewhere.mkdir(parents=True)
    (elsewhere / "marks.py").write_text("MARK = '!'\n")
    (elsewhere / "later.py").write_text("MARK = '?'\n")
    (elsewhere / "shout.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "from marks import MARK\n"
        "class Shout(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    async def transform_item(self, text):\n"
        "        import later\n"
        "        return text.upper() + MARK + later.MARK\n"
    )
    ran = submit(command, "far/away/shout.py:Shout")
    assert ran.returncode == 0
    assert rows("out.parquet")[7]["result"] == "TEXT 7!?"


def test_a_job_file_may_have_the_name_of_a_library(texts: list[str], command: Command) -> None:
    Path("statistics.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "class Shout(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    async def transform_item(self, text):\n"
        "        import statistics\n"
        "        return text + str(statistics.mean([1, 3]))\n"
    )
    ran = submit(command, "statistics.py:Shout")
    assert ran.returncode == 0
    assert rows("out.parquet")[7]["result"] == "text 72"


def test_a_module_in_the_current_folder_is_a_job_too(texts: list[str], command: Command) -> None:
    Path("shout.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "class Shout(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    async def transform_item(self, text): return text.upper()\n"
    )
    assert submit(command, "shout:Shout").returncode == 0
    assert rows("out.parquet")[7]["result"] == "TEXT 7"


def test_a_job_file_is_executed_once_a_run(texts: list[str], command: Command) -> None:
    Path("loud.py").write_text(
        "from domyn_swarm import SwarmJob\n"
        "open('loads', 'a').write('loaded\\n')\n"
        "class Shout(SwarmJob):\n"
        "    input_columns = ('text',)\n"
        "    async def transform_item(self, text): return text.upper()\n"
    )
    assert submit(command, "loud.py:Shout").returncode == 0
    assert Path("loads").read_text() == "loaded\n"


# python -m domyn_swarm.jobs.run


def test_a_runs_spec_repeats_it_with_the_same_exit_statuses(command: Command) -> None:
    write("in.parquet", {"text": ["one", "bad", "two"]})
    assert submit(command, "Picky", "--retries", "0", "--output-mode", "replace").returncode == 3
    spec = ".domyn-swarm/out.parquet/spec.json"

    ran = repeat(spec)
    assert ran.returncode == 3
    result = json.loads(ran.stdout)
    assert result.pop("seconds") > 0
    assert result == {
        "output": "out.parquet",
        "errors_path": "out.errors.parquet",
        "run_dir": ".domyn-swarm/out.parquet",
        "rows": 3,
        "done_before": 2,
        "done_now": 0,
        "failed": 1,
        "tokens_in": 0,
        "tokens_out": 0,
        "reasons": [{"count": 1, "type": "ValueError", "message": "cannot do 'bad'"}],
        "changed": 0,
        "steps": [],
    }

    changed = {**recorded_spec(), "on_error": "fail"}
    Path("strict.json").write_text(json.dumps(changed))
    ran = repeat("strict.json")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "The row with _row_id = 1 failed" in ran.stderr

    Path("mended").touch()
    ran = repeat(spec)
    assert (ran.returncode, json.loads(ran.stdout)["failed"]) == (0, 0)
    assert rows("out.parquet")[1] == {"_row_id": 1, "upper": "BAD"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, ["spec.json", "No such file"]),
        ("{", ["spec.json", "no readable JobSpec"]),
        ("[]", ["spec.json", "no readable JobSpec"]),
        ('{"input": "in.parquet"}', ["--output is missing"]),
        ('{"input": "in.parquet", "output": "o.parquet", "rows": 1}', ["Unknown option 'rows'"]),
        ('{"input": "gone.parquet", "output": "o.parquet", "input_columns": ["text"]}', ["'gone.parquet' does not"]),
    ],
    ids=["no file", "no JSON", "no object", "half a spec", "unknown field", "refused"],
)
def test_a_spec_that_cannot_be_run_is_refused(content: str | None, says: list[str]) -> None:
    if content is not None:
        Path("spec.json").write_text(content)
    before = tree()
    ran = repeat("spec.json")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert [text for text in says if text not in ran.stderr] == []
    assert "Traceback" not in ran.stderr
    assert tree() == before


def submit(command: Command, name: str, *flags: str, **options: Any) -> Any:
    reference = name if ":" in name else job(name)
    return command("job", "submit", reference, "--input", "in.parquet", "--output", "out.parquet", *flags, **options)


def summary(ran: Any) -> dict[str, str]:
    """The lines on the rows that a run ends with: names in 13 columns, then values."""
    return {line[:13].strip(): line[13:] for line in ran.stdout.partition("\n\n")[0].splitlines()}


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()


def recorded_spec() -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())
    return spec


def repeat(spec: str) -> subprocess.CompletedProcess[str]:
    """As `python -m domyn_swarm.jobs.run` does."""
    ran: subprocess.CompletedProcess[str] = forked.run(str(run_a_spec.__file__), spec)
    return ran


def on_a_terminal(*arguments: str) -> tuple[str, str, int]:
    """What the command shows on a terminal of 80 columns without its control sequences, its stdout, its status."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "CI": ""}
    process = start_command(*arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    told, _ = process.communicate(timeout=120)
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode()), told, process.returncode


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""
