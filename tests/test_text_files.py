"""CSV and JSON Lines: what is written is what is read, a block at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from domyn_swarm import make_spec, run
from domyn_swarm.data import text_files
from domyn_swarm.errors import ConfigurationError, DataError
from tests.conftest import Command, job, rows, table

CSV = 'id,text,day,note\n00123,"a\nb",2024-01-01,NA\n1234567890123456789,,1.0,"x ""y"""\n,"",true,\n'


def read(path: str, content: str | bytes, **options: Any) -> list[dict[str, Any]]:
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    given = {"input_columns": ["text"], "output_columns": ["same"], "output": "out.parquet", **options}
    run(make_spec({"job": job("Same"), "input": path, **given}))
    return [{name: value for name, value in row.items() if name != "same"} for row in rows("out.parquet")]


@pytest.mark.parametrize("native", [False, True], ids=["compatibility", "native"])
def test_what_stands_in_csv_stays_as_it_is_written(native: bool) -> None:
    assert read("in.csv", CSV, native_backend=native) == [
        {"id": "00123", "text": "a\nb", "day": "2024-01-01", "note": "NA"},
        {"id": "1234567890123456789", "text": None, "day": "1.0", "note": 'x "y"'},
        {"id": None, "text": "", "day": "true", "note": None},
    ]


def test_types_of_csv_are_given() -> None:
    kwargs = {"types": {"id": "int64", "at": "timestamp[ms]"}, "delimiter": ";", "encoding": "latin-1"}
    content = "id;text;at\n1;é;2024-01-01 12:00:00\n;b;\n".encode("latin-1")
    read("in.csv", content, backend_read_kwargs=kwargs)
    assert [str(dtype) for dtype in table("out.parquet").schema.types[:3]] == ["int64", "string", "timestamp[ms]"]
    assert [row["text"] for row in rows("out.parquet")] == ["é", "b"]


LINES = [
    {"id": "00123", "text": "2024-01-01", "n": 1, "big": 1234567890123456789, "at": "2024-01-01T00:00:00Z"},
    {"id": "9999999999999999999", "text": None, "n": 2.5, "big": -1, "messages": [{"role": "user"}]},
]


def test_strings_of_json_stay_strings_and_numbers_stay_numbers() -> None:
    found = read("in.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, LINES)) + "\n")
    assert found == [{**LINES[0], "messages": None}, {**LINES[1], "at": None}]
    types = {field.name: str(field.type) for field in table("out.parquet").schema}
    assert (types["id"], types["n"], types["big"], types["at"]) == ("string", "double", "int64", "string")


@pytest.mark.parametrize("block", [1, pytest.param(40, marks=pytest.mark.stress), 10_000])
@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson", "in.csv"])
def test_files_are_read_in_blocks(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", max(block, 40) if name.endswith(".csv") else block)
    written = [{"text": f"text {number}", "n": number + (0.5 if number > 90 else 0)} for number in range(100)]
    if name.endswith(".csv"):
        content = "text,n\n" + "".join(f"{row['text']},{row['n']}\n" for row in written)
        assert read(name, content) == [{"text": row["text"], "n": str(row["n"])} for row in written]
    else:
        later = [*written[:50], {**written[50], "more": ["x"]}, *written[51:]]
        assert read(name, "\n".join(map(json.dumps, later))) == [{"more": None, **row} for row in later]
    assert read(name, Path(name).read_text(), limit=3, output="few.parquet") is not None
    assert len(rows("few.parquet")) == 3


def test_several_files_and_columns_of_folders() -> None:
    for number in (1, 2):
        Path(f"in/k={number}").mkdir(parents=True)
        Path(f"in/k={number}/a.csv").write_text(f"text\nrow {number}\n")
    run(make_spec({"job": job("Upper"), "input": "in/*/*.csv", "output": "out.parquet"}))
    assert rows("out.parquet") == [
        {"text": "row 1", "k": 1, "upper": "ROW 1"}, {"text": "row 2", "k": 2, "upper": "ROW 2"},
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "says"), [
    ("in.jsonl", '{"text": 1}\n{"text": "x"}\n', "column 'text'"),
    ("in.jsonl", '{"text": true}\n{"text": 1}\n', "column 'text'"),
    ("in.jsonl", '{"text": "a"}\n\n[1]\n', "line 3"),
    ("in.jsonl", '{"text": "a"}\n{"text":\n', "line 2"),
    ("in.jsonl", '{"text": NaN}\n', "line 1"),
    ("in.jsonl", b'{"text": "\xff"}\n', "line 1"),
    ("in.jsonl", '{"text": 12345678901234567890123}\n', "column 'text'"),
    ("in.jsonl", '{"text": 1152921504606846977}\n{"text": 0.5}\n', "column 'text'"),
    ("in.jsonl", "", "no rows"),
    ("in.csv", "text,n\na\n", "Expected 2 columns"),
    ("in.csv", "text,text\na,b\n", "two columns 'text'"),
    ("in.csv", b"text\n\xff\n", "UTF8"),
    ("in.csv", "", "Empty"),
])  # fmt: skip
def test_what_cannot_be_read_exactly_is_refused(name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        read(name, content)
    assert "in." in str(refused.value)
    assert {path.name for path in Path().iterdir()} == {name}


def test_one_bad_value_far_down_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 64)
    many = '{"text": 1}\n' * 20
    for last in ('{"text": "x"}\n', '{"text": {}}\n', '{"text":\n'):
        with pytest.raises(DataError):
            read("in.jsonl", many + last)
    with pytest.raises(DataError, match="column 'text'"):
        read("in.jsonl", '{"text": 1152921504606846977}\n' + many + '{"text": 0.5}\n')


@pytest.mark.parametrize("kwargs", [
    {"types": {"nosuch": "int64"}}, {"types": {"text": "number"}}, {"types": 5}, {"sep": ";"}, {"delimiter": ";;"},
    {"columns": ["nosuch"]}, {"encoding": "nosuch"},
])  # fmt: skip
def test_keywords_that_mean_nothing_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, DataError)) as refused:
        read("in.csv", CSV, backend_read_kwargs=kwargs)
    assert refused.value.exit_status == 2


def test_other_engines_name_the_way_to_convert(command: Command) -> None:
    Path("in.csv").write_text(CSV)
    flags = ("--input", "in.csv", "--output", "out.parquet", "--input-column", "text")
    ran = command("job", "submit", job("Upper"), *flags, "--data-backend", "polars")
    assert ran.returncode == 2
    assert ".to_parquet(" in ran.stderr
    shown = command("job", "submit", job("Upper"), *flags, "--dry-run")
    assert "id string, text string, day string, note string" in shown.stdout
