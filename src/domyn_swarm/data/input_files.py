"""The input's files: which ones a pattern names, what their footers say, and whether they are still what they were."""

from __future__ import annotations

import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.data.file_metadata import shared
from domyn_swarm.data.hive import with_hive_columns
from domyn_swarm.data.int96 import Unit, int96_unit
from domyn_swarm.data.listing import Skipped, list_paths
from domyn_swarm.data.uniting import united
from domyn_swarm.errors import ConfigurationError, DataError, JobError
from domyn_swarm.storage.files import translating_io_errors
from domyn_swarm.storage.paths import is_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Format = Literal["parquet", "csv", "jsonl"]
DEBUG_FORMATS: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
READERS = 16
"""Files whose footers are read at a time."""
HASH_BYTES = 2**20
_VERSION_KEYS = ("ETag", "etag", "generation", "md5", "LastModified", "last_modified", "mtime")
"""Where filesystems say which version of a file there is. Inode numbers are left out: some mounts make new ones up."""


@dataclass(frozen=True)
class InputFile:
    """One file of the input. `digest` changes with the content: it covers the footer (parquet) or all bytes.

    `groups` has the rows of each row group, `decoded_bytes` is about what all rows take in memory; both are empty where
    only reading tells. `version` is what the filesystem calls this version of the file (modification time, ETag); None
    when no file holds the rows. `hive` has the values of columns that stand in the names of its folders. `int96` is the
    unit in which columns of that type are read, where there are any. Of a file with `encrypted` columns no column's
    metadata may be asked for: pyarrow ends the process.
    """

    path: str
    size: int
    rows: int | None
    digest: str
    groups: tuple[int, ...] = ()
    decoded_bytes: int = 0
    version: str | None = None
    hive: tuple[tuple[str, Any], ...] = ()
    int96: Unit | None = None
    encrypted: bool = False


@dataclass(frozen=True)
class InputFiles:
    """The files that an input pattern names, sorted by path, all of one format; `schema` has the columns of all.

    `skipped` has what a folder or a pattern left out. `hive` are the columns that the names of folders hold (`k=1/`);
    of parquet files they are the last of `schema`. `metadata` is what the files say of themselves, None where they
    differ.
    """

    fs: Any
    files: tuple[InputFile, ...]
    format: Format
    schema: pa.Schema | None
    pattern: str
    skipped: tuple[Skipped, ...] = ()
    hive: pa.Schema = field(default_factory=lambda: pa.schema([]))
    metadata: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def rows(self) -> int | None:
        """Rows in all files; None for the formats that do not say."""
        counts = [file.rows for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def digest(self) -> str:
        """Identifies names, order and content of the files, wherever their folder is mounted.

        A value can change in a parquet file without its footer: if it has as many bytes, and is no extreme.
        """
        return self._digest(lambda file: file.digest)

    @property
    def dated_digest(self) -> str:
        """As `digest`, and with each file's version: for those who can tell, by ids, what a new version changed."""
        return self._digest(lambda file: f"{file.digest}:{file.version}")

    def _digest(self, of: Callable[[InputFile], str]) -> str:
        parts = (f"{PurePosixPath(file.path).name}:{of(file)}{file.hive or ''}" for file in self.files)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def find_input(pattern: str, read_kwargs: Mapping[str, Any]) -> InputFiles:
    """`list_files` for the input of a run.

    Raises:
        ConfigurationError: a keyword has a value that it cannot have.
        DataError: as `list_files`, and when the filesystem cannot be reached.
    """
    if not isinstance(hive := read_kwargs.get("hive", True), bool):
        raise ConfigurationError(
            f"hive is {hive!r}.", "Write true or false.", code="option.invalid", option="backend_read_kwargs"
        )
    with translating_io_errors(pattern):
        return list_files(pattern, read_kwargs.get("storage_options"), hive=hive)


def list_files(pattern: str, storage_options: Mapping[str, Any] | None = None, *, hive: bool = True) -> InputFiles:
    """Find the input's files: a file, a directory (searched for parquet), a glob, a brace range, on any filesystem.

    With `hive`, folders called `column=value` below the named one give a column to the files in them.

    Raises:
        DataError: nothing matches, a file is no parquet file, or two files have values that no type holds together.
    """
    listing = list_paths(pattern, storage_options)
    fs, found = listing.fs, listing.sizes
    paths = sorted(found)
    if odd := next((path for path in paths if not is_text(path)), None):
        raise DataError(
            f"the name of {odd!r} is not UTF-8.", "Rename the file.", code="input.name", option="input", path=odd
        )
    formats: set[Format] = {DEBUG_FORMATS.get(PurePosixPath(path).suffix.lower(), "parquet") for path in paths}
    if len(formats) > 1:
        raise DataError(
            f"{pattern!r} mixes formats ({', '.join(sorted(formats))}).",
            "Name files of one kind.",
            code="input.format",
            option="input",
            path=pattern,
            choices=tuple(sorted(formats)),
        )
    kind = formats.pop()
    skipped = tuple(listing.skipped)
    if kind != "parquet":
        files = tuple(_hashed(fs, path, found[path]) for path in paths)
        return with_hive_columns(InputFiles(fs, files, kind, None, pattern, skipped), listing if hive else None)
    with ThreadPoolExecutor(READERS) as pool:
        footers = list(pool.map(lambda path: _footer(fs, path, found[path]), paths))
    schemas, files = [schema for _, schema in footers], tuple(file for file, _ in footers)
    named = InputFiles(fs, files, kind, united(paths, schemas), pattern, skipped, metadata=shared(schemas))
    return with_hive_columns(named, listing if hive else None)


def _footer(fs: Any, path: str, size: int) -> tuple[InputFile, pa.Schema]:
    """Rows, schema and digest from the footer: its column sizes and statistics move with the data."""
    try:
        version = _version(fs, path)
        with fs.open(path, "rb") as file:
            footer = _footer_bytes(file, size)
            file.seek(0)
            parquet = pq.ParquetFile(file)
            metadata, schema, int96 = parquet.metadata, parquet.schema_arrow, int96_unit(parquet)
            if int96 == "us":
                schema = pq.ParquetFile(file, metadata=metadata, coerce_int96_timestamp_unit=int96).schema_arrow
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        rows = _checked_rows(metadata, groups)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable parquet file: {error}",
            "Inputs are parquet; the pandas backend alone also reads .csv, .jsonl and .ndjson, for debugging.",
            code="input.unreadable",
            option="input",
            path=path,
        ) from None
    decoded = sum(group.total_byte_size for group in groups)
    encrypted = metadata.serialized_size != len(footer)  # a signature follows
    digest = _footer_digest(footer, size)
    found = InputFile(path, size, metadata.num_rows, digest, rows, decoded, version, int96=int96, encrypted=encrypted)
    return found, schema


def _footer_digest(footer: bytes, size: int) -> str:
    """Identifies the content of a parquet file of `size` bytes."""
    return f"{size}:{hashlib.sha256(footer).hexdigest()}"


def _footer_bytes(file: Any, size: int) -> bytes:
    """The footer of an open parquet file of `size` bytes."""
    file.seek(max(0, size - 8))
    length, magic = struct.unpack("<I4s", file.read(8)) if size >= 12 else (0, b"")
    if magic == b"PARE":
        raise pa.ArrowInvalid("it is encrypted, and no keys are taken; write a copy that is not")
    if magic != b"PAR1" or length + 12 > size:
        raise pa.ArrowInvalid("no parquet footer; the file is of another format, or was cut off")
    file.seek(size - 8 - length)
    footer: bytes = file.read(length)
    return footer


def _checked_rows(metadata: pq.FileMetaData, groups: list[pq.RowGroupMetaData]) -> tuple[int, ...]:
    """The rows of each row group. Engines believe one count or the other, so a footer has to say one thing.

    Columns are not asked: pyarrow ends the process when one of them is encrypted.
    """
    rows = tuple(group.num_rows for group in groups)
    if sum(rows) != metadata.num_rows:
        raise pa.ArrowInvalid(f"its footer says {metadata.num_rows:,} rows, and its row groups {sum(rows):,}")
    return rows


def _version(fs: Any, path: str) -> str:
    info = fs.info(path)
    return " ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)


def _hashed(fs: Any, path: str, size: int) -> InputFile:
    version = _version(fs, path)
    return InputFile(path, size, None, _content_digest(fs, path, size), version=version)


def _content_digest(fs: Any, path: str, size: int) -> str:
    digest = hashlib.sha256()
    with fs.open(path, "rb") as file:
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
    return f"{size}:{digest.hexdigest()}"


def verify_unchanged(files: InputFiles) -> None:
    """Check that each file is still the one that was listed: same version, same size, same digest.

    Reads the footers again (all bytes of CSV and JSON Lines files), some files at a time. Rows in memory cannot change.

    Raises:
        JobError: a file was replaced, changed or removed since.
        DataError: the filesystem cannot be reached.
    """
    stored = [file for file in files.files if file.version is not None]
    with translating_io_errors(files.pattern), ThreadPoolExecutor(READERS) as pool:
        changes = pool.map(lambda file: _change(files, file), stored)
        change = next(filter(None, changes), None)
    if change is not None:
        raise JobError(
            f"{change} while the run was reading it.",
            "The output would put new inputs beside old answers, so it was not written. Keep inputs as they are while "
            "a run is going on.",
            code="input.changed",
            option="input",
        )


def _change(files: InputFiles, file: InputFile) -> str:
    """How a file differs from what was listed; nothing when it does not."""
    try:
        size, version = files.fs.info(file.path)["size"], _version(files.fs, file.path)
        if size == file.size and version == file.version:
            if files.format != "parquet":
                same = _content_digest(files.fs, file.path, size) == file.digest
            else:
                with files.fs.open(file.path, "rb") as opened:
                    same = _footer_digest(_footer_bytes(opened, size), size) == file.digest
            return "" if same else f"{file.path} changed"
    except FileNotFoundError:
        return f"{file.path} was removed"
    except pa.ArrowException:
        pass
    return f"{file.path} changed"
