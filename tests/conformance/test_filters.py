"""Filters mean the same on every engine: which rows pass is decided once, exactly, and wrong values are refused."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.data.input_files import list_files
from domyn_swarm.errors import ConfigurationError, SwarmError
from tests.conformance.conftest import Run
from tests.conftest import rows, write

NAN, INF = math.nan, math.inf
BIG = 2**53
ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)
UTC_NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)

COLUMNS: dict[str, Any] = {
    "n": pa.array([0, 1, 2, 3, 4, 5], pa.int64()),
    "small": pa.array([1, None, -128, 127, 0, 2], pa.int8()),
    "big": pa.array([BIG, BIG + 1, BIG + 2, -(2**63), 2**63 - 1, None], pa.int64()),
    "unsigned": pa.array([0, 2**63, 2**64 - 1, 1, None, 2**63 - 1], pa.uint64()),
    "x": pa.array([1.0, NAN, None, 2.5, -INF, INF], pa.float64()),
    "half": pa.array([0.1, 0.5, None, NAN, 1.0, -1.0], pa.float32()),
    "text": pa.array(["a", "b", None, "", "é", "z"]),
    "category": pa.array(["a", "b", None, "a", "c", "b"]).dictionary_encode(),
    "flag": pa.array([True, False, None, True, False, True]),
    "day": pa.array([date(2024, 1, 1), date(2024, 1, 2), None, date(1969, 12, 31), date(2024, 1, 1), date(9999, 1, 1)]),
    "at": pa.array([0, 1, None, -1, 1_704_067_200_000_000, 2], pa.timestamp("us")),
    "zoned": pa.array([UTC_NOON, None, datetime(2024, 1, 1, 11, tzinfo=UTC)] * 2, pa.timestamp("ms", "Europe/Berlin")),
    "clock": pa.array([time(12), None, time(0), time(23, 59), time(12), time(1)], pa.time32("s")),
    "money": pa.array([Decimal("0.10"), Decimal("1.00"), None, Decimal("-5.25"), Decimal("9.99"), Decimal("0.11")]),
    "bytes": pa.array([b"a", b"\xff", None, b"", b"b", b"a"]),
    "fixed": pa.array([b"ab", b"cd", None, b"ab", b"ef", b"zz"], pa.binary(2)),
    "uid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([ONE.bytes, TWO.bytes, None, ONE.bytes, TWO.bytes, ONE.bytes], pa.binary(16))
    ),
    "nothing": pa.nulls(6),
}  # fmt: skip

PASSING: list[tuple[str, str, Any, list[int]]] = [
    ("small", "<", 1000, [0, 2, 3, 4, 5]),
    ("small", ">", 1000, []),
    ("small", "!=", 1000, [0, 2, 3, 4, 5]),
    ("small", ">", 0.5, [0, 3, 5]),
    ("small", ">=", 1.5, [3, 5]),
    ("small", "==", 1.0, [0]),
    ("small", "==", 1.5, []),
    ("small", "<", NAN, []),
    ("small", "!=", NAN, [0, 2, 3, 4, 5]),
    ("small", "<", INF, [0, 2, 3, 4, 5]),
    ("small", "in", [1, 1.5, 2.0, 1000], [0, 5]),
    ("small", "in", [None, 1], [0, 1]),
    ("small", "not in", [1], [1, 2, 3, 4, 5]),
    ("small", "not in", [1, None], [2, 3, 4, 5]),
    ("small", "in", [], []),
    ("small", "not in", [], [0, 1, 2, 3, 4, 5]),
    ("big", "==", float(BIG), [0]),
    ("big", ">", float(BIG), [1, 2, 4]),
    ("big", ">", BIG + 1, [2, 4]),
    ("big", "<=", 2**63, [0, 1, 2, 3, 4]),
    ("big", ">=", -(2**70), [0, 1, 2, 3, 4]),
    ("big", ">", 1e300, []),
    ("unsigned", ">=", 2**63, [1, 2]),
    ("unsigned", "==", 2**64 - 1, [2]),
    ("unsigned", ">", -1, [0, 1, 2, 3, 5]),
    ("unsigned", "in", [-1, 2**64, 1], [3]),
    ("x", ">", 0, [0, 3, 5]),
    ("x", "!=", 1, [1, 3, 4, 5]),
    ("x", "==", NAN, []),
    ("x", "in", [NAN, 2.5], [1, 3]),
    ("x", "not in", [1.0], [1, 2, 3, 4, 5]),
    ("x", "<", 10**400, [0, 3, 4]),
    ("x", "<=", INF, [0, 3, 4, 5]),
    ("half", "==", 0.5, [1]),
    ("half", "==", 0.1, []),
    ("half", ">=", 0.1, [0, 1, 4]),
    ("text", ">", "a", [1, 4, 5]),
    ("text", "not in", ["a", None], [1, 3, 4, 5]),
    ("text", "==", "", [3]),
    ("category", "in", ["a", "x"], [0, 3]),
    ("category", ">=", "b", [1, 4, 5]),
    ("flag", "==", True, [0, 3, 5]),
    ("flag", "!=", True, [1, 4]),
    ("flag", "in", [None, False], [1, 2, 4]),
    ("day", ">=", "2024-01-02", [1, 5]),
    ("day", "in", [date(2024, 1, 1), "1969-12-31"], [0, 3, 4]),
    ("at", "==", "1970-01-01T00:00:00.000001", [1]),
    ("at", ">", "1970-01-01T00:00:00.000001500", [4, 5]),
    ("at", "<", "1970-01-01", [3]),
    ("at", "<", "9999-12-31", [0, 1, 3, 4, 5]),
    ("zoned", "==", "2024-01-01T13:00:00+01:00", [0, 3]),
    ("zoned", "<", UTC_NOON, [2, 5]),
    ("clock", ">=", "12:00:00.5", [3]),
    ("clock", "==", time(12), [0, 4]),
    ("money", "==", 0.1, [0]),
    ("money", ">", "0.105", [1, 4, 5]),
    ("money", "<", 10**30, [0, 1, 3, 4, 5]),
    ("money", "in", ["9.990", 1], [1, 4]),
    ("bytes", "==", "a", [0, 5]),
    ("bytes", ">", b"a", [1, 4]),
    ("fixed", "in", ["ab", "abc"], [0, 3]),
    ("uid", "==", str(ONE), [0, 3, 5]),
    ("uid", "not in", [TWO], [0, 2, 3, 5]),
    ("nothing", "in", [None], [0, 1, 2, 3, 4, 5]),
    ("nothing", "!=", 1, []),
]

REFUSED: list[tuple[str, str, Any]] = [
    ("small", "==", "1"), ("small", "==", True), ("small", "==", None), ("small", "in", ["1"]), ("small", "in", 1),
    ("x", ">", "1"), ("text", "==", 1), ("text", "in", ["a", 1]), ("text", "==", "\ud800"), ("flag", "==", 1),
    ("flag", "==", "true"), ("day", "==", "2024-01-01T00:00:00"), ("day", "==", "yesterday"), ("day", ">", 5),
    ("at", "==", "2024-01-01T00:00:00Z"), ("at", ">", 0), ("zoned", "==", "2024-01-01T00:00:00"),
    ("zoned", ">", "2024-01-01"), ("clock", "==", "noon"), ("money", "==", "much"), ("money", "==", 1j),
    ("bytes", "==", 1), ("uid", "==", "1"), ("uid", "==", 1), ("items", "==", [1]), ("items", "in", [[1]]),
    ("span", ">", 1), ("text", "==", ["a"]), ("text", "like", "a"), ("missing", "==", 1),
]  # fmt: skip


def positions(backend: str, filters: Any, files: str = "in") -> list[int]:
    """The rows that pass, read as a run reads them."""
    engine = load_backend(backend)
    frame = engine.with_row_id(engine.read(list_files(files), {"filters": filters, "columns": ["n"]}), None)
    return [n for batch in engine.to_pandas(frame, ["n"], 4) for n in batch["n"].tolist()]


@pytest.fixture
def table_of_all() -> pa.Table:
    table = pa.table(COLUMNS)
    write("in/0.parquet", table.slice(0, 3), row_group_size=1)
    write("in/1.parquet", table.slice(3))
    return table


def test_what_passes(backend: str, table_of_all: pa.Table) -> None:
    for column, operator, value, expected in PASSING:
        assert positions(backend, [[column, operator, value]]) == expected, (column, operator, value)


def test_alternatives_and_conditions_that_hold_together(backend: str, table_of_all: pa.Table) -> None:
    either = [[["x", ">", 2], ["flag", "==", True]], [["text", "in", [None]]]]
    assert positions(backend, either) == [2, 3, 5]


def test_what_is_skipped_holds_nothing_that_passes(backend: str, table_of_all: pa.Table) -> None:
    """Each row in a row group of its own: what statistics say changes nothing."""
    write("single/0.parquet", table_of_all, row_group_size=1)
    for column, operator, value, expected in PASSING:
        assert positions(backend, [[column, operator, value]], "single") == expected, (column, operator, value)


@pytest.mark.parametrize("mode", ["compatibility"], indirect=True)
def test_filters_of_a_run_pick_its_rows(run_job: Run, table_of_all: pa.Table) -> None:
    filters = [["x", "not in", [1.0]], ["n", "<", 3]]
    run_job("Same", input="in", input_columns=["n", "small"], output_mode="replace",
            backend_read_kwargs={"filters": filters})  # fmt: skip
    assert [row["same_n"] for row in rows("out.parquet")] == [1, 2]


def test_what_does_not_compare_is_refused_when_the_input_is_opened(backend: str) -> None:
    write("in.parquet", pa.table({**COLUMNS, "items": [[1]] * 6, "span": pa.array([1] * 6, pa.duration("s"))}))
    files = list_files("in.parquet")
    for column, operator, value in REFUSED:
        with pytest.raises(ConfigurationError) as refused:
            load_backend(backend).read(files, {"filters": [[column, operator, value]]})
        assert column in refused.value.message, (column, operator, value)
        assert refused.value.hint


def test_a_refusal_names_column_type_and_value(run_job: Run) -> None:
    write("in.parquet", {"text": ["a"], "number": [1]})
    with pytest.raises(ConfigurationError) as refused:
        run_job("Upper", input="in.parquet", backend_read_kwargs={"filters": [["number", ">", "one"]]})
    assert all(part in refused.value.message for part in ("backend_read_kwargs", "'number'", "int64", "'one'"))
    assert [path.name for path in Path().iterdir()] == ["in.parquet"]


def test_folders_that_hold_no_row_that_passes_are_not_read(run_job: Run) -> None:
    for year in (2023, 2024):
        write(f"in/year={year}/a.parquet", {"text": [f"text of {year}"] * 40}, compression="none")
    damaged = Path("in/year=2023/a.parquet")
    damaged.write_bytes(damaged.read_bytes()[:4] + b"\xff" * 40 + damaged.read_bytes()[44:])
    filters = [[["year", ">=", 2024]], [["year", "==", 2023], ["year", "==", 2024]]]
    result = run_job("Upper", input="in", backend_read_kwargs={"filters": filters})
    assert (result.rows, rows("out.parquet")[-1]["upper"]) == (40, "TEXT OF 2024")
    with pytest.raises(SwarmError, match="year=2023"):
        run_job("Upper", input="in", output="all.parquet", backend_read_kwargs={"filters": [["year", ">", 0]]})
