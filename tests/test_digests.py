"""Digests of values: equal ones have the same in any Arrow type, others do not."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest

from domyn_swarm.data.digests import digests
from tests.browser import Browser, browser  # noqa: F401 - a fixture

DAY = dt.datetime(2026, 1, 2, 3, 4, 5)
EQUAL: dict[str, tuple[Any, Any]] = {
    "integers": (pa.array([1, -2, None], pa.int8()), pa.array([1, -2, None])),
    "unsigned": (pa.array([1], pa.uint64()), pa.array([1])),
    "whole floats": (pa.array([1.0, -0.0]), pa.array([1, 0])),
    "floats": (pa.array([0.5, None], pa.float32()), pa.array([0.5, None])),
    "nan": (pa.array([float("nan")]), pa.array([float("nan")], pa.float32())),
    "texts": (pa.array(["a", "", None]), pa.array(["a", "", None], pa.large_string())),
    "views": (pa.array(["a", "too long to be inline"]), pa.array(["a", "too long to be inline"], pa.string_view())),
    "dictionary": (pa.array(["a", "b", "a"]), pa.array(["a", "b", "a"]).dictionary_encode()),
    "bytes": (pa.array([b"ab"]), pa.array([b"ab"], pa.binary(2))),
    "moments": (pa.array([DAY], pa.timestamp("s")), pa.array([DAY], pa.timestamp("ns"))),
    "spans": (pa.array([5], pa.duration("ms")), pa.array([5000], pa.duration("us"))),
    "days": (pa.array([DAY.date()]), pa.array([DAY.date()], pa.date64())),
    "times": (pa.array([DAY.time()], pa.time32("s")), pa.array([DAY.time()], pa.time64("ns"))),
    "decimals": (pa.array([decimal.Decimal("1.5")]), pa.array([decimal.Decimal("1.5")], pa.decimal128(9, 4))),
    "lists": (pa.array([[1], [], None]), pa.array([[1.0], [], None], pa.large_list(pa.float64()))),
    "lists of a size": (pa.array([[1, 2], None]), pa.array([[1, 2], None], pa.list_(pa.int8(), 2))),
    "structs": (pa.array([{"a": 1, "b": "x"}, None]), pa.array([{"b": "x", "a": 1, "c": None}, None])),
    "order of fields": (
        pa.array([{"a": 1, "b": 2}]), pa.array([{"b": 2, "a": 1}], pa.struct([("b", pa.int8()), ("a", pa.int8())])),
    ),
    "uuids": (pa.array([b"x" * 16], pa.uuid()), pa.array([b"x" * 16])),
    "nulls": (pa.nulls(2), pa.array([None, None], pa.string())),
    "slices": (pa.array([[9], [1, 2], [], [3]])[1:], pa.array([[1, 2], [], [3]])),
    "chunks": (pa.chunked_array([["a"], [], ["b"]]), pa.array(["a", "b"])),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL)
def test_values_that_are_the_same_are_so_in_any_type(one: Any, other: Any) -> None:
    assert digests(one).tolist() == digests(other).tolist()


DIFFERENT: dict[str, Any] = {
    "integers": pa.array([0, 1, -1, -2, None, 2**53, 2**53 + 1]),
    "floats": pa.array([0.0, 0.5, float("nan"), float("inf"), -float("inf"), None, 5e-324]),
    "texts": pa.array(["", "a", "b", "ab", None]),
    "lists": pa.array([[], None, [0], [0, 0], [1], [-1], [-2], [1, 2], [2, 1], [None], [1, None]]),
    "nested lists": pa.array([[[1], [2]], [[1, 2]], [[], [1, 2]], [[1, 2], []], [[]], []]),
    "structs": pa.array([{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": None, "b": 1}, {"a": 1, "b": None}, {}, None]),
    "big unsigned": pa.array([2**64 - 1, 2**63, 0], pa.uint64()),
}


@pytest.mark.parametrize("values", DIFFERENT.values(), ids=DIFFERENT)
def test_values_that_differ_are_told_apart(values: pa.Array[Any]) -> None:
    assert len(set(digests(values).tolist())) == len(values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1]), pa.array(["1"])),
        (pa.array([True]), pa.array([1])),
        (pa.array(["a"]), pa.array([b"a"])),
        (pa.array([-1]), pa.array([2**64 - 1], pa.uint64())),
        (pa.array([DAY]), pa.array([DAY], pa.timestamp("us", "UTC"))),
        (pa.array([None]), pa.array([""])),
        (pa.array([[]]), pa.array([None], pa.list_(pa.int8()))),
    ],
    ids=[
        "number and text",
        "bool and number",
        "text and bytes",
        "signs",
        "with a zone",
        "null and empty",
        "empty list",
    ],
)
def test_values_of_different_kinds_are_different(one: Any, other: Any) -> None:
    assert digests(one).tolist() != digests(other).tolist()
