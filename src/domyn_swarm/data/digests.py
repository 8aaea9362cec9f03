"""64-bit digests of Arrow values by what they are, not by how Arrow holds them.

Equal values have equal digests, whatever their types: 1 as int32, int64 or a float, a text as string, large_string or
in a dictionary, a moment in milliseconds or in nanoseconds. NaN equals NaN, and a struct's field that is null equals
one that is not there. They are the same in every process and on every engine.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domyn_swarm.data.hashes import hash_of, hashed, mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Digests: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

MOST_ELEMENTS = 2**20
"""Elements of lists that are hashed at once."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_UNKNOWN = (pa.ArrowException, ValueError, TypeError, OverflowError)
"""What comes of values that have no form in Python (a date beyond year 9999 in a map)."""
_NULL, _BOOL, _BIG, _FLOAT, _TEXT, _BYTES, _MOMENT, _ZONED, _SPAN, _DAY, _TIME, _LIST, _STRUCT, _OTHER = np.arange(
    1, 15, dtype=np.uint64
) * np.uint64(0xD6E8FEB86659FD93)
"""What keeps kinds of values apart."""
_BIG_FROM = 2.0**63
_PER_MICROSECOND = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}


def digests(values: Any) -> Digests:
    """The digest of each of `values`, an Arrow array, chunked or not."""
    if isinstance(values, pa.ChunkedArray):
        return np.concatenate([np.zeros(0, dtype=np.uint64), *map(digests, values.chunks)])
    if pa.types.is_null(values.type):
        return np.full(len(values), _NULL)
    if isinstance(values, pa.DictionaryArray):
        return digests(values.dictionary_decode())
    if isinstance(values, pa.ExtensionArray):
        return digests(values.storage)
    found = _kind(values.type)(values)
    if values.null_count:
        found[values.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return found


def row_digests(columns: Mapping[str, Any]) -> pa.Array[Any]:
    """One digest for each row of `columns`, Arrow arrays of one length, whatever order they are in; uint64.

    Null for all rows where the values of a column cannot be digested.
    """
    rows = len(next(iter(columns.values())))
    total = np.zeros(rows, dtype=np.uint64)
    try:
        for name, values in columns.items():
            total += mixed(digests(values) + hash_of(name))
    except _UNKNOWN:
        return pa.nulls(rows, pa.uint64())
    return pa.array(mixed(total ^ _STRUCT))


def _kind(dtype: pa.DataType) -> Callable[[Any], Digests]:
    """What makes digests of the values of a type; those of nulls do not matter."""
    return next((make for make, kinds in _KINDS if any(is_one(dtype) for is_one in kinds)), _others)


def _integers(array: Any) -> Digests:
    numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
    if numbers.dtype == np.uint64:
        return mixed(np.where(numbers < np.uint64(_BIG_FROM), numbers, numbers ^ _BIG))
    return mixed(numbers.astype(np.int64).view(np.uint64))


def _booleans(array: Any) -> Digests:
    return mixed(array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64) + _BOOL)


def _floats(array: Any) -> Digests:
    numbers = array.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        whole = (np.abs(numbers) < _BIG_FROM) & (numbers == np.trunc(numbers))
    broken = np.where(np.isnan(numbers), np.nan, numbers)
    return np.where(
        whole,
        mixed(np.where(whole, numbers, 0).astype(np.int64).view(np.uint64)),
        mixed(broken.view(np.uint64) ^ _FLOAT),
    )


def _texts(array: Any) -> Digests:
    return _hashed(array, _TEXT)


def _bytes(array: Any) -> Digests:
    return _hashed(array, _BYTES)


def _hashed(array: Any, kind: np.uint64) -> Digests:
    return mixed(hashed(array) ^ kind)


def _moments(array: Any) -> Digests:
    return _ticks(array, _ZONED if array.type.tz else _MOMENT)


def _spans(array: Any) -> Digests:
    return _ticks(array, _SPAN)


def _ticks(array: Any, kind: np.uint64) -> Digests:
    """Moments and durations: microseconds, and what nanoseconds have besides."""
    times, parts = _PER_MICROSECOND[array.type.unit]
    whole, rest = np.divmod(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), parts)
    return mixed(mixed((whole * times).view(np.uint64) ^ kind) + rest.view(np.uint64))


def _days(array: Any) -> Digests:
    days = array.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False)
    return mixed(days.astype(np.int64).view(np.uint64) ^ _DAY)


def _times(array: Any) -> Digests:
    ticks = array.cast(pa.time64("ns")).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return mixed(ticks.view(np.uint64) ^ _TIME)


def _lists(array: Any) -> Digests:
    """The sum of what the elements come to at their places; of long arrays a half at a time, as memory has its ends."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.sum() > MOST_ELEMENTS and len(array) > 1:
        half = len(array) // 2
        return np.concatenate([_lists(array[:half]), _lists(array[half:])])
    ends = np.cumsum(lengths)
    inner = digests(array.flatten())
    places = np.arange(len(inner)) - np.repeat(ends - lengths, lengths)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mixed(inner + places.astype(np.uint64) * _STEP))])
    return mixed((sums[ends] - sums[ends - lengths]) ^ mixed(lengths.view(np.uint64) ^ _LIST))


def _structs(array: Any) -> Digests:
    """The sum of what the fields come to with their names, those that are null left out."""
    total = np.zeros(len(array), dtype=np.uint64)
    for field, inner in zip(array.type, array.flatten(), strict=True):
        there = inner.is_valid().to_numpy(zero_copy_only=False)
        named = mixed(digests(inner) + hash_of(field.name))
        total += np.where(there, named, np.uint64(0))
    return mixed(total ^ _STRUCT)


def _others(array: Any) -> Digests:
    """Decimals, maps, and whatever else: as Python tells them."""
    exact = (value.as_integer_ratio() if isinstance(value, Decimal) else value for value in array.to_pylist())
    return _hashed(pa.array(map(repr, exact), pa.large_string(), size=len(array)), _OTHER)


def _is_list(dtype: pa.DataType) -> bool:
    kinds = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)
    return isinstance(dtype, kinds)


_is = pa.types
_KINDS: tuple[tuple[Callable[[Any], Digests], tuple[Callable[[Any], bool], ...]], ...] = (
    (_integers, (_is.is_integer,)),
    (_texts, (_is.is_string, _is.is_large_string, _is.is_string_view)),
    (_floats, (_is.is_floating,)),
    (_booleans, (_is.is_boolean,)),
    (_lists, (_is_list,)),
    (_structs, (_is.is_struct,)),
    (_bytes, (_is.is_binary, _is.is_large_binary, _is.is_fixed_size_binary, _is.is_binary_view)),
    (_moments, (_is.is_timestamp,)),
    (_spans, (_is.is_duration,)),
    (_days, (_is.is_date,)),
    (_times, (_is.is_time,)),
)
