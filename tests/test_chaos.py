"""`python -m tests.chaos` in a small edition, and that it can fail: each law is shown a history that breaks it.

What kills and stops do to Ray is in test_ray_cluster.py, where Ray need not be started for every life.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from tests.chaos import scenarios
from tests.chaos.__main__ import PASS, main, play
from tests.chaos.laws import Broken, Ledger, check_age, check_each_once, check_output, durable_in
from tests.chaos.scenarios import Stage
from tests.conftest import write
from tests.servers.chaos import answer_to

TEXTS = [f"row {number}" for number in range(4)]
ANSWERS = [answer_to(text) for text in TEXTS]

pytestmark = pytest.mark.timeout(300)


def played(scene: Callable[[Stage], None], *stages: Stage) -> None:
    """Play one scenario on several stages at once: most of the time a run waits."""
    with ThreadPoolExecutor() as pool:
        verdicts = dict(zip([s.backend for s in stages], pool.map(partial(play, scene), stages), strict=True))
    assert verdicts == dict.fromkeys(verdicts, PASS)


@pytest.mark.stress
def test_kills(folder: Path) -> None:
    played(scenarios.kill, Stage(folder / "pandas", "pandas", kills=4), Stage(folder / "polars", "polars", kills=2))


@pytest.mark.stress
def test_terms(folder: Path) -> None:
    played(scenarios.term, Stage(folder / "pandas", "pandas", terms=2), Stage(folder / "polars", "polars", terms=1))


@pytest.mark.stress
def test_damages(folder: Path) -> None:
    ways = {"pandas": ("truncated", "text", "empty", "flipped"), "polars": ("zeroed", "other schema", "foreign")}
    assert sorted([*ways["pandas"], *ways["polars"]]) == sorted(scenarios.WAYS)
    played(scenarios.damage, *(Stage(folder / name, name, ways=some) for name, some in ways.items()))


def test_a_full_disk(folder: Path) -> None:
    played(scenarios.full, Stage(folder / "pandas", "pandas"))


@pytest.mark.stress
@pytest.mark.parametrize("scene", [scenarios.lock, scenarios.twice, scenarios.full], ids=lambda scene: scene.__name__)
def test_scene(scene: Callable[[Stage], None], folder: Path) -> None:
    played(scene, *(Stage(folder / name, name, pairs=1) for name in ("pandas", "polars")))


@pytest.mark.stress
def test_engines(folder: Path) -> None:
    backends = ("pandas", "polars", "ray")
    played(partial(scenarios.engines, backends=backends), Stage(folder / "engines", ">".join(backends)))


# That it can fail.


@pytest.mark.stress
def test_a_real_run_that_asks_durable_rows_again_breaks_the_law(folder: Path) -> None:
    stage = Stage(folder, "pandas")
    with stage.job(40) as job:
        job.completed(job.start())
        again = job.start("--no-resume")
        assert again.finish() == 0
        with pytest.raises(Broken, match=r"^40 rows \(0, 1, 2, 3, 4, …\) asked again although durable$"):
            job.lived(again)


@pytest.mark.stress
def test_a_real_run_that_is_over_before_its_kill_fails_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def late(stage: Stage) -> None:
        with stage.job(8) as job:
            life = job.start()
            assert life.finish() == 0
            scenarios.kill_life(job, life)

    monkeypatch.setitem(scenarios.SCENARIOS, "kill", late)
    assert main(["kill", "--backend", "pandas", "--rows", "8", "--keep", str(folder / "kept")]) == 1
    said = capsys.readouterr().out
    assert "FAIL: ended with 0 before it was killed" in said
    assert f"0 passed, 1 failed, 0 left out; what was left is in {folder / 'kept'}" in said


def test_one_scenario_that_fails_does_not_keep_the_others_from_being_played(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_stage: Stage) -> None:
        raise Broken("3 rows (1, 2, 3) asked again although durable")

    monkeypatch.setitem(scenarios.SCENARIOS, "kill", broken)
    monkeypatch.setitem(scenarios.SCENARIOS, "term", lambda stage: stage.folder.joinpath("seen").touch())
    assert main(["kill", "term", "--backend", "polars", "--keep", str(folder / "kept")]) == 1
    said = capsys.readouterr().out
    assert "FAIL: 3 rows (1, 2, 3) asked again although durable" in said
    assert "PASS" in said
    assert (folder / "kept/term-polars/seen").exists()
    assert main(["term", "--backend", "polars", "--keep", str(folder / "kept")]) == 0


@pytest.mark.parametrize(
    ("asked", "durable", "reason"),
    [
        ([0, 2], [0, 1], "1 row (0) asked again although durable"),
        ([2], [1, 2], "1 row (0) durable before this life, and not after it"),
        ([2], [0, 1, 2, 3], "1 row (3) durable that nobody has asked for"),
    ],
)
def test_a_life_that_breaks_a_law(asked: Sequence[int], durable: Sequence[int], reason: str) -> None:
    ledger = Ledger()
    assert ledger.lived([0, 1, 2], [0, 1]) == {2}
    with pytest.raises(Broken) as broken:
        ledger.lived(asked, durable)
    assert str(broken.value) == reason


def test_a_ledger_that_does_not_add_up() -> None:
    ledger = Ledger()
    ledger.lived([0, 1, 2], [0, 1])
    with pytest.raises(Broken, match=r"^1 row \(3\) never asked for$"):
        ledger.ended(4)
    ledger.lived([2, 3], [0, 1, 2, 3])
    ledger.ended(4)
    twice = Ledger()
    twice.lived([0, 1, 1, 2, 3], [0, 1, 2, 3])
    with pytest.raises(Broken, match=r"^1 requests repeated, and only 0 were lost$"):
        twice.ended(4)


def test_rows_that_are_asked_twice_or_for_nothing_or_not_at_all() -> None:
    check_each_once([2, 1], {1, 2})
    for asked, reason in (([1, 2, 2], "more than once"), ([1, 2, 3], "for nothing"), ([1], "not asked for")):
        with pytest.raises(Broken, match=reason):
            check_each_once(asked, {1, 2})


def test_a_row_that_is_lost_and_old() -> None:
    arrivals = [(0, 10.0), (1, 14.0)]
    check_age({1}, arrivals, end=15.0, most=3.0)
    with pytest.raises(Broken, match=r"^1 row \(0\) asked more than 3 s before the end, and lost$"):
        check_age({0, 1}, arrivals, end=15.0, most=3.0)


@pytest.mark.parametrize(
    ("items", "answers"),
    [
        (TEXTS[::-1], ANSWERS[::-1]),
        (TEXTS[:3], ANSWERS[:3]),
        ([*TEXTS, TEXTS[0]], [*ANSWERS, ANSWERS[0]]),
        (TEXTS, [*ANSWERS[:2], ANSWERS[3], ANSWERS[2]]),
        (TEXTS, [*ANSWERS[:3], None]),
    ],
    ids=["another order", "a row too few", "a row too many", "answers of other rows", "no answer"],
)
def test_an_output_that_is_wrong(items: list[str], answers: list[str | None]) -> None:
    check_output(Path(write("right.parquet", {"item": TEXTS, "answer": ANSWERS})), TEXTS)
    with pytest.raises(Broken):
        check_output(Path(write("wrong.parquet", {"item": items, "answer": answers})), TEXTS)
    with pytest.raises(Broken, match="there is no output"):
        check_output(Path("none.parquet"), TEXTS)


def test_parts_that_are_wrong() -> None:
    failures = pa.array([None, {"type": "ValueError"}], pa.struct([("type", pa.string())]))
    columns = {"_row_id": [1, 2], "answer": [ANSWERS[1], None], "__failure__": failures}
    good = Path(write("good.parquet", columns))
    assert durable_in([good], TEXTS) == {1}
    bad = Path(write("bad.parquet", {**columns, "answer": ANSWERS[2:]}))
    with pytest.raises(Broken, match=r"^1 row \(1\) without the right answer in bad.parquet$"):
        durable_in([bad], TEXTS)
    good.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(Broken, match=r"^good.parquet cannot be read: "):
        durable_in([good], TEXTS)
