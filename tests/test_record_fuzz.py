"""Records of a run's folder, and rows of the index, damaged: shown as unreadable, or refused; no traceback."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domyn_swarm.checkpoint import lock
from domyn_swarm.checkpoint.process import this_process
from domyn_swarm.cli.main import app
from domyn_swarm.errors import SwarmError
from domyn_swarm.runs.index import names_for_completion
from tests.conftest import job, write
from tests.detached import FOLDER, called_here
from tests.test_found_runs import SUBMISSION

RECORDS = ("submission.json", "run.json", "spec.json", "lock-000001")
SHOWS = (
    ("job", "list"), ("job", "status", "{}"), ("job", "show", "{}"), ("job", "row", "{}", "1"),
    ("checkpoint", "inspect", "{}"), ("job", "diff", "{}", "whole"),
)  # fmt: skip
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from([10**30, -1, 2**63, "9999-12-31T23:59:59+00:00", "0001-01-01", "../..", "\x1b]0;x\x07", "a\nb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The records of a run that was sent, and has ended."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.001)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.001)
    write("in.parquet", {"text": ["a", "b"]})
    with contextlib.redirect_stdout(io.StringIO()):
        called_here("job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet")
    handle = {
        "host": "elsewhere", "pid": 1, "machine": "another", "started": 5.0, "log": "/nowhere", "begins": 0,
        "spec": f"{FOLDER.resolve()}/spec.json",
    }  # fmt: skip
    (FOLDER / "submission.json").write_text(json.dumps({**SUBMISSION, "handle": handle}))
    owner = this_process()
    holder = {"host": owner.host, "pid": owner.pid, "machine": owner.machine, "started": owner.started}
    (FOLDER / "lock-000001").write_text(json.dumps({**holder, "since": owner.since, "token": "x", "beat": 1}))
    shutil.copytree(FOLDER, "whole")
    return {name: (FOLDER / name).read_bytes() for name in RECORDS}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@functools.cache
def command_line() -> Any:
    """Building it takes longer than most commands."""
    return typer.main.get_command(app)


def told(*arguments: str) -> None:
    """A command says something, or refuses."""
    with contextlib.suppress(SwarmError), contextlib.redirect_stdout(io.StringIO()):
        command_line().main(list(arguments), prog_name="domyn-swarm", standalone_mode=False)


@settings(max_examples=15, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_record_is_shown_or_refused(whole: dict[str, bytes], data: st.DataObject) -> None:
    for name, content in whole.items():
        (FOLDER / name).write_bytes(content)
    name = data.draw(st.sampled_from(RECORDS))
    content = whole[name]
    if data.draw(st.booleans()):
        value = json.loads(content)
        value = changed(value, data.draw(st.sampled_from(places(value))), data.draw(JSON))
        damaged = json.dumps(value).encode()
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        cut = data.draw(st.integers(at, len(content)))
        damaged = content[:at] + data.draw(st.binary(max_size=4)) + content[cut:]
    (FOLDER / name).write_bytes(damaged)
    for shows in SHOWS:
        told(*(word.format(FOLDER) for word in shows))
    told("job", "list", "--json")


ROWS = st.tuples(
    st.text(max_size=10) | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=5),
    st.sampled_from([".", "/", "nowhere://x", "s3://", "\0", "reference://x", "a\nb"]) | st.text(max_size=10),
    st.sampled_from(["{}", "[]", "", "{", '{"a": 1}', "[" * 100_000, '{"skip_instance_cache": 3}']) | st.integers(0, 5),
)


@settings(max_examples=15, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=4, unique_by=(lambda row: str(row[0]), lambda row: row[1])), st.text(max_size=20))
def test_damaged_rows_of_the_index_end_no_listing(whole: dict[str, bytes], rows: list[Any], handle: str) -> None:
    with contextlib.closing(sqlite3.connect(Path(os.environ["XDG_DATA_HOME"]) / "domyn-swarm/runs.sqlite")) as db:
        db.execute("DELETE FROM runs WHERE name <> 'out'")
        db.executemany("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", rows)
        db.execute("DELETE FROM sent")
        db.execute("INSERT INTO sent VALUES (?, 'local', ?)", (str(FOLDER.resolve()), handle))
        db.commit()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        told_list = command_line().main(["job", "list", "--json"], prog_name="domyn-swarm", standalone_mode=False)
    assert not told_list
    assert "out" in {run["name"] for run in json.loads(printed.getvalue())}
    told("job", "status", "out")
    assert names_for_completion("o") == ["out"]
