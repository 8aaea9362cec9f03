"""Values that people write beside the columns that they are compared with, exactly.

A column's type has values at certain points only: whole numbers, multiples of 0.01, microseconds. A value that somebody
writes lies at one of them, between two, or beyond all. So it is kept as the nearest points below and above it.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH = date(1970, 1, 1).toordinal()
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS_A_DAY = 86_400
_is = pa.types


class Incomparable(Exception):  # noqa: N818 - control flow between this module and the one that parses
    """The value is none that a column of the type could hold or be ordered with; `hint` says what is."""

    def __init__(self, hint: str) -> None:
        self.hint = hint


@dataclass(frozen=True)
class Bounds:
    """The greatest value of a type that is not above something, and the least that is not below it (None: no such)."""

    low: Any
    high: Any
    is_nan: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the type has just this value; of NaN, too, which `in` finds."""
        return self.low is not None and (self.is_nan or self.low == self.high)


def comparable_type(dtype: pa.DataType) -> pa.DataType:
    """The type in which values of `dtype` are compared: one that Arrow's kernels know and that says the same."""
    if isinstance(dtype, pa.BaseExtensionType):
        return comparable_type(dtype.storage_type)
    if isinstance(dtype, pa.DictionaryType):
        return comparable_type(dtype.value_type)
    return next((plain(dtype) for is_one, plain in _PLAIN if is_one(dtype)), dtype)


def _integers_of(dtype: pa.DataType) -> pa.DataType:
    return pa.int32() if dtype.bit_width == 32 else pa.int64()


_PLAIN: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], pa.DataType]], ...] = (
    (_is.is_string_view, lambda _: pa.string()),
    (_is.is_binary_view, lambda _: pa.binary()),
    (_is.is_fixed_size_binary, lambda _: pa.binary()),
    (_is.is_float16, lambda _: pa.float64()),
    (_is.is_float32, lambda _: pa.float64()),
    (_is.is_temporal, _integers_of),
    (_is.is_decimal32, lambda dtype: pa.decimal128(dtype.precision, dtype.scale)),
    (_is.is_decimal64, lambda dtype: pa.decimal128(dtype.precision, dtype.scale)),
)


def comparable(values: Any) -> Any:
    """`values`, an Arrow array, chunked or not, in their `comparable_type`."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ExtensionArray):
        return comparable(values.storage)
    if isinstance(values, pa.DictionaryArray):
        return comparable(values.dictionary_decode())
    wanted = comparable_type(values.type)
    return values if values.type == wanted else values.cast(wanted)


def bounds_of(value: Any, dtype: pa.DataType) -> Bounds:
    """Where `value` lies among the values of `dtype`, in its `comparable_type`.

    Raises:
        Incomparable: it is of another kind.
    """
    if isinstance(dtype, pa.UuidType):
        return _uuid(value)
    if isinstance(dtype, pa.BaseExtensionType):
        return bounds_of(value, dtype.storage_type)
    if isinstance(dtype, pa.DictionaryType):
        return bounds_of(value, dtype.value_type)
    for is_one, place in _KINDS:
        if is_one(dtype):
            return place(value, dtype)
    raise Incomparable("Filters compare numbers, texts, bytes, booleans, dates, times, timestamps and UUIDs.")


def _at(value: Any) -> Bounds:
    return Bounds(value, value)


def _text(value: Any, _: pa.DataType) -> Bounds:
    if not isinstance(value, str) or not _is_utf8(value):
        raise Incomparable("Give a text.")
    return _at(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _binary(value: Any, _: pa.DataType) -> Bounds:
    """JSON has no bytes: a text stands for its UTF-8."""
    if isinstance(value, str) and _is_utf8(value):
        return _at(value.encode())
    if not isinstance(value, bytes):
        raise Incomparable("Give bytes, or the text that they are in UTF-8.")
    return _at(value)


def _uuid(value: Any) -> Bounds:
    try:
        return _at(value.bytes if isinstance(value, uuid.UUID) else uuid.UUID(value).bytes)
    except (AttributeError, TypeError, ValueError):
        raise Incomparable('Give a UUID, as in "6ba7b810-9dad-11d1-80b4-00c04fd430c8".') from None


def _boolean(value: Any, _: pa.DataType) -> Bounds:
    if not isinstance(value, bool):
        raise Incomparable("Give true or false.")
    return _at(value)


def _integer(value: Any, dtype: pa.DataType) -> Bounds:
    bits = dtype.bit_width
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if _is.is_signed_integer(dtype) else (0, 2**bits - 1)
    return _special(value, least, most) or _on_grid(_number(value), least, most)


def _on_grid(value: Fraction, least: int, most: int) -> Bounds:
    """Among the whole numbers from `least` to `most`."""
    low, high = math.floor(value), math.ceil(value)
    return Bounds(
        None if low < least else min(low, most),
        None if high > most else max(high, least),
    )


def _special(value: Any, least: Any, most: Any) -> Bounds | None:
    """NaN and the infinities, for types whose values go from `least` to `most`."""
    if not isinstance(value, float) or math.isfinite(value):
        return None
    if math.isnan(value):
        return Bounds(None, None, is_nan=True)
    return Bounds(most, None) if value > 0 else Bounds(None, least)


def _number(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Incomparable("Give a number.")
    try:
        return Fraction(value)
    except (ValueError, OverflowError):  # Decimal's own NaN and infinity
        raise Incomparable("Give a finite number.") from None


def _float(value: Any, _: pa.DataType) -> Bounds:
    if isinstance(value, float):
        return Bounds(value, value, is_nan=math.isnan(value))
    exact = _number(value)
    try:
        near = float(exact)
    except OverflowError:
        most = math.nextafter(math.inf, 0)
        return Bounds(most, math.inf) if exact > 0 else Bounds(-math.inf, -most)
    if Fraction(near) < exact:
        return Bounds(near, math.nextafter(near, math.inf))
    return _at(near) if Fraction(near) == exact else Bounds(math.nextafter(near, -math.inf), near)


def _decimal(value: Any, dtype: Any) -> Bounds:
    """A float stands for the decimal that it is written as; a text may have any number of digits."""
    most = 10**dtype.precision - 1
    if (found := _special(value, -most, most)) is None:
        try:
            written = Decimal(repr(value)) if isinstance(value, float) else value
            exact = _number(Decimal(written) if isinstance(written, str) else written)
        except InvalidOperation:
            raise Incomparable("Give a number, or a text that is one.") from None
        found = _on_grid(exact * Fraction(10) ** dtype.scale, -most, most)
    low, high = (None if at is None else _unscaled(at, dtype.scale) for at in (found.low, found.high))
    # Nothing is NaN among decimals, and Arrow takes no set of them that holds one.
    return Bounds(low, high, found.is_nan)


def _unscaled(number: int, scale: int) -> Decimal:
    """`number` without the last `scale` digits before the point; exact, whatever the context's precision is."""
    return Decimal((number < 0, tuple(map(int, str(abs(number)))), -scale))


def _date(value: Any, dtype: pa.DataType) -> Bounds:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise Incomparable('Give a date, as in "2024-12-31".')
    days = value.toordinal() - EPOCH
    return _at(days if _is.is_date32(dtype) else days * _SECONDS_A_DAY * 1000)


def _timestamp(value: Any, dtype: Any) -> Bounds:
    example = "2024-12-31T23:59:59" + ("Z" if dtype.tz else "")
    wanted = Incomparable(f'Give a moment {"with" if dtype.tz else "without"} an offset, as in "{example}".')
    nanoseconds = getattr(value, "nanosecond", 0)  # of a pandas.Timestamp
    if isinstance(value, str):
        text, nanoseconds = _without_fraction(value)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise wanted from None
    elif isinstance(value, datetime):
        nanoseconds += value.microsecond * 1000
    elif isinstance(value, date):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime) or (value.tzinfo is None) != (dtype.tz is None):
        raise wanted
    offset = value.utcoffset()
    seconds = (value.toordinal() - EPOCH) * _SECONDS_A_DAY + value.hour * 3600 + value.minute * 60 + value.second
    exact = (
        seconds - (Fraction(0) if offset is None else Fraction(offset.total_seconds())) + Fraction(nanoseconds, 10**9)
    )
    return _on_grid(exact * _PER_SECOND[dtype.unit], -(2**63), 2**63 - 1)


def _time(value: Any, dtype: Any) -> Bounds:
    nanoseconds = 0
    if isinstance(value, str):
        text, nanoseconds = _without_fraction(value)
        try:
            value = time.fromisoformat(text)
        except ValueError:
            value = None
    elif isinstance(value, time):
        nanoseconds = value.microsecond * 1000
    if not isinstance(value, time) or value.tzinfo is not None:
        raise Incomparable('Give a time of day, as in "23:59:59".')
    exact = value.hour * 3600 + value.minute * 60 + value.second + Fraction(nanoseconds, 10**9)
    bits = dtype.bit_width
    return _on_grid(exact * _PER_SECOND[dtype.unit], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _without_fraction(text: str) -> tuple[str, int]:
    """`text` without its fraction of a second, and that in nanoseconds, of which Python would drop the last digits."""
    found = re.search(r"(?<=:\d\d)[.,](\d{1,9})(?!\d)", text)
    if found is None:
        return text, 0
    return text[: found.start()] + text[found.end() :], int(found[1].ljust(9, "0"))


def _nothing(_value: Any, _: pa.DataType) -> Bounds:
    """A column of nulls has no value that anything could equal."""
    return Bounds(None, None)


_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any, Any], Bounds]], ...] = (
    (_is.is_integer, _integer),
    (lambda dtype: _is.is_string(dtype) or _is.is_large_string(dtype) or _is.is_string_view(dtype), _text),
    (_is.is_floating, _float),
    (_is.is_boolean, _boolean),
    (_is.is_decimal, _decimal),
    (_is.is_date, _date),
    (_is.is_timestamp, _timestamp),
    (_is.is_time, _time),
    (lambda dtype: _is.is_binary(dtype) or _is.is_large_binary(dtype) or _is.is_binary_view(dtype), _binary),
    (_is.is_fixed_size_binary, _binary),
    (_is.is_null, _nothing),
)
