"""A JobSpec as what somebody would type."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.data.memory import IN_MEMORY
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.engine.recording.run_record import without_secrets
from domyn_swarm.jobs.loading import is_known_here_only, load_job_class
from domyn_swarm.jobspec import JobSpec, option_of
from domyn_swarm.masking import masked
from domyn_swarm.option_groups import DEFAULT_JOB
from domyn_swarm.report.model import Option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.engine.graph.overrides import Overrides


def command_of(spec: JobSpec) -> str:
    """The command line that submits `spec`: the options that differ from their defaults. It holds no secrets."""
    words = ["domyn-swarm", "job", "submit", *([] if spec.job == DEFAULT_JOB else [spec.job])]
    public = without_secrets(spec)
    for name, default in options_with_defaults(spec):
        value = getattr(public, name)
        if value != default:
            words += _words(option_of(name).flags, value)
    return masked(shlex.join(words))


def why_no_command(spec: JobSpec, overrides: Overrides = NOTHING) -> str:
    """Why no command line submits the same; nothing if one does."""
    if overrides:
        return "its replaced nodes are known to this process alone"
    if spec.input.startswith(IN_MEMORY):
        return "its input is in memory. Write it to a parquet file, and give its path: command(input=...)"
    if is_known_here_only(load_job_class(spec.job)):
        return "no other process finds its job. Save the class in a file, and plan('my_jobs.py:MyJob', ...)"
    return ""


def options_of(spec: JobSpec) -> list[Option]:
    """All options with their values as text, those that are not their defaults first."""
    public = without_secrets(spec)
    named = [("job", DEFAULT_JOB), *options_with_defaults(spec)]
    values = {name: getattr(public, name) for name, _ in named}
    options = [
        Option(_flags(name)[0].partition("/")[0], masked(text_of(values[name])), values[name] == default)
        for name, default in named
    ]
    return sorted(options, key=lambda option: option.is_default)


def options_with_defaults(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """Name and default of each option that has a flag; the job class may have defaults of its own.

    Raises:
        ConfigurationError: there is no such job here.
    """
    own = load_job_class(spec.job).defaults
    for field in msgspec.structs.fields(JobSpec):
        if option_of(field.name).flags:
            made = field.default_factory
            yield field.name, own.get(field.name, field.default if made is msgspec.NODEFAULT else made())


def _flags(name: str) -> tuple[str, ...]:
    return option_of(name).flags or (name.upper(),)


def _words(flags: tuple[str, ...], value: Any) -> list[str]:
    flag, _, opposite = flags[0].partition("/")
    if isinstance(value, bool):
        return [flag if value else opposite]
    if isinstance(value, list):
        return [word for one in value for word in (flag, str(one))]
    return [flag, text_of(value)]


def text_of(value: Any) -> str:
    """A value as it is typed."""
    return msgspec.json.encode(value).decode() if isinstance(value, (dict, list)) else str(value)
