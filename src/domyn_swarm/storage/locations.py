"""Where paths really lead: whether two of them, however they are spelled, name one thing, or one lies in the other.

Local paths are followed as the kernel would (`..`, symbolic links, mounts) and compared by device and inode. So another
case is the same file on filesystems that fold it. URLs are compared in their normal form.
"""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from domyn_swarm.storage.files import filesystem, is_local

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_Identity: TypeAlias = "tuple[int, int] | str"


@dataclass(frozen=True)
class _Trail:
    """The way from the root to a path: the identities of the folders that exist, and the names of all of them.

    Names behind the last that exists are in the form that the filesystem compares them in.
    """

    known: tuple[_Identity, ...]
    names: tuple[str, ...]

    def below(self, other: _Trail) -> tuple[str, ...] | None:
        """The names that lead from `other` to here, none when both are the same; None when it does not lie there."""
        if len(other.known) < len(other.names):
            inside = self.known == other.known and self.names[: len(other.names)] == other.names
            return self.names[len(other.names) :] if inside else None
        last = other.known[-1] if other.known else None
        for depth, identity in enumerate(self.known):
            if identity == last:
                return self.names[depth + 1 :]
        return None


@dataclass(frozen=True)
class Location:
    """What a path or URL names. A symbolic link is two things: the link itself, and what it leads to."""

    trails: tuple[_Trail, ...]

    @classmethod
    def of(cls, path: str, storage_options: Mapping[str, Any] | None = None) -> Location:
        """The location of a local path or fsspec URL, whether there is something or not.

        Raises:
            DataError: as `filesystem`.
        """
        return cls.on(*filesystem(path, storage_options))

    @classmethod
    def on(cls, fs: Any, path: str) -> Location:
        """The location of a path on `fs`; filesystems that only wrap another one are looked through."""
        while isinstance(inner := getattr(fs, "fs", None), AbstractFileSystem):
            fs, path = inner, f"{fs.path.rstrip('/')}/{path}" if isinstance(fs, DirFileSystem) else path
        if not isinstance(fs, LocalFileSystem):
            return cls((_url_trail(fs, path),))
        parent, name = os.path.split(path.rstrip("/"))
        entry = os.path.join(os.path.realpath(parent or "/"), name)  # noqa: PTH118 - pathlib drops `..` by itself
        return cls(tuple(dict.fromkeys(_local_trail(one) for one in (entry, os.path.realpath(path)))))

    def is_same_as(self, other: Location) -> bool:
        """Whether both name the same file or folder."""
        return any(one.below(two) == () for one in self.trails for two in other.trails)

    def lies_in(self, other: Location) -> bool:
        """Whether this is `other`, or lies in it at any depth."""
        return any(one.below(two) is not None for one in self.trails for two in other.trails)

    def names_below(self, other: Location) -> list[tuple[str, ...]]:
        """The names that lead from `other` to here; a link may lead in more than one way, and nothing in none."""
        found = (one.below(two) for one in self.trails for two in other.trails)
        return [names for names in found if names is not None]

    def first_in(self, fs: Any, paths: Iterable[str]) -> str | None:
        """The first of many `paths` on `fs` that is this, or lies in it; None when there is none.

        The folders of the paths are followed once each, and the files themselves where they are links.
        """
        paths = list(paths)
        folders = {folder: Location.on(fs, folder) for folder in {os.path.split(path)[0] for path in paths}}
        inside = {folder for folder, place in folders.items() if place.lies_in(self)}
        whole = {trail.known[-1] for trail in self.trails if len(trail.known) == len(trail.names)}
        for path in paths:
            if os.path.split(path)[0] in inside or self._is_file(fs, path, whole):
                return path
        return None

    def _is_file(self, fs: Any, path: str, whole: set[_Identity]) -> bool:
        if not is_local(fs):
            return Location.on(fs, path).lies_in(self)
        try:
            found = os.lstat(path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) in whole or (
            stat.S_ISLNK(found.st_mode) and Location.on(fs, path).lies_in(self)
        )


def _url_trail(fs: Any, path: str) -> _Trail:
    """Stores tell `a//b` from `a/b`, and clients on the way do not all: what may be the same is."""
    names = ("", *filter(None, posixpath.normpath(f"/{path}").split("/")))
    store = f"{type(fs).__module__}.{type(fs).__qualname__}:"
    return _Trail(tuple(store + "/".join(names[: depth + 1]) for depth in range(len(names))), names)


def _local_trail(path: str) -> _Trail:
    names = ("", *(name for name in path.split("/") if name not in ("", ".")))
    known: list[_Identity] = []
    for depth in range(len(names)):
        try:
            found = os.lstat("/".join(names[: depth + 1]) or "/")
        except OSError:
            break
        known.append((found.st_dev, found.st_ino))
    if len(known) < len(names) and _folds_case("/".join(names[: len(known)])):
        names = (*names[: len(known)], *(name.casefold() for name in names[len(known) :]))
    return _Trail(tuple(known), names)


def _folds_case(folder: str) -> bool:
    """Whether the filesystem of a folder takes two cases of a name for one, as far as the folder's own name shows."""
    parent, name = os.path.split(folder)
    other = name.swapcase()
    if not name or other == name:
        return False
    try:
        return os.path.samefile(folder, f"{parent}/{other}")  # noqa: PTH121 - as everything here
    except OSError:
        return False
