"""Types of the input: columns of every one come through, and files that differ as their writers do are one input."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm.errors import DataError
from tests.conformance.conftest import Run
from tests.conftest import rows, table, write

STRINGS = pa.string()
UUIDS = pa.array([uuid.UUID(int=1).bytes, None, uuid.UUID(int=3).bytes], pa.uuid())
NOTHING_INSIDE = pa.array([False, True, False])
LATIN_1 = pa.Array.from_buffers(STRINGS, 3, pa.array([b"ok", b"R\xc9UNION", b"ok"]).buffers())
DECIMALS = [decimal.Decimal("1.10"), None, decimal.Decimal("-2.20")]


def nested(values: pa.Array[Any]) -> pa.Array[Any]:
    """Each of three values in a list of its own."""
    return pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), values)


def dictionary(values: list[str], indices: pa.DataType, *, ordered: bool = False) -> pa.Array[Any]:
    return pa.DictionaryArray.from_arrays(pa.array([1, None, 0], indices), values, ordered=ordered)


CARRIED: dict[str, pa.Array[Any]] = {
    "string_view": pa.array(["a", None, "b" * 20], pa.string_view()),
    "binary_view": pa.array([b"a", None, b"b" * 20], pa.binary_view()),
    "views": pa.array([["a"], None, []], pa.list_(pa.string_view())),
    "map_of_views": pa.array([[("k", "v")], None, []], pa.map_(pa.string_view(), pa.string_view())),
    "list_view": pa.array([[1, None], None, []], pa.list_view(pa.int64())),
    "list_views": nested(pa.array([["a"], None, []], pa.large_list_view(pa.string_view()))),
    "uuid": UUIDS,
    "uuids": nested(UUIDS),
    "uuid_inside": pa.StructArray.from_arrays([UUIDS], ["u"]),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(3, 2, 2)),
    "json": pa.array(['{"a": 1}', None, "2"], pa.json_()),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0], pa.int8())),
    "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "t", "v"), pa.array([1, None, 3], pa.int32())),
    "decimal32": pa.array(DECIMALS, pa.decimal32(5, 2)),
    "decimal64": pa.array(DECIMALS, pa.decimal64(15, 2)),
    "decimal256": pa.array(DECIMALS, pa.decimal256(60, 2)),
    "offset": pa.array([0, None, 1], pa.timestamp("us", "+05:30")),
    "nanoseconds": pa.array([1, None, 3], pa.timestamp("ns")),
    "span": pa.array([1, None, 3], pa.duration("ns")),
    "time": pa.array([1, None, 3], pa.time64("ns")),
    "half": pa.array(np.array([1, 2, 3], np.float16)),
    "nulls": pa.array([[None], None, []], pa.list_(pa.null())),
    "category": dictionary(["x", "y"], pa.int8()),
    "ordered": dictionary(["low", "high"], pa.int8(), ordered=True),
    "categories": nested(dictionary(["x", "y"], pa.int32())),
    "required_inside": pa.StructArray.from_arrays(
        [pa.array([1, 2, 3])], fields=[pa.field("a", pa.int64(), nullable=False)], mask=NOTHING_INSIDE
    ),
    "far_date": pa.array([0, 10**7, 1], pa.date32()),
    "far_time": pa.array([0, 3 * 10**17, 1], pa.timestamp("us")),
    "latin_1": LATIN_1,
    "latin_1_category": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), LATIN_1.slice(0, 2)),
}
UNKNOWN = pa.field(
    "unknown", pa.int64(), metadata={"ARROW:extension:name": "org.example", "ARROW:extension:metadata": ""}
)


def test_columns_of_every_type_come_through_through_a_resume(run_job: Run) -> None:
    content = pa.table({"text": ["a", "b", "c"], **CARRIED}).append_column(UNKNOWN, pa.array([1, None, 3]))
    write("in.parquet", content)
    run_job("Upper", input="in.parquet", limit=2)
    assert run_job("Upper", input="in.parquet").done_before == 2
    before, after = pq.read_table("in.parquet"), table("out.parquet")
    assert after.drop_columns("upper").schema.equals(before.schema)
    assert after.schema.field("unknown").metadata == UNKNOWN.metadata
    assert [name for name in before.column_names if _bytes(after[name]) != _bytes(before[name])] == []
    assert after["upper"].to_pylist() == ["A", "B", "C"]


def _bytes(column: pa.ChunkedArray[Any]) -> str:
    """What a column holds; text is taken as bytes, since not all of it is valid."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        column = column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
    return repr(column.to_pylist())


def test_texts_of_any_encoding_are_ids(run_job: Run) -> None:
    for name, ids in {
        "view": pa.array(["x", "y"], pa.string_view()),
        "category": pa.array(["x", "y"]).dictionary_encode().cast(pa.dictionary(pa.int8(), STRINGS)),
    }.items():
        write(f"{name}/0.parquet", pa.table({"id": ids, "text": ["a", "b"]}))
        second = pa.array(["z", "w"]).cast(ids.type) if name == "view" else pa.array(["z", "w"]).dictionary_encode()
        write(f"{name}/1.parquet", pa.table({"id": second.cast(ids.type), "text": ["c", "d"]}))
        options = {"input": name, "output": f"{name}.parquet", "id_column": "id"}
        run_job("Upper", limit=3, **options)
        assert run_job("Upper", **options).done_before == 3
        assert table(f"{name}.parquet").schema.field("id").type == ids.type
        assert [(row["id"], row["upper"]) for row in rows(f"{name}.parquet")] == [
            ("x", "A"), ("y", "B"), ("z", "C"), ("w", "D"),
        ]  # fmt: skip


UNITED: dict[str, tuple[pa.Array[Any], pa.Array[Any], pa.DataType, list[Any]]] = {
    "null": (pa.nulls(1), pa.array([[1]]), pa.list_(pa.int64()), [None, [1]]),
    "wider": (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64(), [1, 2**40]),
    "exact": (pa.array([1], pa.int16()), pa.array([0.5]), pa.float64(), [1.0, 0.5]),
    "large": (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string(), ["a", "b"]),
    "category": (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), STRINGS, ["a", "b"]),
    "view": (pa.array(["a"], pa.string_view()), pa.array(["b"]), STRINGS, ["a", "b"]),
    "categories": (
        pa.array(["a"]).dictionary_encode().cast(pa.dictionary(pa.int8(), STRINGS)),
        pa.array(["b"]).dictionary_encode(),
        pa.dictionary(pa.int32(), STRINGS),
        ["a", "b"],
    ),
    "struct": (
        pa.array([{"a": 1, "c": None}]),
        pa.array([{"b": "x", "a": 2, "c": [1]}]),
        pa.struct([("a", pa.int64()), ("c", pa.list_(pa.int64())), ("b", STRINGS)]),
        [{"a": 1, "c": None, "b": None}, {"a": 2, "c": [1], "b": "x"}],
    ),
    "required": (
        pa.array([[1]], pa.list_(pa.field("element", pa.int64(), nullable=False))),
        pa.array([[None]], pa.list_(pa.int64())),
        pa.list_(pa.int64()),
        [[1], [None]],
    ),
    "unit": (
        pa.array([dt.datetime(2026, 1, 1)], pa.timestamp("ms")),
        pa.array([dt.datetime(2026, 1, 2)], pa.timestamp("us")),
        pa.timestamp("us"),
        [dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2)],
    ),
    "zone": (
        pa.array([0], pa.timestamp("us", "UTC")),
        pa.array([1], pa.timestamp("ms", "+00:00")),
        pa.timestamp("us", "UTC"),
        [dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=dt.UTC)],
    ),
    "uuid": (UUIDS.slice(0, 1), pa.nulls(1), pa.uuid(), [uuid.UUID(int=1), None]),
}


def test_files_that_differ_as_their_writers_do_are_one_input(run_job: Run) -> None:
    first = {name: one for name, (one, *_) in UNITED.items()}
    second = {name: other for name, (_, other, *_) in UNITED.items()}
    required = pa.field("text", STRINGS, nullable=False)
    write("in/a.parquet", pa.table({"text": ["a"], "only_a": [1], **first}).cast(_with(first, required)))
    write("in/b.parquet", pa.table({"only_b": [0.5], **second, "text": ["b"]}))
    run_job("Upper", input="in")
    after = table("out.parquet")
    assert {name: after.schema.field(name).type for name in UNITED} == {name: it[2] for name, it in UNITED.items()}
    assert {name: after[name].to_pylist() for name in UNITED} == {name: it[3] for name, it in UNITED.items()}
    assert rows("out.parquet")[0].items() >= {"text": "a", "upper": "A", "only_a": 1, "only_b": None}.items()
    assert rows("out.parquet")[1].items() >= {"text": "b", "upper": "B", "only_a": None, "only_b": 0.5}.items()


def _with(columns: dict[str, pa.Array[Any]], text: pa.Field[Any]) -> pa.Schema:
    return pa.schema([text, ("only_a", pa.int64()), *((name, values.type) for name, values in columns.items())])


@pytest.mark.parametrize(
    "other",
    [pa.array([1]), pa.array([b"x"]), pa.array([["x"]]), pa.array([True])],
    ids=["number", "bytes", "list", "bool"],
)
def test_files_whose_values_no_type_holds_together_are_refused(run_job: Run, other: pa.Array[Any]) -> None:
    write("in/a.parquet", {"text": ["a"]})
    write("in/b.parquet", pa.table({"text": other}))
    with pytest.raises(DataError, match=r"column 'text' is .* in .*b\.parquet but string in .*a\.parquet"):
        run_job("Upper", input="in")
