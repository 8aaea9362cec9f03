"""Which runs there are and what they are called: one small SQLite file in the user's data directory.

It only finds runs; what is true of one stands in its folder. So it can be lost: it is filled again as folders are
looked through. Its journal is a file beside it (no WAL, which needs memory that processes share): homes are on NFS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from domyn_swarm.errors import CheckpointError, ConfigurationError
from domyn_swarm.runs.names import free_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

FILE = "runs.sqlite"
BUSY_SECONDS = 60.0
"""How long one waits for others that write; each does for milliseconds."""
GLANCE_SECONDS = 0.2
"""How long a shell waits for names to complete."""
_TABLE = """CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, storage TEXT NOT NULL DEFAULT '{}'
)"""

logger = logging.getLogger("domyn_swarm")
T = TypeVar("T")


class Entry(NamedTuple):
    """A run: its name, its folder, and the storage options that reach it."""

    name: str
    path: str
    storage: dict[str, Any]


class IndexUnavailableError(CheckpointError):
    """The index can neither be read nor made."""


def index_path() -> Path:
    """Where the index is."""
    import platformdirs  # noqa: PLC0415 - completion in a shell has to be fast

    return platformdirs.user_data_path("domyn-swarm") / FILE


def homes() -> Path:
    """Where runs whose folders are on object stores have the files that commands need: spec and log, by name."""
    import platformdirs  # noqa: PLC0415 - see above

    return platformdirs.user_state_path("domyn-swarm") / "runs"


def entries() -> list[Entry]:
    """All runs that are known, by name."""
    rows = _asked("SELECT name, path, storage FROM runs ORDER BY name")
    return [Entry(name, path, json.loads(storage)) for name, path, storage in rows]


def entry_of(name: str) -> Entry | None:
    """The run that is called `name`."""
    return next((entry for entry in entries() if entry.name == name), None)


def name_of(path: str) -> str | None:
    """What the run in the folder `path` is called."""
    found = _asked("SELECT name FROM runs WHERE path = ?", path)
    return found[0][0] if found else None


def register(path: str, storage: Mapping[str, Any], base: str, wanted: str | None = None) -> str:
    """The name of the run in the folder `path`: the one that it has, else `wanted`, else one made of `base`.

    Raises:
        ConfigurationError: `wanted` is another run's, or the run is called otherwise.
        IndexUnavailableError: the index cannot be written.
    """

    def once(db: sqlite3.Connection) -> str:
        known = dict(db.execute("SELECT path, name FROM runs"))
        if wanted is not None:
            _check(known, path, wanted)
        if path in known:
            return str(known[path])
        name = wanted or free_name(base, known.values())
        db.execute("INSERT INTO runs VALUES (?, ?, ?)", (name, path, json.dumps(dict(storage))))
        return name

    return _transaction(once)


def check_free(path: str, wanted: str) -> None:
    """Refuse a name that the run in the folder `path` cannot have.

    Raises:
        ConfigurationError: it is another run's, or the run is called otherwise.
    """
    _check({entry.path: entry.name for entry in entries()}, path, wanted)


def _check(known: Mapping[str, str], path: str, wanted: str) -> None:
    if path in known and known[path] != wanted:
        raise ConfigurationError(
            f"--job-name: this run is called {known[path]!r} already, and a run keeps its name.",
            "Leave --job-name out, or give another --checkpoint-tag for a run of its own.",
        )
    if other := next((other for other, name in known.items() if name == wanted and other != path), None):
        raise ConfigurationError(
            f"--job-name: {wanted!r} is the run in {other}.",
            f"Free is {free_name(wanted, known.values())!r}. Or: domyn-swarm job rm {wanted}",
        )


def moved(name: str, path: str) -> None:
    """The folder of the run `name` is at `path` now."""
    _changed("UPDATE OR IGNORE runs SET path = ? WHERE name = ?", path, name)


def forget(name: str) -> None:
    """Drop the run `name`; its folder is somebody else's business."""
    _changed("DELETE FROM runs WHERE name = ?", name)


def names_at_a_glance(prefix: str) -> list[str]:
    """Names that begin with `prefix`, for a shell: read-only, and nothing where that does not work at once."""
    with contextlib.suppress(Exception):
        uri = f"{index_path().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=GLANCE_SECONDS)) as db:
            return [name for (name,) in db.execute("SELECT name FROM runs ORDER BY name") if name.startswith(prefix)]
    return []


def _asked(query: str, *values: str) -> list[tuple[Any, ...]]:
    """What the index says; nothing where there is none yet, which nothing is made for."""

    def once(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchall()
        return db.execute(query, values).fetchall() if there else []

    return _transaction(once, "BEGIN") if index_path().exists() else []


def _changed(query: str, *values: str) -> None:
    _transaction(lambda db: db.execute(query, values))


def _transaction(do: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
    """`do`, alone with the index; one that is damaged is set aside, and made anew."""
    path = index_path()
    try:
        try:
            return _once(path, do, begin)
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # the others do not speak of the file
                raise
            _set_aside(path, error)
            return _once(path, do, begin)
    except (sqlite3.Error, OSError) as error:
        raise IndexUnavailableError(
            f"The index of runs ({path}) cannot be used: {error}.",
            "Name runs by their folders, or set XDG_DATA_HOME to a directory to write in.",
        ) from error


def _once(path: Path, do: Callable[[sqlite3.Connection], T], begin: str) -> T:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        db.execute(begin)
        try:
            if begin == "BEGIN IMMEDIATE":
                db.execute(_TABLE)
            done = do(db)
        except BaseException:
            db.rollback()
            raise
        db.commit()
        return done


def _set_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    """Of several processes that find the damage one is first; the others find a file that is whole, or none."""
    with contextlib.suppress(sqlite3.DatabaseError, FileNotFoundError):
        if _once(path, lambda db: db.execute("PRAGMA quick_check").fetchall(), "BEGIN") == [("ok",)]:
            return
    with contextlib.suppress(FileNotFoundError):
        path.replace(f"{path}.damaged")
        logger.warning("the index of runs was damaged (%s), and is made anew from the runs' folders", error)
