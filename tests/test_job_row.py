"""`job row`: one row's whole way, found by its id, whatever became of the row, of the run and of the input."""

from __future__ import annotations

import json
import random
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from domyn_swarm import RunResult, SwarmJob, make_spec, run
from domyn_swarm.checkpoint.inspection import open_run
from domyn_swarm.errors import ConfigurationError, DataError, JobError
from domyn_swarm.jobs import EndpointJob
from domyn_swarm.report.row import RowHistory, look_up, render_text
from domyn_swarm.telemetry.trace import Attempt, Exchange
from tests.conftest import Command, job, write
from tests.test_completion_jobs import echo, last
from tests.test_endpoint import serving

RUN = ".domyn-swarm/out.parquet"
TEXTS = [f"text {number}" for number in range(30)]


class Moody(SwarmJob):
    """Fails at `bad` until the file `mended` is there, and ends the run at `stop` until `go` is."""

    output_columns = ("upper",)

    async def transform_item(self, item: str) -> str:
        if item == "stop" and not Path("go").exists():
            raise JobError("The licence has expired.")
        if item == "bad" and not Path("mended").exists():
            raise ValueError(f"cannot do {item!r}")
        return item.upper()


class Asks(EndpointJob):
    """One request for a row."""

    output_columns = ("text",)

    async def transform_item(self, item: str) -> str:
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        text: str = answer.body["choices"][0]["message"]["content"]
        return text


class Shouts(SwarmJob):
    """Upper case, many rows at a time, or some at a time."""

    output_columns = ("upper",)

    async def transform_item(self, item: str) -> str:
        return item.upper()

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[str]:
        return [item.upper() for item in pa.table(batch).column(input_cols[0]).to_pylist()]


def submit(name: str | type[SwarmJob] = "Upper", **options: Any) -> RunResult:
    reference = job(name) if isinstance(name, str) else f"{__name__}:{name.__name__}"
    return run(make_spec({"job": reference, "input": "in.parquet", "output": "out.parquet", **options}))


def text_job(**options: Any) -> RunResult:
    return submit("Upper", **{"input_columns": ["text"], "output_columns": ["upper"], **options})


def item_job(kind: type[SwarmJob] = Moody, **options: Any) -> RunResult:
    return submit(
        kind, **{"input_columns": ["item"], "output_columns": list(kind.output_columns), "retries": 0, **options}
    )


def found(id_text: Any, run_dir: str = RUN) -> RowHistory:
    return look_up(open_run(run_dir), str(id_text))


# Where a row is found.

IDS: dict[str, tuple[Any, str, Any]] = {
    "int64": (pa.array(range(-5, 25)), "2", 2),
    "int8": (pa.array(range(-5, 25), pa.int8()), "2", 2),
    "uint64": (pa.array([2**64 - 1 - number for number in range(30)], pa.uint64()), str(2**64 - 8), 2**64 - 8),
    "string": (pa.array([f"k'{number}\n\"" for number in range(30)]), "k'7\n\"", "k'7\n\""),
    "large_string": (pa.array([f"k{number}" for number in range(30)], pa.large_string()), "k7", "k7"),
    "binary": (pa.array([bytes([number, 255]) for number in range(30)], pa.binary()), "0x07FF", b"\x07\xff"),
    "fixed_size_binary": (pa.array([bytes([number, 255]) for number in range(30)], pa.binary(2)), "07ff", b"\x07\xff"),
    "uuid": (
        pa.array([uuid.UUID(int=number).bytes for number in range(30)], pa.uuid()),
        "00000000-0000-0000-0000-000000000007",
        uuid.UUID(int=7),
    ),
    "string_view": (pa.array([f"k{number}" for number in range(30)], pa.string_view()), "k7", "k7"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize(("ids", "wanted", "value"), IDS.values(), ids=IDS)
def test_a_row_is_found_by_an_id_of_any_kind_whether_it_is_done_or_not(
    ids: Any, wanted: str, value: Any, engine: str
) -> None:
    write("in.parquet", {"key": ids, "text": TEXTS}, row_group_size=4)
    text_job(id_column="key", data_backend=engine)
    story = found(wanted)
    assert (story.id, story.id_column, story.position, story.state) == (wanted, "key", 7, "done")
    assert story.place is not None
    assert (story.place.row, story.place.columns) == (7, {"key": value, "text": "text 7"})
    assert (story.item, story.output, story.notes) == ("text 7", "out.parquet", [])
    (finding,) = story.findings
    assert (finding.run, finding.outputs, finding.failure, finding.trace) == (1, {"upper": "TEXT 7"}, None, [])

    text_job(id_column="key", data_backend=engine, output="few.parquet", limit=3)
    story = found(wanted, ".domyn-swarm/few.parquet")
    assert (story.position, story.state, story.item, story.findings) == (7, "left out by --limit", "text 7", [])


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_a_generated_id_is_the_rows_number_in_the_input(engine: str) -> None:
    write("in.parquet", {"text": TEXTS}, row_group_size=7)
    text_job(data_backend=engine, limit=20)
    for row in (0, 6, 7, 19):
        story = found(row)
        assert (story.id_column, story.position, story.state) == ("_row_id", row, "done")
        assert story.item == f"text {row}"
    assert (found(20).state, found(29).item) == ("left out by --limit", "text 29")
    for beyond in (30, -1):
        with pytest.raises(DataError, match="No row with _row_id = "):
            found(beyond)


def test_a_row_is_found_in_its_file_and_its_row_group() -> None:
    for number, name in enumerate(["a", "b", "sub/c"]):
        keys = [f"{name}{row}" for row in range(10 + number)]
        write(f"in/{name}.parquet", {"key": keys, "text": [f"text {key}" for key in keys]}, row_group_size=3 + number)
    write("in/empty.parquet", pa.table({"key": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    text_job(input="in/", id_column="key", limit=25)
    places = {}
    for name, row in [("a", 0), ("a", 9), ("b", 0), ("b", 10), ("sub/c", 3), ("sub/c", 4), ("sub/c", 11)]:
        story = found(f"{name}{row}")
        assert story.place is not None
        assert story.place.columns == {"key": f"{name}{row}", "text": f"text {name}{row}"}
        assert story.item == f"text {name}{row}"
        places[f"{name}{row}"] = (Path(story.place.file).relative_to(Path.cwd()).as_posix(), story.place.row)
        assert story.state == ("done" if story.position is not None and story.position < 25 else "left out by --limit")
    assert places == {
        "a0": ("in/a.parquet", 0), "a9": ("in/a.parquet", 9), "b0": ("in/b.parquet", 0), "b10": ("in/b.parquet", 10),
        "sub/c3": ("in/sub/c.parquet", 3), "sub/c4": ("in/sub/c.parquet", 4), "sub/c11": ("in/sub/c.parquet", 11),
    }  # fmt: skip


def test_it_does_not_matter_from_where_one_looks(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    write("in.parquet", {"text": TEXTS})
    text_job()
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    story = found(3, f"../{RUN}")
    assert (story.item, story.notes) == ("text 3", [])


def test_a_run_that_touches_no_local_disk_tells_of_its_rows() -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    with memory.open("/in.parquet", "wb") as file:
        pq.write_table(pa.table({"text": TEXTS}), file)
    text_job(input="memory://in.parquet", output="memory://out/out.parquet", limit=9)
    run_dir = "memory://out/.domyn-swarm/out.parquet"
    assert (found(8, run_dir).state, found(8, run_dir).item) == ("done", "text 8")
    assert found(9, run_dir).state == "left out by --limit"


# What the job was given.


def test_the_item_is_the_value_of_the_one_input_column_though_nobody_named_it() -> None:
    write("in.parquet", {"item": TEXTS})
    submit("Numeric")
    assert found(4).item == "text 4"


def test_the_item_of_several_input_columns_is_all_of_them() -> None:
    write("in.parquet", {"number": list(range(30)), "text": TEXTS, "other": TEXTS})
    submit("Joined", input_columns=["text", "number"], output_columns=["joined"])
    story = found(4)
    assert story.item == {"text": "text 4", "number": 4}
    assert story.findings[0].outputs == {"joined": "text 4-4"}


def test_only_those_columns_are_shown_that_the_run_read() -> None:
    write("in.parquet", {"text": TEXTS, "secret": TEXTS})
    text_job(backend_read_kwargs={"columns": ["text"]})
    story = found(4)
    assert story.place is not None
    assert story.place.columns == {"text": "text 4"}


# What became of it.


def test_a_row_that_failed_tells_why_and_where() -> None:
    write("in.parquet", {"item": ["a", "bad", "c"]})
    assert item_job(retries=1).failed == 1
    story = found(1)
    assert story.state == "failed"
    (finding,) = story.findings
    assert finding.failure == {"type": "ValueError", "message": "cannot do 'bad'", "attempts": 2}
    assert finding.outputs == {"upper": None}
    assert [entry.error for entry in finding.trace if isinstance(entry, Attempt)] == [
        "ValueError: cannot do 'bad'", "ValueError: cannot do 'bad'"
    ]  # fmt: skip
    text = render_text(story)
    assert "row 1 (_row_id): failed" in text
    assert "failed    ValueError after 2 attempt(s): cannot do 'bad'" in text
    assert 'raise ValueError(f"cannot do {item!r}")' in text


def test_a_row_that_failed_and_was_done_later_tells_of_both_the_later_first() -> None:
    write("in.parquet", {"item": ["a", "bad", "c", "stop", "e"]})
    assert item_job(limit=3).failed == 1
    Path("mended").touch()
    with pytest.raises(JobError):  # so that the parts are not merged
        item_job(max_concurrency=1)
    story = found(1)
    assert story.state == "done"
    assert [(finding.run, finding.part) for finding in story.findings] == [
        (2, "0002-000001.parquet"), (1, "0001-000001.parquet")
    ]  # fmt: skip
    assert [finding.outputs for finding in story.findings] == [{"upper": "BAD"}, {"upper": None}]
    assert [finding.failure and finding.failure["type"] for finding in story.findings] == [None, "ValueError"]
    lines = render_text(story).splitlines()
    assert lines.index("part      0002-000001.parquet, written by run 2") < lines.index(
        "part      0001-000001.parquet, written by run 1 (superseded by a later run)"
    )
    assert [(found(row).state, len(found(row).findings)) for row in (0, 2, 3, 4)] == [
        ("done", 1), ("done", 1), ("not reached yet", 0), ("not reached yet", 0)
    ]  # fmt: skip
    assert found(4).item == "e"

    Path("go").touch()
    assert item_job().failed == 0
    assert [(found(row).state, len(found(row).findings)) for row in range(5)] == [("done", 1)] * 5


def test_a_row_that_failed_again_and_again_tells_of_the_latest_first() -> None:
    write("in.parquet", {"item": ["bad", "stop"]})
    for _ in range(3):
        with pytest.raises(JobError):
            item_job(max_concurrency=1)
    story = found(0)
    assert story.state == "failed"
    runs = [finding.run for finding in story.findings]
    assert runs == sorted(runs, reverse=True)
    assert runs[0] == 3


def test_what_was_asked_and_answered_is_told_with_each_try() -> None:
    write("in.parquet", {"item": ["hello", "hello"]})
    refused = iter([503])

    async def handler(body: Any) -> web.Response:
        status = next(refused, 200)
        return await echo(body) if status == 200 else web.Response(status=status, headers={"Retry-After": "0"})

    with serving(handler) as server:
        item_job(Asks, endpoints=[server.url], retries=2, max_concurrency=1, dedupe=True)
    (exchange,) = found(0).findings[0].trace
    assert isinstance(exchange, Exchange)
    assert last(exchange.request) == "hello"
    assert [attempt.status for attempt in exchange.attempts] == [503, None]
    text = render_text(found(0))
    assert "request   POST chat/completions\n" in text
    assert f", {server.url}: POST chat/completions: status 503: no message\n" in text
    assert f" ms, {server.url}: ok\nresponse\n" in text
    assert "outputs\n  text: <hello>" in text
    assert "request   POST chat/completions (shared with an identical request)" in render_text(found(1))


# What became of the input.


def test_of_an_input_that_has_changed_since_only_what_was_made_is_told() -> None:
    write("in.parquet", {"text": TEXTS})
    text_job(limit=10)
    write("in.parquet", {"text": ["other", *TEXTS]})
    story = found(3)
    assert (story.state, story.place, story.item) == ("done", None, None)
    assert story.findings[0].outputs == {"upper": "TEXT 3"}
    (note,) = story.notes
    assert "has changed since the run" in note
    with pytest.raises(DataError, match="No row with _row_id = '20'"):
        found(20)


def test_of_an_input_that_is_gone_only_what_was_made_is_told() -> None:
    write("in.parquet", {"text": TEXTS})
    text_job()
    Path("in.parquet").unlink()
    story = found(3)
    assert (story.state, story.place, story.findings[0].outputs) == ("done", None, {"upper": "TEXT 3"})
    (note,) = story.notes
    assert note.startswith("The input cannot be read: ")
    assert "in.parquet" in note


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_under_filters_a_row_is_found_in_the_parts_alone(engine: str) -> None:
    write("in.parquet", {"n": list(range(30)), "text": TEXTS})
    text_job(backend_read_kwargs={"filters": [["n", ">=", 10]]}, data_backend=engine)
    story = found(3)
    assert (story.state, story.position, story.place) == ("done", 3, None)
    assert story.findings[0].outputs == {"upper": "TEXT 13"}, "what is left is counted from 0"
    assert story.notes == ["Only parquet inputs without filters can be searched."]


def test_of_a_csv_input_a_row_is_found_in_the_parts_alone() -> None:
    pyarrow.csv.write_csv(pa.table({"text": TEXTS}), "in.csv")
    text_job(input="in.csv")
    story = found(3)
    assert (story.state, story.place, story.findings[0].outputs) == ("done", None, {"upper": "TEXT 3"})
    assert story.notes == ["Only parquet inputs without filters can be searched."]


def test_rows_whose_input_grew_are_found_where_they_are_now() -> None:
    write("in/a.parquet", {"key": ["a0", "a1"], "text": ["t", "u"]})
    text_job(input="in/", id_column="key")
    write("in/0.parquet", {"key": ["00", "01", "02"], "text": ["v", "w", "x"]})
    text_job(input="in/", id_column="key", limit=4)
    story = found("a0")
    assert (story.position, story.state, story.item) == (3, "done", "t")
    assert found("a1").position == 4
    assert found("01").findings[0].outputs == {"upper": "W"}


# While a run goes on.


def test_rows_are_found_while_a_run_writes_parts_and_merges_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from domyn_swarm.checkpoint import part_merger

    monkeypatch.setattr(part_merger, "MERGED_AT", 2)
    write("in.parquet", {"text": [f"text {number}" for number in range(1500)]})
    done: list[Any] = []
    options = {"job_kwargs": {"seconds": 0.002}, "max_concurrency": 2, "checkpoint_interval": 0.02}
    thread = threading.Thread(
        target=lambda: done.append(submit("Recorded", input_columns=["text"], output_columns=["upper"], **options))
    )
    thread.start()
    chance, states = random.Random(7), []
    while thread.is_alive():
        row = chance.randrange(1500)
        try:
            story = found(row)
        except ConfigurationError:  # it has not begun
            assert not states
            continue
        states.append(story.state)
        assert story.item == f"text {row}"
        assert story.state in ("done", "not reached yet")
        assert story.state != "done" or story.findings[0].outputs == {"upper": f"TEXT {row}"}
    thread.join()
    assert done[0].done_now == 1500
    assert {"done", "not reached yet"} == set(states)


@pytest.mark.stress
def test_each_of_many_rows_is_found_and_no_other() -> None:
    count = 200_000
    order = random.Random(3)
    keys = list(range(count))
    order.shuffle(keys)
    for file in range(4):
        some = keys[file * count // 4 : (file + 1) * count // 4]
        columns = {"key": [f"k{key:06d}" for key in some], "item": [f"t{key}" for key in some]}
        write(f"in/{file}.parquet", columns, row_group_size=9_000)
    for limit in (60_000, 130_000, 180_000):
        item_job(Shouts, input="in/", id_column="key", native_backend=True, limit=limit)
    assert len(list(Path(f"{RUN}/parts").iterdir())) >= 2
    for position in [0, 59_999, 60_000, 179_999, 180_000, count - 1, *order.sample(range(count), 20)]:
        key = keys[position]
        story = found(f"k{key:06d}")
        assert (story.position, story.item) == (position, f"t{key}")
        assert story.place is not None
        assert (story.place.file[-9:], story.place.row) == (f"{position // 50_000}.parquet", position % 50_000)
        if position < 180_000:
            assert [finding.outputs for finding in story.findings] == [{"upper": f"T{key}"}]
        else:
            assert (story.state, story.findings) == ("left out by --limit", [])
    for beside in ("k200000", "k00000", "k0000001", "K000001", ""):
        with pytest.raises(DataError):
            found(beside)


# The command.


def test_the_command_tells_a_row_to_read_and_as_json(command: Command) -> None:
    write("in.parquet", {"key": [1, -7], "item": ["fine", "bad"]})
    item_job(id_column="key")
    shown = command("job", "row", RUN, "1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == (
        f"row 1 (key): done\n\ninput     {Path.cwd()}/in.parquet, row 0\n  key: 1\n  item: fine\n\nitem\n  fine\n\n"
        "part      0001-000001.parquet, written by run 1\noutputs\n  upper: FINE\n"
    )
    shown = command("job", "row", RUN, "--json", "--", "-7")
    assert (shown.returncode, shown.stderr) == (0, "")
    story = json.loads(shown.stdout)
    assert (story["id"], story["position"], story["state"], story["item"]) == ("-7", 1, "failed", "bad")
    assert story["place"] == {"file": f"{Path.cwd()}/in.parquet", "row": 1, "columns": {"key": -7, "item": "bad"}}
    assert story["findings"][0]["failure"]["message"] == "cannot do 'bad'"
    assert story["findings"][0]["trace"][0]["error"] == "ValueError: cannot do 'bad'"


def test_values_of_any_kind_can_be_told_as_text_and_as_json(command: Command) -> None:
    import datetime as dt
    import decimal

    write("in.parquet", {
        "key": pa.array([b"\xff\x00"], pa.binary()), "text": ["<script>alert(1)</script>\nsecond line\t\u2028é"],
        "bytes": pa.array([b"\xff\xfe"]), "time": pa.array([dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC)]),
        "day": pa.array([dt.date(2026, 1, 2)]), "took": pa.array([dt.timedelta(days=1, microseconds=5)]),
        "money": pa.array([decimal.Decimal("1.50")]), "nan": [float("nan")],
        "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "nested": [{"a": [1, None], "b": {"c": b"x"}}],
        "nothing": pa.nulls(1),
    })  # fmt: skip
    text_job(id_column="key")
    shown = command("job", "row", RUN, "ff00")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "text: <script>alert(1)</script>\nsecond line\t\\u2028é\n" in shown.stdout
    story = json.loads(command("job", "row", RUN, "ff00", "--json").stdout)
    columns = story["place"]["columns"]
    assert columns["text"] == "<script>alert(1)</script>\nsecond line\t\u2028é"
    assert (columns["day"], columns["money"], columns["nested"]["a"]) == ("2026-01-02", "1.50", [1, None])
    assert story["findings"][0]["outputs"] == {"upper": "<SCRIPT>ALERT(1)</SCRIPT>\nSECOND LINE\t\u2028É"}


def test_huge_texts_are_cut_to_be_read_and_whole_in_json(command: Command) -> None:
    write("in.parquet", {"text": ["x" * 300_000]})
    text_job()
    shown = command("job", "row", RUN, "0").stdout
    assert "X" * 2000 + "… (300,000 characters)" in shown
    assert len(shown) < 10_000
    story = json.loads(command("job", "row", RUN, "0", "--json").stdout)
    assert story["findings"][0]["outputs"]["upper"] == "X" * 300_000


WRONG = {
    "no such number": ("int", "99", "No row with key = '99'"),
    "no number": ("int", "seven", "ID: 'seven' is not a valid int64, the type of the ids."),
    "a fraction": ("int", "7.0", "ID: '7.0' is not a valid int64, the type of the ids"),
    "too large a number": (
        "int",
        "99999999999999999999",
        "ID: '99999999999999999999' is not a valid int64, the type of the ids",
    ),
    "nothing": ("int", "", "ID: '' is not a valid int64, the type of the ids"),
    "no such text": ("string", "K1", "No row with key = 'K1'"),
    "no bytes": ("binary", "0xZZ", "ID: '0xZZ' is not a valid binary, the type of the ids"),
    "no UUID": ("uuid", "7", "ID: '7' is not a valid extension<arrow.uuid>, the type of the ids"),
}


@pytest.mark.parametrize(("kind", "wanted", "says"), WRONG.values(), ids=WRONG)
def test_an_id_that_is_none_of_the_inputs_is_refused(kind: str, wanted: str, says: str) -> None:
    ids = {
        "int": pa.array([1, 2]), "string": pa.array(["k1", "k2"]), "binary": pa.array([b"1", b"2"]),
        "uuid": pa.array([uuid.UUID(int=number).bytes for number in range(2)], pa.uuid()),
    }  # fmt: skip
    write("in.parquet", {"key": ids[kind], "text": ["a", "b"]})
    text_job(id_column="key")
    with pytest.raises(DataError) as refused:
        found(wanted)
    assert says in refused.value.message
    assert (refused.value.exit_status, refused.value.hint != "") == (2, True)


def check_refused(ran: Any, *says: str) -> None:
    """One message, exit status 2, nothing else."""
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("Error") == 1
    assert "Traceback" not in ran.stderr
    assert [text for text in says if text not in ran.stderr] == []


def test_the_command_refuses_what_it_cannot_tell_with_one_message(command: Command) -> None:
    write("in.parquet", {"text": TEXTS})
    text_job()
    check_refused(command("job", "row", RUN, "99"), "No row with _row_id = '99'", RUN)
    check_refused(command("job", "row", RUN, "x", "--json"), "ID: 'x' is not a valid int64, the type of the ids")
    check_refused(command("job", "row", ".domyn-swarm", "1"), "is not the folder of a run", "Runs there: out.parquet.")
    check_refused(command("job", "row", "nowhere", "1"), "'nowhere' is not the folder of a run")
    check_refused(command("job", "row", "in.parquet", "1"), "'in.parquet' is not the folder of a run")
    Path(f"{RUN}/spec.json").unlink()
    check_refused(command("job", "row", RUN, "1"), "run.json or spec.json is missing or incomplete")


def test_a_folder_with_parts_alone_is_refused() -> None:
    write("in.parquet", {"text": TEXTS})
    text_job()
    Path(f"{RUN}/run.json").unlink()
    with pytest.raises(ConfigurationError, match=r"run\.json or spec\.json is missing or incomplete"):
        found(1)


def test_a_part_that_is_damaged_is_named() -> None:
    write("in.parquet", {"item": ["a", "stop", "c"]})
    with pytest.raises(JobError):
        item_job(max_concurrency=1)
    Path("go").touch()
    shutil.copy(f"{RUN}/parts/0001-000001.parquet", "kept.parquet")
    item_job()
    Path(f"{RUN}/parts/0001-000001.parquet").write_bytes(Path("kept.parquet").read_bytes()[:100])
    with pytest.raises(JobError, match=r"0001-000001\.parquet is damaged: "):
        found(0)
