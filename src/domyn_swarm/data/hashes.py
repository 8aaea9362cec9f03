"""64-bit hashes of texts and bytes, a batch at a time: the same in every process, on every machine and engine."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]

AT_ONCE = 256
"""Values that Python holds at a time: few enough that their memory is used again and again."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
_ONE, _TWO = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


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
    """The hash (XXH3) of each of `values`, an Arrow array of texts or bytes; those of nulls mean nothing."""
    # One hash after the other: numpy takes as long for short texts, and many times longer for long ones.
    filled = pc.fill_null(values.cast(pa.large_binary()), b"")
    pieces = (filled.slice(start, AT_ONCE).to_pylist() for start in range(0, len(filled), AT_ONCE))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, chain.from_iterable(pieces)), np.uint64, len(filled))


def hash_of(text: str) -> np.uint64:
    """The hash of one text."""
    return np.uint64(xxhash.xxh3_64_intdigest(text.encode()))
