"""Pages of an input that cannot be read: which file, which column, and what to do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pyarrow as pa

from domyn_swarm.concurrency.memory import is_memory_short
from domyn_swarm.errors import DataError, opt
from domyn_swarm.storage.files import open_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.data.input_files import InputFile, InputFiles

SCAN_ROWS = 65_536
_HINT = (
    f"Restore the file, or leave it out of {opt('input')}. "
    f"A column that the job does not need can be left out of the output: {opt('output_mode', 'io_only')}."
)
_NO_KEYS = f"No keys are taken. Write a copy that is not encrypted, or leave the file out of {opt('input')}."


@contextlib.contextmanager
def naming_damage(files: InputFiles, file: InputFile, columns: Sequence[str]) -> Iterator[None]:
    """What Arrow cannot read in here is raised with the file and the column.

    Raises:
        DataError: a page is damaged or encrypted, or the file is not what its footer says.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, MemoryError) and is_memory_short():  # which says nothing of the file
            raise
        if getattr(error, "errno", None) is not None:  # the filesystem's, not the file's
            raise
        raise damaged(files, file, columns, error) from error


def damaged(files: InputFiles, file: InputFile, columns: Sequence[str], error: BaseException) -> DataError:
    """The error for a file that an engine cannot read; its columns are tried one by one."""
    reason = _told(error)
    for column in columns:
        if found := _trouble(files, file, column):
            if "decrypt" in found.lower():
                return DataError(
                    f"column {column!r} of {file.path} is encrypted: {found}",
                    _NO_KEYS,
                    code="input.encrypted",
                    option="input",
                    path=file.path,
                    column=column,
                )
            return DataError(
                f"column {column!r} of {file.path} cannot be read: {found}",
                _HINT,
                code="input.damaged",
                option="input",
                path=file.path,
                column=column,
            )
    return DataError(
        f"{file.path} cannot be read: {reason}", _HINT, code="input.damaged", option="input", path=file.path
    )


def _trouble(files: InputFiles, file: InputFile, column: str) -> str:
    try:
        with open_parquet(files.fs, file.path) as parquet:
            for _ in parquet.iter_batches(batch_size=SCAN_ROWS, columns=[column]):
                pass
    except (pa.ArrowException, OSError) as error:
        return _told(error)
    return ""


def _told(error: BaseException) -> str:
    """The first line of what a library says, which may quote bytes of the file."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def check_rows(file: InputFile, expected: int, found: int) -> None:
    """Refuse a file whose pages hold another number of rows than its footer says: they would go to wrong positions.

    Raises:
        DataError: the numbers differ.
    """
    if found != expected:
        raise DataError(
            f"{file.path} holds {found:,} rows where its footer says {expected:,}.",
            _HINT,
            code="input.damaged",
            option="input",
            path=file.path,
        )
