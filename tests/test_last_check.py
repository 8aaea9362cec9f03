"""What was checked before a run is checked again immediately before its output takes its place."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domyn_swarm import make_spec, run
from domyn_swarm.checkpoint import lock
from domyn_swarm.checkpoint.lock import LockLostError
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data import arrow
from domyn_swarm.errors import ConfigurationError, JobError, OutputConflictError, SwarmError
from domyn_swarm.storage.files import filesystem
from tests.conftest import job
from tests.servers.object_store import object_store

TEXTS = [f"row {number}" for number in range(8)]
OTHERS = [f"won {number}" for number in range(8)]
FOREIGN = [{"precious": 1}]


def answers(texts: list[str], count: int = 8) -> list[dict[str, str]]:
    return [{"text": text, "upper": text.upper()} for text in texts[:count]]


class Place:
    """A folder, or a bucket, with an input; and what others do in it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.fs, self.path = filesystem(root)

    def put(self, name: str, columns: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        if "/" in name:
            self.fs.makedirs(f"{self.path}/{name}".rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(f"{self.path}/{name}", buffer.getvalue())

    def read(self, name: str) -> list[dict[str, Any]] | None:
        """The rows of a file or folder; None when there is none."""
        found = [
            file for file in self.fs.find(f"{self.path}/{name}") if file.endswith(".parquet") or ".conflict-" in file
        ]
        tables = [pq.read_table(io.BytesIO(self.fs.cat_file(file))) for file in sorted(found)]
        return [row for table in tables for row in table.to_pylist()] if tables else None

    def beside(self, name: str) -> list[str]:
        """What is kept beside the output `name`."""
        names = {file.rstrip("/").rpartition("/")[2] for file in self.fs.ls(self.path, detail=False)}
        return sorted(one for one in names if one.startswith(f"{name}.conflict-"))

    def names(self) -> set[str]:
        return {file.removeprefix(f"{self.path}/") for file in self.fs.find(self.path)}

    def submit(self, output: str, **options: Any) -> Any:
        return run(make_spec({
            "job": job("Upper"), "input": f"{self.root}/in.parquet", "output": f"{self.root}/{output}", **options
        }))  # fmt: skip


def foreign_output(place: Place, output: str) -> None:
    name = output if output.endswith(".parquet") else f"{output}/precious.parquet"
    with contextlib.suppress(FileNotFoundError):
        place.fs.rm(f"{place.path}/{output}", recursive=True)
    place.put(name, {"precious": [1]})


def removed_output(place: Place, output: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        place.fs.rm(f"{place.path}/{output}", recursive=True)


def other_input(place: Place, _output: str) -> None:
    place.put("in.parquet", {"text": OTHERS})


def no_input(place: Place, _output: str) -> None:
    place.fs.rm(f"{place.path}/in.parquet")


def lost_lock(place: Place, output: str) -> None:
    successor = {"host": "elsewhere", "pid": 1, "machine": "m", "started": 1.0, "since": "now", "token": "theirs"}
    place.fs.pipe_file(f"{place.path}/.domyn-swarm/{output}/lock-000099", json.dumps(successor).encode())


EVENTS = (foreign_output, removed_output, other_input, no_input, lost_lock)
MOMENTS = ("before the calls", "before the write", "when it is written", "after the check")


@contextlib.contextmanager
def happening(moment: str, event: Callable[[], None]) -> Iterator[None]:
    """`event` happens once, at that moment of a run; what is tried while it is planned does not count."""
    left: list[Callable[[], None]] = []
    begin = CheckpointStore.begin

    def begun(*arguments: Any, **options: Any) -> None:
        left.append(event)
        begin(*arguments, **options)

    def once() -> None:
        if left:
            left.pop()()

    def wrapped(real: Callable[..., Any], before: bool) -> Callable[..., Any]:
        def around(*arguments: Any, **options: Any) -> Any:
            if before:
                once()
            result = real(*arguments, **options)
            if not before:
                once()
            return result

        return around

    targets = {
        "before the calls": (CheckpointStore, "flush", True),
        "before the write": (arrow._Writing, "to", True),
        "when it is written": (arrow, "_write_file", False),
        "after the check": (lock.Fence, "renew", False),
    }
    where, name, before = targets[moment]
    around = wrapped(getattr(where, name), before)
    with mock.patch.object(CheckpointStore, "begin", begun), mock.patch.object(where, name, around):
        yield


def check_what_is_left(place: Place, output: str, event: Any, error: SwarmError | None, old: Any) -> None:
    """The output is right, or untouched with what was made beside it, or the successor's to write."""
    there = place.read(output)
    right = answers(TEXTS)
    if event is foreign_output:
        assert there == FOREIGN
        assert isinstance(error, OutputConflictError)
        assert [place.read(name) for name in place.beside(output)] == [right]
    elif event is removed_output:
        assert (error, there) == (None, right)
    elif event is lost_lock:
        assert isinstance(error, LockLostError)
        assert (there, place.beside(output)) == (old, [])
    else:
        assert isinstance(error, JobError)
        assert error.exit_status == 1
        assert there == old
    assert not [name for name in place.names() if name.endswith((".tmp", ".old"))]


def played(place: Place, output: str, event: Any, moment: str, *, before: bool) -> None:
    """One run, into an output that is this very run's from `before`, or that is not there."""
    place.put("in.parquet", {"text": TEXTS})
    old = None
    if before:
        place.submit(output, limit=3)
        old = answers(TEXTS, 3)
        assert place.read(output) == old
    error = None
    with happening(moment, lambda: event(place, output)):
        try:
            place.submit(output)
        except SwarmError as raised:
            error = raised
    check_what_is_left(place, output, event, error, old)


cases = given(
    output=st.sampled_from(["out.parquet", "out"]), event=st.sampled_from(EVENTS), moment=st.sampled_from(MOMENTS[:3]),
    before=st.booleans(),
)  # fmt: skip


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@cases
def test_something_changes_during_a_run(output: str, event: Any, moment: str, before: bool, tmp_path: Path) -> None:
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    played(Place(str(folder)), output, event, moment, before=before)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with object_store(log=tmp_path_factory.mktemp("store") / "requests.jsonl") as healthy:
        yield healthy


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@cases
def test_something_changes_during_a_run_in_an_object_store(
    output: str, event: Any, moment: str, before: bool, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = store.bucket()
    played(Place(f"s3://{bucket.name}"), output, event, moment, before=before)
    assert not bucket.uploads()


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_an_output_that_appears_after_the_check_is_not_replaced(output: str, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    played(place, output, foreign_output, "after the check", before=False)


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_what_others_put_beside_an_output_stays(output: str, tmp_path: Path) -> None:
    """However much the names look like those of temporary files; what a killed run left is removed."""
    place = Place(str(tmp_path))
    place.put("in.parquet", {"text": TEXTS})
    place.submit(output, limit=3)
    run_id = json.loads((tmp_path / f".domyn-swarm/{output}/run.json").read_text())["run_id"]
    theirs = [f".{output}.tmp", f".{output}.old", f".{output}.4711.tmp", f".{output}.{'0' * 32}.tmp", f"{output}.tmp"]
    for name in theirs:
        (tmp_path / name / "precious").mkdir(parents=True)
    left = tmp_path / f".{output}.{run_id}-{'1' * 32}.tmp"
    left.write_text("half of an output")
    place.submit(output)
    assert place.read(output) == answers(TEXTS)
    assert all((tmp_path / name / "precious").is_dir() for name in theirs)
    assert not left.exists()


def test_a_file_of_failed_rows_that_is_none_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    place.put("in.parquet", {"text": TEXTS})
    place.put("out.errors.parquet", {"precious": [1]})
    place.submit("out.parquet")
    assert place.read("out.errors.parquet") == FOREIGN
    with pytest.raises(OutputConflictError, match="failed rows were not written") as conflict:
        place.submit("bad.parquet", job=job("Picky"), **failing(place))
    assert conflict.value.exit_status == 1
    assert place.read("bad.errors.parquet") == FOREIGN
    assert [row["type"] for row in place.read(place.beside("bad.errors.parquet")[0]) or []] == ["ValueError"]


def test_failed_rows_of_another_run_are_kept(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    place.put("in.parquet", {"text": ["fine", "bad"]})
    place.submit("out.parquet", job=job("Picky"), retries=0)
    failed = place.read("out.errors.parquet")
    (tmp_path / "out.parquet").unlink()
    with pytest.raises(ConfigurationError, match=r"out\.errors\.parquet"):
        place.submit("out.parquet", job=job("Picky"), retries=0, checkpoint_tag="other")
    assert place.read("out.errors.parquet") == failed
    place.submit("out.parquet", job=job("Picky"), retries=0)
    (tmp_path / "out.parquet").unlink()
    place.submit("out.parquet", job=job("Picky"), retries=0, checkpoint_tag="other", overwrite=True)


def failing(place: Place) -> dict[str, Any]:
    place.put("bad.errors.parquet", {"precious": [1]})
    place.put("in.parquet", {"text": ["fine", "bad"]})
    return {"retries": 0}


def test_a_holder_that_cannot_give_a_sign_of_life_does_not_write(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    place.put("in.parquet", {"text": TEXTS})
    with (
        mock.patch.object(lock, "whole_file", side_effect=PermissionError(13, "Permission denied", "lock-000001")),
        pytest.raises(JobError, match="Permission denied"),
    ):
        place.submit("out.parquet")
    assert place.read("out.parquet") is None
    assert place.submit("out.parquet").done_before == 8
    assert place.read("out.parquet") == answers(TEXTS)
