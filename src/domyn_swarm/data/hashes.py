"""64-bit hashes of texts and bytes, a batch at a time: the same in every process, on every machine and engine.

A value is cut into words of eight bytes. Each word is mixed with its place, and their sum with the length: numpy does
all of that over many values at once, without the interpreter's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

WORDS = 2**16
"""Words that are hashed at once, unless one value has more: as many as caches hold."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ONE, _TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def mixed(values: Hashes) -> Hashes:
    """Spread `values` over all 64 bits, so that their sums tell them apart (the finalizer of splitmix64)."""
    spread: Hashes = values + _STEP
    spread ^= spread >> np.uint64(30)
    spread *= _ONE
    spread ^= spread >> np.uint64(27)
    spread *= _TWO
    spread ^= spread >> np.uint64(31)
    return spread


def hashed(values: Any) -> Hashes:
    """The hash of each of `values`, an Arrow array of texts or bytes; those of nulls mean nothing."""
    if not len(values):
        return np.zeros(0, dtype=np.uint64)
    if not (pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)):
        values = values.cast(pa.large_string() if _is_text(values.type) else pa.large_binary())
    _, offsets, content = values.buffers()
    ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(content or b"", np.uint8)
    parts = [_some(data, ends[first : last + 1]) for first, last in _pieces(ends)]
    return mixed(np.concatenate(parts) ^ mixed(np.diff(ends).view(np.uint64)))


def hash_of(text: str) -> np.uint64:
    """The hash of one text."""
    return np.uint64(hashed(pa.array([text], pa.large_string()))[0])


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_string_view(dtype)


def _pieces(ends: Numbers) -> Iterator[tuple[int, int]]:
    """Consecutive values, first and last, of about WORDS words together."""
    words = np.cumsum((np.diff(ends) + 7) >> 3)
    first = 0
    while first < len(words):
        before = words[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(words, before + WORDS, side="right")))
        yield first, last
        first = last


def _some(data: Any, ends: Numbers) -> Hashes:
    """The sums over the words of the values that lie between `ends` in `data`."""
    start, lengths = int(ends[0]), np.diff(ends)
    content = np.zeros(int(ends[-1]) - start + 8, np.uint8)
    content[:-8] = data[start : int(ends[-1])]
    anywhere = np.ndarray((len(content) - 7,), "<u8", content, strides=(1,))  # the word that begins at each byte
    counts = (lengths + 7) >> 3
    after = np.cumsum(counts)
    sums = np.zeros(len(lengths), np.uint64)
    some = np.flatnonzero(counts)
    if not len(some):
        return sums
    number = np.arange(int(after[-1]))
    words = anywhere[np.repeat(ends[:-1] - start - 8 * (after - counts), counts) + 8 * number].astype(np.uint64)
    spare = (8 * (8 * counts[some] - lengths[some])).astype(np.uint64)
    words[after[some] - 1] &= _ALL >> spare  # the last word of a value reaches into the next one
    words += (number - np.repeat(after - counts, counts)).view(np.uint64) * _STEP
    words *= _ONE
    words ^= words >> np.uint64(32)
    words *= _TWO
    words ^= words >> np.uint64(29)
    sums[some] = np.add.reduceat(words, (after - counts)[some])
    return sums
