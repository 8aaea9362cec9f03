"""Options declared once, as fields of a struct: each with its type, bounds, default, flags and help text.

The command line, option files, the reference and the checks of values are made from the declarations.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from domyn_swarm.errors import ConfigurationError, opt

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

T = TypeVar("T", bound=msgspec.Struct)


class Section(NamedTuple):
    """A section of `job submit --help`. Options are declared with the section that they are shown in."""

    title: str

    def option(
        self,
        *flags: str,
        help: str,  # noqa: A002 - msgspec's term
        takes: str = "",
        metavar: str = "",
        named: str = "",
    ) -> msgspec.Meta:
        """The declaration of an option.

        Args:
            *flags: `--limit`, with a short form; `--yes/--no` is one flag.
            help: A sentence without its full stop.
            takes: Which values are accepted, where the type does not say.
            metavar: The value's name in the help (`COLUMN`), where its type does not say it.
            named: The field for those values of the flag that are given for one model of a job of steps.
        """
        extra = {"flags": flags, "takes": takes, "metavar": metavar, "named": named, "section": self.title}
        return msgspec.Meta(description=help, extra=extra)


IO = Section("Input and output")
MODEL = Section("Model")
SERVERS = Section("Model servers")
REQUESTS = Section("Requests")
LIMITS = Section("Limits and retries")
CHECKPOINTS = Section("Checkpoints and resume")
ENGINE = Section("Engine")
PLACEMENT = Section("Where it runs")
SECTIONS = (IO, MODEL, SERVERS, REQUESTS, LIMITS, CHECKPOINTS, ENGINE, PLACEMENT)
"""In the order of the help."""


class Option(NamedTuple):
    """A declaration as it is read.

    Flags (`--yes/--no` in one), accepted values if the type does not say, the value's name, the field for values with a
    name, the section of the help, the help.
    """

    flags: tuple[str, ...] = ()
    takes: str = ""
    metavar: str = ""
    named: str = ""
    section: str = ""
    help: str = ""


@cache
def option_of(kind: type[msgspec.Struct], field: str) -> Option:
    """How `field` was declared; without flags and help if it was not."""
    parts = get_args(hints_of(kind).get(field))
    found = (Option(**part.extra, help=part.description or "") for part in parts if getattr(part, "extra", None))
    return next(found, Option())


@cache
def hints_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields' annotations; evaluating them takes milliseconds."""
    return get_type_hints(kind, include_extras=True)


def flag_of(kind: type[msgspec.Struct], field: str) -> str:
    """The flag that sets `field` on the command line, or the field's own name."""
    flags = option_of(kind, field).flags or (field,)
    return str(flags[0].partition("/")[0])


def converted(kind: type[T], options: Mapping[str, Any]) -> T:
    """A `kind` of `options`, its fields by name.

    Raises:
        ConfigurationError: an option is unknown, missing, of the wrong type or out of bounds.
    """
    known = kind.__struct_fields__
    if unknown := next((name for name in options if name not in known), None):
        raise ConfigurationError(
            f"Unknown option {unknown!r}.",
            nearest(unknown, known),
            code="option.unknown",
            choices=tuple(sorted(known)),
        )
    for name, value in options.items():
        try:
            msgspec.convert(value, hints_of(kind)[name])
        except msgspec.ValidationError as error:
            raise ConfigurationError(
                f"{value!r} is not valid.",
                f"It takes: {what_it_takes(kind, name, error)}.",
                code="option.invalid",
                option=name,
                choices=choices(kind, name),
            ) from None
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in options:
            raise ConfigurationError(
                f"{opt(field.name)} is missing.", f"Add {opt(field.name)}.", code="option.missing", option=field.name
            )
    return msgspec.convert(dict(options), kind)


def nearest(name: str, known: Collection[str], kind: str = "Options") -> str:
    """The hint for an unknown name: those that were probably meant, or all that there are."""
    near = difflib.get_close_matches(name.replace("-", "_"), known)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else f"{kind}: {', '.join(sorted(known))}."


def what_it_takes(kind: type[msgspec.Struct], name: str, error: msgspec.ValidationError) -> str:
    """The values that the field `name` accepts, given the validation `error`, whose text begins with them."""
    takes = ", ".join(choices(kind, name)) or option_of(kind, name).takes
    expected = str(error).partition(" - at ")[0].removeprefix("Expected ").partition(", got")[0]
    return takes or expected.replace("`", "").replace(" | null", "")


def choices(kind: type[msgspec.Struct], name: str) -> tuple[str, ...]:
    """The values of a field that has a fixed set of them."""
    hint = get_args(hints_of(kind).get(name))[:1]
    return get_args(hint[0]) if hint and get_origin(hint[0]) is Literal else ()
