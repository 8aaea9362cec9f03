"""The store against a plain dict: any order of runs, kills, damage, merging, lost records and changed inputs.

A kill comes at any step on the disk: before it, after it, or with half of a file written.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domyn_swarm.checkpoint import compact, part_merger, writer
from domyn_swarm.checkpoint.folder import PartName, RunFolder
from domyn_swarm.checkpoint.inspection import export, survey, verify
from domyn_swarm.checkpoint.part import DamagedPartError
from domyn_swarm.checkpoint.rebase import rebase
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION

IDS = 24
PART_ROWS = 8


class Row(NamedTuple):
    """What became of the row at a place of today's input: a value, or None where it failed."""

    place: int
    value: float | None


class Batch(NamedTuple):
    """Rows that finish together. Their column is of integers or of floats; a second column may come along."""

    rows: list[Row]
    floats: bool
    noted: bool

    def where(self, wanted: Callable[[int], bool]) -> Batch:
        return self._replace(rows=[row for row in self.rows if wanted(row.place)])


class Kill(NamedTuple):
    """At which step on the disk the process dies, and whether that step is still made."""

    step: int
    late: bool


Values = st.none() | st.integers(0, 999)
Rows = st.lists(
    st.builds(Row, st.integers(0, IDS - 1), Values), min_size=1, max_size=6, unique_by=lambda row: row.place
)
Batches = st.lists(st.builds(Batch, Rows, st.booleans(), st.booleans()), min_size=1, max_size=8)
Orders = st.tuples(st.permutations(range(IDS)), st.integers(0, IDS)).map(lambda drawn: drawn[0][drawn[1] // 2 :])


def kills(steps: int) -> st.SearchStrategy[Kill | None]:
    """A kill at one of the first steps, or in two of three cases none."""
    return st.none() | st.none() | st.builds(Kill, st.integers(0, steps), st.booleans())


class Died(BaseException):
    """The process was killed: nothing that it does after this reaches the disk."""


@contextlib.contextmanager
def killed(kill: Kill | None) -> Iterator[None]:
    """The process in here dies at a step, unless it ends before."""
    steps, dead, real_open = itertools.count(), False, io.open

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal dead
            if dead:  # what tidies up after an error is not there to do it
                raise Died
            dead = kill is not None and next(steps) >= kill.step
            if dead and not kill.late:
                if real is os.fsync and (size := os.fstat(arguments[0]).st_size):
                    with contextlib.suppress(OSError):  # a folder is not cut
                        os.ftruncate(arguments[0], size // 2)
                raise Died
            result = real(*arguments, **options)
            if dead:
                raise Died
            return result

        return step

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if dead and mode != "rb":
            raise Died
        return real_open(file, mode, *arguments, **options)

    with contextlib.ExitStack() as stack:
        for name in ("fsync", "replace", "rename", "unlink", "remove", "link", "mkdir", "rmdir"):
            stack.enter_context(patch.object(os, name, guarded(getattr(os, name))))
        stack.enter_context(patch.object(io, "open", opened))
        with contextlib.suppress(Died):
            yield


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "zeroed": lambda content: bytes(len(content)),
    "text": lambda _: b"not a parquet file, though it is long enough to be one",
    "emptied": lambda _: b"",
}


class State(NamedTuple):
    """`made` are the values that ids have, `failed` the ids that were tried and have none."""

    made: dict[int, tuple[float, str | None]]
    failed: frozenset[int]

    def after(self, number: int, value: float | None, note: str | None) -> State:
        if value is not None:
            return State({**self.made, number: (value, note)}, self.failed - {number})
        return self if number in self.made else State(self.made, self.failed | {number})


class Store(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.path = Path(self.root, "run")
        self.state = State({}, frozenset())
        self.patches = contextlib.ExitStack()
        for module, name, value in [
            (compact, "PART_ROWS", PART_ROWS), (writer, "CUT_ROWS", PART_ROWS), (part_merger, "MERGED_AT", 4),
            (os, "fsync", lambda _: None),
        ]:  # fmt: skip
            self.patches.enter_context(patch.object(module, name, value))

    def teardown(self) -> None:
        self.patches.close()
        shutil.rmtree(self.root)

    @initialize(order=Orders)
    def first_input(self, order: list[int]) -> None:
        self.input = order
        self.store = self.resumed()

    # What happens to a store.

    @rule(
        passes=st.lists(Batches, min_size=1, max_size=2),
        workers=st.integers(1, 3),
        cut=st.booleans(),
        breaks=st.none() | st.integers(0, 5),
        kill=kills(60),
    )
    def run(self, passes: list[list[Batch]], workers: int, cut: bool, breaks: int | None, kill: Kill | None) -> None:
        """A run of one pass over the rows or two, by one process or some workers, which may break or be killed."""
        shares = [
            (n, [batch.where(lambda at, n=n: at < len(self.input) and at % workers == n) for batch in batches[:breaks]])
            for batches in passes
            for n in range(workers)
        ]
        with killed(kill):
            self.begin()
            for number, share in shares:
                store = self.store.for_worker(f"w{number}") if workers > 1 else self.store
                with contextlib.suppress(RuntimeError):
                    store.flush(self.stream(share, breaks is not None), 1e-9 if cut else 1000)
        made = [batch for _, share in shares for batch in share]
        prefixes = list(itertools.accumulate(made, self.learned, initial=self.state))
        if kill is None:
            self.state = prefixes[-1]
        else:
            self.store = self.resumed()
            self.state = self.on_disk()
            assert self.state in prefixes, "a run that was killed has made durable what it had finished first"

    @rule(kill=kills(8))
    def merge(self, kill: Kill | None) -> None:
        with killed(kill):
            self.store.compact()
        if kill is None:
            rows = sum(pq.read_metadata(part).num_rows for part in self.parts())
            assert len(self.parts()) <= rows / (PART_ROWS * compact.SMALL) + 2
        else:
            self.store = self.resumed()

    @rule(orders=st.lists(st.tuples(Orders, kills(20)), min_size=1, max_size=3))
    def change_the_input(self, orders: list[tuple[list[int], Kill | None]]) -> None:
        """Rows move, come, go, and come back, whether or not a run got through the last change."""
        for order, kill in orders:
            self.input = order
            with killed(kill):
                self.resumed()
        self.store = self.resumed()

    @precondition(lambda self: self.parts())
    @rule(data=st.data(), how=st.sampled_from([*DAMAGES, "of other columns", "of another run", "misnamed"]))
    def damage(self, data: st.DataObject, how: str) -> None:
        part = data.draw(st.sampled_from(self.parts()))
        held = ids(pq.ParquetFile(part).read())
        if how == "of other columns":
            pq.write_table(pa.table({"other": [1]}), part)
        elif how == "of another run":
            self.recorded()
            self.part_of_another_run().replace(part)
        elif how == "misnamed":
            part = part.replace(part.with_name("copy.parquet"))
        else:
            part.write_bytes(DAMAGES[how](part.read_bytes()))
        content = part.read_bytes()
        self.store = self.resumed()
        assert not part.exists()
        assert content in self.set_aside(part), "it is kept as it was"
        self.lose(held)

    @precondition(lambda self: self.parts())
    @rule(data=st.data(), bit=st.integers(0, 7))
    def rot(self, data: st.DataObject, bit: int) -> None:
        """One bit flips within the pages; the footer stays as it was. It changes nothing, or reading finds it."""
        part = data.draw(st.sampled_from(self.parts()))
        content, rows = bytearray(part.read_bytes()), pq.ParquetFile(part).read()
        held = ids(rows)
        footer = int.from_bytes(content[-8:-4], "little") + 8
        content[data.draw(st.integers(4, len(content) - footer - 1))] ^= 1 << bit
        part.write_bytes(content)
        self.store = self.resumed()
        self.read_as_a_run_does()
        self.store.folder.set_aside([name for name, reason in verify(self.store.folder) if reason])
        if part.exists():
            assert pq.ParquetFile(part).read() == rows
        else:
            assert bytes(content) in self.set_aside(part), "it is kept as it was"
            self.lose(held)

    @rule(content=st.sampled_from([None, b"", b"{", b"[]", b"\xff\xfe"]))
    def lose_the_record(self, content: bytes | None) -> None:
        record = self.path / "run.json"
        record.unlink(missing_ok=True)
        if content is not None:
            record.write_bytes(content)

    @rule(name=st.sampled_from(["out.parquet", "out"]))
    def look_from_outside(self, name: str) -> None:
        expected, failed = self.today()
        found = survey(self.store.folder)
        assert (found.finished, found.failed, found.unusable) == (len(expected), len(failed), {})
        assert [reason for _, reason in verify(self.store.folder)] == [None] * len(self.parts())
        if self.parts():
            assert export(self.store.folder, f"{self.root}/{name}", overwrite=True) == (len(expected), len(failed))
            table = pq.read_table(f"{self.root}/{name}")
            assert table["id"].to_pylist() == [f"id-{self.input[place]}" for place in sorted(expected)]
            assert table["made"].to_pylist() == [expected[place][0] for place in sorted(expected)]

    # What has to hold.

    @invariant()
    def every_id_has_its_latest_success(self) -> None:
        if not hasattr(self, "store"):
            return
        expected, failed = self.today()
        done = self.store.done(self.locate)
        assert done.damaged == ()
        assert set(np.flatnonzero(done.finished).tolist()) == set(expected)
        assert done.failed == len(failed)
        outputs = self.store.outputs()
        tables = list(outputs.tables())
        assert all(table.schema.field(column.name) == column for table in tables for column in outputs.schema)
        assert set(done.types.names) <= set(outputs.schema.names) <= {"made", "note"}
        found = [row for table in tables for row in table.to_pylist()]
        assert [row[POSITION] for row in found] == sorted({*expected, *failed}), "in order, each once"
        assert {row["id"] for row in found} == {f"id-{self.input[row[POSITION]]}" for row in found}
        assert [(row["made"], row.get("note")) for row in found] == [
            expected.get(row[POSITION], (None, None)) for row in found
        ]
        failures = [row[POSITION] for table in self.store.failures() for row in table.to_pylist()]
        assert failures == sorted(failed)

    # How it is done.

    def resumed(self) -> CheckpointStore:
        """The store as a new process finds it, after what a run does first."""
        folder = RunFolder(str(self.path))
        store = CheckpointStore(folder, "id", f"digest of {self.input}", ["made"])
        folder.make()
        folder.tidy()
        rebase(store, self.locate)
        if damaged := store.done(self.locate).damaged:
            folder.set_aside(damaged)
        return store

    def locate(self, ids: pa.Array[Any]) -> pa.Array[Any]:
        places = {f"id-{number}": place for place, number in enumerate(self.input)}
        return pa.array([places.get(one, -1) for one in ids.to_pylist()], pa.int64())

    def recorded(self) -> tuple[str, int]:
        """Id and number of a run that begins now, as its record has them."""
        folder, origin = self.store.folder, self.store.newest_origin()
        record = {
            "run_id": folder.run_id() or (origin.run_id if origin else uuid.uuid4().hex),
            "number": folder.newest_run() + 1,
        }
        folder.save("run.json", record)
        return record["run_id"], record["number"]

    def begin(self) -> None:
        run_id, number = self.recorded()
        self.store.begin(run_id, number, {"job": "j"})

    def stream(self, batches: Sequence[Batch], breaks: bool) -> Iterator[pa.Table]:
        yield from (finished(batch, self.input) for batch in batches)
        if breaks:
            raise RuntimeError("the job broke")

    def read_as_a_run_does(self) -> None:
        """Again, whenever a part turns out to be damaged: each time one is set aside."""
        while True:
            with contextlib.suppress(DamagedPartError):
                list(self.store.outputs().tables())
                return

    def part_of_another_run(self) -> Path:
        folder = RunFolder(f"{self.root}/another")
        other = CheckpointStore(folder, "id", self.store.input_digest, ["made"])
        other.begin("another", 1, {"job": "j"})
        other.flush([finished(Batch([Row(0, 1)], False, False), range(IDS))], 10)
        return Path(folder.parts()[-1])

    def learned(self, state: State, batch: Batch) -> State:
        for place, value in batch.rows:
            note = f"note {value}" if batch.noted and value is not None else None
            state = state.after(self.input[place], typed(value, batch), note)
        return state

    def lose(self, held: set[int]) -> None:
        """A part that had the ids `held` is gone: they may have an earlier value, or none; all others are as before."""
        left = self.on_disk()
        assert without(left, held) == without(self.state, held)
        assert left.made.keys() <= self.state.made.keys()
        self.state = left

    def today(self) -> tuple[dict[int, tuple[float, str | None]], set[int]]:
        """Values by place, and places that have failed."""
        places = list(enumerate(self.input))
        made = {place: self.state.made[number] for place, number in places if number in self.state.made}
        return made, {place for place, number in places if number in self.state.failed}

    def parts(self) -> list[Path]:
        """Oldest first."""
        parts = Path(self.path, "parts").glob("*.parquet")
        return sorted(parts, key=lambda path: PartName.of(path.name) or PartName(0, "", 0))

    def set_aside(self, part: Path) -> list[bytes]:
        return [path.read_bytes() for path in Path(self.path, "damaged").glob(f"{part.name}*")]

    def on_disk(self) -> State:
        """What the parts hold, read without the store."""
        state = State({}, frozenset())
        for part in self.parts():
            for row in pq.ParquetFile(part).read().to_pylist():
                state = state.after(int(row["id"].removeprefix("id-")), row["made"], row.get("note"))
        return state


def ids(table: pa.Table) -> set[int]:
    return {int(one.removeprefix("id-")) for one in table["id"].to_pylist()}


def without(state: State, some: set[int]) -> State:
    return State({number: made for number, made in state.made.items() if number not in some}, state.failed - some)


def typed(value: float | None, batch: Batch) -> float | None:
    return value + 0.5 if batch.floats and value is not None else value


def finished(batch: Batch, order: Sequence[int]) -> pa.Table:
    """A table as a run makes it; the column has no type of its own where all rows have failed."""
    values = [typed(row.value, batch) for row in batch.rows]
    failures = [{"type": "E", "message": "m", "attempts": 1} if value is None else None for value in values]
    columns = {
        POSITION: pa.array([row.place for row in batch.rows], pa.int64()),
        "id": pa.array([f"id-{order[row.place]}" for row in batch.rows], pa.string()),
        "made": pa.array(values),
        "note": pa.array([None if row.value is None else f"note {row.value}" for row in batch.rows], pa.string()),
        FAILURE: pa.array(failures, FAILURE_TYPE),
    }
    return pa.table({name: column for name, column in columns.items() if name != "note" or batch.noted})


class TestStore(Store.TestCase):
    settings = settings(max_examples=4, stateful_step_count=20, deadline=None)


@pytest.mark.stress
class TestStoreAtLength(Store.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
