"""Hypothesis strategies for tables of every Arrow type that parquet holds, nested, with the extremes of each type."""

from __future__ import annotations

import decimal
import itertools
import math
import random
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3)]
DECIMALS = [pa.decimal32(5, 2), pa.decimal64(12, 3), pa.decimal128(38, 10), pa.decimal128(9, 0), pa.decimal256(60, 5)]
UNITS = ("s", "ms", "us", "ns")
ZONES = (None, "UTC", "Europe/Rome", "+05:30")
TIMES = [
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"),
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in ZONES), *(pa.duration(unit) for unit in UNITS),
]  # fmt: skip
EXTENSIONS = [pa.uuid(), pa.bool8(), pa.json_(), pa.fixed_shape_tensor(pa.float32(), (2, 2))]
PLAIN = [pa.null(), pa.bool_(), *NUMBERS, *FLOATS, *TEXTS, *BYTES, *DECIMALS, *TIMES]
CATEGORIES = [pa.dictionary(index, value) for index in (pa.int8(), pa.int32()) for value in (pa.string(), pa.int64())]

WORDS = ("", "a", "é", "漢字", "🦀", "a\0b", "line\nbreak", "NaN", "null", "00123", "2024-01-01", '{"a": 1}', "x" * 300)
DAY_MS = 86_400_000


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Lists of all kinds, structs and maps of `inner`."""
    fields = st.builds(pa.field, st.sampled_from("xyz"), inner)
    return st.one_of(
        inner.map(pa.list_), inner.map(pa.large_list), inner.map(pa.list_view), inner.map(lambda one: pa.list_(one, 2)),
        st.lists(fields, min_size=1, max_size=3, unique_by=lambda field: field.name).map(pa.struct),
        inner.filter(lambda one: not pa.types.is_null(one)).map(lambda one: pa.map_(pa.string(), one)),
    )  # fmt: skip


types = st.recursive(st.sampled_from([*PLAIN, *CATEGORIES, *EXTENSIONS]), nested, max_leaves=4)


@st.composite
def tables(draw: st.DrawFn, rows: int = 6, most_columns: int = 4) -> pa.Table:
    """Tables of `rows` rows; each value may be null, or an extreme of its type."""
    found = draw(st.lists(types, min_size=1, max_size=most_columns))
    chance = random.Random(draw(st.integers(0, 2**32)))
    return pa.table({f"c{number}": array(chance, dtype, rows) for number, dtype in enumerate(found)})


def array(chance: random.Random, dtype: pa.DataType, rows: int) -> pa.Array[Any]:
    """`rows` values of `dtype`, some of them null."""
    if isinstance(dtype, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(dtype, array(chance, dtype.storage_type, rows))
    if pa.types.is_dictionary(dtype):
        values = array(chance, dtype.value_type, 4).drop_null()
        keys = [chance.choice([None, *range(len(values))]) for _ in range(rows)]
        return pa.DictionaryArray.from_arrays(pa.array(keys, dtype.index_type), values)
    if pa.types.is_struct(dtype):
        children = [array(chance, field.type, rows) for field in dtype]
        return pa.StructArray.from_arrays(children, fields=list(dtype), mask=mask(chance, rows))
    if pa.types.is_fixed_size_list(dtype):
        values = array(chance, dtype.value_type, rows * dtype.list_size)
        return pa.FixedSizeListArray.from_arrays(values, type=dtype, mask=mask(chance, rows))
    if pa.types.is_nested(dtype):
        return lists(chance, dtype, rows)
    return plain(chance, dtype, rows)


def mask(chance: random.Random, rows: int) -> pa.Array[Any]:
    """Which rows are null."""
    return pa.array([chance.random() < 0.2 for _ in range(rows)], pa.bool_())


def lists(chance: random.Random, dtype: Any, rows: int) -> pa.Array[Any]:
    """Lists of any kind, and maps, of up to two entries."""
    sizes = [chance.choice((0, 1, 2)) for _ in range(rows)]
    starts = [0, *itertools.accumulate(sizes)]
    if pa.types.is_map(dtype):
        keys = pa.array([f"k{number}" for number in range(starts[-1])])
        return pa.MapArray.from_arrays(pa.array(starts, pa.int32()), keys, array(chance, dtype.item_type, starts[-1]))
    values = array(chance, dtype.value_type, starts[-1])
    is_large = dtype.id in (pa.types.lib.Type_LARGE_LIST, pa.types.lib.Type_LARGE_LIST_VIEW)
    index = pa.int64() if is_large else pa.int32()
    if pa.types.is_list_view(dtype) or pa.types.is_large_list_view(dtype):
        view = pa.LargeListViewArray if is_large else pa.ListViewArray
        return view.from_arrays(pa.array(starts[:-1], index), pa.array(sizes, index), values, mask=mask(chance, rows))
    offsets = [None if chance.random() < 0.2 else start for start in starts[:-1]] + starts[-1:]
    return (pa.LargeListArray if is_large else pa.ListArray).from_arrays(pa.array(offsets, index), values)


def plain(chance: random.Random, dtype: pa.DataType, rows: int) -> pa.Array[Any]:
    """Values that are not nested, from their representation, so that those beyond Python's range are among them."""
    if pa.types.is_null(dtype):
        return pa.nulls(rows)
    values = [None if chance.random() < 0.2 else value(chance, dtype) for _ in range(rows)]
    if pa.types.is_date32(dtype) or pa.types.is_time32(dtype):
        return pa.array(values, pa.int32()).view(dtype)
    if pa.types.is_temporal(dtype):
        return pa.array(values, pa.int64()).view(dtype)
    return pa.array(values, dtype)


def value(chance: random.Random, dtype: Any) -> Any:  # noqa: PLR0911 - one line for each kind of type
    """One value of a type that is not nested; of temporal types its number."""
    if pa.types.is_boolean(dtype):
        return chance.random() < 0.5
    if pa.types.is_integer(dtype):
        low, high = (0, 2**dtype.bit_width - 1) if pa.types.is_unsigned_integer(dtype) else signed(dtype.bit_width)
        return chance.choice((low, high, 0, 1, chance.randint(low, high)))
    if pa.types.is_floating(dtype):
        return chance.choice((math.nan, math.inf, -math.inf, -0.0, 0.1, 1e4))
    if pa.types.is_decimal(dtype):
        return decimal.Decimal(chance.randint(-(10**dtype.precision) + 1, 10**dtype.precision - 1)).scaleb(
            -dtype.scale, decimal.Context(prec=80)
        )
    if pa.types.is_fixed_size_binary(dtype):
        return chance.randbytes(dtype.byte_width)
    if dtype in BYTES:
        return chance.choice((b"", b"\xff\x00", b"text"))
    if dtype in TEXTS:
        return chance.choice(WORDS)
    return moment(chance, dtype)


def moment(chance: random.Random, dtype: Any) -> int:
    """The number of a date, time, timestamp or duration, now and then beyond what Python's types hold."""
    if pa.types.is_date32(dtype):
        return chance.choice((0, -719_162, 2_932_896, 10_000_000, chance.randint(0, 20_000)))
    if pa.types.is_date64(dtype):
        return DAY_MS * chance.choice((0, 20_000, 10_000_000))
    if pa.types.is_time(dtype):
        return chance.randint(0, 86_399) * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[dtype.unit] + (
            0 if dtype.unit == "s" else chance.randint(0, 999)
        )
    # Parquet holds seconds as milliseconds.
    return chance.choice((0, 1, -1, 1_700_000_000, *((9 * 10**15,) if dtype.unit == "s" else (17 * 10**17 + 1, 2**60))))


def signed(bits: int) -> tuple[int, int]:
    """The least and the greatest integer of that many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
