"""What a job may return, and the Arrow columns that it becomes: `OutputColumns` as a table of examples."""

from __future__ import annotations

import datetime as dt
import enum
import io
import math
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.data import parquet_writer
from domyn_swarm.data.arrow import Tables
from domyn_swarm.data.columns import FAILURE
from domyn_swarm.engine.calls.outputs import Failure, OutputColumns
from tests.conftest import rows, write

ROME = ZoneInfo("Europe/Rome")


def columns(table: pa.Table) -> dict[str, list[Any]]:
    """The output columns, without FAILURE."""
    return table.drop_columns(FAILURE).to_pydict()


def messages(table: pa.Table) -> list[str | None]:
    """Why each row failed; None where it did not."""
    return [failure and f"{failure['type']}: {failure['message']}" for failure in table[FAILURE].to_pylist()]


def one(*outputs: Any) -> pa.Table:
    """The table of one output column `x`."""
    return OutputColumns(["x"]).table(outputs)


def values(*outputs: Any) -> list[Any]:
    """The values of one output column; no row may have failed."""
    table = one(*outputs)
    assert messages(table) == [None] * len(outputs)
    return table["x"].to_pylist()


def misfits(table: pa.Table) -> list[bool]:
    """Which rows failed because their value does not fit; a failed row has no outputs in any column."""
    failed = [message is not None for message in messages(table)]
    for name in table.drop_columns(FAILURE).column_names:
        assert [value for value, fails in zip(table[name].to_pylist(), failed, strict=True) if fails] == [
            None
        ] * failed.count(True)
    return failed


# What is returned, and what it becomes.


def test_a_scalar_is_the_value_of_the_one_output_column() -> None:
    assert columns(OutputColumns(["answer"]).table(["a", "b"])) == {"answer": ["a", "b"]}


def test_without_names_a_scalar_goes_to_result() -> None:
    assert columns(OutputColumns([]).table([1, 2])) == {"result": [1, 2]}


def test_a_tuple_goes_by_position() -> None:
    assert columns(OutputColumns(["a", "b"]).table([(1, "x"), (2, "y")])) == {"a": [1, 2], "b": ["x", "y"]}
    assert columns(OutputColumns(["a"]).table([(1,), (2,)])) == {"a": [1, 2]}


def test_a_list_goes_by_position_over_several_columns() -> None:
    assert columns(OutputColumns(["a", "b"]).table([[1, "x"], [2, "y"]])) == {"a": [1, 2], "b": ["x", "y"]}


def test_a_list_is_the_value_itself_of_one_column() -> None:
    assert values([1.0, 2.0], [], None, [3.0]) == [[1.0, 2.0], [], None, [3.0]]


def test_a_dict_goes_by_name_and_other_keys_are_left_out() -> None:
    table = OutputColumns(["a", "b"]).table([{"b": 1, "a": "x", "c": 0}, {"a": "y", "b": 2}])
    assert columns(table) == {"a": ["x", "y"], "b": [1, 2]}


def test_with_no_names_every_key_of_a_dict_is_a_column() -> None:
    table = OutputColumns([]).table([{"a": 1}, {"b": "x"}, {"a": 2, "b": "y"}])
    assert columns(table) == {"a": [1, None, 2], "b": [None, "x", "y"]}


def test_a_failure_or_an_exception_is_its_rows_failure() -> None:
    table = one("fine", Failure("ValueError", "no luck", 3), KeyError("k"), None)
    assert table[FAILURE].to_pylist() == [
        None,
        {"type": "ValueError", "message": "no luck", "attempts": 3},
        {"type": "KeyError", "message": "'k'", "attempts": 1},
        None,
    ]
    assert table["x"].to_pylist() == ["fine", None, None, None]


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["a", "b"], (1,), "the job returned 1 values for 2 output columns ['a', 'b']"),
        (["a", "b"], [1, 2, 3], "the job returned 3 values for 2 output columns ['a', 'b']"),
        (["a", "b"], "xy", "the job returned one str for 2 output columns ['a', 'b']"),
        (["a", "b"], None, "the job returned one NoneType for 2 output columns ['a', 'b']"),
        (["a"], (1, 2), "the job returned 2 values for 1 output columns ['a']"),
        ([], (1, 2), "the job returned 2 values for 0 output columns []"),
        (["a", "b"], {"a": 1, "c": 2}, "the job returned no key 'b'; the keys are ['a', 'c']"),
        ([], {3: 1}, "the job returned a key 3, which is no name for a column"),
        ([], {"": 1}, "the job returned a key '', which is no name for a column"),
        ([], {"\ud800": 1}, "the job returned a key '\\ud800', which is no name for a column"),
        ([], {"__position__": 1}, "the job returned a key '__position__', which is no name for a column"),
        (
            [],
            {"fine": 1, "text": 1},
            "the job returned a key 'text', which the input has; choose another, or the output mode replace",
        ),
    ],
)
def test_what_fits_no_rule_is_its_rows_failure(names: list[str], output: Any, message: str) -> None:
    fine = dict.fromkeys(names or ["fine"], 0)
    table = OutputColumns(names, reserved=["text"]).table([fine, output, fine])
    assert messages(table) == [None, f"OutputError: {message}", None]
    assert columns(table) == {name: [0, None, 0] for name in fine}


def test_a_failed_row_has_no_outputs_in_any_column() -> None:
    table = OutputColumns(["a", "b"]).table([(1, "x"), (2, object()), (3, "z")])
    assert columns(table) == {"a": [1, None, 3], "b": ["x", None, "z"]}
    assert misfits(table) == [False, True, False]


def test_when_all_rows_fail_the_columns_are_there_and_empty() -> None:
    assert columns(OutputColumns(["a", "b"]).table([ValueError("no")] * 2)) == {"a": [None, None], "b": [None, None]}
    assert columns(OutputColumns([]).table([ValueError("no")])) == {"result": [None]}


def test_no_outputs_make_no_rows() -> None:
    assert OutputColumns(["a", "b"]).table([]).num_rows == 0
    assert OutputColumns([]).table([]).column_names == ["result", FAILURE]


# The types of values.

MOMENT = dt.datetime(2024, 5, 1, 12, 30, 15, 123456)
IDENTITY = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [
        "text", "", "ünï 🙂", b"\x00\xff", True, 0, -(2**63), 2**63 - 1, 1.5, math.inf, MOMENT, MOMENT.date(),
        MOMENT.time(), dt.timedelta(days=1, microseconds=1), Decimal("12345678901234567890.123"), IDENTITY,
        MOMENT.replace(tzinfo=dt.UTC), MOMENT.replace(tzinfo=ROME), [], [[1], [2, 3]], [None, "a"], {"a": {"b": [1]}},
        [{"name": "x", "tags": ["a", "b"], "at": MOMENT}, {"name": "y", "tags": [], "at": None}], Colour.RED,
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_comes_back_as_it_was_and_can_stand_in_parquet(value: Any) -> None:
    table = one((value,), None)
    file = io.BytesIO()
    pq.write_table(table, file)
    assert messages(table) == [None, None]
    assert pq.read_table(file)["x"].to_pylist() == [value, None]


def test_nan_stays_nan_and_is_not_null() -> None:
    column = one(math.nan, None, 1.0)["x"]
    assert (column.null_count, math.isnan(column[0].as_py())) == (1, True)
    column = OutputColumns(["x"]).table([{"x": math.nan}, {"x": 1}])["x"]
    assert (column.null_count, math.isnan(column[0].as_py())) == (0, True)


def test_numpy_values_are_values() -> None:
    assert values(np.int64(3), np.int64(4)) == [3, 4]
    assert values(np.float32(1.5), 2, np.float64(0.1)) == [1.5, 2.0, 0.1]
    assert values(np.bool_(True), False) == [True, False]
    assert values(np.str_("a"), "b") == ["a", "b"]
    assert values(np.array([1.0, 2.0]), [3.0], np.array([])) == [[1.0, 2.0], [3.0], []]
    assert columns(OutputColumns([]).table([{"vector": np.array([1, 2])}])) == {"vector": [[1, 2]]}


@pytest.mark.parametrize(
    "value",
    [
        object(), 1j, 2**63, -(2**63) - 1, 2**200, {"a": 2**64}, [2**64], Decimal("NaN"), "half \ud83d of a pair",
        ["\ud800"], [1, "a"], {1: 2}, np.zeros((2, 2)), (n for n in [1]), lambda: 1, dt.date,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_arrow_cannot_hold_is_its_rows_failure(value: Any) -> None:
    assert misfits(OutputColumns(["x"]).table([None, (value,), None])) == [False, True, False]
    assert misfits(OutputColumns(["x", "y"]).table([(1, 1), (1, value), (1, None)])) == [False, True, False]


def test_the_failure_says_what_the_column_is_and_what_came() -> None:
    columns = OutputColumns(["x"])
    columns.table([1])
    assert messages(columns.table(["many"])) == [
        "OutputError: the job returned column 'x' is int64, the output is str 'many'"
    ]


def test_a_dict_without_keys_is_null_until_more_is_known_of_it() -> None:
    columns = OutputColumns(["x", "y"])
    first = columns.table([({}, [{}]), ({}, [])])
    second = columns.table([({"a": 1}, [{"b": {}}]), ({}, [{"b": {"c": 2}}])])
    assert first.drop_columns(FAILURE).to_pylist() == [{"x": None, "y": [None]}, {"x": None, "y": []}]
    assert second.drop_columns(FAILURE).to_pylist() == [
        {"x": {"a": 1}, "y": [{"b": {"c": None}}]},
        {"x": {"a": None}, "y": [{"b": {"c": 2}}]},
    ]
    pq.write_table(first, io.BytesIO())
    assert messages(first) + messages(second) == [None] * 4


# Mixtures: within one chunk and over several, it is the same.


@pytest.mark.parametrize("together", [True, False], ids=["in one chunk", "each in a chunk"])
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([None, 1], [None, 1]),
        ([None, "a", None], [None, "a", None]),
        ([1, 2.5, 3], [1.0, 2.5, 3.0]),
        ([2.5, 1], [2.5, 1.0]),
        ([[], [1], [2.5], None], [[], [1.0], [2.5], None]),
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([{"b": 1, "a": 2}, {"a": 3, "b": 4}], [{"b": 1, "a": 2}, {"b": 4, "a": 3}]),
        ([[{"a": 1}], [{"b": [1.5]}]], [[{"a": 1, "b": None}], [{"a": None, "b": [1.5]}]]),
        ([Decimal("1.5"), 1, Decimal("100.25")], [Decimal("1.5"), Decimal(1), Decimal("100.25")]),
        ([MOMENT.replace(tzinfo=ROME), MOMENT.replace(tzinfo=dt.UTC)],) * 2,
    ],
    ids=str,
)
def test_a_columns_type_widens_as_rows_need_it(given: list[Any], stored: list[Any], *, together: bool) -> None:
    columns = OutputColumns(["x"])
    tables = [columns.table([(value,) for value in chunk]) for chunk in ([given] if together else [[v] for v in given])]
    table = pa.concat_tables(tables, promote_options="permissive")
    assert messages(table) == [None] * len(given)
    assert table["x"].to_pylist() == stored


@pytest.mark.parametrize("together", [True, False], ids=["in one chunk", "each in a chunk"])
@pytest.mark.parametrize(
    ("fits", "misfit"),
    [
        (1, "a"), ("a", 1), (1, True), (True, 1), (1.5, True), (1, [1]), ([1], 1), ([1], ["a"]), ("a", b"a"),
        (b"a", "a"), ({"a": 1}, [1]), ({"a": 1}, "a"), ({"a": 1}, {"a": "x"}), ("a", {"a": 1}), (1, {}),
        (IDENTITY, "a"), ("a", IDENTITY), (MOMENT, MOMENT.date()), (MOMENT.date(), MOMENT),
        (MOMENT, MOMENT.replace(tzinfo=ROME)),
        (MOMENT.replace(tzinfo=ROME), MOMENT), (MOMENT, 1), (Decimal("0.1"), 0.5), (0.5, Decimal("0.1")),
        (0.5, 2**53 + 1), (1, 2**63), (-1, np.uint64(2**63)), (1, "\ud800"),
    ],
    ids=lambda value: f"{value!r}",
)  # fmt: skip
def test_a_value_that_does_not_fit_is_that_rows_failure_and_only_that_rows(
    fits: Any, misfit: Any, *, together: bool
) -> None:
    columns = OutputColumns(["x"])
    chunks = [[fits, misfit, fits]] if together else [[fits], [misfit], [fits]]
    table = pa.concat_tables([columns.table([(value,) for value in chunk]) for chunk in chunks])
    assert misfits(table) == [False, True, False]
    assert table["x"].to_pylist() == [fits, None, fits]


def test_types_of_earlier_runs_are_kept_to() -> None:
    known = pa.schema([("x", pa.string()), ("y", pa.float64())])
    table = OutputColumns(["x", "y"], known=known).table([("a", 1), (2, 2)])
    assert table.schema.field("y").type == pa.float64()
    assert misfits(table) == [False, True]


def test_what_an_earlier_run_stored_in_parquet_is_known_as_the_same_type() -> None:
    columns = OutputColumns([])
    outputs = [{"list": [{"a": [1]}], "id": IDENTITY, "at": MOMENT.replace(tzinfo=ROME), "sum": Decimal("1.5")}]
    table = columns.table(outputs)
    file = io.BytesIO()
    pq.write_table(table, file)
    again = OutputColumns([], known=pq.read_schema(file)).table(outputs)
    assert messages(again) == [None]
    assert columns.table(outputs).equals(again)


def test_without_names_a_type_of_an_earlier_run_widens_too() -> None:
    table = OutputColumns([], known=pa.schema([("n", pa.int64())])).table([{"n": 0.5, "m": 1}])
    assert columns(table) == {"n": [0.5], "m": [1]}


# Frames that native methods return.


def test_select_takes_the_named_columns_in_their_order() -> None:
    frame = pa.table({"id": [1, 2], "text": ["a", "b"], "b": [1, 2], "a": ["x", "y"]})
    assert OutputColumns(["a", "b"]).select(frame, ["id", "text"]).column_names == ["a", "b", FAILURE]


def test_select_without_names_takes_whatever_is_no_input() -> None:
    frame = pa.table({"id": [1, 2], "text": ["a", "b"], "b": [1, 2]})
    assert columns(OutputColumns([]).select(frame, ["id", "text"])) == {"b": [1, 2]}


def test_select_unites_types_and_finds_misfits_as_table_does() -> None:
    outputs = OutputColumns(["x"])
    assert columns(outputs.select(pa.table({"x": pa.array([1, None], pa.int32())}), [])) == {"x": [1, None]}
    assert columns(outputs.select(pa.table({"x": [0.5, 2.0]}), [])) == {"x": [0.5, 2.0]}
    assert columns(outputs.select(pa.table({"x": [1, 2]}), [])) == {"x": [1.0, 2.0]}
    assert misfits(outputs.select(pa.table({"x": [7, 2**53 + 1]}), [])) == [False, True]
    assert misfits(outputs.select(pa.table({"x": ["a", None]}), [])) == [True, False]


def test_select_keeps_types_that_python_has_not() -> None:
    frame = pa.table({
        "f": pa.array([1.5], pa.float32()), "d": pa.array(["a"]).dictionary_encode(),
        "t": pa.array([1], pa.timestamp("ns")), "s": pa.array(["a"], pa.large_string()),
    })  # fmt: skip
    made = OutputColumns([]).select(frame, [])
    assert made.drop_columns(FAILURE).schema == frame.schema
    assert made.drop_columns(FAILURE) == frame


@pytest.mark.parametrize(
    ("names", "frame", "message"),
    [
        (["y"], {"id": [1], "x": [1]}, "the returned frame has no column 'y'; it has id, x"),
        ([], {"id": [1]}, "the returned frame has no column of outputs; it has id"),
        (
            [],
            {"id": [1], "text": ["a"]},
            "the returned frame has a column 'text', which the input has; choose another, or the output mode replace",
        ),
        (
            [],
            {"__failure__": [1]},
            "the returned frame has a column '__failure__', which is no name for a column",
        ),
    ],
)
def test_select_refuses_a_frame_whose_columns_cannot_be_outputs(
    names: list[str], frame: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OutputColumns(names, reserved=["id", "text"]).select(pa.table(frame), ["id"])


def test_select_refuses_two_columns_of_one_name() -> None:
    frame = pa.table([[1], [2]], names=["x", "x"])
    with pytest.raises(ValueError, match="the returned frame has two columns 'x'; it has x, x"):
        OutputColumns(["x"]).select(frame, [])


# Failures as data.


def test_a_failure_has_the_errors_type_and_message() -> None:
    assert Failure.of(ValueError("no luck"), 3) == Failure("ValueError", "no luck", 3)


def test_an_error_without_a_message_shows_itself() -> None:
    assert Failure.of(ValueError()) == Failure("ValueError", "ValueError()", 1)


def test_a_long_message_is_cut() -> None:
    assert Failure.of(ValueError("x" * 5000)).message == "x" * 2000


def test_a_message_that_cannot_be_stored_is_escaped() -> None:
    assert one(ValueError("half \ud83d"))[FAILURE].to_pylist()[0]["message"] == "half \\ud83d"


def test_an_error_that_cannot_be_shown_says_so() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert Failure.of(MuteError()) == Failure("MuteError", "(an error that cannot be shown)", 1)


# In a run.


class Halves(SwarmJob):
    """Even numbers as they are, of odd ones the half: each in a table of its own."""

    output_columns = ("half",)

    async def transform_items(self, numbers: list[int]) -> list[float]:
        return [number if number % 2 == 0 else number / 2 for number in numbers]


def test_ints_that_no_float_can_hold_do_not_break_a_run_that_makes_floats_as_well() -> None:
    write("in.parquet", {"number": [2, 2**60 + 2, 3]})
    options = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["number"], "output_columns": ["half"]}
    run(make_spec({**options, "job": "tests.test_outputs:Halves", "batch_size": 1, "max_concurrency": 1}))
    found = [row["half"] for row in rows("out.parquet")]
    assert (found[0], found[2]) == (2.0, 1.5)
    assert found[1] in (None, 2.0**60)


# For any values whatever.

TEXTS = st.text(st.characters(codec=None), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


def is_stored(value: Any, found: Any) -> bool:
    """Whether `found` is `value`: ints may have become floats, dicts have nulls for keys of others."""
    if isinstance(value, dict):
        return (found is None and not value) or (
            isinstance(found, dict)
            and value.keys() <= found.keys()
            and all(is_stored(value.get(name), found[name]) for name in found)
        )
    if isinstance(value, list):
        return isinstance(found, list) and len(value) == len(found) and all(map(is_stored, value, found))
    return value == found


@given(st.lists(st.lists(JSON, max_size=6) | st.lists(SCALARS, max_size=6), max_size=4))
def test_any_value_is_stored_or_is_its_rows_failure(chunks: list[list[Any]]) -> None:
    columns = OutputColumns(["x"])
    for chunk in chunks:
        table = columns.table([(value,) for value in chunk])
        file = io.BytesIO()
        pq.write_table(table, file)
        stored = pq.read_table(file).to_pylist()
        assert len(stored) == len(chunk)
        for value, row in zip(chunk, stored, strict=True):
            assert row["x"] is None if row[FAILURE] else is_stored(value, row["x"])


@given(st.lists(st.dictionaries(TEXTS, SCALARS, max_size=3) | SCALARS | st.tuples(SCALARS, SCALARS), max_size=6))
def test_any_outputs_make_one_row_each_and_columns_that_parquet_takes(outputs: list[Any]) -> None:
    for names in ([], ["x"], ["x", "y"]):
        table = OutputColumns(names).table(outputs)
        pq.write_table(table, io.BytesIO())
        assert table.num_rows == len(outputs)
        assert set(names) <= set(table.column_names)


def test_row_groups_of_wide_rows_end_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows they are: else all of an output is held in memory at once."""
    monkeypatch.setattr(parquet_writer, "ROW_GROUP_BYTES", 10_000)
    wide = pa.table({"text": ["x" * 1000] * 5})
    taken: list[int] = []

    def tables() -> Iterator[pa.Table]:
        for number in range(20):
            taken.append(number)
            yield wide

    path = "out.parquet"
    parquet_writer.write_parquet(Tables(wide.schema, tables), path, directory=False, metadata={}, write_kwargs={})
    written = pq.read_metadata(path)
    assert (written.num_rows, len(taken)) == (100, 20)
    assert all(written.row_group(group).num_rows <= 15 for group in range(written.num_row_groups))
