"""Fills in what is generated from the code: ```{generated} NAME``` on a page becomes what the function NAME here makes.

One source for each: options come from `JobSpec`, commands from the command line itself, the rest from docstrings.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import types
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import typer

from domyn_swarm.cli.main import app as command_line
from domyn_swarm.engine.graph.inputs import OBJECTS
from domyn_swarm.jobspec import JobSpec, option_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from sphinx.application import Sphinx

    from domyn_swarm.declared import Option

PLACE = re.compile(r"^```\{generated\} (\w+)\n```$", re.MULTILINE)
SUBMIT = "domyn-swarm job submit"
MADE_BY_OTHERS = ("Comparison", "Counts", "JobSpec", "Plan")
"""Classes that functions return: how one is made is nobody's business, or said better elsewhere."""


def options() -> str:
    """One table of every field of the JobSpec."""
    rows = [["Flag", "Field", "Type", "Default", "Meaning"]]
    hints = get_type_hints(JobSpec, include_extras=True)
    for field in msgspec.structs.fields(JobSpec):
        option = option_of(field.name)
        flags = "<br>".join(f"`{flag}`" for flag in _flags(option)) or "`JOB`"
        named = f"[]{{#option-{field.name}}}{flags}"
        rows.append(
            [named, f"`{field.name}`", option.takes or _type(hints[field.name]), _default(field),
             _prose(option.help)]
        )  # fmt: skip
    return _table(rows, "options")


def _flags(option: Option) -> Iterator[str]:
    for flag in option.flags:
        yield from flag.split("/")


def _type(hint: Any) -> str:
    """A type in the words of whoever writes a command line or a `spec.json`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = {name: value for part in parts[1:] if isinstance(part, msgspec.Meta) for name, value in _bounds(part)}
        return " ".join([_type(parts[0]), *(f"{sign} {value}" for sign, value in bounds.items())])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts if part is not type(None))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return "list of texts"
    if origin is dict:
        return "JSON object"
    return {str: "text", int: "integer", float: "number", bool: "yes or no"}[hint]


def _bounds(meta: msgspec.Meta) -> Iterator[tuple[str, Any]]:
    signs = {"≥": meta.ge, ">": meta.gt, "≤": meta.le, "<": meta.lt}
    return ((sign, value) for sign, value in signs.items() if value is not None)


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, [], {}) else f"`{value}`"


def _table(rows: list[list[str]], name: str) -> str:
    lines = ["```{list-table}", ":header-rows: 1", f":class: {name}", ""]
    for row in rows:
        lines += [f"{'* -' if number == 0 else '  -'} {cell}" for number, cell in enumerate(row)]
    return "\n".join([*lines, "```"])


def commands() -> str:
    """Every command, its arguments and its flags."""
    return "\n\n".join(_command(command, path) for path, command in _commands())


def _commands() -> Iterator[tuple[str, Any]]:
    """What is typed, and the command that it runs, groups before their members."""
    todo = [("domyn-swarm", typer.main.get_command(command_line))]
    while todo:
        path, command = todo.pop(0)
        yield path, command
        todo[:0] = [(f"{path} {name}", below) for name, below in getattr(command, "commands", {}).items()]


def _command(command: Any, path: str) -> str:
    """A command as a section. Flags that it shares with `job submit` are named, and described there."""
    records = _records(command, path)
    shared = [record for record in records if path != SUBMIT and record in _submit() and "--" in record[0]]
    own = [record for record in records if record not in shared]
    with command.context_class(command, info_name=path) as context:
        usage = " ".join([path, *command.collect_usage_pieces(context)])
    pieces = [f"({_anchor(path)})=\n## {path}", f"```text\n{usage}\n```", _prose(inspect.cleandoc(command.help or ""))]
    pieces += [f"```{{program}} {path}\n```", *(_option(*record) for record in own)]
    if shared:
        flags = (flag for names, _ in shared for flag in re.findall(r"--[\w-]+", names))
        named = ", ".join(f"{{option}}`{flag} <{SUBMIT} {flag}>`" for flag in flags)
        pieces.append(f"These mean what they mean for [{SUBMIT}](#{_anchor(SUBMIT)}): {named}.")
    if below := list(getattr(command, "commands", {})):
        pieces.append("Commands: " + ", ".join(f"[{name}](#{_anchor(path)}-{name})" for name in below) + ".")
    return "\n\n".join(pieces)


def _records(command: Any, path: str) -> list[tuple[str, str]]:
    """Names and help of each argument and flag, as `--help` has them; but for `--help`."""
    with command.context_class(command, info_name=path) as context:
        records = [parameter.get_help_record(context) for parameter in command.params if not parameter.hidden]
    return [record for record in records if record is not None]


@cache
def _submit() -> list[tuple[str, str]]:
    return _records(dict(_commands())[SUBMIT], SUBMIT)


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


def _option(names: str, text: str) -> str:
    argument = names.partition(" ")[0]
    names = names.replace(" / ", ", ") if names.startswith("-") else argument
    return f"```{{option}} {names}\n\n{_prose(text)}\n```"


def _prose(text: str) -> str:
    """Help as Markdown: what it has of Markdown's own signs is meant as it stands, and flags are code."""
    text = re.sub(r"(?<!`)([<>*_\[\]{}|])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", text)


def api() -> str:
    """The public names of `domyn_swarm`."""
    return _public("domyn_swarm")


def jobs() -> str:
    """The public names of `domyn_swarm.jobs`, without those that `domyn_swarm` has, too."""
    return _public("domyn_swarm.jobs", without=importlib.import_module("domyn_swarm").__all__)


def errors() -> str:
    """All errors, the base first."""
    module = importlib.import_module("domyn_swarm.errors")
    classes = (one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, Exception))
    return _rst(_directive(module.__name__, one.__name__) for one in classes if one.__module__ == module.__name__)


def given() -> str:
    """What functions return, what jobs are given, and what is raised for a row, by the modules that have it."""
    return _rst(
        _directive(module, name)
        for module, name in (
            ("domyn_swarm.report.comparison.model", "Comparison"),
            ("domyn_swarm.endpoint.load_balancer", "Answer"),
            ("domyn_swarm.jobs.endpoint", "ItemError"),
            ("domyn_swarm.jobs.json_schema", "StructureError"),
            ("domyn_swarm.telemetry.counts", "Counts"),
            ("domyn_swarm.engine.recording.metrics", "Progress"),
        )
    )


def protocol() -> str:
    """What a backend has to have, and the shapes that it works with."""
    shapes = ("DataBackend", "Frame", "JobBatch", "Outputs")
    distributed = ("DistributedBackend", "WorkerFactory", "BlockWorker", "Monitor", "Session")
    base = (_directive("domyn_swarm.data.backends.base", name) for name in (*shapes, *distributed))
    files = (_directive("domyn_swarm.data.input_files", name) for name in ("InputFiles", "InputFile"))
    return _rst([*base, *files])


def _public(module: str, without: list[str] | tuple[str, ...] = ()) -> str:
    names = [n for n in importlib.import_module(module).__all__ if not n.startswith("_") and n not in without]
    return _rst(_directive(module, name) for name in names)


def _directive(module: str, name: str) -> str:
    value = getattr(importlib.import_module(module), name)
    if not inspect.isclass(value):
        return f".. auto{'function' if inspect.isfunction(value) else 'data'}:: {module}.{name}"
    called = "()" if value.__name__ in MADE_BY_OTHERS or getattr(value, "_is_protocol", False) else ""
    kind = "exception" if issubclass(value, Exception) else "class"
    return f".. auto{kind}:: {module}.{name}{called}\n   :members:"


def _rst(directives: Iterable[str]) -> str:
    """Docstrings are reStructuredText, and pages are Markdown."""
    return "````{eval-rst}\n" + "\n\n".join(directives) + "\n````"


def nodes() -> str:
    """The graph's nodes in data order, with their variants."""
    functions = [function for function in _graph().body if isinstance(function, ast.FunctionDef)]
    found: dict[str, list[ast.FunctionDef]] = {}
    for function in functions:
        if not function.name.startswith("_"):
            found.setdefault(function.name.partition("__")[0], []).append(function)
    return "\n\n".join(
        "\n\n".join([f"## {name}", *(_variant(function, found) for function in variants)])
        for name, variants in found.items()
    )


def inputs() -> str:
    """The graph's inputs that are not options."""
    rows = [["Input", "Meaning"], *([f"`{name}`", _prose(meaning)] for name, meaning in OBJECTS.items())]
    return _table(rows, "inputs")


def _graph() -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module("domyn_dags.job")))


def _variant(function: ast.FunctionDef, named: Container[str]) -> str:
    """What the function promises, when it is the one that is used, what it makes and from what."""
    when, tags = _decorated(function)
    phase, effects = tags["phase"], tags.get("effects", [])
    kind = re.sub(r"\b[a-z_]+\.", "", ast.unparse(function.returns)) if function.returns else ""
    made_from = ", ".join(_input(argument.arg, named) for argument in function.args.args)
    effects = [effects] if isinstance(effects, str) else effects
    does = f", {' and '.join(effects)}" if effects else ""
    origin = f" from {made_from}" if made_from else ""
    return f"{when}{ast.get_docstring(function)}\n\n`{kind}`{origin}{does}. Phase: {phase}."


def _input(name: str, named: Container[str]) -> str:
    if name in named:
        return f"[`{name}`](#{name})"
    return f"[`{name}`](options.md#option-{name})" if name in JobSpec.__struct_fields__ else f"`{name}`"


def _decorated(function: ast.FunctionDef) -> tuple[str, dict[str, Any]]:
    """Which config selects a node's function, and its tags."""
    when, tags = [], {}
    for call in function.decorator_list:
        for keyword in call.keywords if isinstance(call, ast.Call) else []:
            value = ast.literal_eval(keyword.value)
            if ast.unparse(call).startswith("config.when"):
                when.append(f"{keyword.arg} = {value}")
            elif keyword.arg is not None:
                tags[keyword.arg] = value
    return f"**{', '.join(when)}:** " if when else "", tags


def notebooks() -> str:
    """The contents on notebooks, as far as there are any."""
    docs = Path(__file__).parents[1]
    order = ("notebooks.md", "overrides.md", "notebooks/prompt*.ipynb", "notebooks/why*.ipynb", "notebooks/*.ipynb")
    found = dict.fromkeys(path for pattern in order for path in sorted(docs.glob(pattern)))
    names = [path.relative_to(docs).with_suffix("").as_posix() for path in found]
    lines = ["```{toctree}", ":hidden:", ":caption: In a notebook", "", *names, "```"]
    return "\n".join(lines) if found else ""


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = PLACE.sub(lambda place: globals()[place[1]](), source[0])


def _always(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages that hold what is generated: the code may have changed since."""
    return [page for page in env.found_docs if PLACE.search(env.doc2path(page).read_text())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _always)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
