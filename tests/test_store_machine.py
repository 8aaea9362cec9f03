"""The store against a model: whatever is flushed, killed, damaged, merged, moved, every id has its latest success."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domyn_swarm.checkpoint import compact, writer
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION

IDS = 24
Outcome = tuple[int, int | None]
"""A place in today's input, and the value that was made of the row there; None where it failed."""
Tables = st.lists(
    st.lists(st.tuples(st.integers(0, IDS - 1), st.none() | st.integers(0, 999)), max_size=8, unique_by=lambda o: o[0]),
    max_size=5,
)


STEPS = [
    (Path, "replace"), (Path, "unlink"), (os, "fsync"), (pq, "write_table"), (LocalFileSystem, "rm"),
    (LocalFileSystem, "rm_file"), (LocalFileSystem, "mv"),
]  # fmt: skip


class Died(BaseException):
    """The process was killed: nothing it does after this reaches the disk."""


@contextlib.contextmanager
def killed_at(step: int | None) -> Iterator[None]:
    """The process dies when it is about to do its `step`th write, sync, rename, move or removal."""
    left = step
    dead = False

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left, dead
            if left is not None:
                left -= 1
                dead = dead or left < 0
            if dead and name == "unlink":  # what tidies up after an error is not there to do it
                return None
            if dead:
                if name == "write_table":
                    arguments[1].write(b"PAR1 half of a part")
                raise Died
            return real(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in STEPS:
            stack.enter_context(patch.object(owner, name, guarded(name, getattr(owner, name))))
        with contextlib.suppress(Died):
            yield


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "text": lambda _: b"not a parquet file, though it is long enough to be one",
    "emptied": lambda _: b"",
}


class Store(RuleBasedStateMachine):
    """`made` are the values that ids have, `failed` the ids that were tried and have none."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.made: dict[int, int] = {}
        self.failed: set[int] = set()
        self.run = 0
        self.patches = contextlib.ExitStack()
        for module, name, value in [(compact, "PART_ROWS", 8), (writer, "PART_ROWS", 8), (writer, "COMPACT_EVERY", 3)]:
            self.patches.enter_context(patch.object(module, name, value))

    def teardown(self) -> None:
        self.patches.close()
        shutil.rmtree(self.root)

    @initialize(order=st.permutations(range(IDS)))
    def first_input(self, order: list[int]) -> None:
        self.input = order
        self.store = self.opened()
        self.store.folder.save("run.json", {"run_id": "run"})

    def opened(self) -> CheckpointStore:
        """The store as a new process finds it, after what the runner does first."""
        folder = RunFolder(f"{self.root}/run")
        store = CheckpointStore(folder, "id", f"digest of {self.input}", ["made"])
        folder.make()
        folder.tidy()
        store.rebase(self.locate)
        folder.set_aside(store.done(self.locate).damaged)
        return store

    def locate(self, ids: pa.Array[Any]) -> pa.Array[Any]:
        places = {f"id-{number}": place for place, number in enumerate(self.input)}
        return pa.array([places.get(one, -1) for one in ids.to_pylist()], pa.int64())

    # What happens to a store.

    @rule(tables=Tables, worker=st.sampled_from(["", "a", "b"]), cut=st.booleans(), breaks=st.booleans())
    def flush(self, tables: list[list[Outcome]], worker: str, cut: bool, breaks: bool) -> None:
        tables = [self.present(outcomes) for outcomes in tables]
        self.run += 1
        self.flushed(tables, worker, cut, breaks)
        for place, value in (outcome for outcomes in tables for outcome in outcomes):
            self.learn(self.input[place], value)

    @rule(tables=Tables, cut=st.booleans(), step=st.integers(0, 12))
    def be_killed_in_a_flush(self, tables: list[list[Outcome]], cut: bool, step: int) -> None:
        tables = [self.present(outcomes) for outcomes in tables]
        self.run += 1
        before = dict(self.made)
        with killed_at(step):
            self.flushed(tables, "", cut, False)
        self.store = self.opened()
        tried: dict[int, set[int | None]] = {}
        for place, value in (outcome for outcomes in tables for outcome in outcomes):
            tried.setdefault(self.input[place], set()).add(value)
        self.recall()
        for number, value in before.items():
            assert self.made.get(number) in {value, *tried.get(number, ())}, "a durable row was lost"
        assert all(value in tried[number] for number, value in self.made.items() if number not in before)

    @rule(step=st.none() | st.integers(0, 8))
    def merge(self, step: int | None) -> None:
        rows = sum(pq.read_metadata(part).num_rows for part in self.parts())
        with killed_at(step):
            self.store.compact()
        if step is None:
            assert len(self.parts()) <= rows / (8 * compact.SMALL) + 1
        self.store = self.opened()

    @precondition(lambda self: self.parts())
    @rule(data=st.data(), how=st.sampled_from([*DAMAGES, "stranger", "of another run", "rotten"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        part = data.draw(st.sampled_from(self.parts()))
        if how == "rotten" and max(pq.read_table(part)[POSITION].to_pylist()) < 0:
            return  # nobody reads rows that are gone
        if how == "stranger":
            pq.write_table(pa.table({"other": [1]}), part)
        elif how == "of another run":
            other = CheckpointStore(RunFolder(f"{self.root}/other"), "id", self.store.input_digest, ["made"])
            other.begin("another", 1, {})
            other.flush([finished([(0, 1)], [*self.input, IDS])], 10)
            next(Path(self.root, "other/parts").iterdir()).replace(part)
        elif how == "rotten":
            self.rot(part)
        else:
            part.write_bytes(DAMAGES[how](part.read_bytes()))
        self.store = self.opened()
        for table in self.read():  # what is rotten inside is found by reading
            del table
        kept = {path.name for path in Path(self.root, "run/damaged").iterdir()}
        assert any(name.startswith(part.name) for name in kept), "it is kept to look at"
        self.recall()

    @rule(order=st.permutations(range(IDS)), count=st.integers(0, IDS), step=st.none() | st.integers(0, 8))
    def change_the_input(self, order: list[int], count: int, step: int | None) -> None:
        """Rows move, come, go, and come back."""
        self.input = order[:count]
        with killed_at(step):
            self.opened()
        self.store = self.opened()

    # What has to hold.

    @invariant()
    def every_id_has_its_latest_success(self) -> None:
        if not hasattr(self, "store"):
            return
        expected = {place: self.made[number] for place, number in enumerate(self.input) if number in self.made}
        failed = {place for place, number in enumerate(self.input) if number in self.failed}
        done = self.store.done(self.locate)
        assert done.damaged == ()
        assert set(np.flatnonzero(done.finished).tolist()) == set(expected)
        assert done.failed == len(failed)
        found = [row for table in self.store.outputs().tables() for row in table.to_pylist()]
        assert [row[POSITION] for row in found] == sorted({*expected, *failed}), "in order, each once"
        assert {row[POSITION]: row["made"] for row in found if row[POSITION] not in failed} == expected
        assert all(row["id"] == f"id-{self.input[row[POSITION]]}" for row in found)
        failures = [row[POSITION] for table in self.store.failures() for row in table.to_pylist()]
        assert failures == sorted(failed)

    # How it is done.

    def present(self, outcomes: list[Outcome]) -> list[Outcome]:
        return [outcome for outcome in outcomes if outcome[0] < len(self.input)]

    def learn(self, number: int, value: int | None) -> None:
        if value is not None:
            self.made[number] = value
            self.failed.discard(number)
        elif number not in self.made:
            self.failed.add(number)

    def flushed(self, tables: list[list[Outcome]], worker: str, cut: bool, breaks: bool) -> None:
        store = self.store
        store.begin("run", self.run, {})

        def stream() -> Iterator[pa.Table]:
            for outcomes in tables:
                yield finished(outcomes, self.input)
            if breaks:
                raise RuntimeError("the job broke")

        with contextlib.suppress(RuntimeError):
            (store.for_worker(worker) if worker else store).flush(stream(), 1e-9 if cut else 1000)

    def parts(self) -> list[Path]:
        """As their names order them."""
        folder = Path(self.root, "run/parts")
        return sorted(folder.glob("*.parquet"), key=lambda path: (int(path.name.split("-")[0]), path.name))

    def recall(self) -> None:
        """What the parts hold, read without the store."""
        self.made, self.failed = {}, set()
        for part in self.parts():
            for row in pq.read_table(part).to_pylist():
                self.learn(int(row["id"].removeprefix("id-")), None if row[FAILURE] else row["made"])

    def read(self) -> Iterator[pa.Table]:
        while True:
            try:
                return iter([*self.store.outputs().tables()])
            except DamagedPartError:
                continue

    def rot(self, part: Path) -> None:
        """Damage the first page of the ids: the footer stays as it was."""
        column = pq.read_metadata(part).row_group(0).column(1)
        content = bytearray(part.read_bytes())
        content[column.data_page_offset + column.total_compressed_size - 2] ^= 0xFF
        part.write_bytes(content)


def finished(outcomes: list[Outcome], order: list[int]) -> pa.Table:
    """A table as a run makes it."""
    failures = [None if value is not None else {"type": "E", "message": "m", "attempts": 1} for _, value in outcomes]
    return pa.table(
        {
            POSITION: pa.array([place for place, _ in outcomes], pa.int64()),
            "id": pa.array([f"id-{order[place]}" for place, _ in outcomes], pa.string()),
            "made": pa.array([value for _, value in outcomes], pa.int64()),
            FAILURE: pa.array(failures, FAILURE_TYPE),
        }
    )


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
