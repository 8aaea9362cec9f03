"""What disks, people and other programs do to a part. Each function ruins the file that it is given."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FLIPPED_BYTES = 16


def truncated(part: Path) -> None:
    """As after a copy that broke off."""
    os.truncate(part, part.stat().st_size // 2)


def zeroed(part: Path) -> None:
    """As after a crash of a filesystem that had the length written, and not the bytes."""
    part.write_bytes(bytes(part.stat().st_size))


def text(part: Path) -> None:
    """As after a download that got an error page."""
    part.write_text("This is no parquet file.\n" * 50)


def other_schema(part: Path) -> None:
    """A sound parquet file that is no part at all."""
    pq.write_table(pa.table({"name": ["a", "b"], "count": [1, 2]}), part)


def empty(part: Path) -> None:
    """As after a full disk."""
    os.truncate(part, 0)


def flipped(part: Path) -> None:
    """A disk that forgets: a few bytes in the pages of the answers, with a footer that knows nothing of it."""
    groups = pq.ParquetFile(part).metadata.row_group(0)
    columns = [groups.column(number) for number in range(groups.num_columns)]
    answers = next(column for column in columns if column.path_in_schema == "answer")
    middle = answers.data_page_offset + answers.total_compressed_size // 2
    content = bytearray(part.read_bytes())
    (footer,) = struct.unpack("<I", content[-8:-4])
    last = len(content) - 8 - footer
    for at in range(middle, min(middle + FLIPPED_BYTES, last)):
        content[at] ^= 0xFF
    part.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncated, "zeroed": zeroed, "text": text, "other schema": other_schema, "empty": empty,
    "flipped": flipped,
}  # fmt: skip
