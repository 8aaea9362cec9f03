"""The models that a server lists, in the shapes that servers have for the list, and names in other spellings."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTS = ("data", "models")
_NAMES = ("id", "name", "model")
_REVISION = ("root", "parent", "revision", "digest", "sha")
"""What tells one model from another under the same name. `created` does not: some servers give the present time."""
_SIZES = ("n_params", "size", "n_vocab", "n_embd")
"""What llama.cpp says of a model's file, under `meta`."""


class Model(msgspec.Struct, frozen=True):
    """An entry of the list. `revision` describes which model it is beyond its name; empty when the server does not."""

    name: str
    revision: str = ""


def models_in(answer: Any) -> list[Model] | None:
    """The models in the JSON that a server answers to `GET models`; None when it has no list.

    The list may be the answer itself, or its `data` or `models`; an entry is a name, or an object with one.
    """
    entries = answer
    if isinstance(answer, dict):
        entries = next((answer[key] for key in _LISTS if isinstance(answer.get(key), list)), None)
    if not isinstance(entries, list):
        return None
    return [model for entry in entries if (model := _model(entry)) is not None]


def _model(entry: Any) -> Model | None:
    if isinstance(entry, str):
        return Model(entry)
    if not isinstance(entry, dict):
        return None
    name = next((str(entry[key]) for key in _NAMES if entry.get(key)), "")
    facts = {key: entry[key] for key in _REVISION if isinstance(entry.get(key), str) and entry[key] not in ("", name)}
    meta = entry.get("meta")
    facts |= {key: meta[key] for key in _SIZES if isinstance(meta.get(key), int)} if isinstance(meta, dict) else {}
    return Model(name, ", ".join(f"{key} {value}" for key, value in facts.items())) if name else None


def named(name: str, models: Sequence[Model]) -> Model | None:
    """The model called `name`, else one that is listed in another spelling of it (`m:latest`, `models/m`, `org/*`)."""
    exact = next((model for model in models if model.name == name), None)
    return exact or next((model for model in models if _is_alike(name, model.name)), None)


def _is_alike(name: str, listed: str) -> bool:
    return fnmatchcase(name, listed) if "*" in listed else _plain(name) == _plain(listed)


def _plain(name: str) -> str:
    """The last part of the path, without the tag that stands for none."""
    return name.lower().rpartition("/")[2].removesuffix(":latest")
