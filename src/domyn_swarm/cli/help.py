"""Help of commands: options in sections, over the full width, with nothing broken that people copy; and near misses."""

from __future__ import annotations

import difflib
import inspect
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from domyn_swarm.declared import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

F = TypeVar("F", bound="Callable[..., Any]")
DOCUMENTATION = "Documentation: docs/tutorial.md, docs/reference/command-line.md"
INDENT = "  "
NAME_COLUMNS = 30
"""Columns for the names of options; the help of longer ones begins on the next line."""
MIN_COLUMNS = 40
OTHER, ARGUMENTS = "Other options", "Arguments"
_SPACE = "\N{NO-BREAK SPACE}"
_WHOLE = re.compile(r"(?<!\w)'[^'\n]* [^'\n]*'|`[^`\n]* [^`\n]*`|\((?:default: )?\S+\)|\[default: \S+\]")
"""What stays on one line: quotations, which people copy, and defaults."""


def _backends() -> str:
    from domyn_swarm.data.backends.registry import install_commands  # noqa: PLC0415 - looks through what is installed

    named = [f"{name} ({command})" if command else name for name, command in install_commands().items()]
    return ", ".join(named)


class _Help:
    """Writes a command's help."""

    notes: ClassVar[Mapping[str, Callable[[], str]]] = {"data_backend": _backends}
    """Added to an option's help: what is only known when the help is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Called by Typer."""
        columns = max(shutil.get_terminal_size().columns, MIN_COLUMNS)
        formatter.write("\n".join(self.help_lines(ctx, columns)) + "\n")

    def help_lines(self, ctx: Any, columns: int) -> Iterator[str]:
        """The help in lines of at most `columns`, unless a word, a quotation or an example is longer."""
        command: Any = self
        yield f"Usage: {' '.join([ctx.command_path, *command.collect_usage_pieces(ctx)])}"
        for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
            yield from ["", *_filled(paragraph, columns)]
        for title, records in self._sections(ctx):
            yield from ["", f"{title}:", *_listed(records, columns)]
        if commands := _commands_of(command):
            yield from ["", "Commands:", *_listed(commands, columns)]
        if command.epilog:
            yield from ["", *inspect.cleandoc(command.epilog).splitlines()]

    def _sections(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """The options by section, required ones first."""
        command: Any = self
        titles = [ARGUMENTS, *(section.title for section in SECTIONS), OTHER if self._has_sections else "Options"]
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in titles}
        for parameter in command.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            is_argument = parameter.param_type_name == "argument"
            title = ARGUMENTS if is_argument else getattr(parameter, "rich_help_panel", None)
            names, text = record[0].replace(" / ", "/"), " ".join(record[1].split())
            names = names.partition(" <")[0] if is_argument else names
            if note := self.notes.get(parameter.name):
                text, default, value = text.partition(" (default: ")
                text = f"{text}: {note()}{default}{value}"
            found[title if title in found else titles[-1]].append((names, text))
        for title, records in found.items():
            if records:
                yield title, sorted(records, key=lambda record: not record[1].endswith("(required)"))

    @property
    def _has_sections(self) -> bool:
        command: Any = self
        titles = {section.title for section in SECTIONS}
        return any(getattr(parameter, "rich_help_panel", None) in titles for parameter in command.params)


class HelpedCommand(_Help, TyperCommand):
    """A command with such a help."""


class HelpedGroup(_Help, TyperGroup):
    """A group of commands with such a help, which finds a command that stands in one of its groups."""

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        """The command that `args` begin with; an unknown one is answered with the nearest, groups included."""
        command: Any = self
        if args and args[0] not in command.commands and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = _nearest(args[0], dict(_paths(command, ctx.command_path)))
            ctx.fail(f"No such command {args[0]!r}.{f' Did you mean: {near}?' if near else ''}")
        return super().resolve_command(ctx, args)


class App(typer.Typer):
    """A Typer application whose commands and groups have such a help."""

    def __init__(self, help: str, **options: Any) -> None:  # noqa: A002 - typer's term
        super().__init__(help=help, cls=HelpedGroup, rich_markup_mode=None, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """As Typer's."""
        return super().command(name, cls=HelpedCommand, **options)


def _paths(group: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each command below `group` by what is typed for it, and its own name."""
    for name, command in group.commands.items():
        yield f"{path} {name}", name
        if below := getattr(command, "commands", None):
            yield from _paths(command, f"{path} {name}") if below else ()


def _nearest(typed: str, paths: dict[str, str]) -> str:
    """The command whose name is nearest to what was typed; the shortest path of several."""
    near = difflib.get_close_matches(typed, set(paths.values()), 1)
    return min((path for path, name in paths.items() if name in near), key=len, default="")


def _commands_of(command: Any) -> list[tuple[str, str]]:
    """Each command of a group, with the first sentence of its help."""
    below = getattr(command, "commands", {})
    return [(name, _first_sentence(one.help or "")) for name, one in below.items() if not one.hidden]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph, maxsplit=1)[0]


def _listed(records: Sequence[tuple[str, str]], columns: int) -> Iterator[str]:
    """Names and texts in two columns; on narrow terminals each text stands below its name."""
    widest = max((len(names) for names, _ in records if len(names) <= NAME_COLUMNS), default=0)
    start = 6 if columns < 2 * NAME_COLUMNS else len(INDENT) + widest + 2
    for names, text in records:
        lines = _filled(text, max(columns - start, MIN_COLUMNS // 2))
        beside = len(INDENT) + len(names) + 2 <= start
        yield f"{INDENT}{names}".ljust(start) + lines.pop(0) if beside and lines else f"{INDENT}{names}"
        yield from (" " * start + line for line in lines)


def _filled(text: str, columns: int) -> list[str]:
    """`text` in lines of at most `columns`. Words, flags and quotations stay whole, and defaults that fit."""

    def whole(found: re.Match[str]) -> str:
        is_default = found[0][0] in "(["
        return found[0] if is_default and len(found[0]) > columns else found[0].replace(" ", _SPACE)

    kept = _WHOLE.sub(whole, " ".join(text.split()))
    lines = textwrap.wrap(kept, columns, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_SPACE, " ") for line in lines]
