"""JSON output of commands, and the files that they write."""

from __future__ import annotations

from typing import Any

import typer

from domyn_swarm.errors import ConfigurationError


def print_json(value: Any) -> None:
    """Print `value` as one line of JSON."""
    import msgspec  # noqa: PLC0415 - keeps --help light

    typer.echo(msgspec.json.encode(value).decode())


def write_whole(option: str, path: str, content: bytes) -> None:
    """Write `content` to `path` atomically. `option` is named in error messages.

    Raises:
        ConfigurationError: it cannot be written.
        DataError: the filesystem cannot be reached.
    """
    from domyn_swarm.storage.atomic import atomic_write  # noqa: PLC0415 - keeps --help light
    from domyn_swarm.storage.files import filesystem, translating_io_errors  # noqa: PLC0415 - keeps --help light

    with translating_io_errors(path):
        try:
            with atomic_write(*filesystem(path)) as file:
                file.write(content)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be written: {error.strerror or error}.",
                "Name a file in an existing folder.",
                code="storage.unwritable",
                option=option,
                path=str(path),
            ) from None
