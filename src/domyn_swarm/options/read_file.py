"""Option files: what is given to `job submit` on the command line, written into a file (`job submit @job.toml`).

A file stands for flags. It holds fields of the JobSpec by name, and the options of sending a run away (SENDING).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_origin, get_type_hints

import msgspec

from domyn_swarm.errors import ConfigurationError, SwarmError
from domyn_swarm.jobspec import JobSpec, flag_of, option_of, what_it_takes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

MAX_CHARS = 2**20
"""Most characters of a file, and of what its aliases expand to."""
SENDING: Mapping[str, Any] = {"detach": bool, "run_on": str, "slurm_args": str, "requeue": bool, "job_name": str}
"""Options of `job submit` that say where a run goes on, rather than what it does."""


@dataclass(frozen=True)
class OptionFile:
    """A file's options: those of the JobSpec, and those of SENDING."""

    path: str
    options: Mapping[str, Any]
    sending: Mapping[str, Any]

    def under(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """The file's options with `flags` over them. Of a table (job kwargs) a flag replaces the keys that it names."""
        tables = {
            name: {**self.options[name], **value}
            for name, value in flags.items()
            if isinstance(value, dict) and name in self.options
        }
        return {**self.options, **flags, **tables}

    @contextlib.contextmanager
    def named(self, flags: Collection[str]) -> Iterator[None]:
        """A refusal in here that names the flag of an option names the file's key instead, unless `flags` has it."""
        try:
            yield
        except SwarmError as error:
            if error.exit_status != ConfigurationError.exit_status:
                raise
            flag, colon, rest = error.message.partition(":")
            given = [name for name in (*self.options, *self.sending) if name not in flags]
            key = next((name for name in given if _flag(name) == flag), None)
            if key is None or not colon:
                raise
            raise type(error)(f"{self.path}: {key}:{rest}", error.hint) from error.__cause__


def read_options(path: str) -> OptionFile:
    """The options in the file at `path`, each checked by itself.

    Raises:
        ConfigurationError: it cannot be read, or holds what is no option; the message names file and key.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds {_kind(content)}, not options by name.", "Write for example: limit = 5")
    known = [*JobSpec.__struct_fields__, *SENDING]
    for key in content:
        if key not in known:
            raise ConfigurationError(f"{path}: there is no option {key!r}.", _nearest(str(key), known))
    values = {key: _checked(path, key, value) for key, value in content.items() if value is not None}
    sending = {key: values.pop(key) for key in SENDING if key in values}
    return OptionFile(path, values, sending)


def _parsed(path: str) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigurationError(
            f"@{path} does not end in the name of a format.", f"Option files are: {', '.join(_FORMATS)}."
        )
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig") as file:
            text = file.read(MAX_CHARS + 1)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigurationError(f"@{path} cannot be read: {reason}.", "Name a file of options after the @.") from None
    if len(text) > MAX_CHARS:
        raise ConfigurationError(
            f"@{path} is larger than {MAX_CHARS:,} characters.", "Options are small: name data by the path of its file."
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
    """Refuse aliases that expand to what nobody has written; without them, each value is counted once.

    Raises:
        ValueError: they do.
    """
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, (dict, list, tuple, set)):
            return len(value) if isinstance(value, (str, bytes)) else 1
        if id(value) not in sizes:
            sizes[id(value)] = 1  # for an alias within what it stands for, which is refused later
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
    raise ConfigurationError(f"{path} is not valid {language}: {reason.rstrip('.')}.", "Mend the file.")


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"Options: {', '.join(sorted(known))}."


def _checked(path: str, key: str, value: Any) -> Any:
    """The value as the JobSpec takes it, or a refusal that names the key."""
    hint = SENDING.get(key) or get_type_hints(JobSpec, include_extras=True)[key]
    try:
        return msgspec.convert(_as_flags_have_it(key, _plain(value)), hint)
    except msgspec.ValidationError as error:
        takes = what_it_takes(key, error)
    except (ValueError, TypeError, RecursionError):
        takes = "what JSON has words for"
    if isinstance(value, str) and key in _fields_of(list):
        takes = f"a list. Write [{json.dumps(value)}]"
    raise ConfigurationError(f"{path}: {key}: {_shown(value)} is not valid.", f"It takes: {takes}.")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"


def _plain(value: Any) -> Any:
    """What the same would be in JSON: dates are texts there."""
    plain = msgspec.to_builtins(value, str_keys=True)
    json.dumps(plain, allow_nan=False)
    return plain


def _as_flags_have_it(key: str, value: Any) -> Any:
    """A table may be JSON, as on the command line; what is a number or a word there may be a number."""
    if isinstance(value, str) and key in _fields_of(dict):
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(value)
    if key not in SENDING and option_of(key).extra["takes"] and type(value) in (int, float):
        return msgspec.convert(str(value), get_type_hints(JobSpec, include_extras=True)[key], strict=False)
    return value


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in SENDING else flag_of(name)


def _fields_of(kind: type) -> set[str]:
    return {name for name, hint in get_type_hints(JobSpec).items() if get_origin(hint) is kind}


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"
