"""Answers that are data: a JSON schema that the server is asked to keep, and that its answer is held against."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ERROR_CHARS = 500


class StructureError(ValueError):
    """An answer that is not what the schema asks for; the message says where."""

    retryable = False


class Structure:
    """A JSON schema as request parameter and as check.

    `given` is the schema itself, the path of a file that holds it (`.json`), or a pydantic model as `module:Class`.
    When one of `columns`, the names of output columns, is a property, `self.columns` are the properties.

    Raises:
        ConfigurationError: it is none of them, or no valid schema.
        MissingDependencyError: the validator is not installed.
    """

    def __init__(self, given: dict[str, Any] | str, columns: Sequence[str] = ()) -> None:
        model = _model(given)
        schema = schema_of(given)
        title = str(schema.get("title", "")) or "answer"
        name = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "_" for char in title)[:64]
        strict = {"strict": True} if schema.get("additionalProperties") is False else {}
        self.response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **strict}}
        self._check = _check_by_model(model) if model else _check_by_schema(schema)
        properties = _properties(schema)
        self.columns = tuple(properties) if properties.keys() & set(columns) else ()

    def parsed(self, text: str) -> Any:
        """The value that `text` holds.

        Raises:
            StructureError: it is no JSON, or does not fit the schema.
        """
        try:
            value = msgspec.json.decode(text)
        except (ValueError, RecursionError) as error:
            raise StructureError(f"the answer is not JSON: {error}") from None
        if self.columns and not isinstance(value, dict):
            raise StructureError("the answer does not fit the schema: it is no object")
        try:
            return self._check(value)
        except ValueError as error:
            raise StructureError(f"the answer does not fit the schema: {str(error)[:ERROR_CHARS]}") from None


def schema_of(given: dict[str, Any] | str) -> dict[str, Any]:
    """The JSON schema that `given` is or names.

    Raises:
        ConfigurationError: it is none.
    """
    model: Any = _model(given)
    schema: dict[str, Any] = model.model_json_schema() if model else _schema(given)
    return schema


def _model(reference: dict[str, Any] | str) -> Any:
    """The pydantic model that `reference` names; None when it is a schema, or the path of one."""
    if isinstance(reference, dict) or reference.endswith(".json"):
        return None
    where, _, name = reference.partition(":")
    try:
        model = getattr(importlib.import_module(where), name)
    except Exception as error:  # noqa: BLE001 - a module runs whatever it likes
        raise ConfigurationError(
            f"--job-kwargs: `schema` {reference!r} cannot be imported: {error}.",
            "Give a JSON schema, the path of one (.json), or a pydantic model as module:Class.",
        ) from None
    if not hasattr(model, "model_json_schema"):
        raise ConfigurationError(f"--job-kwargs: `schema` {reference!r} is no pydantic model.", "Name a BaseModel.")
    return model


def _schema(given: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        return msgspec.json.decode(Path(given).expanduser().read_bytes(), type=dict[str, Any])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"--job-kwargs: `schema` {given!r} cannot be read: {reason}.", "Name a file that holds a JSON schema."
        ) from None


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of an object; a recursive model's are behind a reference within the schema."""
    found = schema
    while "properties" not in found and (reference := found.get("$ref", "")).startswith("#/"):
        found = functools.reduce(lambda inner, key: inner[key], reference[2:].split("/"), schema)
    properties: dict[str, Any] = found.get("properties", {})
    return properties


def _check_by_model(model: Any) -> Callable[[Any], Any]:
    return lambda value: model.model_validate(value).model_dump(mode="json", by_alias=True)


def _check_by_schema(schema: dict[str, Any]) -> Callable[[Any], Any]:
    try:
        import jsonschema_rs  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingDependencyError(
            "`schema` needs the package jsonschema-rs.", "Run: pip install 'domyn-swarm[structured]'"
        ) from None
    try:
        validator = jsonschema_rs.validator_for(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"--job-kwargs: `schema` is no valid JSON schema: {getattr(error, 'message', error)!s:.{ERROR_CHARS}}",
            "Mend the schema.",
        ) from None

    def check(value: Any) -> Any:
        if (wrong := next(validator.iter_errors(value), None)) is not None:
            where = "/".join(map(str, wrong.instance_path))
            raise ValueError(f"{wrong.message}{f' (at {where})' if where else ''}")
        return value

    return check
