"""Parts: what their footers tell, how they are named, cut and merged, and what counts as damage."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm import JobSpec, make_spec, run
from domyn_swarm.checkpoint import compact, encode, part, part_merger, writer
from domyn_swarm.checkpoint.folder import PartName, RunFolder
from domyn_swarm.checkpoint.part import DamagedPartError, Part, PartMetadata, reading, write_part
from domyn_swarm.checkpoint.rebase import rebase
from domyn_swarm.checkpoint.store import CheckpointStore
from domyn_swarm.concurrency import memory
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION
from domyn_swarm.errors import CheckpointError, JobError
from tests.conftest import job, rows, write

FS = LocalFileSystem()
ORIGIN = PartMetadata("run", "digest", "id")
PARTS = ".domyn-swarm/out.parquet/parts"


def finished(positions: Sequence[int], failed: Sequence[int] = ()) -> pa.Table:
    """Rows as a run makes them; what is made of one tells its position."""
    failures = [{"type": "E", "message": "m", "attempts": 1} if at in failed else None for at in positions]
    return pa.table(
        {
            POSITION: pa.array(positions, pa.int64()),
            "id": pa.array([f"id-{at}" for at in positions], pa.string()),
            "made": pa.array([None if at in failed else at for at in positions], pa.int64()),
            FAILURE: pa.array(failures, FAILURE_TYPE),
        }
    )


def written(positions: Sequence[int], failed: Sequence[int] = (), path: str = "0001-000001.parquet") -> Part:
    write_part(FS, path, finished(positions, failed), ORIGIN)
    return Part(FS, path)


def begun(path: str = "run", number: int = 1) -> CheckpointStore:
    store = CheckpointStore(RunFolder(path), "id", "digest", ["made"])
    store.begin("run", number, {})
    return store


def durable(path: str | Path = "run/parts") -> list[int]:
    """Positions in all parts, read without the store."""
    return sorted(at for file in Path(path).glob("*.parquet") for at in pq.read_table(file)[POSITION].to_pylist())


def outputs(store: CheckpointStore) -> dict[int, int]:
    found = [row for table in store.outputs().tables() for row in table.to_pylist()]
    return {row[POSITION]: row["made"] for row in found}


# What a footer tells.


@given(
    positions=st.sets(st.integers(-1, 40), min_size=1, max_size=40),
    failed=st.sets(st.integers(-1, 40), max_size=3),
    group=st.integers(1, 10),
)
def test_statistics_tell_the_same_as_reading(positions: set[int], failed: set[int], group: int) -> None:
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(encode, "ROW_GROUP_ROWS", group)
        one = written(sorted(positions), sorted(failed))
    table = one.read()
    fine = np.array(table[FAILURE].combine_chunks().is_null())
    found: list[set[int]] = [set(), set()]
    for states in one.states():
        for seen, where in zip(found, states, strict=True):
            here = list(range(where.start, where.stop)) if isinstance(where, slice) else where.tolist()
            assert not seen & {*here}, "each position once"
            seen.update(here)
    assert found == [positions - failed, positions & failed]
    assert (one.rows, one.first, one.last) == (len(positions), min(positions), max(positions))
    assert one.has_failures == bool(positions & failed) == bool((~fine).any())


def test_a_part_without_gaps_and_failures_is_known_by_its_footer_alone() -> None:
    one = written(range(100))
    Path(one.path).unlink()
    assert [where for where, _ in one.states()] == [slice(0, 100)]


def test_what_it_belongs_to_and_the_columns_that_were_made() -> None:
    one = written([3, 4])
    assert one.origin == ORIGIN
    assert one.types == pa.schema([("made", pa.int64())])


def test_a_position_that_comes_twice_is_written_once_the_latest_success() -> None:
    twice = pa.concat_tables([finished([5, 1]), finished([1, 5], failed=[5]), finished([2], failed=[2])])
    values = twice.set_column(2, "made", pa.array([10, 11, 12, None, None]))
    write_part(FS, "p", values, ORIGIN)
    assert [(row[POSITION], row["made"]) for row in Part(FS, "p").read().to_pylist()] == [(1, 12), (2, None), (5, 10)]


# What is damage and what is not.

NOTHING = finished([])


def test_bytes_that_are_not_a_part_are_damage_and_say_which_part() -> None:
    whole = Path(written(range(10)).path).read_bytes()
    pq.write_table(pa.table({"other": [1]}), "other.parquet")
    pq.write_table(finished([]).replace_schema_metadata({part._FOOTER_KEY: b"{}"}), "no-origin.parquet")
    write_part(FS, "empty.parquet", finished([]), ORIGIN)
    Path("cut.parquet").write_bytes(whole[:-1])
    Path("nothing.parquet").touch()
    for name in ("other", "no-origin", "empty", "cut", "nothing"):
        with pytest.raises(DamagedPartError, match=rf"^{name}\.parquet is damaged: ") as damaged:
            Part(FS, f"{name}.parquet")
        assert damaged.value.part == f"{name}.parquet"


@pytest.mark.parametrize(
    "read", [Part.read, lambda one: pa.concat_tables([NOTHING, *one.batches(None)])], ids=["whole", "in batches"]
)
def test_a_bit_that_flips_in_a_page_changes_nothing_or_is_found_by_reading(read: Callable[[Part], pa.Table]) -> None:
    one = written(range(6), failed=[4])
    truth, content = one.read(), Path(one.path).read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    found = 0
    for at in range(4, len(content) - footer):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            Path(one.path).write_bytes(flipped)
            try:
                assert read(one).equals(truth), f"bit {bit} of byte {at}"
            except DamagedPartError:
                found += 1
    assert found > len(content)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOTCONN, errno.ESTALE])
def test_a_filesystem_that_refuses_is_no_damage(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun()
    store.flush([finished([1, 3])], 0)

    def refuses(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(part, "open_parquet", refuses)
    for look in (
        lambda: store.done(lambda ids: ids),
        store.outputs,
        store.compact,
        lambda: rebase(store, lambda ids: ids),
    ):
        with pytest.raises(CheckpointError, match="cannot be read: ") as refused:
            look()
        assert "stays as it is" in refused.value.hint
    assert durable() == [1, 3]
    assert not Path("run/damaged").exists()


def test_a_part_that_is_gone_is_no_damage() -> None:
    with pytest.raises(FileNotFoundError):
        Part(FS, "gone.parquet")


def test_damage_that_is_found_in_another_process_is_the_same_here() -> None:
    again = pickle.loads(pickle.dumps(DamagedPartError.of("parts/0001-000001.parquet", "it was cut")))
    assert isinstance(again, JobError)
    assert (again.part, again.reason) == ("parts/0001-000001.parquet", "it was cut")
    assert str(again) == "parts/0001-000001.parquet is damaged: it was cut"


def test_a_part_of_another_job_is_set_aside_as_it_was() -> None:
    """It counts in another input, and has another id column."""
    other = CheckpointStore(RunFolder("other"), "key", "another digest")
    other.begin("another run", 1, {})
    other.flush([finished([0]).rename_columns([POSITION, "key", "made", FAILURE])], 0)
    store = begun()
    store.flush([finished([1])], 0)
    store.folder.save("run.json", {"run_id": "run"})
    stranger = Path("run/parts/0002-000001.parquet")
    content = Path(other.folder.parts()[0]).rename(stranger).read_bytes()
    assert not rebase(store, lambda ids: pa.array([7] * len(ids)))
    store.folder.set_aside(store.done(lambda ids: ids).damaged)
    assert Path("run/damaged", stranger.name).read_bytes() == content
    assert outputs(store) == {1: 1}


def test_two_damaged_parts_of_one_name_are_both_kept() -> None:
    store = begun()
    for content in (b"first", b"second", b"third"):
        store.folder.make()
        Path("run/parts/0001-000001.parquet").write_bytes(content)
        store.folder.set_aside(store.done(lambda ids: ids).damaged)
    assert sorted(path.read_bytes() for path in Path("run/damaged").iterdir()) == [b"first", b"second", b"third"]


# Names.


def test_parts_are_ordered_by_run_worker_and_number_however_many_there_are() -> None:
    names = [
        PartName(1, "", 1), PartName(9999, "", 1), PartName(9999, "", 999_999), PartName(9999, "", 1_000_000),
        PartName(9999, "a", 1), PartName(9999, "b", 1), PartName(10_000, "", 1), PartName(100_000, "", 1),
    ]  # fmt: skip
    folder = RunFolder("run")
    folder.make()
    for name in reversed(names):
        Path(folder.part_path(name)).touch()
    assert [PartName.of(path) for path in folder.parts()] == names
    assert str(names[0]) == "0001-000001.parquet"
    assert str(names[4]) == "9999-a-000001.parquet"
    assert folder.newest_run() == 100_000


@given(run=st.integers(0, 10**6), worker=st.from_regex(r"\w{0,20}", fullmatch=True), number=st.integers(0, 10**8))
def test_a_name_is_read_as_it_was_written(run: int, worker: str, number: int) -> None:
    assert PartName.of(f"a/b/{PartName(run, worker, number)}") == (run, worker, number)


def test_what_no_run_has_named_is_a_stranger_and_what_is_half_written_is_nothing() -> None:
    folder = RunFolder("run")
    folder.make()
    for name in ("0001-000001.parquet", "copy.parquet", ".0001-000002.parquet.7.tmp", "notes.txt"):
        Path("run/parts", name).touch()
    assert [Path(path).name for path in folder.parts()] == ["0001-000001.parquet"]
    assert [Path(path).name for path in folder.foreign_files()] == ["copy.parquet"]


# Merging.


class Sized:
    """A part as far as grouping looks at it."""

    def __init__(self, rows: int, origin: str = "", decoded_bytes: int = 0) -> None:
        self.rows, self.origin, self.decoded_bytes = rows, origin, decoded_bytes


Sizes = st.lists(
    st.one_of(st.integers(1, 1000), st.integers(49_000, 51_000), st.integers(1, 200_000), st.just(131_072)),
    max_size=200,
)


@given(sizes=Sizes)
def test_there_are_no_more_parts_than_one_for_50_000_rows_and_two(sizes: list[int]) -> None:
    assert len(grouped([Sized(rows) for rows in sizes])) <= sum(sizes) / 50_000 + 2


def test_parts_of_almost_50_000_rows_are_merged() -> None:
    assert len(grouped([Sized(49_900)] * 1000)) == 500


@given(parts=st.lists(st.builds(Sized, st.integers(1, 150_000), st.sampled_from("ab"), st.integers(1, 2**27))))
def test_merging_keeps_order_and_bounds_and_never_crosses_origins(parts: list[Sized]) -> None:
    groups = grouped(parts)
    assert [one for group in groups for one in group] == parts
    for group in groups:
        assert len({one.origin for one in group}) == 1
        assert len(group) == 1 or sum(one.rows for one in group) <= 2 * 65_536
        assert len(group) == 1 or sum(one.decoded_bytes for one in group) <= 2 * 64 * 2**20


def grouped(parts: list[Sized]) -> list[list[Any]]:
    return list(compact._groups(parts))  # type: ignore[arg-type]


def test_merged_parts_have_the_name_of_the_last_and_the_same_winners() -> None:
    store = begun()
    for table in (finished([0, 1]), finished([1, 2], failed=[1, 2]), finished([2]), finished([9])):
        store.flush([table], 0)
    before = outputs(store)
    store.compact()
    assert [Path(path).name for path in store.folder.parts()] == ["0001-000004.parquet"]
    assert outputs(store) == before == {0: 0, 1: 1, 2: 2, 9: 9}
    assert durable() == [0, 1, 2, 9]


def test_rows_that_are_gone_from_the_input_outlive_merging_and_come_back_with_their_latest_success() -> None:
    for number, values in enumerate([(1, 2), (3, 4)], start=1):
        table = finished([0, 1]).set_column(2, "made", pa.array(values))
        begun(number=number).flush([table], 0)
    without, again = (CheckpointStore(RunFolder("run"), "id", name, ["made"]) for name in ("without", "again"))
    assert rebase(without, lambda ids: pa.array([-1] * len(ids)))
    without.compact()
    assert list(without.outputs().tables()) == []
    places = {"id-0": 5, "id-1": 2}
    assert rebase(again, lambda ids: pa.array([places[one] for one in ids.to_pylist()]))
    assert outputs(again) == {2: 4, 5: 3}


def test_one_that_is_killed_between_writing_and_removing_leaves_the_same_winners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    removed: list[str] = []
    real = LocalFileSystem.rm_file

    def rm(self: LocalFileSystem, path: str) -> None:
        if len(removed) == kept:
            raise Killed
        removed.append(path)
        real(self, path)

    for kept in range(3):
        store = begun(f"run-{kept}")
        for table in (finished([0, 1]), finished([0, 2], failed=[0]), finished([1], failed=[1]), finished([3, 2])):
            store.flush([table], 0)
        before = outputs(store)
        removed.clear()
        with monkeypatch.context() as patches:
            patches.setattr(LocalFileSystem, "rm_file", rm)
            with pytest.raises(Killed):
                store.compact()
        assert outputs(store) == before
        assert store.done(lambda ids: ids).failed == 0
        store.compact()
        assert outputs(store) == before
        assert len(store.folder.parts()) == 1


# Writing.


def slowly(tables: Sequence[pa.Table], given: list[int]) -> Iterator[pa.Table]:
    """One after the other, each when the one before is on its way."""
    for number, table in enumerate(tables):
        given.append(number)
        yield table
        time.sleep(0.05)


def fails(real: Callable[..., Any], after: int, number: int = errno.ENOSPC) -> Callable[..., Any]:
    """Fails once it has been called so often."""
    calls = iter(range(after))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call


def test_a_full_disk_stops_the_stream_before_the_next_part_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CUT_ROWS", 10)
    monkeypatch.setattr(writer, "write_part", fails(write_part, 1))
    given: list[int] = []
    tables = [finished(range(10)), finished(range(10, 20)), *(finished([at]) for at in range(20, 30))]
    with pytest.raises(OSError, match="No space left"):
        begun().flush(slowly(tables, given), 1000)
    assert len(given) < 12
    assert durable() == list(range(10))


def test_a_full_disk_while_a_part_is_written_leaves_no_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fails(os.fsync, 2))  # of a file, and of its folder
    with pytest.raises(OSError, match="No space left") as full:
        begun().flush(slowly([finished([at]) for at in range(5)], []), 0)
    assert full.value.filename.endswith("run/parts/0001-000002.parquet")
    assert [path.name for path in Path("run/parts").iterdir()] == ["0001-000001.parquet"]
    assert durable() == [0]


@pytest.mark.parametrize("fault", ["full while it writes", "cannot remove"])
def test_merging_that_fails_in_mid_stream_loses_no_part_that_was_written(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_merger, "MERGED_AT", 2)
    if fault == "full while it writes":
        monkeypatch.setattr(compact, "write_part", fails(write_part, 0))
    else:
        monkeypatch.setattr(LocalFileSystem, "rm", fails(LocalFileSystem.rm, 1, errno.EACCES))
    given: list[int] = []
    with contextlib.suppress(OSError):
        begun().flush(slowly([finished([at]) for at in range(8)], given), 0)
    assert len(given) > 3
    assert set(durable()) == set(given)


def test_an_interrupt_while_a_part_is_waited_for_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()

    def slow(*arguments: Any) -> None:
        assert waiting.wait(60)
        write_part(*arguments)

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        waiting.set()

    def stream() -> Iterator[pa.Table]:
        yield finished([0])
        threading.Timer(0.3, interrupt).start()
        yield finished([1])
        pytest.fail("the second part waits for the first")

    monkeypatch.setattr(writer, "write_part", slow)
    with pytest.raises(KeyboardInterrupt):
        begun().flush(stream(), 0)
    assert durable() == [0, 1]


def test_a_stream_that_breaks_keeps_what_came_before_and_raises_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream() -> Iterator[pa.Table]:
        yield finished([0, 1])
        raise RuntimeError("the job broke")

    with pytest.raises(RuntimeError, match="the job broke"):
        begun().flush(stream(), 1000)
    assert durable() == [0, 1]
    monkeypatch.setattr(writer, "write_part", fails(write_part, 0))
    with pytest.raises(RuntimeError, match="the job broke"):
        begun("full").flush(stream(), 1000)


def test_a_report_counts_rows_failures_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CUT_ROWS", 3)
    tables = [finished([0, 1], failed=[1]), finished([]), finished([2, 3], failed=[2]), finished([4])]
    assert begun().flush(tables, 1000) == writer.FlushReport(rows=5, failed=2, parts=2)
    assert begun("none").flush([], 1000) == writer.FlushReport()


def test_parts_are_merged_while_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store = begun()
    tables = [finished([at]) for at in range(300)]
    assert store.flush(tables, 0).parts == 300
    assert len(store.folder.parts()) < 3 * part_merger.MERGED_AT
    assert outputs(store) == {at: at for at in range(300)}


# A whole run.


def spec(**options: Any) -> JobSpec:
    given = {"job": job("Picky"), "input": "in.parquet", "output": "out.parquet", "id_column": "id", **options}
    return make_spec(given)


def calls() -> int:
    return len(Path("calls").read_text().splitlines())


@pytest.fixture
def done() -> list[dict[str, Any]]:
    """A run of three lives, finished."""
    texts = [f"row {number}" for number in range(12)]
    write("in.parquet", {"id": list(range(12)), "text": texts})
    for limit in (4, 8, 12):
        run(spec(limit=limit))
    assert calls() == 12
    return [{"id": number, "text": text, "upper": text.upper()} for number, text in enumerate(texts)]


def test_merging_by_hand_leaves_a_current_output_current(done: list[dict[str, Any]]) -> None:
    store = CheckpointStore(RunFolder(".domyn-swarm/out.parquet"), "id", "")
    before = Path("out.parquet").stat().st_mtime_ns
    store.flush([], 0)
    store.compact()
    assert len(list(Path(PARTS).iterdir())) == 1
    assert run(spec(limit=12)).done_now == 0
    assert Path("out.parquet").stat().st_mtime_ns == before
    assert rows("out.parquet") == done
    assert calls() == 12


@pytest.mark.parametrize("record", [None, b"", b"{", b"[]", b"{}", b"null", bytes(50), b"\xff\xfe"])
def test_a_record_that_is_lost_costs_nothing(record: bytes | None, done: list[dict[str, Any]]) -> None:
    path = Path(".domyn-swarm/out.parquet/run.json")

    def lose() -> None:
        path.unlink(missing_ok=True)
        if record is not None:
            path.write_bytes(record)

    lose()
    with pytest.raises(CheckpointError, match=r"job_kwargs\.bad: 'bad', now 'worse'"):
        run(spec(limit=12, job_kwargs={"bad": "worse"}, overwrite=True))
    write("in.parquet", {"id": list(range(20)), "text": [f"row {number}" for number in range(20)]})
    result = run(spec(overwrite=True))
    assert (result.done_before, result.done_now) == (12, 8)
    assert rows("out.parquet")[:12] == done
    assert calls() == 20
    lose()
    assert run(spec(overwrite=True)).done_before == 20
    assert calls() == 20


def test_an_id_column_that_changes_its_type_is_refused_before_anything_is_computed(done: list[dict[str, Any]]) -> None:
    write("in.parquet", {"id": [str(number) for number in range(12)], "text": [row["text"] for row in done]})
    with pytest.raises(CheckpointError, match="id"):
        run(spec())
    assert calls() == 12
    assert rows("out.parquet") == done


@pytest.mark.parametrize(("short", "raised"), [(2**62, pa.lib.ArrowMemoryError), (0, DamagedPartError)])
def test_an_allocation_that_fails_is_damage_only_where_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, short: int, raised: type[Exception]
) -> None:
    monkeypatch.setattr(memory, "SHORT_BYTES", short)
    with pytest.raises(raised), reading("part"):
        pa.allocate_buffer(2**62)


def test_reading_one_wide_row_takes_no_memory_for_all_of_them() -> None:
    table = pa.table({"text": [os.urandom(2**19).hex() for _ in range(24)]})
    batches = pq.ParquetFile(pa.BufferReader(encode.encode(table))).iter_batches(batch_size=1)
    before = pa.total_allocated_bytes()
    assert next(batches).num_rows == 1
    assert pa.total_allocated_bytes() - before < table.nbytes / 3
