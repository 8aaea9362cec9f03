"""A row whose inputs changed under the same id is computed again; what did not change is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm import RunResult, make_spec, run
from domyn_swarm.data.columns import INPUTS
from domyn_swarm.data.digests import row_digests
from domyn_swarm.engine.planning import make_plan
from tests.conftest import Command, job, rows, write

PARTS = Path(".domyn-swarm/out.parquet/parts")


def submitted(backend: str = "pandas", **options: Any) -> RunResult:
    return run(spec(data_backend=backend, **options))


def spec(**options: Any) -> Any:
    return make_spec({"job": job("Recorded"), "input": "in.parquet", "output": "out.parquet", "id_column": "id",
                      "input_columns": ["text"], "output_columns": ["upper"], **options})  # fmt: skip


def calls() -> str:
    """The texts that were computed since the last look."""
    made = Path("calls").read_text().split() if Path("calls").exists() else []
    Path("calls").unlink(missing_ok=True)
    return " ".join(sorted(made))


def uppers() -> list[str]:
    return [row["upper"] for row in rows("out.parquet")]


@pytest.fixture(params=["pandas", "polars"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_changed_rows_alone_are_computed_again(engine: str) -> None:
    write("in.parquet", {"id": [1, 2, 3], "text": ["a", "b", "c"], "other": [0, 0, 0]})
    submitted(engine)
    assert calls() == "a b c"
    write("in.parquet", {"id": [3, 4, 2], "text": ["c", "d", "B"], "other": [1, 1, 1]})
    plan = make_plan(spec(data_backend=engine))
    assert (plan.pending, plan.changed) == (2, 1)
    result = submitted(engine)
    assert calls() == "B d"
    assert (result.done_before, result.done_now, result.changed) == (1, 2, 1)
    assert uppers() == ["C", "D", "B"]
    assert submitted(engine).changed == 0
    assert calls() == ""


def test_a_change_that_leaves_sizes_and_extremes_as_they_were_is_noticed(engine: str) -> None:
    write("in.parquet", {"id": [1, 2, 3, 4], "text": ["a1", "b1", "c1", "z1"]})
    submitted(engine)
    footer = pq.read_metadata("in.parquet")
    calls()
    write("in.parquet", {"id": [1, 2, 3, 4], "text": ["a1", "b2", "c1", "z1"]})
    assert pq.read_metadata("in.parquet").equals(footer)
    assert submitted(engine).changed == 1
    assert calls() == "b2"
    assert uppers() == ["A1", "B2", "C1", "Z1"]


def test_an_earlier_text_finds_its_answer_again() -> None:
    for number, texts in enumerate((["a", "b"], ["a", "X"], ["a", "b"], ["Y", "X"])):
        write("in.parquet", {"id": [1, 2], "text": texts, "version": [number] * 2})
        submitted()
        assert uppers() == [text.upper() for text in texts]
    assert calls() == "X Y a b"


def test_changed_rows_may_be_kept_and_stay_so() -> None:
    write("in.parquet", {"id": [1, 2], "text": ["a", "b"]})
    submitted()
    write("in.parquet", {"id": [1, 2], "text": ["a", "B2"]})
    assert submitted(keep_changed=True).changed == 0
    assert submitted().changed == 0
    assert (calls(), uppers()) == ("a b", ["A", "B"])
    write("in.parquet", {"id": [2, 1], "text": ["B3", "a"]})
    assert submitted().changed == 1
    assert (calls(), uppers()) == ("B3", ["B3", "A"])


def test_parts_without_digests_count_as_unchanged() -> None:
    """As versions before wrote them."""
    write("in.parquet", {"id": [1, 2], "text": ["a", "b"]})
    submitted()
    for part in PARTS.iterdir():
        table = pq.read_table(part, partitioning=None)
        pq.write_table(table.drop_columns([INPUTS]), part)
    write("in.parquet", {"id": [1, 2, 3], "text": ["a", "other", "c"]})
    assert submitted().changed == 0
    assert (calls(), uppers()) == ("a b c", ["A", "B", "C"])


def test_rows_under_generated_ids_have_no_digest() -> None:
    write("in.parquet", {"id": [1], "text": ["a"]})
    submitted(id_column=None)
    assert INPUTS not in pq.read_table(PARTS, partitioning=None).column_names


def test_the_plan_and_the_summary_say_how_many(command: Command) -> None:
    arguments = ("job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet", "--id-column",
                 "id", "--input-column", "text")  # fmt: skip
    write("in.parquet", {"id": [1, 2], "text": ["a", "b"]})
    assert command(*arguments).returncode == 0
    write("in.parquet", {"id": [1, 2], "text": ["a", "c"]})
    assert "1 (1 done before, 1 with changed inputs)" in command(*arguments, "--dry-run").stdout
    assert "changed" not in command(*arguments, "--dry-run", "--keep-changed").stdout
    ran = command(*arguments)
    assert (ran.returncode, "changed      1 (computed again" in ran.stdout) == (0, True)


def test_digests_are_the_same_everywhere_and_for_good() -> None:
    """Literals: parts that were written yesterday are compared with them."""
    columns = {"text": pa.array(["", "a", None, "é" * 9]), "n": pa.array([1, -1, 0, None])}
    assert row_digests(columns).to_pylist() == DIGESTS
    views = {"n": columns["n"].cast(pa.float64()), "text": columns["text"].cast(pa.string_view())}
    assert row_digests(views).to_pylist() == DIGESTS


DIGESTS = [
    7_911_418_946_848_921_306,
    1_199_765_093_128_833_680,
    17_214_842_949_214_898_541,
    4_449_173_441_670_187_803,
]


@pytest.mark.parametrize("lengths", [[0, 1, 7, 8, 9, 15, 16, 17], [200_000, 3, 700_000, 0]])
def test_each_byte_and_its_place_count(lengths: list[int]) -> None:
    random = np.random.default_rng(1)
    texts = [random.integers(0, 256, length, np.uint8).tobytes() for length in lengths]
    changed = [
        text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :] for text in texts for at in {0, len(text) - 1} if text
    ]
    moved = [text[1:] + text[:1] for text in texts if len(set(text)) > 1]
    longer = [text + b"\0" for text in texts]
    every = pa.array([*{*texts, *changed, *moved, *longer}], pa.binary())
    found = row_digests({"x": every})
    assert len(set(found.to_pylist())) == len(every)
    assert row_digests({"x": every[3:]}).equals(found[3:])
