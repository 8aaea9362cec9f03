"""Fields of jobs that have flags of their own: what most chat jobs set."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from domyn_swarm.declared import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping


class FieldOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that set a field of the job, as `--job-kwargs` does. Declared like those of the JobSpec."""

    prompt: Annotated[
        str | None,
        MODEL.option(
            "--prompt", metavar="TEMPLATE", help="User message of chat jobs, columns in braces: 'Translate: {text}'"
        ),
    ] = None
    system_prompt: Annotated[
        str | None, MODEL.option("--system-prompt", metavar="TEXT", help="System message of chat jobs")
    ] = None
    schema: Annotated[
        dict[str, Any] | str | None,
        MODEL.option(
            "--schema",
            metavar="FILE.json|MODULE:CLASS",
            help="JSON schema, or pydantic model, that the answers of chat jobs must fit",
        ),
    ] = None


def as_data(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a job's fields, with a pydantic model as plain data.

    A model becomes `module:Class`, by which every process of the run imports it. One that only this process knows (it
    is defined in a notebook, a script or a function) becomes its JSON schema.
    """
    return {name: model_as_data(value) if is_model(value) else value for name, value in fields.items()}


def is_model(value: Any) -> bool:
    """Whether `value` is a pydantic model."""
    return isinstance(value, type) and hasattr(value, "model_json_schema")


def model_as_data(model: Any) -> dict[str, Any] | str:
    """A pydantic model as a reference, or else as its JSON schema."""
    module, name = model.__module__, model.__qualname__
    found = sys.modules.get(module)
    if module != "__main__" and getattr(found, name, None) is model and getattr(found, "__file__", None):
        return f"{module}:{name}"
    schema: dict[str, Any] = model.model_json_schema()
    return schema
