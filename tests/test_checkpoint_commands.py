"""`domyn-swarm checkpoint`: a run's folder seen from outside, and mended."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Command, job, rows, start_command, tree, write

DIR = ".domyn-swarm/out.parquet"
TEXTS = [f"row {number}" for number in range(12)]


def submit(command: Command, name: str = "Recorded", *flags: str) -> subprocess.CompletedProcess[str]:
    return command("job", "submit", job(name), "--input", "in.parquet", "--output", "out.parquet", *flags)


@pytest.fixture
def run(command: Command) -> Path:
    """A finished run."""
    write("in.parquet", {"text": TEXTS})
    assert submit(command).returncode == 0
    Path("calls").unlink()
    return Path(DIR)


def inspected(command: Command) -> dict[str, object]:
    ran = command("checkpoint", "inspect", DIR, "--json")
    assert ran.returncode == 0, ran.stderr
    found: dict[str, object] = json.loads(ran.stdout)
    return found


def test_a_finished_run(run: Path, command: Command) -> None:
    found = inspected(command)
    assert found.pop("started")
    assert found.pop("ended")
    assert found.pop("size") == sum(part.stat().st_size for part in run.glob("parts/*"))
    assert found == {
        "path": DIR, "job": "jobs.py:Recorded", "state": "done", "error": None, "holder": None, "id_column": "_row_id",
        "columns": {"upper": "string"}, "finished": 12, "failed": 0, "rows": 12, "unusable": {}, "damaged": [],
        "parts": len(list(run.glob("parts/*"))),
    }  # fmt: skip
    shown = command("checkpoint", "inspect", DIR).stdout
    assert "finished     12 rows" in shown
    assert "locked by    -" in shown


def test_failed_rows_are_counted_apart_and_not_exported(command: Command) -> None:
    write("in.parquet", {"text": ["a", "bad", "c"]})
    submit(command, "Picky", "--retries", "0")
    found = inspected(command)
    assert (found["finished"], found["failed"]) == (2, 1)
    ran = command("checkpoint", "export", DIR, "made.parquet")
    assert ran.stdout == "2 rows written to made.parquet; 1 failed rows were left out\n"
    assert rows("made.parquet") == [{"_row_id": 0, "upper": "A"}, {"_row_id": 2, "upper": "C"}]


def test_a_running_run_and_a_killed_one_name_their_process(command: Command) -> None:
    write("in.parquet", {"text": TEXTS})
    flags = ["--input", "in.parquet", "--output", "out.parquet", "--job-kwargs", '{"seconds": 3600}']
    process = start_command("job", "submit", job("Recorded"), *flags, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not Path("calls").exists():
        assert time.monotonic() < deadline, "the job does not start"
        time.sleep(0.05)
    holder = str(inspected(command)["holder"])
    refused = command("checkpoint", "compact", DIR)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"process {process.pid}" in refused.stderr
    process.kill()
    process.wait()
    assert holder.startswith(f"process {process.pid} on ")
    assert inspected(command)["holder"] == f"{holder} (gone)"


@pytest.mark.parametrize("content", [b"", b"text, and no parquet at all", bytes(5000)], ids=["empty", "text", "zeroed"])
def test_a_damaged_part_is_found_set_aside_and_computed_again(content: bytes, run: Path, command: Command) -> None:
    part = min(run.glob("parts/*"))
    part.write_bytes(content)
    assert list(inspected(command)["unusable"]) == [part.name]  # type: ignore[call-overload]
    ran = command("checkpoint", "verify", DIR)
    assert ran.returncode == 1
    assert ran.stdout.startswith(f"{part.name}: ")
    assert part.exists()
    ran = command("checkpoint", "verify", DIR, "--set-aside", "--json")
    assert ran.returncode == 1
    assert list(json.loads(ran.stdout)["damaged"]) == [part.name]
    assert (run / "damaged" / part.name).read_bytes() == content
    assert command("checkpoint", "verify", DIR).returncode == 0
    lost = 12 - int(str(inspected(command)["finished"]))
    assert submit(command).returncode == 0
    assert len(Path("calls").read_text().splitlines()) == lost > 0
    assert [row["upper"] for row in rows("out.parquet")] == [text.upper() for text in TEXTS]


def test_a_rotten_page_is_found_by_reading_it(run: Path, command: Command) -> None:
    import pyarrow.parquet as pq

    part = max(run.glob("parts/*"))
    column = pq.read_metadata(part).row_group(0).column(2)
    content = bytearray(part.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 2] ^= 0xFF
    part.write_bytes(content)
    assert inspected(command)["unusable"] == {}
    assert command("checkpoint", "verify", DIR).returncode == 1


def test_a_part_of_another_run_does_not_count(run: Path, command: Command) -> None:
    flags = ["--job-kwargs", '{"seconds": 0.001}', "--checkpoint-tag", "other"]
    assert submit(command, "Recorded", *flags, "--overwrite").returncode == 0
    foreign = next(Path(".domyn-swarm/other/parts").iterdir())
    shutil.copy(foreign, run / "parts/0009-000001.parquet")
    assert inspected(command)["unusable"] == {"0009-000001.parquet": "it is another run's"}


@pytest.mark.parametrize("output", ["made.parquet", "made"])
def test_rows_come_out_without_the_job_and_its_input(output: str, run: Path, command: Command) -> None:
    Path("in.parquet").unlink()
    assert command("checkpoint", "export", DIR, output).stdout == f"12 rows written to {output}\n"
    assert rows(output) == [{"_row_id": number, "upper": text.upper()} for number, text in enumerate(TEXTS)]
    refused = command("checkpoint", "export", DIR, output)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--overwrite" in refused.stderr
    assert command("checkpoint", "export", DIR, output, "--overwrite").returncode == 0


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["verify"], ["compact"], ["export", "made.parquet"]], ids=lambda a: a[0]
)
def test_a_folder_that_is_no_run_is_refused_and_those_below_it_are_named(
    arguments: list[str], run: Path, command: Command
) -> None:
    before = tree()
    name, *more = arguments
    for folder, says in [(".domyn-swarm", "Runs there: out.parquet."), ("nowhere", "<checkpoint-dir>/<tag>")]:
        ran = command("checkpoint", name, folder, *more)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith(f"Error: '{folder}' is not the folder of a run.\n")
        assert says in ran.stderr
    assert tree() == before
