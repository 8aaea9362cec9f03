"""Declared options as command-line options, so that each option is declared once."""

from __future__ import annotations

import contextlib
import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import typer

from domyn_swarm.cli import completion
from domyn_swarm.declared import choices, option_of
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.field_options import FieldOptions
from domyn_swarm.jobspec import JobSpec
from domyn_swarm.option_groups import DEFAULT_JOB

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

OPTION_FILES = (".toml", ".yaml", ".yml", ".json")


def with_spec_options(command: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """`command(options: dict, job: str, **own)` with an option for each field of the JobSpec that has flags.

    Those of FieldOptions come with them. Fields in `without` are left out. Options that were not given are absent from
    the dict, so that job kwargs and the job's defaults can set them. A job `@FILE` names an option file; flags on the
    command line override it.
    """
    # The values of a `named` field come with another field's flag.
    named = {option_of(JobSpec, name).named for name in JobSpec.__struct_fields__}
    fields = {
        name: kind
        for kind in (JobSpec, FieldOptions)
        for name in kind.__struct_fields__
        if option_of(kind, name).flags and name not in without and name not in named
    }
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]

    def called(context: typer.Context, **values: Any) -> None:
        given = _parsed({name: values.pop(name) for name in fields})
        _check_job(values["job"])
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
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(kind, name))
        for name, kind in fields.items()
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    called.__signature__ = inspect.Signature([context, *own, *options])  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *own, *options]}
    called.__doc__ = command.__doc__
    return called


def _check_job(job: str) -> None:
    """Refuse a JOB that was meant as something else: an option file without its @, or an option without its dashes."""
    name, equals, value = job.partition("=")
    if job.endswith(OPTION_FILES) and not job.startswith("@"):
        raise ConfigurationError(
            f"{job!r} is an option file, not a job.",
            f"Write @{job} to read options from it.",
            code="job.reference",
            path=job,
        )
    if equals and name.lstrip("-").replace("-", "_").isidentifier():
        raise ConfigurationError(
            f"{job!r} is not a job.",
            f"Options begin with two dashes: {completion.nearest_flag(name)} {value}".rstrip(),
            code="job.reference",
            path=job,
        )


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(JobSpec)
    options = {name: value for name, value in given.items() if value is not None and value != []}
    for name in options.keys() & hints.keys():
        value = options[name]
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


def _annotation(kind: type[msgspec.Struct], name: str) -> Any:
    if option_of(kind, name).takes:
        return Annotated[str | None, typer_option(kind, name)]
    parsed, metavar = _typer_type(get_type_hints(kind, include_extras=True)[name])
    parsed = list[str] if option_of(kind, name).named else parsed
    return Annotated[parsed | None, typer_option(kind, name, metavar=metavar)]


def typer_option(kind: type[msgspec.Struct], name: str, metavar: str = "", **more: Any) -> Any:
    """The option declared as the field `name` of `kind`, with its default in the help.

    `metavar` is the value's name as its type says it, for declarations that do not.
    """
    declared = option_of(kind, name)
    field = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    default = field.default
    if isinstance(default, bool):
        default = declared.flags[0].split("/")[0 if default else 1]
    shown = f" (default: {_number(default)})" if isinstance(default, (str, int, float)) and default != "" else ""
    options = {
        "metavar": declared.metavar or declared.takes or metavar or None,
        "rich_help_panel": declared.section,
        "autocompletion": completion.completer(kind, name, choices(kind, name)),
        **more,
    }
    note = " (required)" if field.required else shown
    return typer.Option(*declared.flags, help=f"{declared.help}{note}", show_default=False, **options)


def _number(value: float | str) -> str:
    """A default as people write it: 10 rather than 10.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _typer_type(hint: Any) -> tuple[Any, str]:
    """The type that typer parses, and the value's name in the help."""
    origin = get_origin(hint)
    if origin is Annotated:
        kind, name = _typer_type(get_args(hint)[0])
        unit = next((part.title for part in get_args(hint)[1:] if getattr(part, "title", None)), None)
        return kind, unit or name
    if origin in (Union, types.UnionType):
        return _typer_type(next(part for part in get_args(hint) if part is not type(None)))
    if origin is Literal:
        return str, "|".join(get_args(hint))
    if origin in (dict, list):
        return (str, "JSON") if origin is dict else (list[str], "NAME")
    return hint, "N" if hint in (int, float) else ""
