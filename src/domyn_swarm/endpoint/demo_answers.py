"""What the demo endpoint says: made up, the same every time, and plainly made from what it was asked."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import numpy as np

SHOWN_WORDS = 6
DIMENSIONS = 16


def answer(prompt: str) -> str:
    """A sentence about `prompt`."""
    words = prompt.split()
    start = " ".join(words[:SHOWN_WORDS])
    return f"You wrote {len(words)} words: {start}{' …' if len(words) > SHOWN_WORDS else ''}"


def data(prompt: str, schema: dict[str, Any]) -> str:
    """JSON that fits `schema`, as far as it asks for types, properties and choices."""
    return msgspec.json.encode(_example(schema, prompt, schema)).decode()


def embedding(text: str, dimensions: int, *, as_base64: bool) -> Any:
    """A vector of length 1."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype("<f4")
    vector /= np.linalg.norm(vector)
    return base64.b64encode(vector.tobytes()).decode() if as_base64 else vector.tolist()


def _example(schema: dict[str, Any], prompt: str, root: dict[str, Any]) -> Any:
    if "$ref" in schema:
        schema = _resolved(schema["$ref"], root)
    if "enum" in schema:
        return schema["enum"][0]
    for choices in ("anyOf", "oneOf"):
        schema = schema[choices][0] if choices in schema else schema
    words = max(len(prompt.split()), schema.get("minimum", 0))
    plain = {"integer": words, "number": words, "boolean": prompt.endswith("?"), "null": None}
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _example(inner, prompt, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}), prompt, root)]
    return plain.get(kind, answer(prompt)) if "const" not in schema else schema["const"]


def _resolved(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found
