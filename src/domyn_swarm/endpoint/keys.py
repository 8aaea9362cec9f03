"""The key for an endpoint: from the environment or a file, never from a flag, and never in anything that is written."""

from __future__ import annotations

import os
from pathlib import Path

from domyn_swarm import masking
from domyn_swarm.errors import ConfigurationError

MOST_CHARACTERS = 2**16
"""Read of a key's file, which may be any file, or never end."""
VARIABLES = ("DOMYN_SWARM_API_KEY", "OPENAI_API_KEY")


def hide_keys() -> None:
    """Mask the keys of the environment in whatever this process shows from now on."""
    for name in VARIABLES:
        masking.hide(os.environ.get(name, "").strip())


def read_key(path: str | None = None) -> str | None:
    """The key in the file `path`, else in the first of VARIABLES that holds one; None when there is none.

    Raises:
        ConfigurationError: the file cannot be read or is empty, or the key cannot stand in a header.
    """
    where, key, option = path or "", "", "api_key_file" if path else ""
    if path is not None:
        try:
            with Path(path).expanduser().open(encoding="utf-8") as file:
                key = file.read(MOST_CHARACTERS).strip()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(
                f"{where} cannot be read: {reason}.",
                "Name a file that holds the key.",
                code="key.unreadable",
                option=option,
            ) from None
        if not key:
            raise ConfigurationError(
                f"{where} is empty.", "Name a file that holds the key.", code="key.invalid", option=option
            )
    for name in VARIABLES if path is None else ():
        where, key = name, os.environ.get(name, "").strip()
        if key:
            break
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"{where} holds what is no key: a line of plain characters is needed.", code="key.invalid", option=option
        )
    masking.hide(key)
    return key or None
