"""Which files a path or pattern names: files, folders, globs and brace ranges, on any filesystem.

What exists is itself before it is a pattern. What a folder or a pattern leaves out is listed beside what it names.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from fsspec.utils import glob_translate

from domyn_swarm.errors import DataError
from domyn_swarm.storage.braces import expanded
from domyn_swarm.storage.files import filesystem, is_local
from domyn_swarm.storage.locations import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
AMBIGUOUS_SUFFIXES = (".pq", ".parq")
"""Other programs use them, too: such a file counts when it begins like parquet."""
MAGIC = (b"PAR1", b"PARE")
NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"
EXAMPLES = 3
HIDDEN = "hidden"
_HIVE = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_WILD = "*?["
_SPECIAL = f"{_WILD}{{\\"


class Skipped(NamedTuple):
    """A file or folder that was left out, and why."""

    reason: str
    path: str


@dataclass
class Listing:
    """What a pattern names: the sizes of files by path, and what was left out. `base` is the pattern's fixed part.

    `hits` counts files as often as they are named.
    """

    fs: Any
    base: str
    hits: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def hive_values(self, path: str) -> dict[str, str | None]:
        """Names and values in the folders (`k=1/`) between the pattern's fixed part and the file."""
        folders = _relative(path, self.base)[:-1]
        found = (match.groups() for folder in folders if (match := _HIVE.fullmatch(folder)))
        return {unquote(key): None if value in ("", NULL_VALUE) else unquote(value) for key, value in found}


def list_paths(pattern: str, storage_options: Mapping[str, Any] | None = None) -> Listing:
    """The files that `pattern` names.

    Raises:
        DataError: nothing matches, or something cannot be read as a file.
    """
    fs, literal = filesystem(pattern, storage_options)
    listing = Listing(fs, _split(fs, literal)[0])
    for one, path in _alternatives(fs, literal, pattern, storage_options):
        folder = path
        while folder.endswith("/**"):  # all that is in the folder, as the folder itself
            folder = folder.removesuffix("/**")
        if any(char in folder for char in _WILD) and not _exists_as_it_is(fs, folder):
            _add_matches(listing, folder, one)
        else:
            _add_path(listing, folder, one)
    return listing


def summary(skipped: Iterable[Skipped]) -> str:
    """`3: 2 hidden (.a, _b), 1 symlinked folder (c)`; nothing when nothing was left out."""
    skipped = list(skipped)
    counts = Counter(one.reason for one in skipped)
    parts = []
    for reason, count in counts.items():
        names = [PurePosixPath(one.path).name for one in skipped if one.reason == reason]
        parts.append(f"{count:,} {reason} ({', '.join(names[:EXAMPLES])}{', …' if count > EXAMPLES else ''})")
    return f"{len(skipped):,}: {', '.join(parts)}" if skipped else ""


def would_name(
    pattern: str, location: Location, storage_options: Mapping[str, Any] | None = None, *, hidden: bool = True
) -> bool:
    """Whether a file at `location` is, or would be, among those that `pattern` names.

    Without `hidden`, files with hidden names or in hidden folders do not count, which a pattern leaves out.
    """
    fs, literal = filesystem(pattern, storage_options)
    for _, path in _alternatives(fs, literal, pattern, storage_options):
        if any(char in path for char in _WILD) and not _exists_as_it_is(fs, path):
            named = _matches_below(fs, path, location)
        else:
            named = location.names_below(Location.on(fs, path))
        if any(hidden or not any(map(is_hidden, names)) for names in named):
            return True
    return False


def is_hidden(name: str) -> bool:
    """Whether a name in a folder is one of those that hold other things than data."""
    return name.startswith((".", "_"))


def _exists_as_it_is(fs: Any, path: str) -> bool:
    """Whether a path that looks like a pattern is there."""
    return any(char in path for char in _SPECIAL) and bool(fs.exists(path))


def _alternatives(
    fs: Any, literal: str, pattern: str, storage_options: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """What the braces of `pattern` stand for, each beside its path on `fs`; `literal` is the pattern's own path."""
    there, rest = _split(fs, literal)
    if not rest:
        return [(pattern, literal)]
    if any(brace in there for brace in "{}"):
        return [(path, path) for path in (f"{there.rstrip('/')}/{one}" for one in expanded(rest))]
    return [(one, filesystem(one, storage_options)[1]) for one in expanded(pattern)]


def _split(fs: Any, path: str) -> tuple[str, str]:
    """The folders of a pattern before the first name that is a pattern and not there as it is, and the rest."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if any(char in part for char in _SPECIAL) and not fs.exists("/".join(parts[: at + 1])):
            return "/".join(parts[:at]) or ("/" if path.startswith("/") else ""), "/".join(parts[at:])
    return path, ""


def _matches_below(fs: Any, path: str, location: Location) -> list[tuple[str, ...]]:
    """The ways from a glob's fixed part to `location` that it matches, or that lead into a folder that it matches."""
    base, rest = _split(fs, path)
    wanted = re.compile(glob_translate("/".join(_relative(rest, ""))))
    below = location.names_below(Location.on(fs, base or "."))
    return [names for names in below if any(wanted.match("/".join(names[: at + 1])) for at in range(len(names)))]


def _relative(path: str, base: str) -> list[str]:
    return [part for part in path.removeprefix(base.rstrip("/")).split("/") if part]


def _add_path(listing: Listing, path: str, pattern: str) -> None:
    fs = listing.fs
    if fs.isdir(path):
        before = listing.hits
        _add_folder(listing, path)
        if listing.hits == before:
            there = summary(listing.skipped)
            raise DataError(
                f"the directory {pattern!r} holds no .parquet file.",
                f"Name another directory, or its files by a pattern (it has {there})." if there
                else "Name another directory.", code="input.empty", option="input", path=pattern)  # fmt: skip
    elif not fs.exists(path):
        raise DataError(
            f"{pattern!r} does not exist.", "Check the path.", code="input.missing", option="input", path=pattern
        )
    else:
        _add_file(listing, path)


def _add_file(listing: Listing, path: str) -> None:
    info = listing.fs.info(path)
    if is_local(listing.fs) and not stat.S_ISREG(info["mode"]) and not (info["islink"] and os.path.isfile(path)):  # noqa: PTH113
        raise DataError(
            f"{path} is not a regular file.",
            "Write what it holds to a file first.",
            code="input.not_a_file",
            option="input",
            path=path,
        )
    listing.sizes[path] = info["size"]
    listing.hits += 1


def _add_folder(listing: Listing, folder: str) -> None:
    """The parquet files below a folder."""
    for path in _files_below(listing, folder):
        suffix = PurePosixPath(path).suffix.lower()
        if suffix not in PARQUET_SUFFIXES or (suffix in AMBIGUOUS_SUFFIXES and not _begins_as_parquet(listing, path)):
            listing.skipped.append(Skipped("of another kind", path))
        else:
            _add_file(listing, path)


def _begins_as_parquet(listing: Listing, path: str) -> bool:
    with listing.fs.open(path, "rb") as file:
        return file.read(4) in MAGIC


def _files_below(listing: Listing, folder: str) -> Iterator[str]:
    """Paths of files below a folder; names that hold other things than data are left out."""
    if is_local(listing.fs):
        yield from _local_files_below(listing, folder)
        return
    for path, info in listing.fs.find(folder, detail=True).items():
        if info["type"] == "directory" or path.endswith("/"):  # stores keep empty objects for folders
            continue
        if any(map(is_hidden, _relative(path, folder))):
            listing.skipped.append(Skipped(HIDDEN, path))
        else:
            yield path


def _local_files_below(listing: Listing, folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        for name in sorted(folders):
            path = posixpath.join(parent, name)
            reason = HIDDEN if is_hidden(name) else "symlinked folder" if os.path.islink(path) else ""  # noqa: PTH114
            if reason:
                folders.remove(name)
                listing.skipped.append(Skipped(reason, path))
        for name in names:
            path = posixpath.join(parent, name)
            if is_hidden(name):
                listing.skipped.append(Skipped(HIDDEN, path))
            else:
                yield path


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"{error.filename} cannot be listed: {error.strerror}.",
        "Check its rights.",
        code="input.unlisted",
        option="input",
        path=str(error.filename),
    ) from None


def _add_matches(listing: Listing, path: str, pattern: str) -> None:
    """The files that a glob matches, and those in the folders that it matches."""
    before = listing.hits
    base, rest = _split(listing.fs, path)
    explicit = any(map(is_hidden, _relative(rest, "")))
    for match in sorted(_globbed(listing, path)):
        names = _relative(match, base)
        if not explicit and _is_left_out(names):
            listing.skipped.append(Skipped(HIDDEN, match))
        elif listing.fs.isdir(match):
            _add_folder(listing, match)
        else:
            _add_file(listing, match)
    if listing.hits == before:
        raise DataError(
            f"no file matches {pattern!r}.",
            "Check the pattern, and quote it in the shell.",
            code="input.missing",
            option="input",
            path=pattern,
        )


def _globbed(listing: Listing, path: str) -> Iterable[str]:
    """Python's glob follows links to folders, as shells do; for `**`, where that may never end, fsspec's does not."""
    base, rest = _split(listing.fs, path)
    if any(char in base for char in _WILD):
        path = f"{glob.escape(base)}/{rest}"
    if is_local(listing.fs) and "**" not in path:
        return glob.glob(path, include_hidden=True)  # noqa: PTH207 - a pathlib pattern cannot be absolute
    found = listing.fs.glob(path, detail=True)
    return [name for name, info in found.items() if not ("**" in path and info["type"] == "directory")]


def _is_left_out(names: list[str]) -> bool:
    """Whether a match has hidden names. A parquet file whose name begins with `_` was matched as it is."""
    *folders, name = names
    is_file = PurePosixPath(name).suffix.lower() in PARQUET_SUFFIXES and not name.startswith(".")
    return any(map(is_hidden, folders)) or (is_hidden(name) and not is_file)
