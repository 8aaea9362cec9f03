"""How the model servers of a run are, as they are shown: `servers/state.json` in its folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.records import Count, Text, check_moment
from domyn_swarm.serving.process import LOG_BYTES
from domyn_swarm.storage.files import is_local, make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domyn_swarm.checkpoint.folder import RunFolder

FOLDER = "servers"
"""In a run's folder."""
FILE = f"{FOLDER}/state.json"
State: TypeAlias = Literal["starting", "ready", "restarting", "dead", "stopped"]


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """A server: its `state`, when that began, why it is in it (`detail`), and how often the server was started."""

    name: Annotated[str, msgspec.Meta(pattern=r"\A[\w.-]{1,100}\Z")]
    state: State
    since: Text
    url: Text = ""
    detail: Text = ""
    starts: Count = 0
    gpus: list[Text] | None = None

    def __post_init__(self) -> None:
        check_moment(self.since)


def save_states(folder: RunFolder, states: Sequence[ServerState]) -> None:
    """Write them down."""
    make_folder(folder.fs, f"{folder.root}/{FOLDER}")
    folder.save(FILE, list(states))


def load_states(folder: RunFolder) -> list[ServerState]:
    """The servers of the newest run in `folder` that had any; none if that cannot be read."""
    return records.load(folder, FILE, list[ServerState]) or []


def read_log(folder: RunFolder, server: str) -> str:
    """What the server `server` printed last: its log, and the one before it that was full. Links are not followed."""
    if is_local(folder.fs) and Path(folder.root, FOLDER).is_symlink():
        return ""
    text = ""
    for name in (f"{server}.log.1", f"{server}.log"):
        path = f"{folder.root}/{FOLDER}/{name}"
        if is_local(folder.fs) and not (Path(path).is_file() and not Path(path).is_symlink()):
            continue
        with contextlib.suppress(OSError):
            begin = max(0, folder.fs.size(path) - LOG_BYTES)
            text += folder.fs.cat_file(path, start=begin).decode(errors="replace")
    return text
