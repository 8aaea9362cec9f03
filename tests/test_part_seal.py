"""A part's seal: whatever happens to its bytes, nobody reads another value, and nothing parses what was not written."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domyn_swarm.checkpoint import part_file, probing
from domyn_swarm.checkpoint.compact import compact
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import DamagedPartError, Part, write_part
from domyn_swarm.data.columns import POSITION
from tests.conftest import Command, job, rows, write
from tests.test_parts import FS, ORIGIN, finished, written

RUN = ".domyn-swarm/out.parquet"


def without_seal(path: str) -> None:
    """Make it what earlier versions wrote."""
    content = Path(path).read_bytes()
    start = content.index(part_file.MAGIC)
    end = content.rindex(part_file.MAGIC) + len(part_file.MAGIC)
    Path(path).write_bytes(content[:start] + content[end:])


def outcome(content: bytes, truth: pa.Table) -> str:
    """What comes of a part with that content: the same rows, or damage that is found."""
    Path("0001-000001.parquet").write_bytes(content)
    try:
        one = Part(FS, "0001-000001.parquet")
        states = [where for states in one.states() for where in states]
        assert len(states) > 0
        assert one.read().equals(truth), "another value"
    except DamagedPartError:
        return "found"
    return "same"


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def check_bits(places: Iterable[tuple[int, int]]) -> None:
    one = written(range(6), failed=[4])
    truth, content = one.read(), Path(one.path).read_bytes()
    assert outcome(content, truth) == "same"
    for at, bit in places:
        assert outcome(flipped(content, at, bit), truth) == "found", f"bit {bit} of byte {at} of {len(content)}"


def everywhere(rows: Iterable[int] = range(6)) -> list[tuple[int, int]]:
    content = Path(written(rows, failed=[4]).path).read_bytes()
    return [(at, bit) for at in range(len(content)) for bit in range(8)]


def test_a_bit_that_flips_anywhere_is_found() -> None:
    check_bits(random.Random(3).sample(everywhere(), 1500))


@pytest.mark.stress
def test_each_bit_that_flips_is_found() -> None:
    check_bits(everywhere())


@given(cut=st.integers(0, 5000), more=st.binary(max_size=40), at=st.integers(0, 5000), other=st.binary(max_size=40))
def test_bytes_that_are_cut_off_added_or_others_are_found(cut: int, more: bytes, at: int, other: bytes) -> None:
    one = written(range(6), failed=[4])
    truth, content = one.read(), Path(one.path).read_bytes()
    changed = bytearray(content[: len(content) - cut] + more)
    changed[at : at + len(other)] = other[: max(0, len(changed) - at)]
    assert outcome(bytes(changed), truth) == ("same" if bytes(changed) == content else "found")


@pytest.mark.parametrize("where", ["first", "last"])
def test_only_the_bytes_that_are_read_are_checked(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large part is opened by its end alone; damage in a column is found by whoever reads it."""
    monkeypatch.setattr(part_file, "TAIL_BYTES", 2**12)
    rng = np.random.default_rng(0)
    table = finished(range(60_000)).set_column(2, "made", pa.array(rng.integers(0, 2**62, 60_000)))
    write_part(FS, "large", table, ORIGIN)
    group = pq.read_metadata("large").row_group(0 if where == "first" else 1)
    chunk = group.column(2)
    at = chunk.data_page_offset + chunk.total_compressed_size // 2
    Path("large").write_bytes(flipped(Path("large").read_bytes(), at, 5))
    one = Part(FS, "large")
    assert [at for at, _ in one.states()] == [slice(0, 32_768), slice(32_768, 60_000)]
    assert len(one.ids()[0]) == 60_000
    with pytest.raises(DamagedPartError, match="are not what was written"):
        one.read()
    read: list[int] = []
    with pytest.raises(DamagedPartError, match="are not what was written"):
        read += [batch.num_rows for batch in one.batches([POSITION, "made"])]
    assert sum(batch.num_rows for batch in one.batches([POSITION, "id"])) == 60_000


def test_other_readers_do_not_notice_the_seal() -> None:
    one = written(range(6), failed=[4])
    assert pq.read_table(one.path).equals(one.read())
    assert pq.read_metadata(one.path).num_rows == 6


# Parts of earlier versions.


def test_a_part_without_a_seal_is_read_and_gets_one_when_it_is_merged() -> None:
    folder = RunFolder("run")
    folder.make()
    for number, positions in enumerate([range(3), range(3, 9)], 1):
        path = f"{folder.root}/parts/0001-{number:06d}.parquet"
        write_part(FS, path, finished(positions), ORIGIN)
        without_seal(path)
        assert part_file.MAGIC not in Path(path).read_bytes()
        assert Part(FS, path).read()[POSITION].to_pylist() == list(positions)
    (merged,) = compact(folder, folder.parts())
    assert part_file.MAGIC in Path(merged).read_bytes()
    assert Part(FS, merged).read()[POSITION].to_pylist() == list(range(9))


def test_a_page_of_a_part_without_a_seal_is_still_checked() -> None:
    one = written(range(6))
    without_seal(one.path)
    content = Path(one.path).read_bytes()
    at = pq.read_metadata(one.path).row_group(0).column(2).data_page_offset
    Path(one.path).write_bytes(flipped(content, at + 40, 3))
    with pytest.raises(DamagedPartError):
        Part(FS, one.path).read()


# The command.


@contextlib.contextmanager
def footer_bits(count: int) -> Iterator[Iterator[bytes]]:
    """The finished run's one part, with a bit of its footer flipped, again and again."""
    (path,) = Path(RUN, "parts").iterdir()
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    picks = random.Random(5).sample(range(8 * footer), count)
    yield (flipped(content, len(content) - 1 - pick // 8, pick % 8) for pick in picks)


def test_verify_names_the_part_and_the_next_run_computes_its_rows_again(command: Command) -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(5)]})
    submit = ["job", "submit", job("Upper"), "--input", "in.parquet", "--output", "out.parquet"]
    assert command(*submit).returncode == 0
    truth = rows("out.parquet")
    with footer_bits(6) as damaged:
        for content in damaged:
            (path,) = Path(RUN, "parts").iterdir()
            path.write_bytes(content)
            checked = command("checkpoint", "verify", RUN, "--json")
            assert (checked.returncode, path.name in checked.stdout) == (1, True)
            assert "Traceback" not in checked.stderr
            shown = command("job", "row", RUN, "3")
            assert shown.returncode in (1, 2)
            assert "Traceback" not in shown.stderr
            again = command(*submit, "--output-mode", "append")
            assert again.returncode == 0, again.stderr
            assert rows("out.parquet") == truth
    assert len(list(Path(RUN, "damaged").iterdir())) == 6
    state = json.loads(Path(RUN, "run.json").read_text())["state"]
    assert state == "done"


def check_without_seal(count: int) -> None:
    """No digest says what is damaged in such a part. It is found, or other values are; the process never ends."""
    one = written(range(6), failed=[4])
    without_seal(one.path)
    content = Path(one.path).read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for pick in random.Random(7).sample(range(8 * footer), count):
        Path(one.path).write_bytes(flipped(content, len(content) - 1 - pick // 8, pick % 8))
        with contextlib.suppress(DamagedPartError):
            read = Part(FS, one.path)
            list(read.states())
            assert read.ids() is not None
            assert read.read().num_rows >= 0
            assert list(read.batches(None))


def test_a_footer_without_a_seal_does_not_end_the_process() -> None:
    check_without_seal(60)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files to another user")
def test_a_part_of_another_user_is_not_parsed_if_the_process_that_read_it_first_was_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who can write a part can write a seal over a footer that aborts whoever parses it."""
    one = written(range(6))
    monkeypatch.setattr(probing._Reader, "_reads", lambda *_: False)
    assert Part(FS, one.path).read().num_rows == 6
    os.chown(one.path, 65534, 65534)
    with pytest.raises(DamagedPartError, match="the process that tried was aborted"):
        Part(FS, one.path).read()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files to another user")
def test_a_part_of_another_user_is_read() -> None:
    one = written(range(6))
    os.chown(one.path, 65534, 65534)
    assert Part(FS, one.path).read()[POSITION].to_pylist() == list(range(6))


@pytest.mark.stress
def test_no_bit_of_a_footer_without_a_seal_ends_the_process() -> None:
    check_without_seal(1500)
