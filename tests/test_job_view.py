"""`domyn-swarm job view`: the report of a run over HTTP, on this machine alone, live while the run goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domyn_swarm.checkpoint.compact import compact
from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.part import Part, PartMetadata, write_part
from domyn_swarm.checkpoint.part_file import BLOCK_BYTES
from domyn_swarm.data.columns import FAILURE, FAILURE_TYPE, POSITION, TRACE
from domyn_swarm.engine.recording.metrics import kinds_of
from domyn_swarm.report.failures import failures_of_kind
from domyn_swarm.report.model import FailureKind
from tests.browser import Browser, browser
from tests.conftest import Command, run_command, start_command, write
from tests.servers.object_store import object_store
from tests.test_imports import HELP, loaded

__all__ = ["browser"]

PATIENCE = 60.0
DIR = ".domyn-swarm/out.parquet"
MOODY = '''
import time
from pathlib import Path
from domyn_swarm import SwarmJob

class Moody(SwarmJob):
    """Does what the first word of a text says, unless the file `mended` names the word."""

    input_columns = ("text",)
    output_columns = ("done",)

    def transform_item(self, text):
        word = text.partition(" ")[0]
        if Path("mended").exists() and word in Path("mended").read_text():
            return text
        if word == "value":
            raise ValueError(f"cannot do {text!r}")
        if word == "key":
            raise KeyError(text)
        time.sleep(0.05 if word == "slow" else 0)
        return text
'''
HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "%2e%2e%2f", "</script><script>alert(1)</script>", "a\r\nSet-Cookie: b=c",
    "\x00", '"quoted"', "\\", "🙂 東京 \u202e\u2028", "' OR 1=1 --", " ", "&id=1", "#", "+",
]  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.text)


class View(NamedTuple):
    """A server that runs: `domyn-swarm job view` as a process."""

    process: subprocess.Popen[str]
    port: int
    token: str

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def url(self) -> str:
        return f"{self.origin}?token={self.token}"

    def ask(
        self, target: str, method: str = "GET", host: str | None = None, authorization: str | None = None
    ) -> Answer:
        """The answer to a request whose target and host are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
            if authorization != "":
                connection.putheader("Authorization", authorization or f"Bearer {self.token}")
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.ask("/data.json").json["report"]
        return report

    def failures(self, kind: int, offset: int) -> tuple[list[dict[str, Any]], int]:
        found = self.ask(f"/failures.json?kind={kind}&offset={offset}").json
        return found["rows"], found["total"]

    def row(self, id_: str) -> dict[str, str]:
        answer = self.ask(f"/row.json?id={quote(id_, safe='')}")
        assert answer.status == 200
        found: dict[str, str] = answer.json
        return found


@contextlib.contextmanager
def viewed(run: str | Path = DIR, *flags: str, env: dict[str, str] | None = None) -> Iterator[View]:
    """The view of a run, once it listens."""
    with start_command("job", "view", str(run), *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            announced = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{20,})\n", line)
            assert announced, process.stderr.read()
            yield View(process, int(announced[1]), announced[2])
        finally:
            process.kill()


def eventually(found: Callable[[], Any]) -> Any:
    """What `found` returns once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (it := found()):
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)
    return it


def submitted(*flags: str) -> list[str]:
    return ["job", "submit", *flags, "--input", "in.parquet", "--output", "out.parquet"]


@contextlib.contextmanager
def running(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """A run, once it has written down how it goes."""
    with (
        Path("log").open("w") as log,
        start_command(*submitted(*flags), stdout=log, stderr=log) as process,
    ):
        try:
            while "graph" not in (RunFolder(DIR).load("run.json") or {}):
                assert process.poll() is None, Path("log").read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def endpoint(latency: float) -> Iterator[str]:
    """`domyn-swarm endpoint demo`, and its URL."""
    line = ("endpoint", "demo", "--port", "0", "--latency", str(latency))
    with start_command(*line, stdout=subprocess.PIPE) as process:
        try:
            yield process.stdout.readline().split()[3]
        finally:
            process.kill()


def moody(texts: Sequence[str], ids: Sequence[str] | None = None) -> None:
    """Run Moody over these texts to its end."""
    Path("moody.py").write_text(MOODY)
    write("in.parquet", {"text": texts} if ids is None else {"id": ids, "text": texts})
    flags = [] if ids is None else ["--id-column", "id"]
    done = run_command(*submitted("moody.py:Moody", "--retries", "0"), *flags)
    assert done.returncode in (0, 3), done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    """The view of a run that is done: 120 rows failed of their value, 5 of their key, one row is fine."""
    with contextlib.chdir(tmp_path_factory.mktemp("finished")):
        moody([f"value {number}" for number in range(120)] + [f"key {number}" for number in range(5)] + ["fine"])
        with viewed() as view:
            yield view


# A run that goes on, and one that has ended.


def test_the_figures_move_while_the_run_goes_and_it_is_lost_when_its_process_is_killed() -> None:
    write("in.parquet", {"text": [f"row {number}" for number in range(100_000)]})
    with endpoint(latency=0.05) as url:
        run = running(
            "--endpoint", url, "--input-column", "text", "--max-concurrency", "32", "--checkpoint-interval", "0.5"
        )
        with run as process, viewed() as view:
            first = eventually(lambda: view.report()["rows"])
            eventually(lambda: view.report()["rows"] > first)
            assert view.report()["state"] == "running"
            assert view.report()["total"] == 100_000
            process.kill()
            process.wait()
            report = eventually(lambda: (it := view.report())["state"] != "running" and it)
    assert report["state"] == "lost"
    assert report["rows"] >= first


def test_the_view_stays_when_the_run_ends_and_tells_how() -> None:
    Path("moody.py").write_text(MOODY)
    write("in.parquet", {"text": ["slow"] * 100})
    with running("moody.py:Moody", "--max-concurrency", "1") as process, viewed() as view:
        assert view.report()["state"] == "running"
        assert process.wait(PATIENCE) == 0
        report = view.report()
        picture = view.ask("/data.json").json["picture"]
    assert (report["state"], report["rows"], report["failed"]) == ("done", 100, 0)
    assert "running" not in picture


def test_a_finished_run(finished: View) -> None:
    report = finished.report()
    assert (report["state"], report["total"], report["rows"], report["failed"]) == ("done", 126, 126, 125)
    assert [(kind["type"], kind["count"]) for kind in report["failures"]] == [("ValueError", 120), ("KeyError", 5)]


def test_the_page_is_live_and_has_the_report_and_the_picture_in_it(finished: View) -> None:
    answer = finished.ask("/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    content = answer.text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(content) == {**finished.ask("/data.json").json, "live": True}
    assert "<svg" in json.loads(content)["picture"]


def test_a_run_is_named_by_a_url_as_well(finished: View) -> None:
    folder = psutil.Process(finished.process.pid).cwd()
    with viewed(f"file://{folder}/{DIR}") as view:
        assert view.report()["rows"] == 126


def test_a_run_that_cannot_be_read_for_a_moment_is_there_again_afterwards() -> None:
    moody(["fine"])
    with viewed() as view:
        Path(DIR, "run.json").rename("aside.json")
        answer = view.ask("/data.json")
        assert (answer.status, answer.headers["Content-Type"]) == (503, "text/plain; charset=utf-8")
        assert answer.text.startswith(f"run.json is missing or incomplete in {DIR}.")
        Path("aside.json").rename(Path(DIR, "run.json"))
        assert view.report()["state"] == "done"


def test_the_picture_is_drawn_when_it_changes_and_not_more_than_once_a_second() -> None:
    moody(["fine"])
    real = shutil.which("dot") or Path(sys.executable).with_name("graphviz-pure")
    Path("bin").mkdir()
    Path("bin/dot").write_text(f'#!/bin/sh\necho >> drawn\nexec {real} "$@"\n')
    Path("bin/dot").chmod(0o755)
    with viewed(env={"PATH": f"{Path('bin').absolute()}:{os.environ['PATH']}"}) as view:
        first = view.ask("/data.json").json["picture"]
        assert [view.ask("/data.json").json["picture"] for _ in range(20)] == [first] * 20
        assert drawings() == 1
        record = json.loads(Path(DIR, "run.json").read_text())
        since = time.monotonic()
        for seconds in range(101, 105):
            record["figures"]["finalized"]["seconds"] = seconds
            Path("new.json").write_text(json.dumps(record))
            Path("new.json").rename(Path(DIR, "run.json"))
            assert f"{seconds}.0 s" in view.ask("/data.json").json["picture"]
        assert drawings() == 5
        assert time.monotonic() - since >= 3.0


def drawings() -> int:
    return len(Path("drawn").read_text().splitlines())


# Rows.


def test_a_row_is_looked_up(finished: View) -> None:
    assert finished.row("7")["text"].startswith("row 7 (_row_id): failed\n")
    assert "cannot do 'value 7'" in finished.row("7")["text"]
    assert "  done: fine" in finished.row("125")["text"]


def test_what_is_no_row_is_answered_in_words(finished: View) -> None:
    assert list(finished.row("126")) == ["error"]
    assert "126" in finished.row("126")["error"]
    assert list(finished.ask("/row.json").json) == ["error"]


@pytest.mark.parametrize("id_", [*HOSTILE, "9" * 5000], ids=ascii)
def test_ids_of_any_kind_are_answered_as_json(finished: View, id_: str) -> None:
    assert list(finished.row(id_)) == ["error"]


@pytest.mark.parametrize("query", ["id=%ff", "id=%ED%A0%80", "id=%", "id", "id=1&id=2", "=", "%00=%00", "id=%C0%AE"])
def test_broken_queries_are_answered_as_json(finished: View, query: str) -> None:
    assert set(finished.ask(f"/row.json?{query}").json) <= {"text", "error"}
    assert set(finished.ask(f"/failures.json?{query}").json) <= {"rows", "total", "error"}


def test_hostile_ids_and_texts_come_back_as_they_are() -> None:
    texts = [f"value {id_}" for id_ in HOSTILE]
    moody(texts, ids=HOSTILE)
    with viewed() as view:
        view.report()
        rows, total = view.failures(0, 0)
        assert (total, [row["id"] for row in rows]) == (len(HOSTILE), HOSTILE)
        assert [row["message"] for row in rows] == [f"cannot do {text!r}" for text in texts]
        for id_ in HOSTILE:
            assert view.row(id_)["text"].startswith(f"row {id_} (id): failed\n")


def test_failures_come_in_pages_in_input_order(finished: View) -> None:
    finished.report()
    pages = [finished.failures(0, offset) for offset in (0, 50, 100, 150)]
    assert [(len(rows), total) for rows, total in pages] == [(50, 120), (50, 120), (20, 120), (0, 120)]
    found = [row for rows, _ in pages for row in rows]
    assert [row["id"] for row in found] == [str(number) for number in range(120)]
    assert {tuple(row) for row in found} == {("id", "message", "attempts", "trace")}
    assert (found[7]["message"], found[7]["attempts"]) == ("cannot do 'value 7'", 1)
    assert found[7]["trace"].endswith('raise ValueError(f"cannot do {text!r}")\n')
    rows, total = finished.failures(1, 0)
    assert (total, [row["id"] for row in rows]) == (5, ["120", "121", "122", "123", "124"])


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("kind=2", "kind: 2 is out of range: the report has 2 kinds of failures."),
        ("kind=-1", "kind: '-1' is not a non-negative number."),
        ("kind=x", "kind: 'x' is not a non-negative number."),
        ("offset=-1", "offset: '-1' is not a non-negative number."),
        ("offset=1e3", "offset: '1e3' is not a non-negative number."),
        (f"offset={'9' * 5000}", f"offset: '{'9' * 5000}' is not a non-negative number."),
        ("offset=%D9%A3", "offset: '٣' is not a non-negative number."),
    ],
)
def test_a_page_of_failures_that_there_is_not(finished: View, query: str, error: str) -> None:
    finished.report()
    assert finished.ask(f"/failures.json?{query}").json == {"error": error}


def test_what_a_later_run_mended_is_not_among_the_failures() -> None:
    texts = ["value 0", "key 1", "value 2", "key 3"]
    moody(texts)
    Path("mended").write_text("key")
    moody(texts)
    with viewed() as view:
        assert [kind["type"] for kind in view.report()["failures"]] == ["ValueError"]
        rows, total = view.failures(0, 0)
    assert (total, [row["id"] for row in rows]) == (2, ["0", "2"])


def test_failures_are_right_while_runs_write_parts_and_merge_them() -> None:
    moody([f"{'value' if number % 2 else 'fine'} {number}" for number in range(600)])
    folder = RunFolder(DIR)
    whole = Part(folder.fs, folder.parts()[0])
    rows = whole.read()
    expected = [str(number) for number in range(1, 101, 2)]

    def write_and_merge() -> None:
        for run in range(2, 5):
            for number in range(30):
                path = f"{folder.root}/parts/{run:04d}-{number + 1:06d}.parquet"
                write_part(folder.fs, path, rows.slice(20 * number, 20), whole.origin)
            compact(folder, folder.parts())
            time.sleep(0.1)

    with viewed() as view:
        view.report()
        merging = threading.Thread(target=write_and_merge)
        merging.start()
        answers = [view.ask("/failures.json?kind=0&offset=0").json]
        while merging.is_alive():
            answers.append(view.ask("/failures.json?kind=0&offset=0").json)
        merging.join()
    found = [(it["total"], [row["id"] for row in it["rows"]]) for it in answers if "error" not in it]
    assert len(folder.parts()) == 1
    assert [it for it in found if it != (300, expected)] == []
    assert len(found) > 1
    assert {it["error"].splitlines()[0] for it in answers if "error" in it} <= {
        f"A run changes {DIR} faster than it can be read."
    }


# Failures in parts, told by the parts alone.


def part(name: str, rows: dict[int, tuple[str, str] | None], *, run_id: str = "ours", traces: Any = None) -> None:
    """A part of the run in `run`: the rows at these positions, each fine (None) or failed by type and message."""
    failures = [failure and {"type": failure[0], "message": failure[1], "attempts": 1} for failure in rows.values()]
    columns = {
        POSITION: pa.array(rows, pa.int64()), "id": [f"r{position}" for position in rows],
        "out": [None if failure else "fine" for failure in failures], FAILURE: pa.array(failures, FAILURE_TYPE),
        TRACE: pa.array(traces or [None] * len(rows), pa.string()),
    }  # fmt: skip
    folder = RunFolder("run")
    folder.make()
    folder.save("run.json", {"run_id": "ours"})
    write_part(
        folder.fs, f"{folder.root}/parts/{name}.parquet", pa.table(columns), PartMetadata(run_id, "digest", "id")
    )


def ids_of(type_: str, message: str, offset: int = 0, count: int = 50) -> tuple[list[str], int]:
    rows, total = failures_of_kind(RunFolder("run"), FailureKind(type_, message, 1), offset, count)
    return [row["id"] for row in rows], total


def test_of_rows_in_several_parts_the_success_counts_else_the_last() -> None:
    late, early = ("ValueError", "too late"), ("ValueError", "too early")
    part("0001-000001", {-1: early, 0: early, 2: early, 4: early, 6: None})
    part("0001-000002", {1: early, 3: None, 5: late})
    part("0002-000001", {0: None, 2: late, 4: ("KeyError", "too early"), 5: early, 6: early})
    assert ids_of("ValueError", "too early") == (["r1", "r5"], 2)
    assert ids_of("ValueError", "too late") == (["r2"], 1)
    assert ids_of("KeyError", "too early") == (["r4"], 1)
    assert ids_of("KeyError", "too late") == ([], 0)


def test_pages_follow_the_input_across_parts_whose_rows_are_mixed() -> None:
    failure = ("ValueError", "no # here")
    part("0001-000001", dict.fromkeys(range(0, 10, 2), ("ValueError", "no 1 here")))
    part("0001-000002", dict.fromkeys(range(1, 10, 2), ("ValueError", "no 22 here")))
    pages = [ids_of(*failure, offset, 4) for offset in (0, 4, 8, 12)]
    assert pages == [(["r0", "r1", "r2", "r3"], 10), (["r4", "r5", "r6", "r7"], 10), (["r8", "r9"], 10), ([], 10)]


def test_parts_of_other_runs_and_damaged_ones_are_left_out() -> None:
    failure = ("ValueError", "no")
    part("0001-000001", {0: failure})
    part("0001-000002", {1: failure}, run_id="another")
    Path("run/parts/0001-000003.parquet").write_bytes(b"no parquet")
    Path("run/parts/other.txt").write_bytes(b"")
    assert ids_of(*failure) == (["r0"], 1)


def test_row_groups_without_failures_are_not_read() -> None:
    failure = ("ValueError", "no")
    noise = [random.randbytes(8).hex() for _ in range(39_999)]  # so that the first group has blocks of its own
    part("0001-000001", {**dict.fromkeys(range(40_000)), 39_999: failure}, traces=[*noise, None])
    path = Path("run/parts/0001-000001.parquet")
    groups = pq.read_metadata(path)
    assert groups.num_row_groups == 2
    second = groups.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    whole = second // BLOCK_BYTES * BLOCK_BYTES
    assert whole > BLOCK_BYTES
    content[4:whole] = bytes(whole - 4)
    path.write_bytes(content)
    assert ids_of(*failure) == (["r39999"], 1)


def test_rows_are_of_the_kind_that_the_run_counted_them_under() -> None:
    frames = 'File "/a/b/my_job.py", line 8, in transform_item\n    raise ValueError(text)\n'
    trace = json.dumps([{"at": 1.0, "error": "ValueError: x", "traceback": frames}])
    kinds = [("ValueError", "at 0x7f12"), ("ValueError", "3 of 4\nmore"), ("KeyError", "a" * 300), ("OSError", "")]
    rows = {position: kinds[position % 4] for position in range(60)}
    part("0001-000001", rows, traces=[trace if position % 3 == 0 else None for position in rows])
    table = Part(RunFolder("run").fs, RunFolder("run").parts()[0]).read()
    counted = {key: kind.count for key, kind in kinds_of(table).items()}
    assert {key: ids_of(*key)[1] for key in counted} == counted
    assert counted[("ValueError", "my_job.py, line 8, in transform_item")] == 10
    assert counted[("ValueError", "at #")] == 10


def test_kinds_that_were_put_together_are_those_that_are_told_by_no_other() -> None:
    part("0001-000001", {0: ("ValueError", "a"), 1: ("ValueError", "b"), 2: ("ValueError", "c"), 3: ("KeyError", "d")})
    told = [FailureKind("ValueError", "a", 1), FailureKind("ValueError", "other messages", 2)]
    rows, total = failures_of_kind(RunFolder("run"), told[1], 0, 50, told)
    assert (total, [row["message"] for row in rows]) == (2, ["b", "c"])


# What it keeps to itself.


@pytest.mark.parametrize(
    "target",
    [
        "/run.json", "/report.html", "/graph.svg", "/index.html", "/data.json/", "//", "/./data.json/..", "/..",
        "/../../../../etc/passwd", "/..%2f..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/%2fetc%2fpasswd",
        "//etc/passwd", "/etc/passwd", "/data.json%00", "/data.json%2f..%2frun.json", "/..%5c..%5crun.json",
        "/assets/report.js", "/parts/0001-000001.parquet", "/file:///etc/passwd", "/favicon.ico",
    ],
)  # fmt: skip
def test_nothing_else_is_there(finished: View, target: str) -> None:
    answer = finished.ask(target)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
    assert answer.text == "Not Found"


@pytest.mark.parametrize("target", ["/", "/data.json", "/row.json?id=0", "/failures.json?kind=0", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_it_only_tells(finished: View, method: str, target: str) -> None:
    answer = finished.ask(target, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_head_has_no_body(finished: View) -> None:
    answer = finished.ask("/", "HEAD")
    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["Content-Length"] == str(len(finished.ask("/").text.encode()))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1.evil.example:{port}",
        "127.0.0.1:{port}.evil.example", "evil@127.0.0.1:{port}", "[::1]:{port}", "0.0.0.0:{port}", "127.1:{port}",
        "127.0.0.1:{port},evil.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/", "/data.json", "/row.json?id=0", "/nothing"])
def test_a_page_whose_name_was_made_to_lead_here_gets_nothing(finished: View, host: str, target: str) -> None:
    answer = finished.ask(target, host=host.format(port=finished.port))
    assert (answer.status, answer.text) == (403, "This server only answers requests to its own address.")


@pytest.mark.parametrize("lines", ["", "Host:\r\n", "Host: evil\r\nHost: 127.0.0.1:{port}\r\n"])
def test_a_request_without_one_host_gets_nothing(finished: View, lines: str) -> None:
    answer = raw(finished, f"GET /data.json HTTP/1.1\r\n{lines.format(port=finished.port)}Connection: close\r\n\r\n")
    assert answer.split(" ")[1] in ("400", "403")
    assert "report" not in answer


def test_it_answers_to_localhost(finished: View) -> None:
    assert finished.ask("/data.json", host=f"localhost:{finished.port}").status == 200


@pytest.mark.parametrize(
    "request_",
    ["GARBAGE\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\r\n\r\n", "GET /data.json\r\n\r\n"],
    ids=ascii,
)
def test_what_is_no_request_is_refused_without_a_trace_of_the_code(finished: View, request_: str) -> None:
    answer = raw(finished, request_)
    assert answer.split(" ")[1] in ("400", "403")
    assert "text/plain" in answer
    assert "Traceback" not in answer
    assert 'File "' not in answer


def raw(view: View, text: str) -> str:
    """What the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", view.port), PATIENCE) as connection:
        connection.sendall(text.encode())
        return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()


@pytest.mark.parametrize(
    ("target", "policy"),
    [
        ("/", "frame-ancestors 'none'"),
        ("/data.json", "default-src 'none'; frame-ancestors 'none'"),
        ("/row.json?id=0", "default-src 'none'; frame-ancestors 'none'"),
        ("/failures.json?kind=0", "default-src 'none'; frame-ancestors 'none'"),
        ("/nothing", "default-src 'none'; frame-ancestors 'none'"),
    ],
)
def test_every_answer_says_what_a_browser_may_do_with_it(finished: View, target: str, policy: str) -> None:
    headers = finished.ask(target).headers
    headers = {name: value for name, value in headers.items() if not name.startswith("Content-") or "Policy" in name}
    assert {name: headers[name] for name in headers if name not in ("Date", "Server")} == {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    } | {"X-Content-Type-Options": "nosniff"}


def test_it_listens_on_loopback_alone(finished: View) -> None:
    listening = [it.laddr for it in psutil.Process(finished.process.pid).net_connections() if it.status == "LISTEN"]
    assert listening == [("127.0.0.1", finished.port)]
    others = {it.address for its in psutil.net_if_addrs().values() for it in its if it.family == socket.AF_INET}
    for address in ({"127.0.0.2"} | others) - {"127.0.0.1"}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, finished.port), PATIENCE)


def test_an_error_of_the_program_is_told_to_its_log_and_not_to_the_client() -> None:
    moody(["value 1"])
    folder = RunFolder(DIR)
    (path,) = folder.parts()
    origin, rows = Part(folder.fs, path).origin, Part(folder.fs, path).read()
    at = rows.column_names.index(TRACE)
    write_part(folder.fs, path, rows.set_column(at, TRACE, pa.array(["no json"])), origin)
    with viewed() as view:
        view.report()
        answer = view.ask("/failures.json?kind=0&offset=0")
        assert (answer.status, answer.text) == (500, "Internal error; see the server's log.")
        assert view.report()["state"] == "done"
        view.process.send_signal(signal.SIGINT)
        err = view.process.communicate(timeout=PATIENCE)[1]
    assert "GET /failures.json: Traceback" in err
    assert view.token not in err


# The command.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0(finished: View, number: signal.Signals) -> None:
    folder = Path(psutil.Process(finished.process.pid).cwd(), DIR)
    with viewed(folder) as view, socket.create_connection(("127.0.0.1", view.port)):
        assert view.ask("/").status == 200
        view.process.send_signal(number)
        assert view.process.communicate(timeout=PATIENCE) == ("", "")
    assert view.process.returncode == 0


def test_a_read_that_hangs_keeps_neither_others_waiting_nor_the_process_from_ending() -> None:
    Path("moody.py").write_text(MOODY)
    write("texts.parquet", {"text": ["fine", "value 1"]})
    with object_store() as store:
        bucket, env = store.bucket(), {**os.environ, **store.environment}
        bucket.put("in.parquet", Path("texts.parquet").read_bytes())
        arguments = ("job", "submit", "moody.py:Moody", "--input", bucket.url("in.parquet"), "--output", "out.parquet")
        assert run_command(*arguments, "--retries", "0", env=env).returncode == 3
        with viewed(env=env) as view:
            view.report()
            store.pause()
            with socket.create_connection(("127.0.0.1", view.port)) as connection:
                lines = (
                    "GET /row.json?id=1 HTTP/1.1",
                    f"Host: 127.0.0.1:{view.port}",
                    f"Authorization: Bearer {view.token}",
                )
                connection.sendall("\r\n".join([*lines, "", ""]).encode())
                connection.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                assert view.ask("/nothing").status == 404
                view.process.send_signal(signal.SIGINT)
                assert view.process.wait(PATIENCE) == 0


def test_the_port_can_be_chosen_and_one_that_is_taken_is_refused(finished: View, command: Command) -> None:
    folder = str(Path(psutil.Process(finished.process.pid).cwd(), DIR))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("job", "view", folder, "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: --port: {port} cannot be used: Address already in use.\nChoose another port.\n"
    with viewed(folder, "--port", str(port)) as view:
        assert view.port == port


def test_what_is_no_run_is_refused(command: Command) -> None:
    Path("empty").mkdir()
    for name in ("nowhere", "empty"):
        done = command("job", "view", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"Error: '{name}' is not the folder of a run.\nIt is <checkpoint-dir>/<tag>.\n"


def test_a_run_that_wrote_down_too_little_for_a_report_is_refused(command: Command) -> None:
    Path("old").mkdir()
    Path("old/run.json").write_text('{"run_id": "1", "state": "done"}')
    done = command("job", "view", "old")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: run.json is missing or incomplete in old: ")
    assert "checkpoint inspect old" in done.stderr


def test_it_opens_a_browser_when_it_is_asked_to(finished: View) -> None:
    folder = Path(psutil.Process(finished.process.pid).cwd(), DIR)
    Path("browse").write_text('#!/bin/sh\necho "$1" >> opened\n')
    Path("browse").chmod(0o755)
    env = {"BROWSER": f"{Path('browse').absolute()} %s"}
    with viewed(folder, env=env) as view:
        assert view.ask("/").status == 200
    with viewed(folder, "--open", env=env) as view:
        opened = eventually(lambda: Path("opened").exists() and Path("opened").read_text())
        page = Path(urlsplit(opened.strip()).path)
        assert view.url in page.read_text()
        assert (page.stat().st_mode & 0o777, page.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert view.token not in opened, "everybody reads the arguments of the browser's process"
        view.process.send_signal(signal.SIGINT)
        view.process.wait(PATIENCE)
    assert not page.exists()


@pytest.mark.parametrize("target", ["/", "/data.json", "/row.json?id=0", "/failures.json?kind=0", "/nothing"])
@pytest.mark.parametrize("authorization", ["", "Bearer x", "Basic {token}", "Bearer {token}x", "Bearer ü"])
def test_without_the_token_nothing_is_told(finished: View, target: str, authorization: str) -> None:
    answer = finished.ask(target, authorization=authorization.format(token=finished.token))
    assert (answer.status, answer.text) == (403, "The token is missing: open the URL that the command printed.")
    assert finished.ask("/?token=" + finished.token, authorization="").status == 200


def test_its_help_loads_nothing_heavy() -> None:
    assert loaded(HELP.format(lines=["job view --help"])) == []


# In a browser.


def test_the_page_of_a_running_run_moves_by_itself_and_finds_rows(browser: Browser) -> None:
    Path("moody.py").write_text(MOODY)
    write("in.parquet", {"text": ["value 0", "fine 1", *["slow"] * 100_000]})
    flags = ["--max-concurrency", "2", "--retries", "0", "--checkpoint-interval", "0.5"]
    with running("moody.py:Moody", *flags) as run, viewed() as view:
        eventually(lambda: view.report()["failures"])
        tab = browser.open(view.url)
        tab.page.evaluate("window.opened = 'once'")
        first = tab.text("#rows")
        tab.page.wait_for_function("first => document.querySelector('#rows').innerText !== first", arg=first)
        assert tab.text("#top .badge") == "▸ running"
        tab.page.fill("#row-id", "1")
        tab.page.press("#row-id", "Enter")
        tab.page.wait_for_selector("#row-found pre")
        assert tab.text("#row-found").startswith("row 1 (_row_id): done")
        tab.page.click("#failed-rows button")
        tab.page.wait_for_selector("#failed-page .example")
        assert "cannot do 'value 0'" in tab.text("#failed-page")
        run.kill()
        run.wait()
        tab.page.wait_for_function("() => document.querySelector('#top .badge').innerText === '? lost'")
        assert tab.page.evaluate("window.opened") == "once"
        assert tab.errors == []
        assert {url for url in tab.requests if not url.startswith((view.origin, "data:"))} == set()
