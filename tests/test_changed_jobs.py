"""What makes finished rows invalid is refused, with all that differs; what does not is resumed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from domyn_swarm.endpoint.demo import demo_server
from tests.conftest import Command, job, rows, tree, write

CHAT = "domyn_swarm.jobs:ChatCompletionJob"
RUN = ".domyn-swarm/out.parquet"
TEXTS = [f"text {number}" for number in range(12)]
WAYS_OUT = "Run with --no-resume to compute every row again, or with another --checkpoint-tag to keep both."
KEY = "sk-Kq7Wz2Vx9Tn4Rb6Yd8Hm3"


@pytest.fixture(autouse=True)
def prepared() -> None:
    write("in.parquet", {"text": TEXTS, "other": TEXTS[::-1], "number": range(12), "key": keys(range(12))})


def keys(numbers: Any) -> list[str]:
    return [f"key {number}" for number in numbers]


MARKED = """
from domyn_swarm import SwarmJob

class Marked(SwarmJob):
    input_columns = ("text",)
    output_columns = ("marked",)
    {fields}

    def transform_item(self, text):
        with open("calls", "a") as calls:
            calls.write(text + "\\n")
        return text + "!"
    {methods}
"""


def write_job(*fields: str, methods: str = "", path: str = "marked.py") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(MARKED.format(fields="\n    ".join(fields), methods=methods))


# What is refused, and how


def test_all_differences_are_shown_at_once_with_the_ways_out(command: Command) -> None:
    write_job("mark: str = '!'", "times: int = 1", "same: int = 0")
    assert submit(command, "marked.py:Marked", "--job-kwargs", '{"times": 2}').returncode == 0
    write_job("mark: str = '?'", "times: int = 1", "same: int = 0")
    ran = refused(
        command, "marked.py:Marked", "--job-kwargs", '{"times": 3}', "--input-column", "other",
        "--output-column", "loud", "--id-column", "key", "--model", "large",
        "--backend-read-kwargs", '{"filters": [["number", ">", 3]]}',
    )  # fmt: skip
    first, *lines, last = ran.stderr.splitlines()
    assert first == f"Error: The rows in {RUN} were made by a job that differs from this one:"
    assert set(lines) == {
        "  input_columns: ['text'], now ['other']",
        "  output_columns: ['marked'], now ['loud']",
        "  id_column: None, now 'key'",
        "  model: None, now 'large'",
        "  filters: None, now [['number', '>', 3]]",
        "  job_kwargs.times: 2, now 3",
        "  job_kwargs.mark: '!', now '?'",
    }
    assert len(lines) == len(set(lines))
    assert last == WAYS_OUT


def test_another_class_and_another_file_are_other_jobs(command: Command) -> None:
    write_job()
    assert submit(command, "marked.py:Marked").returncode == 0
    Path("marked.py").write_text(Path("marked.py").read_text() + "\n\nclass Renamed(Marked):\n    pass\n")
    assert "  job: 'marked.py:Marked', now 'marked.py:Renamed'\n" in refused(command, "marked.py:Renamed").stderr
    shutil.copy("marked.py", "copy.py")
    assert "  job: 'marked.py:Marked', now 'copy.py:Marked'\n" in refused(command, "copy.py:Marked").stderr


def test_a_changed_default_is_a_changed_job(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked").returncode == 0
    write_job("mark: str = '?'")
    assert "  job_kwargs.mark: '!', now '?'\n" in refused(command, "marked.py:Marked").stderr
    assert submit(command, "marked.py:Marked", "--job-kwargs", '{"mark": "!"}').returncode == 0
    assert len(calls()) == 12


def test_a_field_that_was_removed_is_a_changed_job(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked").returncode == 0
    write_job()
    assert "  job_kwargs.mark: '!', now not there\n" in refused(command, "marked.py:Marked").stderr


def test_long_values_are_cut(command: Command) -> None:
    write_job("mark: str")
    first, second = (json.dumps({"mark": letter * 5000}) for letter in "xy")
    assert submit(command, "marked.py:Marked", "--job-kwargs", first).returncode == 0
    told = refused(command, "marked.py:Marked", "--job-kwargs", second).stderr
    cut = r"'{}{{199}}… \(5,002 characters\)"
    assert re.search(rf"^  job_kwargs\.mark: {cut.format('x')}, now {cut.format('y')}$", told, re.MULTILINE)


def test_the_first_way_out_computes_every_row_again(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked").returncode == 0
    changed = ("marked.py:Marked", "--job-kwargs", '{"mark": "?"}')
    refused(command, *changed)
    assert submit(command, *changed, "--no-resume").returncode == 0
    assert len(calls()) == 24
    told = summary(submit(command, *changed))
    assert (told["done before"], told["done now"]) == ("12", "0")


def test_the_second_way_out_keeps_both(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked").returncode == 0
    changed = ("--job-kwargs", '{"mark": "?"}', "--checkpoint-tag", "new", "--output", "new.parquet")
    assert submit(command, "marked.py:Marked", *changed).returncode == 0
    assert len(calls()) == 24
    for flags in ((), changed):
        assert summary(submit(command, "marked.py:Marked", *flags))["done now"] == "0"
    assert len(calls()) == 24


def test_what_a_lost_run_json_said_is_known_from_the_parts(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked").returncode == 0
    Path(RUN, "run.json").unlink()
    told = refused(command, "marked.py:Marked", "--job-kwargs", '{"mark": "?"}', "--overwrite").stderr
    assert "  job_kwargs.mark: '!', now '?'\n" in told
    assert summary(submit(command, "marked.py:Marked"))["done before"] == "12"
    assert len(calls()) == 12


# The same job


@pytest.mark.parametrize("kwargs", ['{"mark": "!"}', '{"mark": "!", "times": 1}', "{}"])
def test_a_default_that_is_spelled_out_is_no_change(kwargs: str, command: Command) -> None:
    write_job("mark: str = '!'", "times: int = 1")
    assert submit(command, "marked.py:Marked").returncode == 0
    assert summary(submit(command, "marked.py:Marked", "--job-kwargs", kwargs))["done before"] == "12"
    assert summary(submit(command, "marked.py:Marked"))["done before"] == "12"
    assert len(calls()) == 12


def test_a_field_that_the_class_got_later_has_its_default_for_all_rows(command: Command) -> None:
    write_job("mark: str = '!'")
    assert submit(command, "marked.py:Marked", "--limit", "5").returncode == 0
    write_job("mark: str = '!'", "times: int = 1")
    assert "  job_kwargs.times: not there, now 2\n" in (
        refused(command, "marked.py:Marked", "--job-kwargs", '{"times": 2}').stderr
    )
    assert summary(submit(command, "marked.py:Marked"))["done before"] == "5"
    assert "  job_kwargs.times: 1, now 2\n" in (
        refused(command, "marked.py:Marked", "--job-kwargs", '{"times": 2}').stderr
    )


@pytest.mark.parametrize(
    "fields",
    [
        ["words: frozenset[str] = frozenset({'alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta'})"],
        ["words: tuple[str, ...] = ('alpha', 'beta')"],
        ["pairs: dict[str, tuple[int, int]] | None = None", "def __post_init__(self): self.pairs = {'a': (1, 2)}"],
        ["names: dict[int, str] | None = None", "def __post_init__(self): self.names = {1: 'alpha', 2: 'beta'}"],
        ["limit: float = float('nan')"],
        ["limit: float = float('inf')"],
        ["raw: bytes = b'alpha'"],
        ["when: __import__('datetime').datetime = __import__('datetime').datetime(2026, 1, 1)"],
        ["what: object = object()"],
    ],
    ids=["set", "tuple", "tuples in a dict", "keys that are numbers", "nan", "inf", "bytes", "datetime", "object"],
)
def test_fields_of_any_type_are_the_same_in_the_next_process(fields: list[str], command: Command) -> None:
    write_job(*fields)
    for before in ("0", "12", "12"):
        ran = submit(command, "marked.py:Marked")
        assert ran.returncode == 0, ran.stderr
        assert summary(ran)["done before"] == before


def test_sets_and_paths_that_changed_are_told_apart(command: Command) -> None:
    path = "path: __import__('pathlib').Path = __import__('pathlib').Path('{}')"
    write_job("words: frozenset[str] = frozenset({'alpha', 'beta'})", path.format("here"))
    assert submit(command, "marked.py:Marked").returncode == 0
    write_job("words: frozenset[str] = frozenset({'alpha', 'gamma'})", path.format("there"))
    told = refused(command, "marked.py:Marked").stderr
    assert "  job_kwargs.words: ['alpha', 'beta'], now ['alpha', 'gamma']\n" in told
    assert "  job_kwargs.path: 'here', now 'there'\n" in told


LEAVES_OUT = """
    def identity(self):
        return {"mark": self.mark}
"""


def test_a_field_that_identity_leaves_out_may_change(command: Command) -> None:
    write_job("mark: str = '!'", "note: str = ''", methods=LEAVES_OUT)
    assert submit(command, "marked.py:Marked", "--limit", "5").returncode == 0
    for number, kwargs in enumerate(['{"note": "a"}', '{"note": "b"}', "{}"]):
        ran = submit(command, "marked.py:Marked", "--job-kwargs", kwargs, "--limit", str(6 + number))
        assert ran.returncode == 0, ran.stderr
        assert summary(ran)["done before"] == str(5 + number)
    told = refused(command, "marked.py:Marked", "--job-kwargs", '{"mark": "?", "note": "c"}').stderr
    assert "  job_kwargs.mark: '!', now '?'\n" in told
    assert "note" not in told


ADDS = """
    def identity(self):
        return {**super().identity(), "words": open(self.words).read()}
"""


def test_what_identity_adds_counts(command: Command) -> None:
    write_job("words: str = 'words.txt'", methods=ADDS)
    Path("words.txt").write_text("one")
    assert submit(command, "marked.py:Marked", "--limit", "5").returncode == 0
    shutil.copy("words.txt", "moved.txt")
    assert submit(command, "marked.py:Marked", "--job-kwargs", '{"words": "moved.txt"}').returncode == 0
    assert len(calls()) == 12
    Path("words.txt").write_text("two")
    assert "  job_kwargs.words: 'one', now 'two'\n" in refused(command, "marked.py:Marked").stderr


@pytest.mark.parametrize("method", ["return {'words': open('gone.txt').read()}", "return {'words': {(1, 2): 3}}"])
@pytest.mark.parametrize("flag", ["--resume", "--no-resume"])
def test_an_identity_that_cannot_be_told_is_refused(method: str, flag: str, command: Command) -> None:
    write_job(methods=f"\n    def identity(self):\n        {method}\n")
    before = contents()
    ran = submit(command, "marked.py:Marked", flag)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Error: Job 'marked.py:Marked': `identity()` raised ")
    assert "Traceback" not in ran.stderr
    assert contents() == before


OWN_INIT = """
    def __init__(self, mark="!", times=1):
        self.mark, self.times = mark, times
"""


@pytest.mark.parametrize("base", ["", "mark: str = '!'"], ids=["of its own", "in a class with fields"])
def test_a_job_with_an_init_of_its_own_is_told_by_what_it_was_given(base: str, command: Command) -> None:
    write_job(base, methods=OWN_INIT)
    given = ("marked.py:Marked", "--job-kwargs", '{"mark": "?", "times": 2}')
    assert submit(command, *given).returncode == 0
    assert summary(submit(command, *given))["done before"] == "12"
    told = refused(command, "marked.py:Marked", "--job-kwargs", '{"mark": "?", "times": 3}').stderr
    assert "  job_kwargs.times: 2, now 3\n" in told
    told = refused(command, "marked.py:Marked").stderr
    assert "  job_kwargs.mark: '?', now not there\n" in told


def test_a_subclass_with_an_init_of_its_own_is_told_by_what_it_was_given_too(command: Command) -> None:
    write_job("mark: str = '!'")
    Path("marked.py").write_text(
        f"{Path('marked.py').read_text()}\n\n"
        "class Own(Marked):\n"
        "    def __init__(self, times=1):\n"
        "        super().__init__(mark='!')\n"
        "        self.times = times\n"
    )
    assert submit(command, "marked.py:Own", "--job-kwargs", '{"times": 2}').returncode == 0
    assert submit(command, "marked.py:Own", "--job-kwargs", '{"times": 2}').returncode == 0
    told = refused(command, "marked.py:Own", "--job-kwargs", '{"times": 3}').stderr
    assert "  job_kwargs.times: 2, now 3\n" in told


# Files that a field names


def test_a_schema_whose_content_changed_is_refused(command: Command) -> None:
    schema: dict[str, Any] = {
        "type": "object", "properties": {"kind": {"enum": ["library", "tool"]}}, "required": ["kind"],
    }  # fmt: skip
    Path("kinds.json").write_text(json.dumps(schema))
    flags = ("--input-column", "text", "--endpoint", "demo", "--job-kwargs", '{"schema": "kinds.json"}')
    assert submit(command, CHAT, *flags).returncode == 0
    Path("kinds.json").write_text(json.dumps(schema, indent=4, sort_keys=True))
    assert summary(submit(command, CHAT, *flags))["done before"] == "12"
    shutil.move("kinds.json", "moved.json")
    moved = (*flags[:-1], '{"schema": "moved.json"}')
    assert summary(submit(command, CHAT, *moved))["done before"] == "12"
    schema["properties"]["kind"]["enum"].append("other")
    Path("moved.json").write_text(json.dumps(schema))
    told = refused(command, CHAT, *moved).stderr
    assert re.search(r"^  job_kwargs\.schema: \{.*'tool'\].*\}, now \{.*'tool', 'other'\].*\}$", told, re.MULTILINE)
    assert told.count("\n  ") == 1


# What does not matter


@pytest.mark.parametrize(
    "flags",
    [
        ["--max-concurrency", "3"],
        ["--batch-size", "2", "--native-batch-size", "5"],
        ["--retries", "0"],
        ["--checkpoint-interval", "0.5"],
        ["--output-mode", "replace"],
        ["--data-backend", "polars"],
        ["--on-error", "fail", "--max-errors", "3"],
        ["--limit", "9"],
        ["--backend-write-kwargs", '{"compression": "snappy"}'],
    ],
    ids=lambda flags: flags[0],
)
def test_what_makes_no_other_rows_may_change_in_mid_run(flags: list[str], command: Command) -> None:
    write_job()
    assert submit(command, "marked.py:Marked", "--limit", "5").returncode == 0
    told = summary(submit(command, "marked.py:Marked", *flags))
    assert told["done before"] == "5"
    assert told["done now"] == ("4" if "--limit" in flags else "7")
    assert summary(submit(command, "marked.py:Marked"))["done now"] == ("3" if "--limit" in flags else "0")
    assert sorted(calls()) == sorted(TEXTS)
    assert [row["marked"] for row in rows("out.parquet")] == [f"{text}!" for text in TEXTS]


def test_the_jobs_file_may_move(command: Command) -> None:
    write_job()
    assert submit(command, "marked.py:Marked", "--limit", "5").returncode == 0
    Path("elsewhere").mkdir()
    shutil.move("marked.py", "elsewhere/marked.py")
    assert summary(submit(command, "elsewhere/marked.py:Marked"))["done before"] == "5"
    assert sorted(calls()) == sorted(TEXTS)


def test_another_endpoint_that_serves_the_model_goes_on(command: Command) -> None:
    with demo_server() as first, demo_server() as second:
        flags = ("--input-column", "text", "--endpoint")
        assert submit(command, CHAT, *flags, first, "--limit", "5").returncode == 0
        assert summary(submit(command, CHAT, *flags, second))["done before"] == "5"


# Changed input under generated ids


def parts_of_input(folder: str, contents: Mapping[str, list[str]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, texts in contents.items():
        write(f"{folder}/{name}.parquet", {"text": texts})


BEFORE = {"a": ["one", "two"], "b": ["three"], "c": ["four"]}


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        ({**BEFORE, "b": ["three", "more"]}, ["  b.parquet: 1 rows, now 2 rows of other content"]),
        ({**BEFORE, "b": ["other"]}, ["  b.parquet: 1 rows, now 1 rows of other content"]),
        ({**BEFORE, "d": ["five"]}, ["  d.parquet is new"]),
        ({"a": BEFORE["a"], "c": BEFORE["c"]}, ["  b.parquet is gone"]),
        (
            {"a": ["none"], "c": ["four"], "z": ["three"]},
            ["  a.parquet: 2 rows, now 1 rows of other content", "  b.parquet is gone", "  z.parquet is new"],
        ),
    ],
    ids=["more rows", "other content", "new", "gone", "all of it"],
)
def test_files_that_changed_are_listed(after: dict[str, list[str]], lines: list[str], command: Command) -> None:
    write_job()
    parts_of_input("data", BEFORE)
    assert submit(command, "marked.py:Marked", "--input", "data").returncode == 0
    parts_of_input("data", after)
    told = refused(command, "marked.py:Marked", "--input", "data").stderr.splitlines()
    why = f"Error: The input changed since the run in {RUN}, and generated ids only count its rows."
    assert told == [
        why, *lines, f"{WAYS_OUT} With --id-column, a run follows its rows through changes of the input.",
    ]  # fmt: skip


def test_files_of_one_name_in_several_folders_are_told_apart(command: Command) -> None:
    write_job()
    contents = {"x/part": ["one"], "y/part": ["two"], "z/part": ["three"]}
    parts_of_input("data", contents)
    assert submit(command, "marked.py:Marked", "--input", "data").returncode == 0
    parts_of_input("data", {**contents, "x/part": ["one", "more"]})
    told = refused(command, "marked.py:Marked", "--input", "data").stderr
    assert "\n  part.parquet: 1 rows, now 2 rows of other content\n" in told


def test_no_more_than_ten_files_are_listed(command: Command) -> None:
    write_job()
    contents = {f"{number:02}": [f"text {number}"] for number in range(15)}
    parts_of_input("data", contents)
    assert submit(command, "marked.py:Marked", "--input", "data").returncode == 0
    parts_of_input("data", {name: [*texts, "more"] for name, texts in contents.items()})
    told = refused(command, "marked.py:Marked", "--input", "data").stderr.splitlines()
    assert [line for line in told if line.startswith("  ")] == [
        f"  {number:02}.parquet: 1 rows, now 2 rows of other content" for number in range(10)
    ]


def test_an_input_that_moved_as_a_whole_is_the_same(command: Command) -> None:
    write_job()
    parts_of_input("data", BEFORE)
    assert submit(command, "marked.py:Marked", "--input", "data", "--limit", "2").returncode == 0
    shutil.move("data", "moved")
    assert summary(submit(command, "marked.py:Marked", "--input", "moved/*.parquet"))["done before"] == "2"
    assert sorted(calls()) == sorted(["one", "two", "three", "four"])


# Changed input under given ids


def test_rows_are_followed_by_their_ids_through_moves_additions_losses_and_back(command: Command) -> None:
    write_job()

    def ran(numbers: list[int]) -> tuple[str, str]:
        write("in.parquet", {"text": [f"text {n}" for n in numbers], "key": keys(numbers)})
        told = submit(command, "marked.py:Marked", "--id-column", "key")
        assert told.returncode == 0, told.stderr
        expected = [{"text": f"text {n}", "key": f"key {n}", "marked": f"text {n}!"} for n in numbers]
        assert rows("out.parquet") == expected
        return summary(told)["done before"], summary(told)["done now"]

    first = list(range(12))
    assert ran(first) == ("0", "12")
    assert ran(first[::-1]) == ("12", "0")
    assert ran([*range(20, 25), *range(4)]) == ("4", "5")
    assert ran([22]) == ("1", "0")
    assert ran([*range(25), 99]) == ("17", "9")
    assert ran(first) == ("12", "0")
    assert len(calls()) == 12 + 5 + 9


def test_a_failed_row_is_followed_too(command: Command) -> None:
    flags = ("--id-column", "key", "--retries", "0")
    write("in.parquet", {"text": ["a", "bad", "c"], "key": [1, 2, 3]})
    assert submit(command, job("Picky"), *flags).returncode == 3
    write("in.parquet", {"text": ["d", "c", "bad"], "key": [4, 3, 2]})
    told = summary(submit(command, job("Picky"), *flags))
    assert (told["done before"], told["done now"]) == ("1", "1")
    assert rows("out.errors.parquet")[0]["key"] == 2
    write("in.parquet", {"text": ["c", "a"], "key": [3, 1]})
    ran = submit(command, job("Picky"), *flags)
    assert (ran.returncode, summary(ran)["done before"]) == (0, "2")
    assert not Path("out.errors.parquet").exists()


# Secrets


@pytest.mark.parametrize("by", ["OPENAI_API_KEY", "DOMYN_SWARM_API_KEY", "--api-key-file"])
def test_a_key_is_in_no_footer_and_no_json(by: str, key_file: str, command: Command) -> None:
    flags = ["--input-column", "text", "--endpoint", "demo"]
    env = {}
    if by.startswith("--"):
        flags += [by, key_file]
    else:
        env[by] = KEY
    assert submit(command, CHAT, *flags, "--limit", "5", env=env).returncode == 0
    assert submit(command, CHAT, *flags, env=env).returncode == 0
    footers = [pq.read_metadata(path).metadata or {} for path in Path(RUN, "parts").iterdir()]
    assert all(b"ChatCompletionJob" in footer[b"domyn_swarm.part"] for footer in footers)
    assert footers
    assert [footer for footer in footers if KEY in str(footer)] == []
    assert {path.name for path in Path(RUN).glob("*.json")} == {"run.json", "spec.json"}
    assert [path for path in Path().rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    if by.startswith("--"):
        assert json.loads(Path(RUN, "spec.json").read_text())["api_key_file"] == key_file


# Helpers


def submit(command: Command, reference: str, *flags: str, **options: Any) -> Any:
    return command("job", "submit", reference, "--input", "in.parquet", "--output", "out.parquet", *flags, **options)


def refused(command: Command, reference: str, *flags: str) -> Any:
    """The run, which was refused with one message, and changed nothing."""
    before = contents()
    ran = submit(command, reference, *flags)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.startswith(f"Error: The rows in {RUN}") or ran.stderr.startswith("Error: The input changed")
    assert "--no-resume" in ran.stderr
    assert "--checkpoint-tag" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert contents() == before
    return ran


def contents() -> dict[str, bytes | None]:
    return {name: Path(name).read_bytes() if Path(name).is_file() else None for name in tree()}


def summary(ran: Any) -> dict[str, str]:
    """The lines that a run ends with."""
    assert ran.stdout, ran.stderr
    return {line[:13].strip(): line[13:] for line in ran.stdout.splitlines()}


def calls() -> list[str]:
    return Path("calls").read_text().splitlines()
