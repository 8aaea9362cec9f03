"""Paths: which files an input pattern names, what their footers say, and writing that appears whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import re
import shutil
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from domyn_swarm.errors import DataError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

Format = Literal["parquet", "csv", "jsonl"]
DEBUG_FORMATS: Mapping[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PARQUET_SUFFIXES = (".parquet", ".pq")
LOCAL_READ_BYTES = 2**20
REMOTE_READ_BYTES = 8 * 2**20
LEFTOVER = ".tmp"
"""What the names of files end in that are not complete."""


@dataclass(frozen=True)
class InputFile:
    """One file of the input. `digest` changes with the content: it covers the footer (parquet) or all bytes.

    `groups` has the rows of each row group, `decoded_bytes` is about what all rows take in memory; both are empty where
    only reading tells.
    """

    path: str
    size: int
    rows: int | None
    digest: str
    groups: tuple[int, ...] = ()
    decoded_bytes: int = 0


@dataclass(frozen=True)
class InputFiles:
    """The files that an input pattern names, sorted by path, all of one format and one schema."""

    fs: Any
    files: tuple[InputFile, ...]
    format: Format
    schema: pa.Schema | None
    pattern: str

    @property
    def rows(self) -> int | None:
        """Rows in all files; None for the formats that do not say."""
        counts = [file.rows for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def digest(self) -> str:
        """Identifies names, order and content of the files, wherever their folder is mounted."""
        parts = (f"{PurePosixPath(file.path).name}:{file.digest}" for file in self.files)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def filesystem(path: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec filesystem that `path` (a local path or any fsspec URL) lives on, and the path on it.

    Raises:
        MissingDependencyError: the URL's protocol needs a package that is not installed.
        DataError: the protocol is unknown, or it does not take the `storage_options`.
    """
    try:
        # Listings are read anew each time: other processes write to the same folders.
        fs, on_fs = fsspec.core.url_to_fs(path, **{"use_listings_cache": False, **(storage_options or {})})
    except ImportError as error:
        raise MissingDependencyError(f"{path}: {error}", "Install the package that the message names.") from None
    except ValueError as error:
        raise DataError(
            f"{path}: {error}", "Use a local path or a URL that fsspec knows (s3://, gs://, ...)."
        ) from None
    except TypeError as error:
        raise DataError(
            f"{path}: storage_options {storage_options!r} are not taken: {error}", "Give an object that fsspec knows."
        ) from None
    return fs, str(on_fs)


@contextlib.contextmanager
def reaching(path: str) -> Iterator[None]:
    """What a filesystem throws in here, for want of a network or of rights, is one error about `path`.

    Raises:
        DataError: it cannot be reached.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise DataError(
            f"{path} cannot be reached: {type(error).__name__}: {error}",
            "Check the path, the credentials, the network.",
        ) from error


_CLIENTS = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")
"""Packages of filesystems' clients, whose errors are not all OSErrors."""


def is_local(fs: Any) -> bool:
    """Whether renames are atomic and the kernel's locks work on `fs`."""
    return isinstance(fs, LocalFileSystem)


def open_parquet(fs: Any, path: str) -> pq.ParquetFile:
    """A parquet file opened for streaming; local files without Python in the read path.

    Reading ahead is bounded: pyarrow's own default buffers every row group that was read until the file is closed.
    """
    source, ahead = (path, LOCAL_READ_BYTES) if is_local(fs) else (fs.open(path, "rb"), REMOTE_READ_BYTES)
    return pq.ParquetFile(source, pre_buffer=False, buffer_size=ahead, page_checksum_verification=True)


def list_files(pattern: str, storage_options: Mapping[str, Any] | None = None) -> InputFiles:
    """Find the input's files: a file, a directory (searched for parquet), a glob, a brace range, on any filesystem.

    Raises:
        DataError: nothing matches, a file is no parquet file, or two files differ in schema.
    """
    try:
        patterns = list(braceexpand(pattern))
    except ValueError:  # braceexpand's UnbalancedBracesError is one
        raise DataError(f"--input: the braces of {pattern!r} do not match.", "Write {000..127} or {a,b}.") from None
    fs, _ = filesystem(patterns[0], storage_options)
    found = {path: size for one in patterns for path, size in _matches(fs, filesystem(one, storage_options)[1], one)}
    paths = sorted(found)
    formats: set[Format] = {DEBUG_FORMATS.get(PurePosixPath(path).suffix.lower(), "parquet") for path in paths}
    if len(formats) > 1:
        raise DataError(
            f"--input: {pattern!r} mixes formats ({', '.join(sorted(formats))}).", "Name files of one kind."
        )
    kind = formats.pop()
    if kind != "parquet":
        return InputFiles(fs, tuple(_hashed(fs, path, found[path]) for path in paths), kind, None, pattern)
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(lambda path: _footer(fs, path, found[path]), paths))
    _check_same_schema(paths, [schema for _, schema in footers])
    return InputFiles(fs, tuple(file for file, _ in footers), kind, footers[0][1], pattern)


def is_named_by(pattern: str, path: str) -> bool:
    """Whether a file at `path`, which has no protocol, is or would be among those that `pattern` names."""
    for one in braceexpand(pattern):
        _, on_fs = filesystem(one)
        if any(char in on_fs for char in "*?["):
            if re.match(glob_translate(on_fs), path):
                return True
        elif path == on_fs or path.startswith(f"{on_fs.rstrip('/')}/"):
            return True
    return False


def _matches(fs: Any, path: str, pattern: str) -> list[tuple[str, int]]:
    if any(char in path for char in "*?["):
        found = fs.glob(path, detail=True)
        files = [(name, info["size"]) for name, info in found.items() if info["type"] == "file"]
        if not files:
            raise DataError(f"--input: no file matches {pattern!r}.", "Check the pattern, and quote it in the shell.")
        return files
    if fs.isdir(path):
        files = [(name, info["size"]) for name, info in fs.find(path, detail=True).items() if _is_data(name, path)]
        if not files:
            raise DataError(f"--input: the directory {pattern!r} holds no .parquet file.", "Name another directory.")
        return files
    if not fs.exists(path):
        raise DataError(f"--input: {pattern!r} does not exist.", "Check the path.")
    return [(path, fs.info(path)["size"])]


def _is_data(name: str, root: str) -> bool:
    """Hidden files and folders, and those that start with an underscore, hold other things than data."""
    relative = PurePosixPath(name.removeprefix(root).lstrip("/"))
    return relative.suffix.lower() in PARQUET_SUFFIXES and not any(
        part.startswith((".", "_")) for part in relative.parts
    )


def _footer(fs: Any, path: str, size: int) -> tuple[InputFile, pa.Schema]:
    """Rows, schema and digest from the footer: its column sizes and statistics move with the data."""
    try:
        with fs.open(path, "rb") as file:
            file.seek(max(0, size - 8))
            length, magic = struct.unpack("<I4s", file.read(8)) if size >= 12 else (0, b"")
            if magic != b"PAR1" or length + 12 > size:
                raise pa.ArrowInvalid("no parquet footer; the file is of another format, or was cut off")
            file.seek(size - 8 - length)
            digest = hashlib.sha256(file.read(length)).hexdigest()
            file.seek(0)
            parquet = pq.ParquetFile(file)
            metadata = parquet.metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            file_rows = tuple(group.num_rows for group in groups)
            decoded = sum(group.total_byte_size for group in groups)
            return InputFile(
                path, size, metadata.num_rows, f"{size}:{digest}", file_rows, decoded
            ), parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"--input: {path} is not a readable parquet file: {error}",
            "Inputs are parquet; the pandas backend alone also reads .csv, .jsonl and .ndjson, for debugging.",
        ) from None


def _hashed(fs: Any, path: str, size: int) -> InputFile:
    return InputFile(path, size, None, f"{size}:{hashlib.sha256(fs.cat_file(path)).hexdigest()}")


def _check_same_schema(paths: list[str], schemas: list[pa.Schema]) -> None:
    first = {field.name: field.type for field in schemas[0]}
    for path, schema in zip(paths, schemas, strict=True):
        here = {field.name: field.type for field in schema}
        if len(here) < len(schema):
            twice = next(name for name in here if schema.names.count(name) > 1)
            raise DataError(f"--input: {path} has two columns {twice!r}.", "Each column needs a name of its own.")
        for name in first.keys() | here.keys():
            if first.get(name) != here.get(name):
                raise DataError(
                    f"--input: column {name!r} is {here.get(name, 'missing')} in {path} but "
                    f"{first.get(name, 'missing')} in {paths[0]}.",
                    "All files of an input need the same columns and types.",
                )


def make_folder(fs: Any, path: str) -> None:
    """Make the folder at `path` and those above it. Object stores have none; a bucket that is not there is not made.

    Raises:
        OSError: it cannot be made.
    """
    bucket = path.partition("/")[0]
    if is_local(fs) or not bucket:
        fs.makedirs(path, exist_ok=True)
        return
    with contextlib.suppress(PermissionError):  # keys for a part of a bucket may not look at all of it
        if not fs.exists(bucket):
            raise FileNotFoundError(f"there is no bucket {bucket!r}")


@contextlib.contextmanager
def whole_file(fs: Any, path: str, *, streamed: bool = False) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path` complete, or not at all.

    On local disks it is written beside, synced and renamed. Elsewhere it is kept in memory and becomes a single put, or
    (`streamed`, for files of any size) an upload in pieces that is completed at the end.

    Raises:
        OSError: it cannot be written; `filename` says which.
    """
    try:
        with _beside(path) if is_local(fs) else _upload(fs, path) if streamed else _put(fs, path) as file:
            yield file
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _beside(path: str) -> Iterator[IO[bytes]]:
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}{LEFTOVER}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_directory(target.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _put(fs: Any, path: str) -> Iterator[IO[bytes]]:
    buffer = io.BytesIO()
    yield buffer
    fs.pipe_file(path, buffer.getvalue())


@contextlib.contextmanager
def _upload(fs: Any, path: str) -> Iterator[IO[bytes]]:
    file = fs.open(path, "wb", autocommit=False)
    try:
        with file:
            yield file
    except BaseException:
        file.discard()
        raise
    file.commit()


def create_file(fs: Any, path: str, content: bytes) -> None:
    """Write a small file that appears whole, if there is none at `path`: of several processes only one succeeds.

    Raises:
        FileExistsError: there is one.
    """
    if not is_local(fs):
        fs.pipe_file(path, content, mode="create")
        return
    target = Path(path)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}{LEFTOVER}")
    try:
        beside.write_bytes(content)
        target.hardlink_to(beside)
    except FileNotFoundError:
        if not target.exists():
            raise
        raise FileExistsError(path) from None  # whoever was first has tidied up already
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(fs: Any, folder: str, name: str = "") -> None:
    """Remove what `whole_file` and `create_file` had half written of `name` (of all) when their process was killed."""
    if is_local(fs):
        for leftover in Path(folder).glob(f".{glob.escape(name)}{'.' if name else ''}*{LEFTOVER}"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(fs: Any, path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    """Makes files, by name, of a directory that takes the place of `path` when it is complete.

    On local disks it is filled beside and renamed. Elsewhere the files are uploaded, and become visible together at the
    end, but for the moment that each of them takes; then files that were there before are removed.
    """
    with _directory_beside(path) if is_local(fs) else _directory_uploaded(fs, path) as make:
        yield make


@contextlib.contextmanager
def _directory_beside(path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    target = Path(path)
    beside, old = (target.with_name(f".{target.name}{suffix}") for suffix in (LEFTOVER, ".old"))
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield lambda name: whole_file(LocalFileSystem(), f"{beside}/{name}")
        if target.exists():
            target.replace(old)
        beside.replace(target)
        _sync_directory(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _directory_uploaded(fs: Any, path: str) -> Iterator[Callable[[str], AbstractContextManager[IO[bytes]]]]:
    before = set(fs.find(path))
    uploads: dict[str, Any] = {}

    @contextlib.contextmanager
    def make(name: str) -> Iterator[IO[bytes]]:
        with fs.open(f"{path}/{name}", "wb", autocommit=False) as file:
            uploads[f"{path}/{name}"] = file
            yield file

    try:
        yield make
    except BaseException:
        for file in uploads.values():
            file.discard()
        raise
    for file in uploads.values():
        file.commit()
    for stale in before - {fs._strip_protocol(name) for name in uploads}:  # noqa: SLF001 - how fsspec spells names
        fs.rm_file(stale)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
