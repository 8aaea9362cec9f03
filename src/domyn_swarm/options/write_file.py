"""Write a run's options as an option file: TOML or YAML with each option's help, or JSON."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from domyn_swarm.anchoring import anchored
from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.submission import LaunchOptions, Submission
from domyn_swarm.data.memory import IN_MEMORY
from domyn_swarm.declared import option_of
from domyn_swarm.engine.recording.command_line import options_with_defaults, text_of
from domyn_swarm.engine.recording.run_record import origin_of, without_secrets
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobspec import JobSpec, flag_of, make_spec
from domyn_swarm.report.model import Option  # noqa: TC001 - msgspec evaluates the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domyn_swarm.checkpoint.folder import RunFolder

Format = Literal["toml", "yaml", "json"]

COMMENT_CHARS = 100
OURS = "domyn_swarm.jobs"
"""The module of this package's own jobs, which is safe to import for their defaults."""


def options_of_run(folder: RunFolder) -> dict[str, Any]:
    """The options and the placement of the run in `folder`, with absolute local paths.

    Raises:
        ConfigurationError: the run cannot be submitted from a file, or its record is missing.
    """
    content = folder.load("spec.json")
    if content is None:
        raise ConfigurationError(
            f"{folder.path} has no readable spec.json.",
            "It is written when a run starts.",
            code="spec.unreadable",
            path=folder.path,
        )
    spec = make_spec(content)
    if spec.input.startswith(IN_MEMORY):
        raise ConfigurationError(
            f"The input of {folder.path} was in memory, so an option file cannot submit it.",
            "Write the input to a parquet file and submit the job with that.",
            code="input.in_memory",
            path=folder.path,
        )
    submission = Submission.load(folder)
    origin = submission.folder if submission else origin_of(folder, spec)
    defaults = _recorded_defaults(folder, spec)
    whole = anchored(spec, origin) if origin else spec
    return options_of(whole, defaults) | (_placement_options(submission) if submission else {})


def _recorded_defaults(folder: RunFolder, spec: JobSpec) -> dict[str, Any]:
    """Options recorded as defaults by the run. Its job is not imported, because it is untrusted.

    Options whose recorded value differs from the spec are left out.
    """
    if spec.job.rpartition(":")[0] == OURS:
        return dict(options_with_defaults(spec))
    recorded = records.load(folder, "run.json", _Recorded) or _Recorded()
    recorded_options = {option.flag: option for option in recorded.options}
    if (job := recorded_options.get("JOB")) is None or job.value != spec.job:
        return {}
    values = {name: getattr(spec, name) for name in JobSpec.__struct_fields__}
    return {
        name: value
        for name, value in values.items()
        if (option := recorded_options.get(flag_of(name))) and option.is_default and option.value == text_of(value)
    }


class _Recorded(msgspec.Struct):
    """The options in `run.json`."""

    options: list[Option] = []


def options_of(spec: JobSpec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `spec` that differ from `defaults`."""
    public = msgspec.structs.asdict(without_secrets(spec))
    differing = {name: value for name, value in public.items() if name not in defaults or value != defaults[name]}
    return {name: value for name, value in differing.items() if value is not None}


def written(options: Mapping[str, Any], kind: Format, heading: str = "") -> str:
    """`options` as a file of that kind, tables last. JSON has no comments."""
    if kind == "json":
        return msgspec.json.format(msgspec.json.encode(options)).decode() + "\n"
    if kind == "toml":  # TOML has no null: write JSON text, as on the command line
        options = {name: _as_json(value) if _holds_null(value) else value for name, value in options.items()}
    entry = _toml if kind == "toml" else _yaml
    in_order = sorted(options, key=lambda name: isinstance(options[name], dict))  # a TOML table extends to the next one
    pieces = [_comment(heading), *(_comment(_help(name)) + entry(name, options[name]) for name in in_order)]
    return "\n".join(filter(None, pieces))


def _placement_options(submission: Submission) -> dict[str, Any]:
    """The run's placement as options of `job submit`, without defaults."""
    defaults = msgspec.structs.asdict(LaunchOptions()) | {"ray_address": None}
    given = msgspec.structs.asdict(submission.placement)
    given["detach"] = given["run_on"] == defaults["run_on"]
    return {name: value for name, value in given.items() if value != defaults[name]}


def _help(name: str) -> str:
    return option_of(LaunchOptions if name in LaunchOptions.__struct_fields__ else JobSpec, name).help


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, COMMENT_CHARS, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _toml(name: str, value: Any) -> str:
    import tomli_w  # noqa: PLC0415 - for those who write TOML

    if isinstance(value, list):
        return f"{name} = [{', '.join(_toml('x', one).removeprefix('x = ').rstrip() for one in value)}]\n"
    # Multi-line strings would normalize other line endings.
    return tomli_w.dumps({name: value}, multiline_strings="\\r" not in _as_json(value))


def _yaml(name: str, value: Any) -> str:
    from ruamel.yaml import YAML  # noqa: PLC0415 - for those who write YAML

    stream = io.StringIO()
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 2**20
    yaml.dump({name: _readable(value)}, stream)
    return stream.getvalue()


def _readable(value: Any) -> Any:
    """Multi-line strings as YAML blocks where possible; non-printable characters are escaped."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString  # noqa: PLC0415

    if isinstance(value, dict):
        return {_readable(name): _readable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    if not isinstance(value, str) or value.isprintable():
        return value
    return LiteralScalarString(value) if _fits_a_block(value) else DoubleQuotedScalarString(value)


def _fits_a_block(text: str) -> bool:
    lines = text.split("\n")
    return len(lines) > 1 and lines[0][:1].strip() != "" and all(x.isprintable() and x == x.rstrip() for x in lines)


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _holds_null(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(map(_holds_null, inner))
