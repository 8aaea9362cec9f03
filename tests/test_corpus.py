"""A folder of parquet files through engines, as `python -m tests.corpus` does it: what agrees, and what does not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import write
from tests.corpus.__main__ import main
from tests.corpus.compare import difference

ENGINES = ("--backend", "pandas", "--backend", "polars")


def test_files_that_all_engines_read_alike_agree_and_a_refused_one_is_named_with_its_reason(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write("files/plain.parquet", {"id": [1, None, 3], "text": ["a", None, "c"], "when": [dt.date(2026, 1, 1)] * 3})
    write("files/deep/nested.pq", {"list": [[1], [], None], "struct": [{"a": 1.5}, None, {"a": None}]})
    Path(write("files/cut.parquet", {"text": ["a"]})).write_bytes(b"PAR1 and no more")
    assert main(["files", *ENGINES]) == 0
    verdict, pandas, *_, summary = capfd.readouterr().out.splitlines()
    assert verdict.split() == ["refused", "cut.parquet"]
    assert "cut.parquet" in pandas
    assert summary == "1 refused, 2 agrees"


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"a": [1, 2]}, []),
        ({"a": [1, 3]}, ["values of column 'a' differ"]),
        ({"a": [1.0, 2.0]}, ["column 'a' is double, not int64"]),
        ({"a": [1]}, ["1 rows, not 2"]),
        ({"b": [1, 2]}, ["columns ['b'], not ['a']"]),
    ],
)
def test_a_difference_is_named(other: dict[str, list[float]], found: list[str]) -> None:
    assert [*difference(pa.table(other), pa.table({"a": [1, 2]}))] == found
