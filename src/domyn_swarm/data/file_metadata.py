"""What files say of themselves (`geo`, `huggingface`, `pandas`, ...): which of it still holds of a run's output."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pyarrow as pa

    from domyn_swarm.data.input_files import InputFiles

OURS = "domyn_swarm."
_PANDAS = b"pandas".decode()
"""A key, whichever engine reads the file."""
_OF_THE_SCHEMA = re.compile(r"^org\.apache\.spark\.|avro|iceberg|schema", re.IGNORECASE)
"""Keys of what describes all columns, which readers believe more than the file: the output has others."""


@dataclass(frozen=True)
class FileMetadata:
    """Metadata of the input that the output has, too, and what it has not, each with the reason."""

    kept: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{', '.join(self.kept)} kept"] if self.kept else []
        return "; ".join([*parts, *(f"{key} dropped: {reason}" for key, reason in self.dropped.items())])


def shared(schemas: Iterable[pa.Schema]) -> dict[str, str | None]:
    """The files' metadata by key; None for what the files do not agree on, or is not text."""
    found: dict[str, str | None] = {}
    first = True
    for schema in schemas:
        here = _texts(schema)
        for key in [*found, *here] if not first else here:
            agreed = first or (key in found and found[key] is not None and found[key] == here.get(key))
            found[key] = here.get(key) if agreed else None
        first = False
    return found


def _texts(schema: pa.Schema) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for key, value in (schema.metadata or {}).items():
        name = key.decode("utf-8", "replace")
        if name.startswith(OURS) or name == "ARROW:schema":
            continue
        try:
            text = value.decode()
        except UnicodeDecodeError:
            texts[name] = None
        else:
            texts[name] = _without_range(text) if name == _PANDAS else text
    return texts


def _without_range(text: str) -> str:
    """Pandas' description without the range of its index, which counts the rows of one file."""
    described = _json(text)
    indexes = described.get("index_columns")
    if not isinstance(indexes, list):
        return text
    kept = [index for index in indexes if not isinstance(index, dict)]
    return text if kept == indexes else json.dumps({**described, "index_columns": kept})


def carried(files: InputFiles, columns: Sequence[str]) -> FileMetadata:
    """Which metadata of the files holds of an output that has `columns` of the input, beside others."""
    kept: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key, text in files.metadata.items():
        if text is None:
            dropped[key] = "the files differ in it, or it is not text"
        elif _OF_THE_SCHEMA.search(key):
            dropped[key] = "it describes all columns, and the output has others"
        elif key in _FITTING:
            fitting = _FITTING[key](_json(text), frozenset(columns))
            if isinstance(fitting, str):
                dropped[key] = fitting
            else:
                kept[key] = json.dumps(fitting) if fitting != _json(text) else text
        else:
            kept[key] = text
    return FileMetadata(kept, dropped)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _geo(described: dict[str, Any], columns: frozenset[str]) -> dict[str, Any] | str:
    """GeoParquet: columns that are left out go; the primary one has to be there."""
    shapes = described.get("columns")
    if not isinstance(shapes, dict):
        return described
    primary = described.get("primary_column")
    if isinstance(primary, str) and primary not in columns:
        return _lost(primary)
    return {**described, "columns": {name: shape for name, shape in shapes.items() if name in columns}}


def _huggingface(described: dict[str, Any], columns: frozenset[str]) -> dict[str, Any] | str:
    """Features of columns that are left out go; readers take the output's own columns by their types."""
    info = described.get("info")
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(info, dict) or not isinstance(features, dict):
        return described
    left = {name: feature for name, feature in features.items() if name in columns}
    if features and not left:
        return _lost(next(iter(features)))
    return {**described, "info": {**info, "features": left}}


def _pandas(described: dict[str, Any], columns: frozenset[str]) -> dict[str, Any] | str:
    """pandas: an index has to be there; columns that are left out go."""
    described_columns = described.get("columns")
    indexes = described.get("index_columns")
    if not isinstance(described_columns, list) or not isinstance(indexes, list):
        return described
    if lost := [index for index in indexes if isinstance(index, str) and index not in columns]:
        return _lost(lost[0])
    left = [one for one in described_columns if not isinstance(one, dict) or _field(one) in columns]
    if described_columns and not left:
        return "none of its columns is in the output"
    return {**described, "columns": left}


def _field(column: dict[str, Any]) -> Any:
    return column.get("field_name") or column.get("name")


def _lost(column: str) -> str:
    return f"column {column!r} is not in the output"


_FITTING: Mapping[str, Callable[[dict[str, Any], frozenset[str]], dict[str, Any] | str]] = {
    "geo": _geo, "huggingface": _huggingface, _PANDAS: _pandas,
}  # fmt: skip
