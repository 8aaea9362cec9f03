"""Completion of values in the shell, and the nearest flag to one that does not exist.

A completer returns the values that begin with what was typed. It runs at each press of the tab key: it reads no run, no
endpoint and no rows, and returns nothing when something fails.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from domyn_swarm.declared import flag_of
from domyn_swarm.jobs.field_options import FieldOptions
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    import msgspec

MAX_FILES, MAX_BYTES = 50, 200_000
"""Python files of the working folder that are searched for jobs."""
BREAKS = "@:="
"""Characters at which bash splits a word, although they are part of this command line's words."""


def among(values: Collection[str]) -> Callable[[str], list[str]]:
    """A completer for a fixed set of values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def completer(kind: type[msgspec.Struct], name: str, choices: Sequence[str]) -> Callable[[str], list[str]] | None:
    """The completer of a declared option; None for those that take text, numbers or paths, which shells complete."""
    return _COMPLETERS.get(name) or (among(choices) if choices else None)


def jobs(incomplete: str) -> list[str]:
    """What JOB can be: an option file after an @, a job of this package, or a job class in a file of this folder."""
    if incomplete.startswith("@"):
        return _option_files(incomplete)
    return [job for job in [*_package_jobs(), *_jobs_here()] if job.startswith(incomplete)]


def _option_files(incomplete: str) -> list[str]:
    folder, _, prefix = incomplete[1:].rpartition("/")
    typed = incomplete[: len(incomplete) - len(prefix)]
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(Path(folder or ("/" if typed == "@/" else ".")).expanduser().iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                found.append(f"{typed}{path.name}/")
            elif path.suffix in {".toml", ".yaml", ".yml", ".json"}:
                found.append(f"{typed}{path.name}")
    return [one for one in found if one.startswith(incomplete)]


def _package_jobs() -> list[str]:
    from domyn_swarm import jobs as package  # noqa: PLC0415 - only when JOB is completed

    abstract = {"SwarmJob", "EndpointJob"}
    return [f"domyn_swarm.jobs:{name}" for name in package.__all__ if name.endswith("Job") and name not in abstract]


def _jobs_here() -> Iterable[str]:
    """Job classes in the Python files of the working folder, found without executing them."""
    for path in sorted(Path().glob("*.py"))[:MAX_FILES]:
        with contextlib.suppress(OSError, UnicodeError):
            if path.stat().st_size <= MAX_BYTES:
                for name in re.findall(r"^class (\w+)\(.*Job\b", path.read_text(encoding="utf-8"), re.MULTILINE):
                    yield f"{path}:{name}"


def _backends(incomplete: str) -> list[str]:
    from domyn_swarm.data.backends.registry import backend_names  # noqa: PLC0415

    return among(backend_names())(incomplete)


def _launchers(incomplete: str) -> list[str]:
    from domyn_swarm.runs.launchers.registry import launcher_names  # noqa: PLC0415

    return among(launcher_names())(incomplete)


def states(incomplete: str) -> list[str]:
    """The states of runs."""
    from typing import get_args  # noqa: PLC0415

    from domyn_swarm.runs.state import State  # noqa: PLC0415

    return among(get_args(State))(incomplete)


_COMPLETERS = {
    "data_backend": _backends,
    "run_on": _launchers,
    "endpoints": among(["demo"]),
    "max_concurrency": among(["auto"]),
    "ray_address": among(["auto"]),
}


def nearest_flag(name: str) -> str:
    """The flag of the option that `name` probably means, or `name` as a flag."""
    plain = name.lstrip("-").replace("-", "_")
    flags = {flag_of(kind, field) for kind in (JobSpec, FieldOptions) for field in kind.__struct_fields__}
    by_name = {flag.lstrip("-").replace("-", "_"): flag for flag in flags if flag.startswith("--")}
    near = difflib.get_close_matches(plain, by_name, 1)
    return by_name[near[0]] if near else f"--{plain.replace('_', '-')}"


def in_bash(command: Callable[[], object]) -> str:
    """What `command`, which completes for bash, prints: for words as they were typed, and as bash replaces them.

    bash may split a word at `@`, `:` and `=`, and replaces only what stands after the last of them.
    """
    words = re.split(r"[\n ]", os.environ["COMP_WORDS"])[: int(os.environ["COMP_CWORD"]) + 1]
    joined = _joined(words)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit, typer.Exit):
        command()
    typed, replaced = joined[-1], "" if set(words[-1]) <= set(BREAKS) else words[-1]
    kept = typed.removesuffix(replaced).removesuffix("@")  # an @ is split off, but is replaced
    return "".join(line.removeprefix(kept) for line in printed.getvalue().splitlines(keepends=True))


def _joined(words: Sequence[str]) -> list[str]:
    """The words as they were typed, but `--flag=value` as two."""
    joined, extends = [words[0]], False
    for word in words[1:]:
        is_break = word != "" and set(word) <= set(BREAKS)
        if word == "=" and joined[-1].startswith("--"):
            extends = False
            if word is words[-1]:
                joined.append("")
            continue
        if extends or (is_break and "@" not in word):
            joined[-1] += word
        else:
            joined.append(word)
        extends = is_break
    return joined
