"""Answers that are data: a JSON schema that the server is asked to keep, and that its answer is held against."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from domyn_swarm.endpoint.json_reader import NOT_JSON
from domyn_swarm.errors import ConfigurationError, MissingDependencyError
from domyn_swarm.jobs.contents import data_in
from domyn_swarm.jobs.schema_types import SchemaTypes
from domyn_swarm.jobs.working_folder import find_in_working_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ERROR_CHARS = 500


class StructureError(ValueError):
    """An answer that is not what the schema asks for; the message says where, `attempts` after how many requests."""

    retryable = False

    def __init__(self, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.attempts = attempts


class Content(NamedTuple):
    """Data as its columns store it: the whole, and the properties that are columns."""

    whole: Any
    parts: dict[str, Any]


class Structure:
    """A JSON schema as request parameter, as check, and as the types of columns.

    `given` is the schema itself, the path of a file that holds it (`.json`), or a pydantic model: the class, or its
    name as `module:Class`. When one of `columns`, the names of output columns, is a property, `self.columns` are the
    properties. Those of a model go by the names of its fields; the aliases, which the server is asked for, are in
    `self.aliases`.

    Raises:
        ConfigurationError: it is none of them, or no valid schema.
        MissingDependencyError: the validator is not installed.
    """

    def __init__(self, given: dict[str, Any] | str | type, columns: Sequence[str] = ()) -> None:
        model = _model(given)
        schema = schema_of(given)
        title = str(schema.get("title", "")) or "answer"
        name = "".join(char if char.isascii() and (char.isalnum() or char in "_-") else "_" for char in title)[:64]
        strict = {"strict": True} if schema.get("additionalProperties") is False else {}
        self.response_format = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, **strict}}
        self._check = _check_by_model(model) if model else _check_by_schema(schema)
        self.types = SchemaTypes(_schema_of_model(model, mode="serialization", by_alias=False) if model else schema)
        self.aliases = _aliases(model) if model else {}
        properties = self.types.properties
        self.columns = tuple(properties) if properties.keys() & set(columns) else ()

    def checked(self, text: str) -> Any:
        """The data that `text` holds, as it is.

        Raises:
            StructureError: it is no JSON, or does not fit the schema.
        """
        try:
            value = data_in(text)
        except NOT_JSON as error:
            raise StructureError(f"the answer is not JSON: {error}") from None
        try:
            return self._check(value)
        except ValueError as error:
            raise _unfit(error) from None

    def parsed(self, text: str, parts: Sequence[str], *, whole: bool) -> Content:
        """The data that `text` holds: the properties `parts`, and all of it if `whole` is wanted.

        Raises:
            StructureError: it is no JSON, does not fit the schema, or what it holds does not fit a column.
        """
        fit = self.checked(text)
        try:
            if self.columns and not isinstance(fit, dict):
                raise ValueError("it is no object")
            stored = {name: self.types.properties[name].stored(fit.get(name)) for name in parts}
            return Content(self.types.whole.stored(fit) if whole else None, stored)
        except ValueError as error:
            raise _unfit(error) from None


def _unfit(error: ValueError) -> StructureError:
    return StructureError(f"the answer does not fit the schema: {str(error)[:ERROR_CHARS]}")


def schema_of(given: dict[str, Any] | str | type) -> dict[str, Any]:
    """The JSON schema that `given` is or names.

    Raises:
        ConfigurationError: it is none.
    """
    model: Any = _model(given)
    if model:
        return _schema_of_model(model)
    return _schema(cast("dict[str, Any] | str", given))


def file_as_data(given: str) -> dict[str, Any] | str:
    """The schema in a file, which every process of a run can use wherever it is; a reference to a model as it is.

    Raises:
        ConfigurationError: the file holds none.
    """
    return _schema(given) if given.endswith(".json") else given


def _schema_of_model(model: Any, **options: Any) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = model.model_json_schema(**options)
    except Exception as error:  # noqa: BLE001 - a model runs whatever it likes
        raise ConfigurationError(
            f"no JSON schema can be made of {model.__module__}:{model.__qualname__}: {error}.",
            "Change the field, or give it a schema with WithJsonSchema.",
            code="schema.invalid",
            option="schema",
        ) from None
    return schema


def _aliases(model: Any) -> dict[str, str]:
    """The other names that the model's fields go by, and the fields' own."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        given = [field.alias, field.serialization_alias, field.validation_alias]
        for alias in [*given, *getattr(field.validation_alias, "choices", ())]:
            found.setdefault(str(getattr(alias, "path", [alias])[0]), name)
    return {alias: name for alias, name in found.items() if alias not in model.model_fields}


def _model(reference: dict[str, Any] | str | type) -> Any:
    """The pydantic model that `reference` is or names; None when it is a schema, or the path of one."""
    if isinstance(reference, type):
        return _checked_model(reference, reference.__qualname__)
    if isinstance(reference, dict) or reference.endswith(".json"):
        return None
    where, _, name = reference.partition(":")
    find_in_working_folder(where)
    try:
        model = getattr(importlib.import_module(where), name)
    except Exception as error:  # noqa: BLE001 - a module runs whatever it likes
        raise ConfigurationError(
            f"{reference!r} cannot be imported: {error}.",
            "Give a JSON schema, the path of one (.json), or a pydantic model as module:Class.",
            code="schema.unreadable",
            option="schema",
            path=reference,
        ) from None
    return _checked_model(model, reference)


def _checked_model(model: Any, name: str) -> Any:
    if not hasattr(model, "model_json_schema"):
        raise ConfigurationError(
            f"{name!r} is no pydantic model.",
            "Name a BaseModel.",
            code="schema.invalid",
            option="schema",
        )
    return model


def _schema(given: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(given, dict):
        return given
    try:
        return msgspec.json.decode(Path(given).expanduser().read_bytes(), type=dict[str, Any])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{given!r} cannot be read: {reason}.",
            "Name a file that holds a JSON schema.",
            code="schema.unreadable",
            option="schema",
            path=str(given),
        ) from None


def _check_by_model(model: Any) -> Callable[[Any], Any]:
    return lambda value: model.model_validate(value).model_dump(mode="json", by_alias=False)


def _check_by_schema(schema: dict[str, Any]) -> Callable[[Any], Any]:
    try:
        import jsonschema_rs  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingDependencyError(
            "a JSON schema needs the package jsonschema-rs.",
            command="pip install 'domyn-swarm[structured]'",
            option="schema",
        ) from None
    try:
        validator = jsonschema_rs.validator_for(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"no valid JSON schema: {getattr(error, 'message', error)!s:.{ERROR_CHARS}}",
            "Fix the schema.",
            code="schema.invalid",
            option="schema",
        ) from None

    def check(value: Any) -> Any:
        wrong = next(validator.iter_errors(value), None)
        if wrong is not None and (finite := _finite(value)) != value:  # the validator takes NaN and Infinity for null
            wrong = next(validator.iter_errors(finite), None)
        if wrong is not None:
            where = "/".join(map(str, wrong.instance_path))
            raise ValueError(f"{wrong.message}{f' (at {where})' if where else ''}")
        return value

    return check


def _finite(value: Any) -> Any:
    """`value` with numbers in place of NaN and of infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0 if math.isnan(value) else math.copysign(sys.float_info.max, value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value
