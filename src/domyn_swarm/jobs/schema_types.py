"""From a JSON schema to the types of columns: the schema decides them, and no value that happens to come first.

| the schema says | the column is |
| --- | --- |
| string; with `format` date or date-time | text; date, timestamp in UTC (without an offset it counts as UTC) |
| integer, number, boolean | int64, float64, bool |
| `enum` or `const` of one kind | that kind |
| array with `items` | list |
| object with `properties` | struct of them, in their order; what the schema does not name is left out |
| object with `additionalProperties` or `patternProperties` of one type, and no `properties` | map from text |
| something, or null (`anyOf`, `oneOf`, `type`) | that, nullable, as every column is |
| several strings, or several numbers | text, float64 |
| other unions, what is left open (`{}`, any object, any array), what refers to itself | JSON text |
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import msgspec
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MOST_TYPES = 2000
"""Types in one schema; beyond, values are JSON text, because references can multiply without end."""
_NUMBERS = frozenset({"integer", "number"})


class Storage(NamedTuple):
    """A column's type, and what makes a JSON value one that Arrow takes for it; None where it does as it is.

    `form` is equal where both are.
    """

    dtype: pa.DataType
    convert: Callable[[Any], Any] | None
    form: str

    def stored(self, value: Any) -> Any:
        """`value` for a column of this type.

        Raises:
            ValueError: it has no such form.
        """
        if value is None or self.convert is None:
            return value
        try:
            return self.convert(value)
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{value!r:.80} is no {self.form}: {error}") from None


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


JSON_TEXT = Storage(pa.string(), _json_text, "JSON text")
TEXT = Storage(pa.string(), None, "text")
_DATE = Storage(pa.date32(), date.fromisoformat, "date")
_MOMENT = Storage(pa.timestamp("us", "UTC"), _moment, "date-time")
_INTEGER = Storage(pa.int64(), None, "integer")
_NUMBER = Storage(pa.float64(), float, "number")
_BOOLEAN = Storage(pa.bool_(), None, "boolean")
_STRINGS, _NUMERIC = (TEXT, _DATE, _MOMENT), (_INTEGER, _NUMBER)


def list_of(items: Storage) -> Storage:
    """Storage for lists of what `items` stores."""
    convert = None if items.convert is None else lambda values: [items.stored(value) for value in _list(values)]
    return Storage(pa.list_(items.dtype), convert, f"list of {items.form}")


class SchemaTypes:
    """The storage of values that fit `schema`, and of each property of theirs."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._root = schema
        self._left = MOST_TYPES
        self.whole = self._of(schema, frozenset())
        top, above = self._open(schema, frozenset())
        self.properties = {name: self._of(inner, above) for name, inner in _dict(top, "properties").items()}

    def _of(self, schema: Any, above: frozenset[str]) -> Storage:
        """The storage of `schema`, which stands below the references `above`."""
        self._left -= 1
        schema, above = self._open(schema, above)
        if schema is None or self._left < 0:
            return JSON_TEXT
        for several in ("anyOf", "oneOf"):
            if isinstance(branches := schema.get(several), list) and branches:
                base = {key: value for key, value in schema.items() if key != several}
                return _united(self._of(_merged([base, branch]), above) for branch in branches if not _is_null(branch))
        kinds = _kinds(schema)
        if kinds == {"object"}:
            return self._object(schema, above)
        return self._array(schema, above) if kinds == {"array"} else _scalar(kinds, schema.get("format"))

    def _object(self, schema: Mapping[str, Any], above: frozenset[str]) -> Storage:
        properties, patterns = _dict(schema, "properties"), _dict(schema, "patternProperties")
        others = schema.get("additionalProperties", None if patterns or properties else True)
        if properties:
            if others not in (None, False) or patterns:
                return JSON_TEXT  # a struct would leave out what the schema asks for
            return _struct({name: self._of(inner, above) for name, inner in properties.items()})
        values = [*patterns.values(), *([] if others in (None, False) else [others])]
        if not values or True in values:
            return JSON_TEXT
        return _map_to(_united(self._of(value, above) for value in values))

    def _array(self, schema: Mapping[str, Any], above: frozenset[str]) -> Storage:
        first, items = schema.get("prefixItems"), schema.get("items")
        kinds = [*(first if isinstance(first, list) else []), *([items] if isinstance(items, dict) else [])]
        if not kinds or (first and items is not False and not isinstance(items, dict) and "maxItems" not in schema):
            return JSON_TEXT
        storages = [self._of(kind, above) for kind in kinds]
        return list_of(storages[0]) if len({storage.form for storage in storages}) == 1 else JSON_TEXT

    def _open(self, schema: Any, above: frozenset[str]) -> tuple[dict[str, Any] | None, frozenset[str]]:
        """`schema` with what it refers to in its place; None where that leads back here, or out of the schema."""
        while isinstance(schema, dict) and ("$ref" in schema or "allOf" in schema):
            rest = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
            parts = list(schema.get("allOf") or [])
            if (reference := schema.get("$ref")) is not None:
                if reference in above or (target := self._target(reference)) is None:
                    return None, above
                above |= {reference}
                parts.append(target)
            schema = _merged([rest, *parts])
        return (schema if isinstance(schema, dict) and schema else None), above

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        found: Any = self._root
        for step in unquote(reference[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(key)] if isinstance(found, list) else found[key]
            except (LookupError, TypeError, ValueError):
                return None
        return found


def _scalar(kinds: set[str], form: Any) -> Storage:
    if kinds == {"string"}:
        return {"date": _DATE, "date-time": _MOMENT}.get(str(form), TEXT)
    if kinds == _NUMBERS:
        return _NUMBER
    plain = {"integer": _INTEGER, "number": _NUMBER, "boolean": _BOOLEAN}
    return plain.get(next(iter(kinds)), JSON_TEXT) if len(kinds) == 1 else JSON_TEXT


def _struct(fields: Mapping[str, Storage]) -> Storage:
    changing = {name: field for name, field in fields.items() if field.convert is not None}

    def convert(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, **{name: field.stored(value.get(name)) for name, field in changing.items()}}

    dtype = pa.struct([(name, field.dtype) for name, field in fields.items()])
    form = ", ".join(f"{name}: {field.form}" for name, field in fields.items())
    return Storage(dtype, convert if changing else None, f"object of {form}")


def _map_to(values: Storage) -> Storage:
    def convert(value: dict[str, Any]) -> list[tuple[str, Any]]:
        return [(name, values.stored(inner)) for name, inner in value.items()]

    return Storage(pa.map_(pa.string(), values.dtype), convert, f"map to {values.form}")


def _united(storages: Iterable[Storage]) -> Storage:
    """One storage for values of all of these."""
    found = {storage.form: storage for storage in storages}
    if len(found) == 1:
        return next(iter(found.values()))
    for together, kinds in ((TEXT, _STRINGS), (_NUMBER, _NUMERIC)):
        if found and found.keys() <= {kind.form for kind in kinds}:
            return together
    return JSON_TEXT


def _merged(schemas: Sequence[Any]) -> dict[str, Any]:
    """What holds for a value that fits all of `schemas`, as far as types go."""
    merged: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, dict):
            continue
        for key, value in schema.items():
            if key in ("properties", "$defs") and isinstance(merged.get(key), dict) and isinstance(value, dict):
                merged[key] = {**merged[key], **value}
            elif key == "allOf" and isinstance(merged.get(key), list):
                merged[key] = [*merged[key], *value]
            else:
                merged[key] = value
    return merged


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that values may have, beside null."""
    given = schema.get("type")
    if given is not None:
        kinds = {given} if isinstance(given, str) else set(given)
    elif "const" in schema or "enum" in schema:
        kinds = {_kind_of(value) for value in (schema.get("enum") or [schema.get("const")])}
    elif schema.keys() & {"properties", "additionalProperties", "patternProperties"}:
        kinds = {"object"}
    else:
        kinds = {"array"} if schema.keys() & {"items", "prefixItems"} else set()
    return kinds - {"null"}


def _kind_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "null" or schema.get("const", 0) is None)


def _dict(schema: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    found = (schema or {}).get(key)
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is needed")
    return value
