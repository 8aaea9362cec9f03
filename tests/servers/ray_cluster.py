"""A real Ray cluster of one machine, as `ray start` makes it, with the dashboard that takes jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
"""What the cluster and all who speak to it have in their environment."""
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
CPUS = 2
START_SECONDS = 120


class RayCluster:
    """`url` is its dashboard's; at `port` nodes and drivers reach it."""

    def __init__(self, folder: Path) -> None:
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self.url = f"http://127.0.0.1:{ports['dashboard-port']}"
        self.port = ports["port"]
        self._log = folder / "start.log"
        scripts = Path(sys.executable).parent  # whose `python` its jobs get
        command = [
            str(scripts / "ray"), "start", "--head", "--block", f"--num-cpus={CPUS}", "--include-dashboard=true",
            f"--temp-dir={folder}", "--object-store-memory=100000000",
            *(f"--{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        environment = {**os.environ, **SETTINGS, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)

    def wait(self) -> None:
        """Return when it takes jobs."""
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/api/jobs/", timeout=5):
            return True
        return False

    def job(self, submission: str) -> str:
        """Everything that the cluster tells of a job, as it comes."""
        with urllib.request.urlopen(f"{self.url}/api/jobs/{submission}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def stop(self) -> None:
        """End it as a power cut does."""
        processes: list[Any] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self._process.pid)
            processes = [head, *head.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=10)


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that takes jobs."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # its sockets' paths have to be short
    cluster = RayCluster(folder)
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
