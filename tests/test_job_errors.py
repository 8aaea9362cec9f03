"""Why rows failed: `job errors`, `plan.errors`, and the reasons that a run gives when it stops or ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import domyn_swarm
from domyn_swarm import SwarmJob
from domyn_swarm.telemetry.trace import kind_of, shape_of
from tests.conftest import Command, rows, write

JOB = """
from domyn_swarm import SwarmJob

class Failing(SwarmJob):
    input_columns = ("text",)

    async def transform_item(self, text):
        kind, _, number = text.partition(" ")
        if kind == "status":
            raise RuntimeError(f"status {number}: no answer from gpt-4")
        if kind == "bad":
            raise ValueError(f"cannot read {number}")
        return text
"""
TEXTS = ["good 0", "status 500", "status 503", "status 503", "bad 1", "bad 2", "bad 3", "good 1"]
SUBMIT = ("job", "submit", "failing.py:Failing", "--input", "in.parquet", "--output", "out.parquet", "--retries", "0")


@pytest.fixture
def failed(command: Command) -> None:
    write("in.parquet", {"id": [f"r{number}" for number in range(len(TEXTS))], "text": TEXTS})
    Path("failing.py").write_text(JOB)
    done = command(*SUBMIT, "--id-column", "id")
    assert done.returncode == 3, done.stderr


def test_failures_are_grouped_by_kind_with_status_codes_apart(failed: None, command: Command) -> None:
    found = json.loads(command("job", "errors", "out", "--json", "--examples", "2").stdout)
    assert found["failed"] == 6
    groups = [(group["type"], group["count"], [one["id"] for one in group["examples"]]) for group in found["groups"]]
    assert groups == [
        ("ValueError", 3, ["r4", "r5"]), ("RuntimeError", 2, ["r2", "r3"]), ("RuntimeError", 1, ["r1"]),
    ]  # fmt: skip
    assert "status 503" in found["groups"][1]["kind"]
    assert "status 500" in found["groups"][2]["kind"]
    shown = command("job", "errors", "out").stdout
    assert "6 rows failed" in shown
    assert "r4: cannot read 1" in shown
    assert "domyn-swarm job row out r4" in shown


def test_ids_and_rows_can_be_used_by_other_programs(failed: None, command: Command) -> None:
    assert command("job", "errors", "out", "--ids").stdout.splitlines() == ["r1", "r2", "r3", "r4", "r5", "r6"]
    done = command("job", "errors", "out", "--output", "failed.parquet")
    assert done.returncode == 0, done.stderr
    assert [(row["id"], row["type"], row["message"], row["attempts"]) for row in rows("failed.parquet")][:2] == [
        ("r1", "RuntimeError", "status 500: no answer from gpt-4", 1),
        ("r2", "RuntimeError", "status 503: no answer from gpt-4", 1),
    ]


@pytest.mark.parametrize(
    ("flags", "code"), [(("--output", "failed.csv"), "no parquet file"), (("--ids", "--json"), "exclude each other")]
)
def test_what_cannot_work_is_refused(flags: tuple[str, ...], code: str, failed: None, command: Command) -> None:
    done = command("job", "errors", "out", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert code in done.stderr
    assert not Path("failed.csv").exists()


def test_rows_that_succeeded_later_are_no_errors(failed: None, command: Command) -> None:
    Path("failing.py").write_text(JOB.replace('kind == "bad"', 'kind == "none"'))
    command(*SUBMIT, "--id-column", "id")
    assert json.loads(command("job", "errors", "out", "--json").stdout)["failed"] == 3
    Path("failing.py").write_text(JOB.replace('kind == "bad"', 'kind == "none"').replace('"status"', '"none"'))
    assert command(*SUBMIT, "--id-column", "id").returncode == 0
    assert command("job", "errors", "out").stdout == "No row has failed.\n"
    assert command("job", "errors", "out", "--ids").stdout == ""


class Odd(SwarmJob):
    input_columns = ("number",)
    output_columns = ("half",)

    async def transform_item(self, number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_plan_has_its_errors_as_a_frame(engine: str) -> None:
    plan = domyn_swarm.plan(Odd, input={"number": [1, 2, 3]}, data_backend=engine, retries=0)
    with pytest.raises(domyn_swarm.SwarmError, match="is not the folder of a run"):
        _ = plan.errors
    plan.run()
    found = plan.errors
    assert type(found).__module__.partition(".")[0] == engine
    assert list(found["message"]) == ["1 is odd", "3 is odd"]
    assert list(found["_row_id"]) == [0, 2]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("row 12 is bad", "row 7 is bad", True),
        ("timed out after 12.5 s", "timed out after 3 s", True),
        ("status 500", "status 503", False),
        ("HTTP 500: x", "HTTP 502: x", False),
        ("Error code: 429 - slow", "Error code: 400 - slow", False),
        ("gpt-4 is not there", "gpt-5 is not there", False),
        ("utf8 is needed", "utf16 is needed", False),
        ("at 0x7f12", "at 0x7f34", True),
        ("status 503 after 12 s", "status 503 after 7 s", True),
    ],
)
def test_numbers_are_masked_but_not_statuses_and_names(one: str, other: str, *, alike: bool) -> None:
    assert (shape_of(one) == shape_of(other)) is alike
    frames = 'File "a.py", line 3, in f'
    statuses = "status 5" in one or "HTTP" in one or "code" in one
    assert (kind_of(one, frames) == kind_of(other, frames)) is (alike or not statuses)


def test_max_errors_says_the_reasons(command: Command) -> None:
    write("in.parquet", {"text": ["status 500"] * 3 + ["bad 1"] * 5})
    Path("failing.py").write_text(JOB)
    done = command(*SUBMIT, "--max-errors", "7", "--max-concurrency", "1")
    assert done.returncode == 1
    assert "5: ValueError: cannot read 1" in done.stderr
    assert "3: RuntimeError: status 500: no answer from gpt-4" in done.stderr


def test_a_summary_and_the_status_say_why_rows_failed_and_where_to_look(command: Command) -> None:
    write("in.parquet", {"text": ["good 0", "bad 1", "bad 2", "status 500"]})
    Path("failing.py").write_text(JOB)
    lines = command(*SUBMIT).stdout.partition("\n\n")[2].splitlines()
    assert lines == [
        "reasons      2: ValueError: cannot read 1",
        "             1: RuntimeError: status 500: no answer from gpt-4",
        "report       .domyn-swarm/out.parquet/report.html",
        "next         domyn-swarm job errors out",
    ]
    assert Path(".domyn-swarm/out.parquet/report.html").is_file()
    (status,) = json.loads(command("job", "status", "out", "--json").stdout)
    assert status["reasons"] == [
        {"count": 2, "type": "ValueError", "message": "cannot read 1"},
        {"count": 1, "type": "RuntimeError", "message": "status 500: no answer from gpt-4"},
    ]
    assert Path(status["report"]).is_file()
    shown = command("job", "status", "out").stdout
    assert "reasons    2: ValueError: cannot read 1\n" in shown
    assert "inspect    domyn-swarm job errors out\n" in shown


def test_kept_rows_are_those_that_finished(command: Command) -> None:
    write("in.parquet", {"text": ["good 0", "bad 1", "bad 2"]})
    Path("failing.py").write_text(JOB)
    done = command(*SUBMIT, "--max-errors", "1", "--max-concurrency", "1")
    assert "1 row of this run is kept in .domyn-swarm/out.parquet." in done.stderr
