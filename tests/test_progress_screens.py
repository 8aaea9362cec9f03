"""Progress as it looks on a terminal: a real pty, read by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading
import time

import pyte
import pytest

from domyn_swarm.endpoint.demo import DemoSettings, demo_server
from domyn_swarm.report.bar import Bar
from domyn_swarm.report.rates import Rates
from domyn_swarm.telemetry.counts import Counts
from tests.conftest import job, start_command, write

WIDTHS = (40, 60, 80, 100, 150)
ROWS = 300
PACED = (
    "job", "submit", job("Paced"), "--input", "in.parquet", "--output", "out.parquet",
    "--job-kwargs", '{"seconds": 0.05}', "--max-concurrency", "8",
)  # fmt: skip


class Terminal:
    """A command on a terminal of `columns`, whose screens are kept whenever the command wrote something."""

    def __init__(self, *arguments: str, columns: int, env: dict[str, str] | None = None) -> None:
        self.screen = pyte.Screen(columns, 40)
        self.screens: list[list[str]] = []
        self._stream = pyte.ByteStream(self.screen)
        self._ours, side = os.openpty()
        self.resize(columns)
        environment = {**os.environ, "TERM": "xterm", "CI": "", **(env or {})}
        environment = {name: value for name, value in environment.items() if value and name != "COLUMNS"}
        self.process = start_command(*arguments, stdin=side, stdout=side, stderr=side, env=environment)
        os.close(side)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:
                return
            if not piece:
                return
            self._stream.feed(piece)
            self.screens.append(self.lines)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.screen.resize(40, columns)

    def shows(self, pattern: str, timeout: float = 60) -> None:
        """Wait until a line of the screen matches."""
        deadline = time.monotonic() + timeout
        while not any(re.search(pattern, line) for line in self.lines):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.02)

    def end(self) -> list[str]:
        """The last screen."""
        self.process.wait(120)
        self._thread.join(60)
        os.close(self._ours)
        return self.lines


def bars(lines: list[str]) -> list[str]:
    """The lines with the rows of a run in progress."""
    return [line for line in lines if re.search(r"\d+% [\d,]+ of 300 rows", line)]


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_bar_is_one_line_at_every_width(columns: int) -> None:
    write("in.parquet", {"text": ["a"] * ROWS})
    terminal = Terminal(*PACED, columns=columns)
    last = terminal.end()
    assert [screen for screen in terminal.screens if len(bars(screen)) > 1] == []
    shown = [line for screen in terminal.screens for line in bars(screen)]
    assert shown
    assert any("0 failed" in line for line in shown)
    assert bars(last) == [], "the bar is gone at the end"
    assert last[0].startswith("rows         300"), last


@pytest.mark.parametrize("columns", WIDTHS)
def test_lines_are_as_recorded(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar()
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    Rates.started(bar, 12_000, 1_000)
    more = Counts(2_000, 24, requests=2_100, answers=2_000, tokens_in=50_000, tokens_out=9_000, in_flight=32, limit=64)
    for _ in range(1500):
        more.latencies.record(0.05)
    bar.counts += more
    monkeypatch.setattr("time.monotonic", lambda: 1004.0)
    assert bar.lines(columns - 1) == RECORDED[columns]
    assert all(len(line) < columns for line in bar.lines(columns - 1))


RECORDED: dict[int, list[str]] = {
    40: ["25% 3,000 of 12,000 rows, 24 failed", "525 requests/s, 12,500+2,250 tokens/s"],
    60: [
        "25% 3,000 of 12,000 rows, 500 rows/s, 24 failed, 18 s left",
        "525 requests/s, 12,500+2,250 tokens/s, 32 of 64 in flight",
    ],
    80: [
        "━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  25% 3,000 of 12,000 rows, 500 rows/s, 24 failed, 18 s left",
        "525 requests/s, 12,500+2,250 tokens/s, 32 of 64 in flight, p50 50 ms, p95 50 ms",
    ],
    100: [
        "━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  25% 3,000 of 12,000 rows, 500 rows/s, 24 failed, 18 s left",
        "525 requests/s, 12,500+2,250 tokens/s, 32 of 64 in flight, p50 50 ms, p95 50 ms",
    ],
    150: [
        "━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  25% 3,000 of 12,000 rows, 500 rows/s, 24 failed, 18 s left",
        "525 requests/s, 12,500+2,250 tokens/s, 32 of 64 in flight, p50 50 ms, p95 50 ms",
    ],
}


def test_log_lines_appear_above_the_bar_and_an_interrupt_says_what_happens() -> None:
    write("in.parquet", {"text": ["a"] * ROWS})
    terminal = Terminal(*PACED, columns=60)
    terminal.shows(r"\d+% [1-9]\d* of 300 rows")
    terminal.process.send_signal(2)
    last = terminal.end()
    assert [screen for screen in terminal.screens if len(bars(screen)) > 1] == []
    assert terminal.process.returncode == 130
    assert bars(last) == []
    assert "Runthesamecommandagaintoresume." in "".join(last).replace(" ", ""), last


def test_the_bar_follows_a_resized_terminal() -> None:
    write("in.parquet", {"text": ["a"] * ROWS})
    terminal = Terminal(*PACED, columns=100)
    for columns in (60, 40, 150):
        terminal.shows(r"\d+% [1-9]\d* of 300 rows")
        terminal.resize(columns)
        time.sleep(0.3)
    last = terminal.end()
    assert [screen for screen in terminal.screens if len(bars(screen)) > 1] == []
    assert last[0].startswith("rows         300"), last


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"CI": "true"}])
def test_where_the_cursor_cannot_move_there_are_log_lines(env: dict[str, str]) -> None:
    write("in.parquet", {"text": ["a"] * 20})
    terminal = Terminal(*PACED, columns=100, env=env)
    last = terminal.end()
    assert re.search(r"\d\d:\d\d:\d\d 20 rows, 0 done before", last[0])
    assert not any("━" in line for screen in terminal.screens for line in screen)


def test_the_traffic_is_a_line_of_its_own() -> None:
    write("in.parquet", {"text": ["a"] * ROWS})
    with demo_server(DemoSettings(latency=0.1)) as url:
        flags = ("--input", "in.parquet", "--output", "out.parquet", "--input-column", "text", "--endpoint", url)
        terminal = Terminal("job", "submit", *flags, "--max-concurrency", "8", columns=80)
        terminal.shows(r"^[\d,]+ requests/s, ")
        last = terminal.end()
    with_traffic = [screen for screen in terminal.screens if any(" requests/s" in line for line in screen)]
    assert with_traffic
    assert [screen for screen in with_traffic if len(bars(screen)) != 1] == []
    assert any(line.startswith("tokens ") for line in last)


def test_a_refusal_leaves_no_bar() -> None:
    terminal = Terminal(*PACED, columns=80)
    last = terminal.end()
    assert terminal.process.returncode == 2
    assert last[0].startswith("Error: --input")
