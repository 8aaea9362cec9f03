"""The command that starts a model server, as users write it: whole, or as the name of an engine and a model."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.references import resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT, GPUS = "{port}", "{gpus}"
HOST = "127.0.0.1"
"""Servers are for their run alone."""
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_EXAMPLE = "--serve 'vllm serve MODEL --port {port}'"


class ServerCommand(NamedTuple):
    """The words of a command with `{port}` in it, and the variables that precede them (`NAME=VALUE command …`)."""

    words: tuple[str, ...]
    variables: Mapping[str, str]

    def __str__(self) -> str:
        """The command as one types it."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.variables.items()), *self._quoted])

    @property
    def _quoted(self) -> list[str]:
        return [shlex.quote(word).replace(f"'{PORT}'", PORT) for word in self.words]

    def at(self, port: int) -> list[str]:
        """The words for a server on `port`.

        Raises:
            ConfigurationError: one of them refers to a variable that is not there (`env:NAME`).
        """
        return [str(resolved(word)).replace(PORT, str(port)) for word in self.words]

    def check(self) -> None:
        """Refuse a program that is not there.

        Raises:
            ConfigurationError: it does not exist, or cannot be executed.
        """
        program = self.words[0]
        if shutil.which(program, path=search_path(self.variables.get("PATH"))) is None:
            why = "cannot be executed" if Path(program).exists() else "is not there"
            raise ConfigurationError(
                f"The program {program!r} {why}.",
                "Install it, or give its path. The directories of PATH and that of this Python are searched.",
                code="server.program",
                option="serve",
                path=program,
            )


def read_command(text: str, gpus: int = 0) -> ServerCommand:
    """The command that `text` means. An engine that has to know its number of GPUs gets `gpus`.

    Raises:
        ConfigurationError: it has no words, an open quote, or no `{port}`.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} cannot be read as a command: {error}.",
            "Check its quotes.",
            code="server.command",
            option="serve",
        ) from None
    variables: dict[str, str] = {}
    while words and (found := _VARIABLE.fullmatch(words[0])):
        variables[found[1]] = found[2]
        words = words[1:]
    if not words:
        raise ConfigurationError(
            "There is no command.", f"Write for example {_EXAMPLE}.", code="server.command", option="serve"
        )
    words = _rendered(words, gpus)
    if not any(PORT in word for word in words):
        raise ConfigurationError(
            f"{text!r} does not say where its port belongs.",
            f"Write {PORT} there, as in {_EXAMPLE}: each server gets a free one.",
            code="server.port",
            option="serve",
        )
    return ServerCommand(tuple(words), variables)


def search_path(path: str | None = None) -> str:
    """`path` (PATH), and the directory of this Python, whose packages' commands are found without activating it."""
    path = os.environ.get("PATH", "") if path is None else path
    return os.pathsep.join(filter(None, [path, str(Path(sys.executable).parent)]))


def _rendered(words: list[str], gpus: int) -> list[str]:
    """`words`, with `engine:model` in the first place written out."""
    engine, colon, model = words[0].partition(":")
    if not colon or engine not in ENGINES:
        return words
    if not model:
        raise ConfigurationError(
            f"{words[0]!r} names no model.", f"Write {engine}:MODEL.", code="server.command", option="serve"
        )
    return [*ENGINES[engine](model, gpus), *words[1:]]


def _vllm(model: str, gpus: int) -> list[str]:
    return ["vllm", "serve", model, "--host", HOST, "--port", PORT, *_several("--tensor-parallel-size", gpus)]


def _sglang(model: str, gpus: int) -> list[str]:
    start = [_python("sglang"), "-m", "sglang.launch_server", "--model-path", model]
    return [*start, "--host", HOST, "--port", PORT, *_several("--tp-size", gpus)]


def _llama_cpp(path: str, _gpus: int) -> list[str]:
    """llama.cpp's own server, or that of its Python bindings where only they are installed."""
    path = str(Path(path).expanduser())
    alias = PurePath(path).stem
    if shutil.which("llama-server") is None and _is_installed("llama_cpp"):
        start = [sys.executable, "-m", "llama_cpp.server", "--model", path, "--model_alias", alias]
    else:
        start = ["llama-server", "--model", path, "--alias", alias]
    return [*start, "--host", HOST, "--port", PORT]


ENGINES = {"vllm": _vllm, "sglang": _sglang, "llama.cpp": _llama_cpp}


def _several(option: str, gpus: int) -> list[str]:
    return [option, str(gpus)] if gpus > 1 else []


def _python(package: str) -> str:
    """This Python if it has `package`, else that of the PATH."""
    return sys.executable if _is_installed(package) else "python3"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
