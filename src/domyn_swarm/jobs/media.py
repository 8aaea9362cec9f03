"""Pictures and sound of a row: from what its columns hold to the content parts of a message."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from domyn_swarm.errors import DataError
from domyn_swarm.jobs.endpoint import ItemError, kind_of
from domyn_swarm.storage.files import filesystem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind: TypeAlias = Literal["image", "audio"]

MARKERS: dict[Kind, str] = {"image": "\0image\0", "audio": "\0audio\0"}
"""What stands for a picture or a sound in a prompt that has been filled in."""
_MARKER = re.compile("\0(image|audio)\0")
_MAGIC: dict[Kind, tuple[tuple[bytes, int, str], ...]] = {
    "image": (
        (b"\x89PNG\r\n\x1a\n", 0, "png"), (b"\xff\xd8\xff", 0, "jpeg"), (b"GIF8", 0, "gif"), (b"WEBP", 8, "webp"),
        (b"BM", 0, "bmp"), (b"II*\0", 0, "tiff"), (b"MM\0*", 0, "tiff"), (b"ftypavif", 4, "avif"),
        (b"ftypheic", 4, "heic"),
    ),
    "audio": (
        (b"WAVE", 8, "wav"), (b"ID3", 0, "mp3"), (b"\xff\xfb", 0, "mp3"), (b"\xff\xf3", 0, "mp3"),
        (b"\xff\xf2", 0, "mp3"), (b"fLaC", 0, "flac"), (b"OggS", 0, "ogg"), (b"ftypM4A", 4, "m4a"),
    ),
}  # fmt: skip
"""Bytes that a file of each format has at a position."""
_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_WEB = ("http://", "https://", "data:")


class Media:
    """The columns of pictures and of sound, and how their values become content parts.

    `most` is the size of the largest file in bytes; `storage_options` are for paths on other filesystems.
    """

    def __init__(
        self, columns: Mapping[Kind, Sequence[str]], most: int, storage_options: Mapping[str, Any] | None
    ) -> None:
        self._columns = columns
        self._most = most
        self._options = storage_options

    async def add_to(self, messages: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`messages` with the pictures and sounds in `values`, a row's by column, in the last message of the user's.

        They go where the message's text has markers, in order; without any, in front of the text.

        Raises:
            ItemError: there is no message of the user's, a value is none that can be sent, or there are too few.
        """
        parts: dict[Kind, list[dict[str, Any]]] = {kind: await self._parts(kind, values) for kind in self._columns}
        at = next((at for at in reversed(range(len(messages))) if messages[at].get("role") == "user"), None)
        if at is None:
            raise ItemError("pictures and sounds belong to a message of the user's, and there is none")
        content = messages[at].get("content")
        texts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
        placed = [part for text in texts for part in _placed(text, parts)]
        left = [part for kind in parts for part in parts[kind]]
        return [*messages[:at], {**messages[at], "content": [*left, *placed]}, *messages[at + 1 :]]

    async def _parts(self, kind: Kind, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = ((column, values[column]) for column in self._columns[kind])
        ones = ((column, one) for column, value in found for one in (value if isinstance(value, list) else [value]))
        return [await self._part(kind, column, one) for column, one in ones if one is not None]

    async def _part(self, kind: Kind, column: str, value: Any) -> dict[str, Any]:
        content = _content_in(value)
        if isinstance(content, str) and content.startswith("data:" if kind == "audio" else _WEB):
            if kind == "image":  # the server gets it
                return {"type": "image_url", "image_url": {"url": content}}
            content = _decoded(column, content)
        if isinstance(content, str):
            content = await asyncio.to_thread(self._read, column, content)
        if not isinstance(content, bytes):
            raise ItemError(f"{column!r} is {kind_of(value)}: bytes, a path or a URL is needed")
        if len(content) > self._most:
            raise ItemError(f"{column!r} has {len(content):,} bytes, more than `max_media_bytes` ({self._most:,})")
        form = _format_of(kind, content)
        if form is None:
            known = ", ".join(dict.fromkeys(name for _, _, name in _MAGIC[kind]))
            raise ItemError(f"{column!r} is no {kind} of a known format ({known}): it begins with {content[:12]!r}")
        data = base64.b64encode(content).decode()
        if kind == "audio":
            return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
        return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}}

    def _read(self, column: str, path: str) -> bytes:
        """The file at `path`, up to one byte more than may be sent."""
        try:
            fs, on_fs = filesystem(path, self._options if "://" in path else None)
            with fs.open(on_fs, "rb") as file:
                content: bytes = file.read(self._most + 1)
        except (*_GONE, DataError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ItemError(f"{column!r} names {path!r:.200}, which cannot be read: {reason}") from None
        return content


def _content_in(value: Any) -> Any:
    """The bytes or the path of a value, which may be a struct of both, as Hugging Face's datasets have it."""
    if isinstance(value, dict):
        found = value.get("bytes")
        value = found if found is not None else value.get("path", value.get("url"))
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _decoded(column: str, url: str) -> bytes:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except ValueError as error:
        raise ItemError(f"{column!r} is a data URL that cannot be decoded: {error}") from None


def _format_of(kind: Kind, content: bytes) -> str | None:
    return next((form for magic, at, form in _MAGIC[kind] if content.startswith(magic, at)), None)


def _placed(part: Any, parts: dict[Kind, list[dict[str, Any]]]) -> list[Any]:
    """A text part, cut where it has markers, with the next of `parts` in the place of each; they are used up."""
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
    if not isinstance(text, str) or "\0" not in text:
        return [part]
    made: list[Any] = []
    for number, piece in enumerate(_MARKER.split(text)):
        if number % 2:
            kind: Kind = "image" if piece == "image" else "audio"
            if not parts.get(kind):
                raise ItemError(f"the prompt has more places for {kind} than the row has values")
            made.append(parts[kind].pop(0))
        elif piece:
            made.append({"type": "text", "text": piece})
    return made
