"""The JobSpec's fields as command-line options, so that each option is declared once."""

from __future__ import annotations

import contextlib
import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import typer

from domyn_swarm.declared import option_of
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import DEFAULT_JOB, JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def with_spec_options(command: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """`command(options: dict, job: str, **own)` with an option for each field of the JobSpec that has flags.

    Fields in `without` are left out. Options that were not given are absent from the dict, so that job kwargs and the
    job's defaults can set them. A job `@FILE` names an option file; flags on the command line override it.
    """
    hints = get_type_hints(JobSpec, include_extras=True)
    named = {option_of(JobSpec, name).named for name in hints}  # their values come with another field's flag
    fields = {
        name: hint
        for name, hint in hints.items()
        if option_of(JobSpec, name).flags and name not in without and name not in named
    }
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]

    def called(context: typer.Context, **values: Any) -> None:
        given = _parsed({name: values.pop(name) for name in fields})
        if not str(values["job"]).startswith("@"):
            command(given, **values)
            return
        from domyn_swarm.options.read_file import read_options  # noqa: PLC0415 - only for option files

        file = read_options(values["job"][1:])
        typed = {name for name in values if _is_typed(context, name)}
        own = {name: value for name, value in file.placement.items() if name in values and name not in typed}
        options = file.under(given)
        with file.named({*given, *typed}):
            command(options, **{**values, **own, "job": options.pop("job", DEFAULT_JOB)})

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, hint))
        for name, hint in fields.items()
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    called.__signature__ = inspect.Signature([context, *own, *options])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *own, *options]}
    called.__doc__ = command.__doc__
    return called


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(JobSpec)
    options = {name: value for name, value in given.items() if value is not None and value != []}
    for name, value in options.items():
        if get_origin(hints[name]) is dict:
            options[name] = _json_object(name, value)
        elif option_of(JobSpec, name).takes:
            with contextlib.suppress(msgspec.ValidationError):  # reported when the JobSpec is built
                options[name] = msgspec.convert(value, hints[name], strict=False)
    return options


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{text!r} is not valid JSON: {error}.",
            """Write an object: '{"key": "value"}'.""",
            code="option.invalid",
            option=name,
        ) from None
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{text!r} is not a JSON object.",
            """Write an object: '{"key": "value"}'.""",
            code="option.invalid",
            option=name,
        )
    return value


def _annotation(name: str, hint: Any) -> Any:
    takes = option_of(JobSpec, name).takes
    kind, metavar = (str, takes) if takes else _typer_type(get_args(hint)[0])
    kind = list[str] if option_of(JobSpec, name).named else kind
    return Annotated[kind | None, typer_option(JobSpec, name, metavar=metavar)]


def typer_option(kind: type[msgspec.Struct], name: str, **more: Any) -> Any:
    """The option declared as the field `name` of `kind`, with its default in the help."""
    declared = option_of(kind, name)
    default = next(field.default for field in msgspec.structs.fields(kind) if field.name == name)
    if isinstance(default, bool):
        default = declared.flags[0].split("/")[0 if default else 1]
    shown = f" (default: {default})" if isinstance(default, (str, int, float)) and default != "" else ""
    options = {"metavar": declared.takes or None, **more}
    return typer.Option(*declared.flags, help=f"{declared.help}{shown}", show_default=False, **options)


def _typer_type(hint: Any) -> tuple[Any, str | None]:
    """The type that typer parses, and the value's name in the help."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _typer_type(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return _typer_type(next(part for part in get_args(hint) if part is not type(None)))
    if origin is Literal:
        return str, "|".join(get_args(hint))
    if origin is dict:
        return str, "JSON"
    if origin is list:
        return list[str], "NAME"
    return hint, None
