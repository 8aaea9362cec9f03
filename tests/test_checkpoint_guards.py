"""`domyn-swarm checkpoint` at the edges: many parts, damage, a run that goes on meanwhile, outputs not to be hit."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from domyn_swarm.checkpoint import inspection as survey_module
from domyn_swarm.checkpoint.compact import compact
from domyn_swarm.checkpoint.inspection import export, open_run, survey, verify
from domyn_swarm.checkpoint.part import Part, write_part
from domyn_swarm.data.columns import TRACE
from domyn_swarm.errors import ConfigurationError
from tests.chaos import damages
from tests.conftest import Command, rows, tree, write

RUN = ".domyn-swarm/out.parquet"
PARTS = Path(RUN, "parts")
TEXTS = [f"text {number}" for number in range(24)]
DONE = [{"_row_id": number, "answer": text.upper()} for number, text in enumerate(TEXTS)]

STEPS = """
import time
from pathlib import Path
from domyn_swarm import SwarmJob

class Steps(SwarmJob):
    input_columns = ("text",)
    output_columns = ("answer",)

    def transform_item(self, text):
        with open("calls", "a") as calls:
            calls.write(f"{text}\\n")
        if Path("slow").exists():
            time.sleep(0.06)
        if Path("failing").exists() and text in Path("failing").read_text().splitlines():
            raise ValueError(f"cannot do {text}")
        return text.upper()
"""


@pytest.fixture(autouse=True)
def prepared() -> None:
    write("in.parquet", {"text": TEXTS})
    Path("steps.py").write_text(STEPS)


# Parts


def test_compact_merges_the_parts_of_a_run_that_broke(command: Command) -> None:
    Path("slow").touch()
    Path("failing").write_text("text 13\n")
    flags = ("--checkpoint-interval", "0.01", "--max-concurrency", "1", "--on-error", "fail")
    assert submit(command, *flags).returncode == 1
    before, many = held(), len(parts())
    assert many > 2
    ran = command("checkpoint", "compact", RUN)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{many} parts, now 1\n", "")
    assert held() == before
    finished = {TEXTS[row["_row_id"]] for row in before if row["answer"] is not None}
    for name in ("slow", "failing", "calls"):
        Path(name).unlink()
    assert submit(command).returncode == 0
    assert sorted(calls()) == sorted(set(TEXTS) - finished)


def test_after_compaction_a_finished_run_has_nothing_to_do_and_leaves_its_output(command: Command) -> None:
    assert submit(command).returncode == 0
    split(6)
    before, written = held(), Path("out.parquet").stat()
    assert command("checkpoint", "compact", RUN).stdout == "6 parts, now 1\n"
    assert held() == before
    assert "nothing to do" in submit(command).stdout
    assert len(calls()) == 24
    now = Path("out.parquet").stat()
    assert (now.st_mtime_ns, now.st_ino) == (written.st_mtime_ns, written.st_ino)


def of_another_run(part: Path) -> None:
    shutil.copy(next(Path(".domyn-swarm/other/parts").iterdir()), part)


def with_a_strangers_name(part: Path) -> None:
    part.rename(part.with_name("mine.parquet"))


DAMAGED: list[tuple[Callable[[Path], None], str, str]] = [
    (damages.truncated, "0001-000003.parquet", "Parquet magic bytes not found"),
    (damages.zeroed, "0001-000003.parquet", "Parquet magic bytes not found"),
    (damages.text, "0001-000003.parquet", "Parquet magic bytes not found"),
    (damages.empty, "0001-000003.parquet", "Parquet file size is 0 bytes"),
    (damages.other_schema, "0001-000003.parquet", "it is not a part of a run"),
    (of_another_run, "0001-000003.parquet", "it is another run's"),
    (with_a_strangers_name, "mine.parquet", "it has not the name of a part"),
    (damages.flipped, "0001-000003.parquet", "are not what was written"),
]


@pytest.mark.parametrize(("damage", "name", "reason"), DAMAGED, ids=[damage.__name__ for damage, *_ in DAMAGED])
def test_one_of_several_parts_is_damaged(
    damage: Callable[[Path], None], name: str, reason: str, command: Command
) -> None:
    assert submit(command).returncode == 0
    assert submit(command, "--checkpoint-tag", "other", "--output", "other.parquet").returncode == 0
    split(6)
    damage(PARTS / "0001-000003.parquet")
    before = contents()
    seen = {} if damage is damages.flipped else {name: reason}
    told = json.loads(command("checkpoint", "inspect", RUN, "--json").stdout)
    assert (list(told["unusable"]), told["finished"]) == (list(seen), 20 if seen else 24)
    ran = command("checkpoint", "export", RUN, "sofar.parquet")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"{name} is damaged: " in ran.stderr
    assert ran.stderr.endswith(f"Run: domyn-swarm checkpoint verify --set-aside {RUN}\n")
    ran = command("checkpoint", "verify", RUN, "--json")
    found = json.loads(ran.stdout)
    assert (ran.returncode, found["parts"], list(found["damaged"])) == (1, 6, [name])
    assert reason in found["damaged"][name]
    assert contents() == before

    assert command("checkpoint", "verify", RUN, "--set-aside").returncode == 1
    assert command("checkpoint", "export", RUN, "sofar.parquet").returncode == 0
    assert rows("sofar.parquet") == DONE[:8] + DONE[12:]
    Path("calls").unlink()
    assert submit(command).returncode == 0
    assert sorted(calls()) == sorted(TEXTS[8:12])


def test_a_lost_run_json_costs_nothing(command: Command) -> None:
    assert submit(command).returncode == 0
    for name in ("run.json", "spec.json"):
        Path(RUN, name).unlink()
    assert json.loads(command("checkpoint", "inspect", RUN, "--json").stdout)["finished"] == 24
    ran = submit(command)
    assert ran.returncode == 0, ran.stderr
    assert len(calls()) == 24


# A run that goes on meanwhile


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("verb", ["survey", "export", "verify"])
def test_readers_do_not_stumble_over_parts_that_are_being_merged(verb: str, at: int, command: Command) -> None:
    """As a run does it, at the worst moment: when `at` parts have been opened, and their pages not read."""
    Path("failing").write_text("text 3\n")  # a row group whose pages have to be read
    assert submit(command).returncode == 3
    split(6)
    moments: Iterator[bool] = itertools.chain(itertools.repeat(False, at), [True])
    opened = Part.__init__

    def opening(part: Part, fs: Any, path: str) -> None:
        opened(part, fs, path)
        if next(moments, False):
            compact(open_run(RUN), sorted(map(str, parts())))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Part, "__init__", opening)
        if verb == "survey":
            assert survey(open_run(RUN)).finished == 23
        elif verb == "export":
            assert export(open_run(RUN), "sofar.parquet") == (23, 1)
            assert rows("sofar.parquet") == [row for row in DONE if row["_row_id"] != 3]
        else:
            assert set(dict(verify(open_run(RUN))).values()) == {None}


# What must not be hit


def test_export_replaces_nothing_that_appears_meanwhile(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert submit(command).returncode == 0
    begin = survey_module.in_order

    def meanwhile(*arguments: Any) -> Any:
        write("exported.parquet", {"precious": [1]})
        return begin(*arguments)

    monkeypatch.setattr(survey_module, "in_order", meanwhile)
    with pytest.raises(ConfigurationError, match="exists"):
        export(open_run(RUN), "exported.parquet")
    assert rows("exported.parquet") == [{"precious": 1}]
    assert not list(Path().glob(".exported*"))


def test_names_of_files_begin_no_line_of_their_own(command: Command) -> None:
    assert submit(command).returncode == 0
    Path(RUN, "parts", "x\nstate       forged.parquet").touch()
    shown = command("checkpoint", "inspect", RUN).stdout
    assert "x\\nstate" in shown
    assert not [line for line in shown.splitlines() if "forged" in line and line.startswith("state")]


@pytest.mark.parametrize("output", [".", "./", RUN, ".domyn-swarm", f"{RUN}/parts", f"{RUN}/parts/mine.parquet"])
def test_export_never_replaces_the_runs_folder_or_writes_into_it(output: str, command: Command) -> None:
    assert submit(command).returncode == 0
    before = contents()
    assert_refused(command("checkpoint", "export", RUN, output, "--overwrite"), f"OUTPUT: '{output}'", "else")
    assert contents() == before


def test_export_does_not_replace_a_directory_that_holds_other_things(command: Command) -> None:
    assert submit(command).returncode == 0
    write("folder/a.parquet", {"a": [1]})
    Path("folder/notes").mkdir()
    Path("folder/notes/precious.txt").write_text("precious")
    before = contents()
    assert_refused(command("checkpoint", "export", RUN, "folder", "--overwrite"), "OUTPUT: 'folder' holds", "precious")
    assert contents() == before


def test_a_run_does_not_replace_a_directory_that_holds_other_things(command: Command) -> None:
    assert submit(command, "--output", "out", "--limit", "5").returncode == 0
    Path("out/sub").mkdir()
    Path("out/sub/precious.txt").write_text("precious")
    before = contents()
    for flags in ((), ("--overwrite",)):
        assert_refused(submit(command, "--output", "out", *flags), "--output: 'out' holds", "precious.txt")
        assert contents() == before


def test_a_run_does_not_keep_its_folder_in_the_directory_that_it_replaces(command: Command) -> None:
    before = contents()
    ran = submit(command, "--output", "out", "--checkpoint-dir", "out/runs")
    assert_refused(ran, "--checkpoint-dir", "'out/runs/out' lies in the output 'out'")
    assert contents() == before


@pytest.mark.parametrize("output", ["in.parquet/sofar.parquet", "nosuch://x/sofar.parquet"])
def test_export_is_refused_where_nothing_can_be_written(output: str, command: Command) -> None:
    assert submit(command).returncode == 0
    before = contents()
    assert_refused(command("checkpoint", "export", RUN, output), output)
    assert contents() == before


@pytest.mark.parametrize("verb", ["inspect", "verify", "compact"])
def test_a_filesystem_that_cannot_be_reached_is_one_message(verb: str, command: Command) -> None:
    ran = command("checkpoint", verb, "http://127.0.0.1:1/run")
    assert_refused(ran, "http://127.0.0.1:1/run cannot be reached", "Check the path")


# Helpers


def submit(command: Command, *flags: str) -> Any:
    arguments = ("--input", "in.parquet", "--output", "out.parquet", "--retries", "0", *flags)
    return command("job", "submit", "steps.py:Steps", *arguments)


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()


def parts() -> list[Path]:
    return sorted(PARTS.glob("[0-9]*.parquet"))


def split(count: int) -> None:
    """Cut the one part of a finished run into `count` parts, as if each had been made durable by itself."""
    (whole,) = parts()
    part = Part(LocalFileSystem(), str(whole))
    table, size = part.read(), -(-part.rows // count)
    whole.unlink()
    for number in range(count):
        path = PARTS / f"0001-{number + 1:06d}.parquet"
        write_part(LocalFileSystem(), str(path), table.slice(number * size, size), part.origin)


def held() -> list[dict[str, Any]]:
    """The rows of all parts, by id."""
    found = [row for path in parts() for row in pq.read_table(path).to_pylist()]
    gathered = ({**row, "answer": row.get("answer"), TRACE: row.get(TRACE)} for row in found)
    return sorted(gathered, key=lambda row: row["_row_id"])


def contents() -> dict[str, bytes | None]:
    return {name: Path(name).read_bytes() if Path(name).is_file() else None for name in tree()}


def assert_refused(ran: Any, *says: str) -> None:
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.startswith("Error: ")
    assert "Traceback" not in ran.stderr
    assert [part for part in says if part not in ran.stderr] == [], ran.stderr
