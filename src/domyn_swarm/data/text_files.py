"""CSV and JSON Lines as streams of Arrow batches. Nothing is guessed: what is written is what is read.

CSV has no types, so its columns are strings, but for those that `types` names. A cell with nothing in it is null, and
`""` is an empty string. In JSON Lines strings are strings and numbers are numbers, whatever they look like; a column
has the type that all its values have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pyarrow as pa
import pyarrow.csv as pc

from domyn_swarm.data.arrow import check_read_kwargs, projected
from domyn_swarm.data.hive import with_hive_values
from domyn_swarm.data.stream import Stream
from domyn_swarm.data.types import conformed, working_schema
from domyn_swarm.errors import ConfigurationError, DataError, opt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from domyn_swarm.data.input_files import InputFile, InputFiles

READ_KWARGS = {
    "csv": ("columns", "types", "delimiter", "quote_char", "encoding", "dtype_backend"),
    "jsonl": ("columns", "dtype_backend"),
}
BLOCK_BYTES = 8 * 2**20
"""What is parsed at a time; a CSV record has to fit in."""


def read_text(backend: str, files: InputFiles, read_kwargs: Mapping[str, Any]) -> Stream:
    """The rows of CSV or JSON Lines files. All of them are parsed once, for their types and their number.

    Raises:
        ConfigurationError: a keyword or a type is unknown.
        DataError: a file is not readable; the message names the line or the column, if it is known.
    """
    check_read_kwargs(backend, read_kwargs, READ_KWARGS[files.format])
    if files.format == "csv":
        schema, rows, scan = _open_csv(files, read_kwargs)
    else:
        schema, rows, scan = _open_json(files)
    folders = (column for column in files.hive if column.name not in schema.names)
    kept = projected(pa.schema([*schema, *folders]), read_kwargs.get("columns"))
    types = working_schema(kept)
    return Stream(types, partial(_scan, files, schema, types, scan), rows, kept)


def _scan(
    files: InputFiles,
    stored: pa.Schema,
    kept: pa.Schema,
    scan: Callable[[InputFile, Sequence[str]], Iterator[pa.RecordBatch]],
    columns: Sequence[str],
    batch_size: int,
) -> Iterator[pa.RecordBatch]:
    own = [name for name in columns if name in stored.names]
    types = pa.schema([kept.field(name) for name in columns])
    for file in files.files:
        for batch in scan(file, own or stored.names[:1]):
            whole = with_hive_values(conformed(batch, types), file)
            for at in range(0, whole.num_rows, batch_size):
                yield whole.slice(at, batch_size)


def _unreadable(files: InputFiles, file: InputFile, error: Exception | str) -> DataError:
    return DataError(
        f"{file.path} is not readable as {files.format}: {error}",
        f"Fix the file, or leave it out of {opt('input')}.",
        code="input.unreadable",
        option="input",
        path=file.path,
    )


# CSV


def _open_csv(files: InputFiles, read_kwargs: Mapping[str, Any]) -> tuple[pa.Schema, int, Any]:
    options = _csv_options(read_kwargs)
    names = _csv_names(files, files.files[0], options)
    types = _csv_types(names, read_kwargs.get("types") or {})
    rows = 0
    for file in files.files:
        if sorted(here := _csv_names(files, file, options)) != sorted(names):
            other = min(set(here) ^ set(names), default=here[0])
            raise DataError(
                f"{file.path} and {files.files[0].path} differ in column {other!r}.",
                "All files of an input need the same columns.",
                code="input.schemas",
                option="input",
                path=file.path,
                column=other,
            )
        rows += sum(batch.num_rows for batch in _csv_batches(files, options, types, file, names))
    return pa.schema(types), rows, partial(_csv_batches, files, options, types)


def _csv_options(read_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        given = {key: read_kwargs[key] for key in ("delimiter", "quote_char") if key in read_kwargs}
        return {
            "read_options": pc.ReadOptions(block_size=BLOCK_BYTES, encoding=read_kwargs.get("encoding", "utf8")),
            "parse_options": pc.ParseOptions(newlines_in_values=True, **given),
        }
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{error}.",
            'Write for example {"delimiter": ";", "encoding": "latin-1"}.',
            code="option.invalid",
            option="backend_read_kwargs",
        ) from None


def _csv_types(names: Sequence[str], given: Any) -> dict[str, pa.DataType]:
    if not isinstance(given, dict) or not given.keys() <= set(names):
        raise ConfigurationError(
            f"types is {given!r}, which names no types of columns that there are.",
            f'Write {{"types": {{"column": "int64"}}}}. Columns: {", ".join(names)}.',
            code="option.invalid",
            option="backend_read_kwargs",
            choices=tuple(names),
        )
    types: dict[str, pa.DataType] = dict.fromkeys(names, pa.string())
    for name, alias in given.items():
        try:
            types[name] = pa.type_for_alias(alias)
        except (ValueError, TypeError):
            raise ConfigurationError(
                f"types: {alias!r} is not a type.",
                "Write int64, float64, bool, date32, timestamp[ms], string, ...",
                code="option.invalid",
                option="backend_read_kwargs",
            ) from None
    return types


def _csv_names(files: InputFiles, file: InputFile, options: Mapping[str, Any]) -> list[str]:
    try:
        with files.fs.open(file.path, "rb") as handle, pc.open_csv(handle, **options) as reader:
            names = reader.schema.names
    except MemoryError:
        raise
    except (pa.ArrowException, UnicodeError, LookupError) as error:
        raise _unreadable(files, file, error) from None
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{file.path} has two columns {twice[0]!r}.",
            "Each column needs a name of its own.",
            code="column.duplicate",
            option="input",
            path=file.path,
            column=twice[0],
        )
    return names


def _csv_batches(
    files: InputFiles,
    options: Mapping[str, Any],
    types: Mapping[str, pa.DataType],
    file: InputFile,
    columns: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    convert = pc.ConvertOptions(
        column_types=dict(types), include_columns=list(columns), null_values=[""], strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )  # fmt: skip
    try:
        with (
            files.fs.open(file.path, "rb") as handle,
            pc.open_csv(handle, convert_options=convert, **options) as reader,
        ):
            yield from reader
    except MemoryError:
        raise
    except (pa.ArrowException, UnicodeError) as error:
        raise _unreadable(files, file, error) from None


# JSON Lines


def _open_json(files: InputFiles) -> tuple[pa.Schema, int, Any]:
    schema, rows, promoted = pa.schema([]), 0, False
    for file in files.files:
        for at, records in _json_records(files, file):
            here = _json_batch(files, file, at, records, None).schema
            try:
                merged = pa.unify_schemas([schema, here], promote_options="permissive")
            except MemoryError:
                raise
            except pa.ArrowException as error:
                raise _unreadable(files, file, f"it has other types than what comes before it: {error}") from None
            promoted = promoted or (rows > 0 and merged != schema)
            schema, rows = merged, rows + len(records)
    if not schema.names:
        raise DataError(
            f"{files.pattern!r} holds no rows.",
            "Name a file that has some.",
            code="input.empty",
            option="input",
            path=files.pattern,
        )
    if promoted:  # an integer may not be exact as a float, which is what later blocks made of its column
        for file in files.files:
            for at, records in _json_records(files, file):
                _json_batch(files, file, at, records, schema)
    return schema, rows, partial(_json_batches, files, schema)


def _json_batches(
    files: InputFiles, schema: pa.Schema, file: InputFile, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    wanted = pa.schema([schema.field(name) for name in columns])
    for at, records in _json_records(files, file):
        yield _json_batch(files, file, at, records, wanted)


def _json_batch(
    files: InputFiles, file: InputFile, at: int, records: list[dict[str, Any]], schema: pa.Schema | None
) -> pa.RecordBatch:
    """Records as a batch: with the columns of `schema`, or with all that there are and the types of their values."""
    names = dict.fromkeys(key for record in records for key in record) if schema is None else schema.names
    arrays = []
    for name in names:
        try:
            kind = None if schema is None else schema.field(name).type
            arrays.append(pa.array([record.get(name) for record in records], kind))
        except MemoryError:
            raise
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            where = f"line {at:,} or after, column {name!r}: {error}"
            raise _unreadable(files, file, where) from None
    if not arrays:
        return pa.RecordBatch.from_struct_array(cast("pa.StructArray", pa.array(records, pa.struct([]))))
    return pa.RecordBatch.from_arrays(arrays, names=[*names])


def _json_records(files: InputFiles, file: InputFile) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The objects of a file, a block of lines at a time, and the number of the block's first line."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    line = 1
    with files.fs.open(file.path, "rb") as handle:
        for block in _blocks(handle):
            try:
                records = decoder.decode_lines(block)
            except (msgspec.DecodeError, UnicodeError) as error:
                raise _unreadable(files, file, _first_error(decoder, block, line) or error) from None
            yield line, records
            line += block.count(b"\n")


def _blocks(handle: Any) -> Iterator[bytes]:
    """Whole lines, about BLOCK_BYTES at a time."""
    rest: list[bytes] = []
    first = True
    while chunk := handle.read(BLOCK_BYTES):
        chunk, first = (chunk.removeprefix(b"\xef\xbb\xbf") if first else chunk), False
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield b"".join([*rest, head, newline])
            rest = []
        rest.append(tail)
    if last := b"".join(rest):
        yield last


def _first_error(decoder: msgspec.json.Decoder[dict[str, Any]], block: bytes, first: int) -> str:
    for number, line in enumerate(block.split(b"\n"), first):
        try:
            if line.strip():
                decoder.decode(line)
        except (msgspec.DecodeError, UnicodeError) as error:
            return f"line {number:,}: {error}"
    return ""
