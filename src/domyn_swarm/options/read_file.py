"""Option files: options of `job submit` in a file (`job submit @job.toml`).

A file contains fields of the JobSpec by name, and LaunchOptions.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_origin, get_type_hints

import msgspec

from domyn_swarm.checkpoint.submission import LaunchOptions
from domyn_swarm.declared import hints_of, nearest, option_of, what_it_takes
from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.jobs.field_options import FieldOptions
from domyn_swarm.jobspec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

KINDS: tuple[type[msgspec.Struct], ...] = (JobSpec, LaunchOptions, FieldOptions)
MAX_CHARS = 2**20
"""Maximum number of characters of a file, and of its expanded aliases."""


@dataclass(frozen=True)
class OptionFile:
    """The options in a file: those of the JobSpec, and placement options."""

    path: str
    options: Mapping[str, Any]
    placement: Mapping[str, Any]

    def under(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The file's options overridden by `flags`. In a table (job kwargs) a flag overrides only the keys it names."""
        set_there = set(FieldOptions.__struct_fields__) & set(flags.get("job_kwargs") or {})
        options = {name: value for name, value in self.options.items() if name not in set_there}
        tables = {
            name: {**self.options[name], **value}
            for name, value in flags.items()
            if isinstance(value, dict) and name in self.options
        }
        return {**options, **flags, **tables}

    @contextlib.contextmanager
    def named(self, flags: Collection[str]) -> Iterator[None]:
        """Errors raised in this context know which options this file gave: all but those in `flags`."""
        try:
            yield
        except SwarmError as error:
            error.given_in = {name: self.path for name in (*self.options, *self.placement) if name not in flags}
            raise


def read_options(path: str) -> OptionFile:
    """The options in the file at `path`, each validated on its own.

    Raises:
        ConfigurationError: it cannot be read, or has an invalid entry; the message names file and key.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} contains {_kind(content)}, not options by name.",
            "Example: limit = 5",
            code="option_file.syntax",
            path=path,
        )
    known = [name for kind in KINDS for name in kind.__struct_fields__]
    for key in content:
        if key not in known:
            raise ConfigurationError(
                f"{path}: unknown option {key!r}.",
                nearest(str(key), known),
                code="option.unknown",
                path=path,
                choices=tuple(sorted(known)),
            )
    values = {key: _checked(path, key, value) for key, value in content.items() if value is not None}
    placement = {key: values.pop(key) for key in LaunchOptions.__struct_fields__ if key in values}
    return OptionFile(path, values, placement)


def _parsed(path: str) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigurationError(
            f"@{path} does not have a supported suffix.",
            f"Use one of: {', '.join(_FORMATS)}.",
            code="option_file.suffix",
            path=path,
            choices=tuple(_FORMATS),
        )
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARS + 1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(
            f"@{path} cannot be read: {reason}.",
            "Name an option file after the @.",
            code="option_file.unreadable",
            path=path,
        ) from None
    if len(text) > MAX_CHARS:
        raise ConfigurationError(
            f"@{path} is larger than {MAX_CHARS:,} characters.",
            "Refer to data by the path of its file.",
            code="option_file.size",
            path=path,
        )
    return _FORMATS[suffix](path, text)


def _toml(path: str, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError, or a number of thousands of digits
        _refuse(path, "TOML", str(error))


def _yaml(path: str, text: str) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - for those who write YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

    try:
        # Not the C parser, which reads YAML 1.1, where `no` is false.
        content = YAML(typ="safe", pure=True).load(text)
        _check_size(content)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        _refuse(path, "YAML", f"{error.problem or error.context}{where}")
    except (YAMLError, ValueError, RecursionError) as error:
        _refuse(path, "YAML", str(error))
    return content


def _check_size(content: Any) -> None:
    """Refuse aliases that expand to an excessive size.

    Raises:
        ValueError: the expanded content is too large.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, (dict, list, tuple, set)):
            return len(value) if isinstance(value, (str, bytes)) else 1
        if id(value) not in sizes:
            sizes[id(value)] = 1  # for a recursive alias, which is refused later
            inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, inner))
        return sizes[id(value)]

    if size(content) > MAX_CHARS:
        raise ValueError(f"its aliases expand to more than {MAX_CHARS:,} characters")


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        _refuse(path, "JSON", f"{error.msg} (at line {error.lineno}, column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits
        _refuse(path, "JSON", str(error))


_FORMATS: Mapping[str, Callable[[str, str], Any]] = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": _json}


def _refuse(path: str, language: str, reason: str) -> NoReturn:
    raise ConfigurationError(
        f"{path} is not valid {language}: {reason.rstrip('.')}.", "Fix the file.", code="option_file.syntax", path=path
    )


def _checked(path: str, key: str, value: Any) -> Any:
    """The value in the JobSpec's type, or an error that names the key."""
    kind = next(kind for kind in KINDS if key in kind.__struct_fields__)
    try:
        return msgspec.convert(_as_flags_have_it(kind, key, _plain(value)), hints_of(kind)[key])
    except msgspec.ValidationError as error:
        takes = what_it_takes(kind, key, error)
    except (ValueError, TypeError, RecursionError):
        takes = "a JSON value"
    if isinstance(value, str) and key in _fields_of(list):
        takes = f"a list. Write [{json.dumps(value)}]"
    refusal = ConfigurationError(
        f"{_shown(value)} is not valid.", f"It takes: {takes}.", code="option.invalid", option=key, path=path
    )
    refusal.given_in = {key: path}
    raise refusal


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python does not print integers with thousands of digits
        return "a number of thousands of digits"


def _plain(value: Any) -> Any:
    """The value as JSON data, with dates as strings."""
    plain = msgspec.to_builtins(value, str_keys=True)
    json.dumps(plain, allow_nan=False)
    return plain


def _as_flags_have_it(kind: type[msgspec.Struct], key: str, value: Any) -> Any:
    """Accept JSON text for a table, as on the command line, and numbers where a flag accepts a number or a word."""
    if isinstance(value, str) and key in _fields_of(dict):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(value)
    if kind is JobSpec and option_of(kind, key).takes and type(value) in (int, float):
        return msgspec.convert(str(value), hints_of(kind)[key], strict=False)
    return value


def _fields_of(kind: type) -> set[str]:
    return {name for name, hint in get_type_hints(JobSpec).items() if get_origin(hint) is kind}


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"
