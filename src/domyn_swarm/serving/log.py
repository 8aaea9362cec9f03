"""What model servers print: where it is kept, its last lines, and what they say about the cause of a failure."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from domyn_swarm.errors import opt

if TYPE_CHECKING:
    from pathlib import Path

LAST_LINES = 12
_LINE_CHARS = 300
_TAIL_BYTES = 2**16
_START = "===== "
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_CAUSES = (
    (
        r"out of memory|OutOfMemoryError|No available memory for the cache blocks|failed to allocate",
        f"It ran out of memory. More GPUs for each server ({opt('serve_gpus')}), or a smaller model or context, help.",
    ),
    (r"address already in use|couldn't bind", "Another process took its port: try again."),
    (
        r"RepositoryNotFoundError|GatedRepoError|not a valid model identifier|failed to open GGUF",
        "It did not find the model: check its name or path, and whether HF_TOKEN may read it.",
    ),
    (r"No module named", "A package is missing in the environment that the command runs in."),
)


def start_log(path: Path, title: str) -> None:
    """Begin a new section of the log, which only this user may read."""
    with contextlib.suppress(OSError):  # a log that cannot be written costs no run
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{_START}{title}\n")


class Tail(NamedTuple):
    """The last lines that a server printed since it was started last, and what to do about them, if that is known."""

    lines: list[str]
    advice: str


def tail_of(path: Path) -> Tail:
    """The end of the log at `path`."""
    text = "".join(_end_of(one) for one in (path.with_name(f"{path.name}.1"), path))[-_TAIL_BYTES:]
    section = text.rpartition(f"\n{_START}")[2] if f"\n{_START}" in text else text.removeprefix(_START)
    lines = [line for line in map(_plain, re.split(r"[\r\n]+", section)[1:]) if line]
    advice = next((text for pattern, text in _CAUSES if re.search(pattern, section, re.IGNORECASE)), "")
    return Tail(lines[-LAST_LINES:], advice)


def _plain(line: str) -> str:
    plain = _CONTROL.sub("", line).rstrip()
    return plain if len(plain) <= _LINE_CHARS else f"{plain[:_LINE_CHARS]}…"


def _end_of(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


def upload(local: Path, fs: Any, path: str) -> None:
    """Copy the logs in the folder `local` to the folder `path` of a remote filesystem."""
    for log in local.iterdir():
        fs.pipe_file(f"{path}/{log.name}", log.read_bytes())
