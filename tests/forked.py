"""Processes without the second that each would spend on imports: one that has imported everything forks for each.

What comes of it is a process of its own like any other, with its folder, environment, files, signals and exit status.
The suite starts hundreds of commands and servers. What a command imports, and when, is tested elsewhere (test_imports),
and so is the console script, by tests that start it. A program is `domyn-swarm`, or the path of a script.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

PROGRAM = "domyn-swarm"
MOST_BYTES = 2**20
PRELOADED = (
    "domyn_swarm.cli.main", "domyn_swarm.engine.runner", "domyn_swarm.engine.graph.observer", "domyn_swarm.runs.submit",
    "domyn_swarm.report.progress", "domyn_swarm.options.resolve", "domyn_swarm.checkpoint.inspection",
    "domyn_swarm.data.backends.pandas_backend", "domyn_swarm.jobs.chat", "domyn_swarm.endpoint.demo", "domyn_dags.job",
    "aiohttp.web", "fsspec.implementations.memory", "hamilton.driver", "platformdirs.unix", "pyarrow.dataset",
    "pyarrow.pandas_compat", "typer._adapters", "typer._click.decorators", "uvloop",
)  # fmt: skip
"""What nearly every command and server imports; no engine but the default one."""


class Forked:
    """A process that was forked: what tests use of `subprocess.Popen`, with text in its pipes."""

    def __init__(self, arguments: Sequence[str], connection: socket.socket, pipes: Sequence[IO[str] | None]) -> None:
        self.args = list(arguments)
        self.stdin, self.stdout, self.stderr = pipes
        self.returncode: int | None = None
        self._connection = connection
        self._readers: list[tuple[threading.Thread, list[str]]] = []
        self.pid = self._number()

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints until it ends."""
        if not self._readers:
            for pipe in (self.stdout, self.stderr):
                text: list[str] = []
                reader = threading.Thread(target=_read, args=(pipe, text), daemon=True)
                reader.start()
                self._readers.append((reader, text))
        self.wait(timeout)
        for reader, _ in self._readers:
            reader.join(timeout)
        out, err = ("".join(text) for _, text in self._readers)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _number(self) -> int:
        found: int = struct.unpack("i", self._connection.recv(4, socket.MSG_WAITALL))[0]
        return found


def start(
    *arguments: str,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    imports: Sequence[str] = (),
    limits: Mapping[int, tuple[int, int]] | None = None,
    umask: int | None = None,
) -> Any:
    """As `subprocess.Popen` of a program.

    `imports` are modules that it needs beside those that most need, `limits` its resource limits. Where Python has
    other settings than the starter, which reads them when it begins, the process is a new one.
    """
    environment = dict(os.environ if env is None else env)
    if not starter().fits(environment):
        return subprocess.Popen(
            command_line(*arguments), stdin=stdin, stdout=stdout, stderr=stderr, text=True, cwd=cwd,
            env=environment,
        )  # fmt: skip
    asked = {
        "arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": environment, "imports": imports,
        "limits": list((limits or {}).items()), "umask": umask,
    }  # fmt: skip
    return starter().start(asked, stdin, stdout, stderr)


def run(*arguments: str, timeout: float = 120, **options: Any) -> Any:
    """As `subprocess.run` of a program, with what it printed as text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(*arguments, stdout=out, stderr=err, **options)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(list(arguments), status, _text(out), _text(err))


TYPED = """#!{python} -IS
import array, json, os, socket, struct, sys
asked = dict(arguments=["{program}", *sys.argv[1:]], cwd=os.getcwd(), environment=dict(os.environ), imports=[],
             limits=[], umask=None)
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
connection.sendmsg([json.dumps(asked).encode()], [rights])
pid, status = struct.unpack("ii", connection.recv(8, socket.MSG_WAITALL))
sys.exit(status if status >= 0 else 128 - status)
"""
"""A console script for shells. It says nothing to the process that runs in its place, signals included."""


def write_script(folder: Path) -> None:
    """Write `domyn-swarm` into a folder, for a PATH that leads there first: each call of it is forked."""
    script = folder / PROGRAM
    script.write_text(TYPED.format(python=sys.executable, program=PROGRAM, address=starter().address))
    script.chmod(0o755)


def command_line(*arguments: str) -> list[str]:
    """What one would type, in the environment that the tests run in."""
    if arguments[0] == PROGRAM:
        return [str(Path(sys.executable).with_name(PROGRAM)), *arguments[1:]]
    return [sys.executable, *arguments]


@functools.cache
def starter() -> Starter:
    """The process that forks, of which there is one. It ends with this process."""
    return Starter()


class Starter:
    """A process that forks for each that it is asked for. Those that still run when it ends go on."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="domyn-swarm-forks-")
        self.address = f"{self._folder.name}/socket"
        self._python = _python_settings(os.environ)
        command = [sys.executable, "-P", __file__, self.address]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        assert self._server.stdout
        assert self._server.stdout.readline() == b"ready\n"

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment can be forked: Python reads its settings when it starts."""
        return _python_settings(environment) == self._python

    def start(self, asked: Mapping[str, Any], *wanted: int | IO[Any] | None) -> Forked:
        """`wanted` are stdin, stdout and stderr, as `subprocess.Popen` takes them."""
        with contextlib.ExitStack() as theirs:
            files: list[int] = []
            pipes: list[IO[str] | None] = []
            for number, one in enumerate(wanted):
                file, pipe = (files[1], None) if one == subprocess.STDOUT else _file(one, number, theirs)
                files.append(file)
                pipes.append(pipe)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.address)
            socket.send_fds(connection, [json.dumps(asked).encode()], files)
            return Forked(asked["arguments"], connection, pipes)


def _file(wanted: int | IO[Any] | None, number: int, theirs: contextlib.ExitStack) -> tuple[int, IO[str] | None]:
    """What the process reads from or writes to, and this end of it if it is a pipe."""
    if wanted is None:
        return number, None
    if wanted == subprocess.DEVNULL:
        return theirs.enter_context(Path(os.devnull).open("r+b")).fileno(), None
    if wanted != subprocess.PIPE:
        return wanted if isinstance(wanted, int) else wanted.fileno(), None
    reading, writing = os.pipe()
    there, here, mode = (reading, writing, "w") if number == 0 else (writing, reading, "r")
    theirs.callback(os.close, there)
    return there, os.fdopen(here, mode, encoding="utf-8")


def _python_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python reads when it starts. Ray sets the one that is read later, in every process that it has been in."""
    return {
        name: value for name, value in environment.items() if name.startswith("PYTHON") and name != "PYTHONBREAKPOINT"
    }


def _read(pipe: IO[str] | None, text: list[str]) -> None:
    if pipe:
        text.append(pipe.read())


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode().replace("\r\n", "\n")
    return text


# The process that forks.


def become_a_process(address: str) -> list[str]:
    """Serve at `address`; return in each process that was asked for, with all set, the arguments of its program."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for processes
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:  # whoever started this is gone
                sys.exit()
            connection, _ = listener.accept()
            content, files, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
            asked = json.loads(content)
            for module in asked["imports"]:
                _import(module)
            if os.fork() == 0:
                break
            for file in (*files, connection.detach()):
                os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        _wait_for(pid, connection, files)
    connection.close()
    for target, file in enumerate(files):
        os.dup2(file, target)
    for file in {*files} - {0, 1, 2}:
        os.close(file)
    _adopt(asked)
    return list(asked["arguments"])


def _adopt(asked: Mapping[str, Any]) -> None:
    """Take over what a new process would have from whoever started it."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for limit, values in asked["limits"]:
        resource.setrlimit(limit, values)
    if asked["umask"] is not None:
        os.umask(asked["umask"])


def _wait_for(pid: int, connection: socket.socket, files: Sequence[int]) -> NoReturn:
    for file in files:
        os.close(file)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(struct.pack("i", pid))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(struct.pack("i", status))
    os._exit(0)


def _import(module: str) -> None:
    if module not in sys.modules:
        __import__(module)
        assert threading.active_count() == 1, "a thread does not survive a fork"
        gc.freeze()


def build_commands() -> None:
    """Build the command line once for all: Typer would at each call, which takes a third of a short one."""
    import typer.main

    from domyn_swarm.cli.main import app

    command = typer.main.get_command(app)
    typer.main.get_command = lambda _: command
    waiting: list[Any] = [command]
    while waiting:
        one = waiting.pop()
        waiting.extend(getattr(one, "commands", {}).values())
        for parameter in one.params:
            if hasattr(parameter, "get_runtime_param"):
                parameter.get_runtime_param()


if __name__ == "__main__":
    for module in PRELOADED:
        _import(module)
    from domyn_swarm.data.backends.registry import load_backend
    from domyn_swarm.engine.recording.reporter import installed_versions

    load_backend("pandas")
    build_commands()
    installed_versions()  # both look through the metadata of all that is installed, and keep what they find
    gc.freeze()
    sys.argv = become_a_process(sys.argv[1])
    if sys.argv[0] == PROGRAM:
        sys.modules["domyn_swarm.cli.main"].main()
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
