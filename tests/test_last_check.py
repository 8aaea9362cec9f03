"""What was checked before a run is checked again immediately before its output takes its place."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from domyn_swarm import make_spec, run
from domyn_swarm.checkpoint import lock
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data import parquet_writer
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
    with contextlib.suppress(FileNotFoundError):  # it may have happened before
        place.fs.rm(f"{place.path}/in.parquet")


def lost_lock(place: Place, output: str) -> None:
    successor = {"host": "elsewhere", "pid": 1, "machine": "m", "started": 1.0, "since": "now", "token": "theirs"}
    place.fs.pipe_file(f"{place.path}/.domyn-swarm/{output}/lock-000099", json.dumps(successor).encode())


def input_again(place: Place, _output: str) -> None:
    place.put("in.parquet", {"text": TEXTS})


EVENTS = (foreign_output, removed_output, other_input, no_input, input_again, lost_lock)
MOMENTS = ("before the calls", "before the write", "when it is written", "after the check")
Event = Callable[[Place, str], None]


@contextlib.contextmanager
def happening(changes: Sequence[tuple[str, Callable[[], None]]]) -> Iterator[None]:
    """Each change happens once, at its moment of a run; what is tried while it is planned does not count."""
    left: dict[str, list[Callable[[], None]]] = {moment: [] for moment in MOMENTS}
    begin = CheckpointStore.begin

    def begun(*arguments: Any, **options: Any) -> None:
        for moment, change in changes:
            left[moment].append(change)
        begin(*arguments, **options)

    def happen(moment: str) -> None:
        while left[moment]:
            left[moment].pop(0)()

    def around(real: Callable[..., Any], moment: str, before: bool) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if before:
                happen(moment)
            result = real(*arguments, **options)
            if not before:
                happen(moment)
            return result

        return called

    targets = {
        "before the calls": (CheckpointStore, "flush", True),
        "before the write": (parquet_writer._Writing, "to", True),
        "when it is written": (parquet_writer, "_write_file", False),
        "after the check": (lock.FencingToken, "renew", False),
    }
    with contextlib.ExitStack() as patched:
        patched.enter_context(mock.patch.object(CheckpointStore, "begin", begun))
        for moment, (where, name, before) in targets.items():
            patched.enter_context(mock.patch.object(where, name, around(getattr(where, name), moment, before)))
        yield


class Commits(RuleBasedStateMachine):
    """Runs into one output, and others who change input, output and lock between them and at moments of each.

    Whatever is there in the end is what the run made of the input that it was planned with, or what others left there.
    """

    def __init__(self, places: Iterator[Place], moments: Sequence[str]) -> None:
        super().__init__()
        self.place = next(places)
        self.moments = moments
        self.output = ""
        self.texts: list[str] | None = TEXTS
        self.there: list[dict[str, Any]] | None = None
        self.may_commit = True

    @initialize(output=st.sampled_from(["out.parquet", "out"]), before=st.booleans())
    def begin(self, output: str, before: bool) -> None:
        self.output = output
        input_again(self.place, output)
        if before:
            self.place.submit(output, limit=3)
            self.there = self.place.read(output)
            assert self.there == answers(TEXTS, 3)

    def change(self, event: Event, planned: list[str] | None = None, moment: str = "") -> None:
        event(self.place, self.output)
        self.there = FOREIGN if event is foreign_output else None if event is removed_output else self.there
        inputs = {other_input: OTHERS, no_input: None, input_again: TEXTS}
        self.texts = inputs.get(event, self.texts)
        if moment != "after the check":
            self.may_commit = self.may_commit and event is not lost_lock and self.texts == planned

    @rule(event=st.sampled_from(EVENTS[:-1]))
    def between_runs(self, event: Event) -> None:
        self.change(event)

    @rule(changes=st.lists(st.tuples(st.sampled_from(MOMENTS), st.sampled_from(EVENTS)), max_size=3))
    def run(self, changes: list[tuple[str, Event]]) -> None:
        planned, error, self.may_commit = self.texts, None, True
        changes = [(moment, event) for moment, event in changes if self.may_happen(moment, event)]
        calls = [(moment, partial(self.change, event, planned, moment)) for moment, event in changes]
        with happening(calls):
            try:
                self.place.submit(self.output)
            except SwarmError as raised:
                error = raised
        self.check(error, planned)
        with contextlib.suppress(FileNotFoundError):
            self.place.fs.rm_file(f"{self.place.path}/.domyn-swarm/{self.output}/lock-000099")

    def may_happen(self, moment: str, event: Event) -> bool:
        """A lock that is asked for in vain is not taken by those who know how; stores replace without a condition."""
        return moment in self.moments and not (moment == "after the check" and event is lost_lock)

    def check(self, error: SwarmError | None, planned: list[str] | None) -> None:
        now = self.place.read(self.output)
        if error is None:
            assert planned is not None
            assert (now, self.may_commit) == (answers(planned), True)
            assert self.there != FOREIGN
            self.there = now
        else:
            assert now == self.there
        if isinstance(error, OutputConflictError) and now == FOREIGN and self.texts == planned:
            beside = [self.place.read(name) for name in self.place.beside(self.output)]
            assert answers(planned or []) in beside
        assert not [name for name in self.place.names() if name.endswith((".tmp", ".old"))]


def many(times: int, steps: int) -> settings:
    return settings(max_examples=times, stateful_step_count=steps, deadline=None)


def folders(root: Path) -> Iterator[Place]:
    for number in itertools.count():
        folder = root / str(number)
        folder.mkdir()
        yield Place(str(folder))


@pytest.mark.parametrize("size", [many(5, 4), pytest.param(many(20, 6), marks=pytest.mark.stress)], ids=["few", "many"])
def test_others_change_things_between_and_during_runs(size: settings, tmp_path: Path) -> None:
    places = folders(tmp_path)
    run_state_machine_as_test(lambda: Commits(places, MOMENTS), settings=size)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with object_store(log=tmp_path_factory.mktemp("store") / "requests.jsonl") as healthy:
        yield healthy


@pytest.mark.parametrize("size", [many(2, 3), pytest.param(many(4, 5), marks=pytest.mark.stress)], ids=["few", "many"])
def test_others_change_things_between_and_during_runs_in_an_object_store(
    size: settings, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    buckets = []

    def machine() -> Commits:
        buckets.append(store.bucket())
        return Commits(iter([Place(f"s3://{buckets[-1].name}")]), MOMENTS[:3])

    run_state_machine_as_test(machine, settings=size)
    assert not [upload for bucket in buckets for upload in bucket.uploads()]


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_an_output_that_appears_after_the_check_is_not_replaced(output: str, tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    input_again(place, output)
    with (
        happening([("after the check", lambda: foreign_output(place, output))]),
        pytest.raises(OutputConflictError) as conflict,
    ):
        place.submit(output)
    assert (conflict.value.exit_status, place.read(output)) == (1, FOREIGN)
    assert [place.read(name) for name in place.beside(output)] == [answers(TEXTS)]


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
        mock.patch.object(lock, "atomic_write", side_effect=PermissionError(13, "Permission denied", "lock-000001")),
        pytest.raises(JobError, match="Permission denied"),
    ):
        place.submit("out.parquet")
    assert place.read("out.parquet") is None
    assert place.submit("out.parquet").done_before == 8
    assert place.read("out.parquet") == answers(TEXTS)
