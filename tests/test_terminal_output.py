"""What is printed on a terminal: texts of others are shown, and do nothing to it."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from domyn_swarm.report.terminal import escaped, one_line
from tests.conftest import Command, job, start_command, write
from tests.test_found_runs import found

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\x7f\r"


def on_a_terminal(*arguments: str, env: dict[str, str] | None = None) -> str:
    """What the command writes to a terminal."""
    main, side = pty.openpty()
    process = start_command(
        *arguments, stdin=side, stdout=side, stderr=side, env={**os.environ, "CI": "", **(env or {})}
    )
    os.close(side)
    pieces = []
    while True:
        try:
            piece = os.read(main, 65_536)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(main)
    process.wait(60)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def test_control_characters_are_spelled_as_in_json() -> None:
    text = escaped("a\tb\n" + HOSTILE + "\U000e0041 é 漢 👩\u200d🔬")
    assert text == (
        "a\tb\n\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u202egnp.exe\\u007f\\u000d\\udb40\\udc41 é 漢 👩\u200d🔬"
    )
    assert one_line("a\nb\x1b") == "a\\nb\\u001b"
    assert json.loads(escaped(json.dumps(HOSTILE, ensure_ascii=False))) == HOSTILE


def test_ids_texts_logs_names_and_paths_are_escaped_on_a_terminal(command: Command) -> None:
    write("in.parquet", {"key": [HOSTILE], "text": [HOSTILE]})
    files = ("--input", "in.parquet", "--output", "out.parquet", "--id-column", "key", "--input-column", "text")
    assert command("job", "submit", job("Upper"), *files).returncode == 0
    folder = found(handle={
        "host": "h", "pid": 1, "machine": "m", "started": 1.0, "log": "/l", "begins": 0, "spec": "/s/spec.json",
    }, host=HOSTILE)  # fmt: skip
    (folder / "log.txt").write_text(f"said {HOSTILE}\n")
    Path(HOSTILE.replace("/", "")).mkdir()
    for line in (
        ("job", "row", "out", HOSTILE), ("job", "logs", "found"), ("job", "status", "found"),
        ("job", "status", f"./{HOSTILE}"), ("job", "row", "out", HOSTILE, "--json"),
        ("job", "show", "nothing" + HOSTILE),
    ):  # fmt: skip
        piped = command(*line)
        for printed in (on_a_terminal(*line), piped.stdout + piped.stderr):
            assert printed, line
            assert [char for char in printed if char in "\x1b\x07\x9b\u202e\x7f"] == [], (line, printed)
    assert json.loads(on_a_terminal("job", "row", "out", HOSTILE, "--json"))["id"] == HOSTILE
    assert json.loads(command("job", "row", "out", HOSTILE, "--json").stdout)["id"] == HOSTILE


def test_a_line_break_in_a_name_makes_no_line_of_a_listing(command: Command) -> None:
    folder = Path("a\nb  running/.domyn-swarm/x")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    assert command("job", "list").returncode == 0
    assert [line for line in command("job", "list").stdout.splitlines() if line.startswith("b  ")] == []
    status = command("job", "status", str(folder)).stdout
    assert [line for line in status.splitlines() if line.startswith("b  ")] == []


def test_colours_are_shown_on_a_terminal_and_nowhere_else(command: Command) -> None:
    assert "\x1b[32mok" in on_a_terminal("doctor", env={"TERM": "xterm"})
    for printed in (command("doctor").stdout, on_a_terminal("doctor", env={"NO_COLOR": "1"})):
        assert "ok       python" in printed
        assert "\x1b" not in printed
        assert "u001b" not in printed


def test_a_progress_bar_is_still_drawn() -> None:
    write("in.parquet", {"text": ["a"] * 50})
    flags = ("--job-kwargs", '{"seconds": 0.05}', "--max-concurrency", "1")
    printed = on_a_terminal(
        "job", "submit", job("Paced"), "--input", "in.parquet", "--output", "out.parquet", *flags, env={"TERM": "xterm"}
    )
    assert "\x1b[" in printed
    assert "of 50 rows" in printed
    assert "\\u001b" not in printed


@pytest.mark.parametrize("name", ["a b; rm -rf ~", "$(id)", "'q'"])
def test_hints_that_are_pasted_are_quoted(name: str, command: Command) -> None:
    folder = Path(name)
    write(f"{name}/in.parquet", {"text": ["a"]})
    done = command("job", "submit", job("Upper"), "--input", f"{name}/in.parquet", "--output", f"{name}/out.parquet")
    assert done.returncode == 0, done.stderr
    run = folder / ".domyn-swarm/out.parquet"
    (run / "run.json").write_text("[]")
    import shlex

    said = command("job", "view", str(run)).stderr
    assert f"checkpoint inspect {shlex.quote(str(run))}" in said
