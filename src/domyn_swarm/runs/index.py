"""The index of runs: names and folders in one small SQLite file in the user's data directory.

It is only used to find runs; a run's state is stored in its folder. So it may be deleted: it is rebuilt when folders
are scanned. It uses a rollback journal and not WAL, which needs shared memory and fails on home directories over NFS.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from contextvars import ContextVar
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from domyn_swarm.errors import CheckpointError, ConfigurationError, opt
from domyn_swarm.runs.names import free_name, is_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

FILE = "runs.sqlite"
BUSY_SECONDS = 60.0
"""How long to wait for other writers; each needs milliseconds."""
GLANCE_SECONDS = 0.2
"""How long shell completion waits."""
START_SECONDS = 5.0
"""How long a starting run waits for a locked index before it continues without it."""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS runs (
        name TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, storage TEXT NOT NULL DEFAULT '{}'
    )""",
    "CREATE TABLE IF NOT EXISTS sent (path TEXT PRIMARY KEY, place TEXT NOT NULL, handle TEXT NOT NULL)",
)

_patience = ContextVar("patience", default=BUSY_SECONDS)
logger = logging.getLogger("domyn_swarm")
T = TypeVar("T")


class Entry(NamedTuple):
    """A run: its name, its folder, and the storage options for that folder."""

    name: str
    path: str
    storage: dict[str, Any]


class Sent(NamedTuple):
    """Where this user started a run (`place`: the launcher's name, empty for a terminal), and the launcher's handle."""

    place: str
    handle: dict[str, Any]


class IndexUnavailableError(CheckpointError):
    """The index can be neither read nor created."""

    default_code = "index.unavailable"


def index_path() -> Path:
    """Where the index is.

    Raises:
        IndexUnavailableError: the user has no home folder.
    """
    return _of_user("data") / FILE


def homes() -> Path:
    """Where runs with folders on object stores keep local files (spec and log), by name.

    Raises:
        IndexUnavailableError: the user has no home folder.
    """
    return _of_user("state") / "runs"


def _of_user(kind: str) -> Path:
    import platformdirs  # noqa: PLC0415 - completion in a shell has to be fast

    try:
        path: Path = getattr(platformdirs, f"user_{kind}_path")("domyn-swarm")
    except RuntimeError as error:
        raise IndexUnavailableError(
            f"The index of runs cannot be found: {error}.", "Set HOME to a directory that this user may write to."
        ) from None
    return path


def entries() -> list[Entry]:
    """All known runs, by name."""
    rows = _asked("runs", "SELECT name, path, storage FROM runs ORDER BY name")
    return [
        Entry(name, path, _object(storage)) for name, path, storage in rows if isinstance(name, str) and _is_path(path)
    ]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _object(text: Any) -> dict[str, Any]:
    """The JSON object in `text`; empty when it is invalid."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        if isinstance(found := json.loads(text), dict):
            return found
    return {}


def entry_of(name: str) -> Entry | None:
    """The run named `name`."""
    return next((entry for entry in entries() if entry.name == name), None)


def name_of(path: str) -> str | None:
    """The name of the run in the folder `path`."""
    found = _asked("runs", "SELECT name FROM runs WHERE path = ?", path)
    return str(found[0][0]) if found else None


def remember(path: str, sent: Sent) -> None:
    """Record that this user started the run in the folder `path`, so that commands may act on its handle."""
    handle = json.dumps(sent.handle, sort_keys=True)
    _changed("INSERT OR REPLACE INTO sent VALUES (?, ?, ?)", path, sent.place, handle)


def sent(path: str) -> Sent | None:
    """Where this user last started the run in the folder `path`."""
    found = _asked("sent", "SELECT place, handle FROM sent WHERE path = ?", path)
    return Sent(str(found[0][0]), _object(found[0][1])) if found else None


def handles(place: str) -> list[dict[str, Any]]:
    """The handles of this user's runs on the launcher `place`."""
    return [_object(handle) for (handle,) in _asked("sent", "SELECT handle FROM sent WHERE place = ?", place)]


def register(path: str, storage: Mapping[str, Any], base: str, wanted: str | None = None) -> str:
    """The name of the run in the folder `path`: its existing name, else `wanted`, else one derived from `base`.

    Raises:
        ConfigurationError: `wanted` belongs to another run, or the run has another name.
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
    """Refuse a name that the run in the folder `path` cannot use.

    Raises:
        ConfigurationError: it belongs to another run, or the run has another name.
    """
    _check({entry.path: entry.name for entry in entries()}, path, wanted)


def _check(known: Mapping[str, str], path: str, wanted: str) -> None:
    if path in known and known[path] != wanted:
        raise ConfigurationError(
            f"this run is already named {known[path]!r}, and a run keeps its name.",
            f"Omit {opt('job_name')}, or use another {opt('checkpoint_tag')} to start a separate run.",
            code="name.taken",
            option="job_name",
            path=path,
        )
    if other := next((other for other, name in known.items() if name == wanted and other != path), None):
        raise ConfigurationError(
            f"{wanted!r} is already the name of the run in {other}.",
            f"Available: {free_name(wanted, known.values())!r}. Or delete that run: domyn-swarm job rm {quote(wanted)}",
            code="name.taken",
            option="job_name",
            path=other,
        )


def moved(name: str, path: str) -> None:
    """Record that the folder of the run `name` has moved to `path`."""
    _changed("UPDATE OR REPLACE sent SET path = ? WHERE path = (SELECT path FROM runs WHERE name = ?)", path, name)
    _changed("UPDATE OR IGNORE runs SET path = ? WHERE name = ?", path, name)


def forget(name: str) -> None:
    """Remove the run `name` from the index; its folder is not touched."""
    _changed("DELETE FROM sent WHERE path = (SELECT path FROM runs WHERE name = ?)", name)
    _changed("DELETE FROM runs WHERE name = ?", name)


def names_for_completion(prefix: str) -> list[str]:
    """Names that begin with `prefix`, for shell completion: read-only, and empty when the index is unavailable."""
    with contextlib.suppress(Exception):
        uri = f"{index_path().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=GLANCE_SECONDS)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM runs ORDER BY name")]
            return [name for name in names if isinstance(name, str) and is_plain(name) and name.startswith(prefix)]
    return []


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Within this context wait only a few seconds, once, for a locked index, so that no run is delayed by it."""
    before = _patience.set(START_SECONDS)
    try:
        yield
    finally:
        _patience.reset(before)


def _asked(table: str, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Run a query; empty when the index does not exist yet. It is not created."""

    def once(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        return db.execute(query, values).fetchall() if there else []

    return _transaction(once, "BEGIN") if index_path().exists() else []


def _changed(query: str, *values: str) -> None:
    _transaction(lambda db: db.execute(query, values))


def _transaction(do: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
    """Run `do` in a transaction; a damaged index is moved away and rebuilt."""
    path = index_path()
    try:
        try:
            return _once(path, do, begin)
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # subclasses do not mean that the file is damaged
                raise
            _set_aside(path, error)
            return _once(path, do, begin)
    except (sqlite3.Error, OSError) as error:
        _patience.set(min(_patience.get(), GLANCE_SECONDS))  # it is probably locked for longer
        raise IndexUnavailableError(
            f"The index of runs ({path}) cannot be used: {error}.",
            "Refer to runs by their folders, or set XDG_DATA_HOME to a writable directory.",
        ) from error


def _once(path: Path, do: Callable[[sqlite3.Connection], T], begin: str) -> T:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's journal gets the same mode
    with contextlib.closing(sqlite3.connect(path, timeout=_patience.get(), isolation_level=None)) as db:
        db.execute(begin)
        try:
            if begin == "BEGIN IMMEDIATE":
                for table in _TABLES:
                    db.execute(table)
            done = do(db)
        except BaseException:
            db.rollback()
            raise
        db.commit()
        return done


def _set_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    """Move the damaged file away, unless another process has done so already."""
    with contextlib.suppress(sqlite3.DatabaseError, FileNotFoundError):
        if _once(path, lambda db: db.execute("PRAGMA quick_check").fetchall(), "BEGIN") == [("ok",)]:
            return
    with contextlib.suppress(FileNotFoundError):
        path.replace(f"{path}.damaged")
        logger.warning("the index of runs was damaged (%s) and is being rebuilt from the runs' folders", error)
