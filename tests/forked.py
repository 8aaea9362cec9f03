"""Commands without the second that each would spend on imports: a process that has imported everything forks for each.

What comes of it is a process of its own like any other, with its folder, environment, files and exit status. The suite
starts hundreds of commands. What a command imports, and when, is tested elsewhere
(test_imports), and so is the console script, by all tests that let one run beside them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 2**20
PRELOADED = (
    "domyn_swarm.cli.main", "domyn_swarm.engine.runner", "domyn_swarm.runs.submit", "domyn_swarm.report.progress",
    "domyn_swarm.data.backends.pandas_backend", "domyn_dags.job",
)  # fmt: skip
"""What nearly every command imports; no engine but the default one."""


class Forks:
    """The process that forks, and the commands that it was asked for."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="domyn-swarm-forks-")
        self._address = f"{self._folder.name}/socket"
        self._python = _python_settings(os.environ)
        command = [sys.executable, "-P", __file__, self._address]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        assert self._server.stdout.readline() == b"ready\n"

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with this environment can be forked: Python reads its settings when it starts."""
        return _python_settings(environment) == self._python

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> Any:
        """As `subprocess.run`, with what was printed as text."""
        with (
            socket.socket(socket.AF_UNIX) as server, Path(os.devnull).open("rb") as nothing,
            tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err,
        ):  # fmt: skip
            server.connect(self._address)
            asked = json.dumps([list(arguments), str(Path.cwd()), dict(environment)]).encode()
            socket.send_fds(server, [asked], [file.fileno() for file in (nothing, out, err)])
            answers = server.makefile("r")
            pid = int(answers.readline())
            server.settimeout(timeout)
            try:
                status = int(answers.readline())
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None
            return subprocess.CompletedProcess(list(arguments), status, _text(out), _text(err))

    def close(self) -> None:
        """End it; commands that still run go on."""
        self._server.stdin.close()
        self._server.wait()
        self._folder.cleanup()


def _python_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python reads when it starts. Ray sets the one that is read later, in every process that it has been in."""
    return {
        name: value for name, value in environment.items() if name.startswith("PYTHON") and name != "PYTHONBREAKPOINT"
    }


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def become_a_command(address: str) -> None:
    """Serve at `address`; return in each process that is a command, with all set for its `main`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for commands
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:  # whoever started this is gone
                sys.exit()
            connection, _ = listener.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, files, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
    pid = os.fork()
    if pid:
        _wait_for(pid, connection)
    connection.close()
    arguments, folder, environment = json.loads(asked)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["domyn-swarm", *arguments]


def _wait_for(pid: int, connection: socket.socket) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{pid}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    for module in PRELOADED:
        __import__(module)
    from domyn_swarm.data.backends.registry import load_backend
    from domyn_swarm.engine.recording.reporter import installed_versions

    load_backend("pandas")
    installed_versions()  # both look through the metadata of all that is installed, and keep what they find
    assert threading.active_count() == 1, "a thread does not survive a fork"
    gc.freeze()
    become_a_command(sys.argv[1])
    sys.modules["domyn_swarm.cli.main"].main()
