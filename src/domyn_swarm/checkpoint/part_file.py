"""A part's file: parquet with a seal, digests over all of its bytes that are checked before anything parses them.

    body     row groups, as parquet has them
    seal     MAGIC, a digest of each BLOCK_BYTES of the body, the sizes of body and blocks, the tail's digest, MAGIC
    footer   as parquet has it, its length, PAR1

Parquet finds row groups by their offsets and the footer from the end, so other readers do not notice the seal. It is
part of the file, and appears with it. The tail's digest covers seal and footer: a file is opened by reading its end.
Blocks are checked when rows in them are read. Parts of earlier versions, which have no seal, and those of other users,
whose seals say nothing, are read by another process first: see `probing`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from io import SEEK_END, FileIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from domyn_swarm.checkpoint.probing import probe
from domyn_swarm.storage import files
from domyn_swarm.storage.files import is_local

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Span = tuple[int, int]

MAGIC = b"\x89domyn.swarm\r\n\x1a\n"
BLOCK_BYTES = 2**16
TAIL_BYTES = 2**16
"""Read at once to open a part: seal and footer of most."""
SEARCHED_BYTES = 2**24
"""Of the end of a part without a seal, where a damaged one would be."""
_PARQUET = b"PAR1"
_END = struct.Struct("<QI16s16s")
_DIGEST_BYTES = 8


def seal(encoded: pa.Buffer) -> list[Any]:
    """The bytes of a parquet file with their seal, in pieces to write one after the other."""
    view = memoryview(encoded)
    body = len(view) - 8 - _footer_length(view)
    digests = b"".join(xxhash.xxh3_64_digest(view[at:end]) for at, end in _blocks(0, body, body, BLOCK_BYTES))
    start = MAGIC + digests
    digest = _tail_digest(start, body, BLOCK_BYTES, view[body:])
    return [view[:body], start, _END.pack(body, BLOCK_BYTES, digest, MAGIC), view[body:]]


@contextlib.contextmanager
def open_parquet(fs: Any, path: str) -> Iterator[Any]:
    """The part at `path`, opened for reading as `pyarrow.parquet.ParquetFile` is: what it gives has been checked.

    Raises:
        ArrowInvalid: it is not what was written.
        OSError: it cannot be read.
    """
    source = _LocalSource(path) if is_local(fs) else _RemoteSource(fs, path)
    try:
        if source.is_others:  # who can also write a seal
            probe(fs, path)
        if (file := SealedFile.of(source)) is not None:
            yield file
            return
    finally:
        source.close()
    probe(fs, path)
    with files.open_parquet(fs, path) as parquet:
        yield parquet


class SealedFile:
    """A part with a seal that is whole. Of its rows only those bytes are read that are asked for."""

    def __init__(self, source: _Source, tail: bytes, digests: memoryview, body: int, block: int) -> None:
        self._source = source
        self._tail = tail
        self._digests = digests
        self._body = body
        self._block = block
        self._opened = pq.ParquetFile(pa.BufferReader(tail), pre_buffer=False)
        self.metadata = self._opened.metadata
        self.num_row_groups: int = self.metadata.num_row_groups

    @classmethod
    def of(cls, source: _Source) -> SealedFile | None:
        """The part in `source`; None when it has no seal.

        Raises:
            ArrowInvalid: the seal is broken, or it is no parquet file.
        """
        tail = source.end(TAIL_BYTES)
        if not tail:
            raise pa.ArrowInvalid("Parquet file size is 0 bytes")
        if tail[-4:] != _PARQUET:
            raise pa.ArrowInvalid("Parquet magic bytes not found; the file is of another format, or was cut off")
        if len(tail) < 12 or (footer := 8 + _footer_length(tail)) + 4 > source.size:
            raise pa.ArrowInvalid("its footer is longer than the file; it was cut off, or changed")
        tail = source.end(footer + _END.size)
        body, block, digest, magic = _END.unpack_from(tail, len(tail) - footer - _END.size)
        if magic != MAGIC:
            if MAGIC in source.end(SEARCHED_BYTES):
                raise pa.ArrowInvalid("its seal is broken")
            return None
        count = -(-body // block) if block else 0
        size = len(MAGIC) + count * _DIGEST_BYTES + _END.size + footer
        if body + size != source.size:
            raise pa.ArrowInvalid("it has not the size that its seal tells")
        tail = source.end(size)
        view = memoryview(tail)[-size:]
        if _tail_digest(view[: -footer - _END.size], body, block, view[-footer:]) != digest:
            raise pa.ArrowInvalid("its footer is not what was written")
        return cls(source, tail, view[len(MAGIC) : -footer - _END.size], body, block)

    @property
    def schema_arrow(self) -> pa.Schema:
        """The columns."""
        return self._opened.schema_arrow

    def read_row_groups(self, row_groups: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """`columns` (None: all) of those row groups."""
        parquet = self._loaded(row_groups, columns)
        return parquet.read_row_groups(list(row_groups), columns=None if columns is None else list(columns))

    def read_row_group(self, row_group: int, columns: Sequence[str] | None = None) -> pa.Table:
        """`columns` (None: all) of a row group."""
        return self.read_row_groups([row_group], columns)

    def iter_batches(
        self, batch_size: int, row_groups: Iterable[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """`columns` (None: all) of those row groups (None: all), in batches that do not cross from one to the next."""
        for group in range(self.num_row_groups) if row_groups is None else row_groups:
            parquet = self._loaded([group], columns)
            yield from parquet.iter_batches(
                batch_size, row_groups=[group], columns=None if columns is None else list(columns)
            )

    def _loaded(self, groups: Sequence[int], columns: Sequence[str] | None) -> pq.ParquetFile:
        """A file in memory that has these parts of the body, checked, and nothing elsewhere, which takes no memory."""
        spans = _merged(self._spans(groups, columns), self._block, self._body)
        if len(self._tail) == self._source.size:
            for start, end in spans:
                self._check(memoryview(self._tail), start, end)
            return self._opened
        memory: Any = np.zeros(self._source.size, np.uint8)
        view = memoryview(memory)
        for start, end in spans:
            self._source.fill(view[start:end], start)
            self._check(view, start, end)
        return pq.ParquetFile(pa.BufferReader(pa.py_buffer(memory)), metadata=self.metadata, pre_buffer=False)

    def _spans(self, groups: Sequence[int], columns: Sequence[str] | None) -> Iterator[Span]:
        """Where the columns of the row groups are, by the names that pyarrow would look for."""
        for number in groups:
            group = self.metadata.row_group(number)
            if columns is None:
                yield _span(group.column(0))[0], _span(group.column(group.num_columns - 1))[1]
                continue
            for chunk in map(group.column, range(group.num_columns)):
                path = chunk.path_in_schema
                if any(path == name or path.startswith(f"{name}.") for name in columns):
                    yield _span(chunk)

    def _check(self, view: memoryview, start: int, end: int) -> None:
        for at, to in _blocks(start, end, self._body, self._block):
            first = at // self._block * _DIGEST_BYTES
            if xxhash.xxh3_64_digest(view[at:to]) != self._digests[first : first + _DIGEST_BYTES]:
                raise pa.ArrowInvalid(f"bytes {at:,} to {to:,} are not what was written")


class _Source:
    """Bytes of a file that is open. `is_others`: it is known to belong to another user."""

    is_others = False

    def __init__(self, size: int) -> None:
        self.size = size
        self._tail = b""

    def close(self) -> None:
        """Nothing more is read."""

    def end(self, count: int) -> bytes:
        """The last `count` bytes, or more, or all."""
        if (missing := min(count, self.size) - len(self._tail)) > 0:
            buffer = bytearray(missing)
            self._read_into(memoryview(buffer), self.size - len(self._tail) - missing)
            self._tail = bytes(buffer) + self._tail
        return self._tail

    def fill(self, view: memoryview, start: int) -> None:
        """Fill `view` with what is from `start` on."""
        known = start - (self.size - len(self._tail))
        if known >= 0:
            view[:] = self._tail[known : known + len(view)]
        else:
            self._read_into(view, start)

    def _read_into(self, view: memoryview, start: int) -> None:
        raise NotImplementedError


class _LocalSource(_Source):
    def __init__(self, path: str) -> None:
        self._file = FileIO(path)
        super().__init__(self._file.seek(0, SEEK_END))
        if hasattr(os, "geteuid"):
            self.is_others = os.fstat(self._file.fileno()).st_uid != os.geteuid()

    def close(self) -> None:
        self._file.close()

    def _read_into(self, view: memoryview, start: int) -> None:
        self._file.seek(start)
        while view:
            if not (count := self._file.readinto(view)):
                raise pa.ArrowInvalid("it was cut off")
            view = view[count:]


class _RemoteSource(_Source):
    """One request for each span; small files are fetched whole when any of their rows are."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__(fs.info(path)["size"])
        self._fs = fs
        self._path = path

    def fill(self, view: memoryview, start: int) -> None:
        if self.size <= files.REMOTE_READ_BYTES:
            self.end(self.size)
        super().fill(view, start)

    def _read_into(self, view: memoryview, start: int) -> None:
        content = self._fs.cat_file(self._path, start=start, end=start + len(view))
        if len(content) != len(view):
            raise pa.ArrowInvalid("it was cut off")
        view[:] = content


def _footer_length(content: Any) -> int:
    return int.from_bytes(content[-8:-4], "little")


def _tail_digest(start: Any, body: int, block: int, footer: Any) -> bytes:
    digest = xxhash.xxh3_128(start)
    digest.update(struct.pack("<QI", body, block))
    digest.update(footer)
    return digest.digest()


def _span(chunk: Any) -> Span:
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def _merged(spans: Iterable[Span], block: int, body: int) -> list[Span]:
    """The blocks that `spans` touch, as few spans."""
    merged: list[Span] = []
    for start, end in sorted((start // block * block, min(-(-end // block) * block, body)) for start, end in spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _blocks(start: int, end: int, body: int, block: int) -> Iterator[Span]:
    """The blocks from `start`, where one begins, to `end`."""
    return ((at, min(at + block, body)) for at in range(start, end, block))
