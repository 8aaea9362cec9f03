"""A real kernel that a test starts, runs cells in, interrupts as the stop button does, and ends; a job to interrupt."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client import KernelManager

CELL_SECONDS = 120


@dataclass
class Cell:
    """What a cell showed: streams as text, displays in order with those that were drawn over again, result, error."""

    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, str]] = field(default_factory=list)
    updates: list[dict[str, str]] = field(default_factory=list)
    result: dict[str, str] = field(default_factory=dict)
    error: str = ""
    traceback: str = ""

    @property
    def text(self) -> str:
        """The result as text."""
        assert not self.error, self.traceback
        return self.result.get("text/plain", "")

    def take(self, message: dict[str, Any]) -> None:
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                setattr(self, content["name"], getattr(self, content["name"]) + content["text"])
            case "display_data":
                self.displays.append(content["data"])
            case "update_display_data":
                self.updates.append(content["data"])
            case "execute_result":
                self.result = content["data"]
            case "error":
                self.error, self.traceback = content["ename"], "\n".join(content["traceback"])


class Kernel:
    """A kernel of the environment that the tests run in, with the test's folder to work in and for temporary files."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        places = {"TMPDIR": str(self.temporary), "RAY_TMPDIR": "/tmp", "IPYTHONDIR": str(folder / "ipython")}
        self._manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
        with (folder / "kernel.log").open("w") as log:
            self._manager.start_kernel(cwd=str(folder), env={**os.environ, **places}, stdout=log, stderr=log)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        self.process = psutil.Process(self._manager.provisioner.process.pid)  # type: ignore[union-attr]

    def run(self, code: str, *, interrupt_when: Sequence[Callable[[Cell], bool]] = ()) -> Cell:
        """Run a cell to its end. The stop button is pressed as soon as each of the conditions holds, one by one."""
        cell, conditions = Cell(), list(interrupt_when)
        request = self._client.execute(code)
        until = time.monotonic() + CELL_SECONDS
        while time.monotonic() < until:
            if conditions and conditions[0](cell):
                conditions.pop(0)
                self._manager.interrupt_kernel()
            try:
                message = self._client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                assert self._manager.is_alive(), Path("kernel.log").read_text()
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            cell.take(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                assert not conditions, f"It ended before it was interrupted: {cell}"
                return cell
        raise AssertionError(f"The cell has not ended. So far: {cell}")

    def begin(self, code: str) -> None:
        """Run a cell, and do not wait for its end."""
        self._client.execute(code)

    def left(self) -> list[str]:
        """What of this package lies among temporary files."""
        return [path.name for path in self.temporary.glob("domyn-swarm*")]

    def processes(self) -> list[str]:
        """The processes that the kernel has started, and those that they have."""
        return [process.name() for process in self.process.children(recursive=True)]

    def end(self) -> None:
        """As when its notebook is closed."""
        self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Kernel]:
    """A kernel that has imported this package."""
    kernel = Kernel(folder)
    try:
        kernel.run(f"import domyn_swarm\nfrom domyn_swarm import SwarmJob\nfolder = {str(folder)!r}")
        yield kernel
    finally:
        kernel.end()


# A job that never ends by itself: six rows are done at once, others take ten minutes unless there is a file `quick`.

ROWS, QUICK_ROWS = 12, 6
DEFINITIONS = f"""
import asyncio, os, time

texts = {{"text": [str(number) for number in range({ROWS})]}}

def seconds(text):
    with open(os.path.join(folder, "calls"), "a") as calls:
        calls.write(text + "\\n")
    return 600 if int(text) >= {QUICK_ROWS} and not os.path.exists(os.path.join(folder, "quick")) else 0
"""
METHODS = {
    "async def": """
class Twice(SwarmJob):
    input_columns, output_columns = ("text",), ("twice",)

    async def transform_item(self, text):
        await asyncio.sleep(seconds(text))
        return 2 * text
""",
    "def": """
class Twice(SwarmJob):
    input_columns, output_columns = ("text",), ("twice",)
    defaults = {"max_concurrency": 4}

    def transform_item(self, text):
        time.sleep(seconds(text))
        return 2 * text
""",
}
EITHER_METHOD = pytest.mark.parametrize("method", METHODS)


def calls() -> Counter[str]:
    """How often the job was called for each text."""
    return Counter(Path("calls").read_text().split()) if Path("calls").exists() else Counter()


def quick_rows_are_shown(cell: Cell) -> bool:
    return any(shown["text/plain"].startswith(f"{QUICK_ROWS} of {ROWS} rows") for shown in cell.updates)


def slow_rows_are_asked_for(_: Cell) -> bool:
    return len(calls()) > QUICK_ROWS


def at_once(_: Cell) -> bool:
    return True


def assert_short(cell: Cell, error: str = "Interrupted") -> None:
    """It says what happened in a line or two, and traces nothing."""
    assert cell.error == error, cell
    assert len(cell.traceback.splitlines()) <= 3
    assert "Traceback" not in cell.traceback
