"""What is kept of each row's way: every request, every try, every error, with the row that it is about and no other."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from domyn_swarm import RunResult, SwarmJob, make_spec, masking, run
from domyn_swarm.data.columns import FAILURE, TRACE
from domyn_swarm.errors import JobError
from domyn_swarm.jobs import EndpointJob
from domyn_swarm.masking import masked, masked_json
from domyn_swarm.telemetry import trace
from domyn_swarm.telemetry.trace import BODY_BYTES, Attempt, Exchange, Log, decoded, encoded
from tests.conftest import rows, table, write
from tests.servers.chaos import FORMS, chaos
from tests.test_completion_jobs import echo, last, said
from tests.test_endpoint import Handler, answering, serving

KEY = "sk-Zq8+Lw3Xv9/Rt5Kp2=Hd7Bn4Mc6Js1Fg"
QUOTED_KEY = 'sk-"Zq8+Lw3"\\Xv9/Rt5Kp2=Hd7Bn4'
AGAIN = {"Retry-After": "0"}


class AtOnceError(Exception):
    """An error that asks to be tried again without a wait."""

    retry_after = 0.0


class Asks(EndpointJob):
    """One request after another, then two at a time; every fifth row breaks once when it has its answers."""

    output_columns = ("text",)
    broken: ClassVar[set[str]] = set()

    async def transform_item(self, item: str) -> str:
        await self.ask_for(f"{item} first")
        await asyncio.gather(self.ask_for(f"{item} left"), self.ask_for(f"{item} right"))
        if int(item) % 5 == 0 and item not in self.broken:
            self.broken.add(item)
            raise AtOnceError(f"{item} is odd")
        return item

    async def ask_for(self, text: str) -> None:
        await self.ask("chat/completions", {"messages": [{"role": "user", "content": text}]})


class AsksOnce(EndpointJob):
    """One request for a row."""

    output_columns = ("text",)

    async def transform_item(self, item: str) -> str:
        answer = await self.ask("chat/completions", {"messages": [{"role": "user", "content": item}]})
        text: str = answer.body["choices"][0]["message"]["content"]
        return text


class AsksAndDoubts(AsksOnce):
    """An error without a message, as a failed `assert` is."""

    async def transform_item(self, item: str) -> str:
        text = await super().transform_item(item)
        if text != "<fine>":
            raise AssertionError
        return text


class AsksForAll(EndpointJob):
    """One request for a list of rows."""

    output_columns = ("text",)

    async def transform_items(self, items: list[str]) -> list[str]:
        await self.ask("chat/completions", {"messages": [{"role": "user", "content": " ".join(items)}]})
        return items

    async def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        return await self.transform_items(pa.table(batch).column(input_cols[0]).to_pylist())


class Stumbles(SwarmJob):
    """A plain def that breaks as often as the row says, at its own pace."""

    output_columns = ("text",)
    lock: ClassVar[threading.Lock] = threading.Lock()
    tries: ClassVar[Counter[str]] = Counter()

    def transform_item(self, item: str) -> str:
        time.sleep(random.Random(item).uniform(0, 0.004))
        with self.lock:
            self.tries[item] += 1
            tried = self.tries[item]
        if tried <= int(item) % 3:
            raise AtOnceError(f"{item} stumbles {tried}")
        return item


class Hostile(SwarmJob):
    """Breaks with what cannot be stored as it is, or that cannot even be shown."""

    output_columns = ("text",)

    async def transform_item(self, item: str) -> str:
        if item == "mute":
            raise MuteError
        raise ValueError("half \ud83d, bell \x07, nothing \x00, <script>, \u2028 end")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("do not ask")


class Forsakes(EndpointJob):
    """Row 0 breaks while a second conversation of it goes on by itself."""

    output_columns = ("text",)

    async def transform_item(self, item: str) -> str:
        if item == "0":
            await asyncio.gather(self.breaks(), self.goes_on())
        await self.ask_for(f"row {item}")
        return item

    async def breaks(self) -> None:
        await asyncio.sleep(0.01)
        raise AtOnceError("no")

    async def goes_on(self) -> None:
        for number in range(3):
            await self.ask_for(f"row 0, {number}")

    async def ask_for(self, text: str) -> None:
        await self.ask("chat/completions", {"messages": [{"role": "user", "content": text}]})


@pytest.fixture(autouse=True)
def from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes and keys are known for as long as the process lives."""
    monkeypatch.setattr(Asks, "broken", set())
    monkeypatch.setattr(Stumbles, "tries", Counter())
    monkeypatch.setattr(masking, "_known", set())


def submit(job: type[SwarmJob], url: str = "", **options: Any) -> RunResult:
    defaults = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["item"], "output_columns": ["text"]}
    return run(
        make_spec({**defaults, "job": f"{__name__}:{job.__name__}", "endpoints": [url] if url else [], **options})
    )


def ran(job: type[SwarmJob], items: list[str], handler: Handler = echo, **options: Any) -> RunResult:
    write("in.parquet", {"item": items})
    with serving(handler) as server:
        return submit(job, server.url, **options)


def parts() -> list[Path]:
    return sorted(Path(".domyn-swarm/out.parquet/parts").glob("*.parquet"))


def told() -> dict[int, str | None]:
    """What the parts hold of each row's way, by the row."""
    found = [row for part in parts() for row in rows(part)]
    assert len({row["_row_id"] for row in found}) == len(found)
    return {row["_row_id"]: row.get(TRACE) for row in found}


def logs() -> dict[int, Log]:
    return {row: decoded(text) for row, text in told().items()}


def asked(entry: Attempt | Exchange) -> str:
    """What a request asks, or an error says."""
    return last(entry.request) if isinstance(entry, Exchange) else entry.error


def answered(entry: Exchange) -> str:
    text: str = entry.response["choices"][0]["message"]["content"]
    return text


def failing_first(*texts: str, status: int = 503, latency: float = 0.0) -> Handler:
    """A server that takes as long as each text makes it, and refuses the first request for each of `texts`."""
    left = set(texts)

    async def handler(body: Any) -> web.Response:
        text = last(body)
        await asyncio.sleep(random.Random(text).uniform(0, latency))
        if text in left:
            left.remove(text)
            return web.Response(status=status, headers=AGAIN, text=f"not yet, {text}")
        return await echo(body)

    return handler


# Each row has its own way, and nobody else's.


def test_each_of_many_rows_that_overtake_one_another_has_its_own_requests_in_the_order_in_which_they_were_sent() -> (
    None
):
    items = [str(number) for number in range(200)]
    late = [f"{number} first" for number in range(0, 200, 7)]
    ran(Asks, items, failing_first(*late, latency=0.01), max_concurrency=16, retries=2)
    found = logs()
    assert sorted(found) == list(range(200))
    for row, log in found.items():
        requests = [f"{row} first", f"{row} left", f"{row} right"]
        broke = [f"AtOnceError: {row} is odd", *requests] if row % 5 == 0 else []
        assert [asked(entry) for entry in log] == [*requests, *broke]
        exchanges = [entry for entry in log if isinstance(entry, Exchange)]
        assert [answered(entry) for entry in exchanges] == [f"<{asked(entry)}>" for entry in exchanges]
        assert [len(entry.attempts) for entry in exchanges[:3]] == [2 if row % 7 == 0 else 1, 1, 1]
        if row % 7 == 0:
            first, second = exchanges[0].attempts
            message = f"POST chat/completions: status 503: not yet, {row} first"
            assert (first.status, first.error) == (503, message)
            assert (second.status, second.error) == (None, "")


def test_rows_in_threads_have_their_own_errors_in_order_and_those_without_any_have_nothing() -> None:
    write("in.parquet", {"item": [str(number) for number in range(120)]})
    assert submit(Stumbles, max_concurrency=8, retries=2).failed == 0
    for row, log in logs().items():
        assert [entry.error for entry in log if isinstance(entry, Attempt)] == [
            f"AtOnceError: {row} stumbles {tried + 1}" for tried in range(row % 3)
        ]
    assert {row for row, text in told().items() if text is None} == set(range(0, 120, 3))


def test_a_row_that_fails_for_good_has_all_of_its_tries() -> None:
    handler = answering(lambda: web.Response(status=500, text="boom", headers=AGAIN))
    assert ran(AsksOnce, ["a"], handler, retries=2).failed == 1
    (entry,) = logs()[0]
    assert isinstance(entry, Exchange)
    assert [one.status for one in entry.attempts] == [500, 500, 500]
    assert {one.error for one in entry.attempts} == {"POST chat/completions: status 500: boom"}
    assert entry.response is None


def test_requests_that_outlive_their_row_are_kept_with_no_other_row() -> None:
    """`asyncio.gather` lets the others go on when one breaks, as does every task that nobody waits for."""

    async def slowly(body: Any) -> web.Response:
        await asyncio.sleep(0.03)
        return await echo(body)

    ran(Forsakes, [str(number) for number in range(6)], slowly, max_concurrency=1, retries=0)
    found = logs()
    assert {row: [asked(entry) for entry in found[row]] for row in range(1, 6)} == {
        row: [f"row {row}"] for row in range(1, 6)
    }
    assert asked(found[0][0]) == "row 0, 0"


def test_a_body_that_is_no_answer_is_kept_with_what_is_wrong_with_it() -> None:
    write("in.parquet", {"item": ["odd"]})
    with chaos("--when", "odd=error-200") as server:
        submit(AsksOnce, server.url, retries=0)
    exchange, *_ = logs()[0]
    assert isinstance(exchange, Exchange)
    assert exchange.response == {"error": {"message": "no luck, nobody!"}}
    assert [one.status for one in exchange.attempts] == [200]


def test_an_error_without_a_message_after_an_answer_is_told_with_its_place() -> None:
    assert ran(AsksAndDoubts, ["odd", "fine"], retries=0).failed == 1
    odd, fine = logs()[0], logs()[1]
    assert [type(entry) for entry in fine] == [Exchange]
    assert [type(entry) for entry in odd] == [Exchange, Attempt]
    assert trace.place_in(trace.traceback_in(told()[0])).startswith("test_trace.py, line ")


def test_tries_tell_when_they_began_how_long_they_took_and_where_they_went() -> None:
    async def slowly(body: Any) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=500, headers=AGAIN) if last(body) == "bad" else await echo(body)

    write("in.parquet", {"item": ["good", "bad"]})
    before = time.time()
    with serving(slowly) as one, serving(slowly) as other:
        submit(AsksOnce, endpoints=[one.url, other.url], retries=3, max_concurrency=1)
    after = time.time()
    attempts = [one for row in (0, 1) for entry in logs()[row] for one in getattr(entry, "attempts", [])]
    assert len(attempts) == 5
    assert {one.url for one in attempts} == {one.url, other.url}
    moments = [moment for one in attempts for moment in (one.at, one.at + (one.seconds or 0))]
    assert all(one.seconds and one.seconds >= 0.045 for one in attempts)
    assert before <= moments[0]
    assert moments[-1] <= after + 0.1
    assert all(one <= next_ + 0.02 for one, next_ in itertools.pairwise(moments)), "one after the other"


# Many rows in one call, equal requests.


@pytest.mark.parametrize("native", [False, True], ids=["a list", "a frame"])
def test_rows_that_one_request_was_sent_for_share_its_tries_without_what_was_asked_and_answered(native: bool) -> None:
    handler = failing_first("a b c", "d e")
    sizes = {"native_backend": True, "native_batch_size": 3} if native else {"batch_size": 3}
    ran(AsksForAll, ["a", "b", "c", "d", "e"], handler, retries=2, max_concurrency=2, **sizes)
    assert len(told()) == 5
    assert told()[0] == told()[1] == told()[2]
    assert told()[3] == told()[4] != told()[0]
    for log in logs().values():
        (entry,) = log
        assert isinstance(entry, Exchange)
        assert (entry.path, entry.request, entry.response) == ("chat/completions", None, None)
        assert [one.status for one in entry.attempts] == [503, None]


def test_rows_of_one_call_that_failed_share_its_errors() -> None:
    handler = answering(lambda: web.Response(status=400, text="no"))
    assert ran(AsksForAll, ["a", "b"], handler, batch_size=2).failed == 2
    assert [[one.status for one in log[0].attempts] for log in logs().values() if isinstance(log[0], Exchange)] == [
        [400], [400]
    ]  # fmt: skip


@pytest.mark.parametrize("concurrency", [1, 8], ids=["one after the other", "at the same time"])
def test_of_equal_requests_one_is_told_with_its_tries_and_the_others_as_shared(concurrency: int) -> None:
    handler = failing_first("same", latency=0.05)
    ran(AsksOnce, ["same"] * 6, handler, dedupe=True, retries=1, max_concurrency=concurrency)
    entries = [entry for log in logs().values() for entry in log if isinstance(entry, Exchange)]
    assert sorted((entry.shared, len(entry.attempts)) for entry in entries) == [(False, 2), *[(True, 0)] * 5]
    assert {answered(entry) for entry in entries} == {"<same>"}
    assert {asked(entry) for entry in entries} == {"same"}


# How it is kept.


@given(size=st.integers(0, 3 * BODY_BYTES), letter=st.sampled_from(["a", "é", "漢", '"', "\\", "\n"]))
@example(size=BODY_BYTES - 14, letter="a")
@example(size=BODY_BYTES - 13, letter="a")
def test_a_body_is_kept_as_it_is_up_to_a_size_and_as_the_beginning_of_a_text_beyond_it(size: int, letter: str) -> None:
    content = {"content": letter * (size // len(msgspec.json.encode(letter)[1:-1]))}
    body = msgspec.json.encode(content)
    (entry,) = decoded(encoded([Exchange("chat/completions", body, [], content)]))
    assert isinstance(entry, Exchange)
    for kept in (entry.request, entry.response):
        if len(body) <= BODY_BYTES:
            assert kept == content
        else:
            beginning, _, told = kept.rpartition("… ")
            assert told == f"({len(body):,} bytes)"
            assert body.startswith(beginning.removesuffix("\ufffd").encode())
            assert len(beginning.encode()) >= BODY_BYTES - 3


Texts = st.text(st.characters(codec=None, exclude_categories=[]), max_size=40)


@given(error=Texts, text=st.text(max_size=40), url=st.text(max_size=20))
@example(error="\ud83d", text="\x00\x1b[2J\u2028</script>", url='"\\')
def test_whatever_stands_in_errors_and_answers_comes_out_as_it_went_in_but_for_halves_of_characters(
    error: str, text: str, url: str
) -> None:
    log: Log = [Exchange("chat/completions", msgspec.json.encode({"a": text}), [Attempt(1.5, 0.25, url)], {"b": text})]
    trace.failed(log, ValueError(error))
    exchange, attempt = decoded(encoded(log))
    assert isinstance(exchange, Exchange)
    assert (exchange.request, exchange.response, exchange.attempts[0].url) == ({"a": text}, {"b": text}, url)
    assert isinstance(attempt, Attempt)
    assert attempt.error == f"ValueError: {error.encode(errors='backslashreplace').decode()}"


def test_a_row_whose_error_cannot_be_stored_or_shown_has_what_can() -> None:
    write("in.parquet", {"item": ["loud", "mute"]})
    assert submit(Hostile, retries=0).failed == 2
    assert [entry.error for log in logs().values() for entry in log if isinstance(entry, Attempt)] == [
        "ValueError: half \\ud83d, bell \x07, nothing \x00, <script>, \u2028 end",
        "MuteError: (an error that cannot be shown)",
    ]


def test_a_file_whose_name_is_no_text_may_stand_in_a_traceback() -> None:
    """Python reads bytes of a path that are no UTF-8 as halves of characters."""
    code = compile("def job():\n    raise ValueError('no')\n", "caf\udce9/job.py", "exec")
    space: dict[str, Any] = {}
    exec(code, space)
    log: Log = []
    try:
        space["job"]()
    except ValueError as error:
        trace.failed(log, error)
    (attempt,) = decoded(encoded(log))
    assert isinstance(attempt, Attempt)
    assert 'job.py", line 2, in job' in attempt.traceback


def test_answers_with_numbers_of_any_size_and_deep_nesting_are_kept() -> None:
    nested: Any = 1
    for _ in range(200):
        nested = [nested]
    answer = {"big": 2**63, "tiny": 5e-324, "nested": nested, "nothing": None, "é": {"\u2028": "\x1f"}}
    (entry,) = decoded(encoded([Exchange("embeddings", b"{}", [], answer)]))
    assert isinstance(entry, Exchange)
    assert entry.response == answer


def test_a_log_without_bodies_keeps_the_rest() -> None:
    attempt = Attempt(1.0, 0.5, "http://127.0.0.1/v1", 500, "no")
    log: Log = [Exchange("chat/completions", b'{"a":1}', [attempt], {"b": 2}), Attempt(2.0, error="E: no")]
    assert decoded(encoded(log, bodies=False)) == [Exchange("chat/completions", None, [attempt], None), log[1]]
    assert log[0] == Exchange("chat/completions", b'{"a":1}', [attempt], {"b": 2}), "the log stays as it is"


def test_neither_the_output_nor_the_errors_file_holds_it() -> None:
    ran(AsksOnce, ["a", "b"], failing_first("a", status=400), retries=0)
    assert table("out.parquet").column_names == ["item", "text"]
    assert table("out.errors.parquet").column_names == ["_row_id", "type", "message", "attempts"]


@pytest.mark.parametrize("engine", ["pandas", "polars"])
def test_an_engine_makes_no_difference(engine: str) -> None:
    ran(AsksOnce, ["a", "b"], failing_first("b"), data_backend=engine, retries=1)
    assert {row: [(asked(one), len(getattr(one, "attempts", []))) for one in log] for row, log in logs().items()} == {
        0: [("a", 1)], 1: [("b", 2)]
    }  # fmt: skip
    assert table("out.parquet").column_names == ["item", "text"]


# Keys.


@pytest.mark.parametrize("form", FORMS)
def test_a_key_that_the_server_repeats_is_kept_in_no_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write("in.parquet", {"item": ["odd", "rude", "fine"]})
    with chaos("--when", "odd=error-200", "--when", "rude=400", "--repeat-key", form) as server:
        assert submit(AsksOnce, server.url, retries=0).failed == 2
    odd, rude, _ = (logs()[row] for row in range(3))
    assert isinstance(odd[0], Exchange)
    assert "no luck, ***" in odd[0].response["error"]["message"]
    assert isinstance(rude[0], Exchange)
    assert "this is a 400, ***" in rude[0].attempts[0].error
    shown = str(told())
    spoken = FORMS["plain" if form == "escaped" else form](KEY)
    assert [at for at in range(len(spoken) - 7) if spoken[at : at + 8] in shown] == []


def test_a_key_that_json_has_to_escape_is_kept_neither_and_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", QUOTED_KEY)
    write("in.parquet", {"item": ["odd", "fine"]})
    with chaos("--when", "odd=error-200", "--repeat-key", "plain") as server:
        assert submit(AsksOnce, server.url, retries=0).failed == 1
    exchange = logs()[0][0]
    assert isinstance(exchange, Exchange)
    message = exchange.response["error"]["message"]
    assert message.startswith("no luck, ")
    assert [at for at in range(len(QUOTED_KEY) - 7) if QUOTED_KEY[at : at + 8] in message] == []


ODD_SECRETS = {
    "digits": ("12345678", {"created": 1123456789}),
    "ends in a backslash": ("abcdefgh\\", {"said": 'abcdefgh"'}),
}


@pytest.mark.parametrize(("secret", "answer"), ODD_SECRETS.values(), ids=ODD_SECRETS)
def test_a_log_can_be_read_whatever_a_key_looks_like(secret: str, answer: dict[str, Any]) -> None:
    masking.hide(secret)
    log: Log = [Exchange("chat/completions", b"{}", [Attempt(1.0, 0.5)], answer), Attempt(2.0, error="ValueError: no")]
    exchange, attempt = decoded(encoded(log))
    assert isinstance(exchange, Exchange)
    assert exchange.path == "chat/completions"
    assert attempt == log[1]


Secrets = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="+/=-_"), min_size=24, max_size=60
)
Around = st.text(st.characters(codec="utf-8"), max_size=30)


@given(secret=Secrets, data=st.data(), pieces=st.lists(Around, min_size=2, max_size=4))
def test_texts_that_are_many_are_masked_as_all_are_where_a_stretch_has_two_pieces_or_more(
    secret: str, data: st.DataObject, pieces: list[str]
) -> None:
    masking._known.clear()
    masking.hide(secret)
    forms = [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()]
    text = pieces[0]
    for piece in pieces[1:]:
        form = data.draw(st.sampled_from(forms))
        start = data.draw(st.integers(0, len(form) - 16))
        text += form[start : start + data.draw(st.integers(16, len(form)))] + piece
    assert json.loads(masked_json(json.dumps(text, ensure_ascii=False))) == masked(text) != text


@given(secret=Secrets, before=st.binary(max_size=10), after=st.binary(max_size=10))
def test_a_key_within_something_longer_in_base64_is_masked_in_texts_that_are_many_too(
    secret: str, before: bytes, after: bytes
) -> None:
    masking._known.clear()
    masking.hide(secret)
    text = base64.b64encode(before + secret.encode() + after).decode()
    assert json.loads(masked_json(json.dumps(text, ensure_ascii=False))) == masked(text) != text


@given(secret=Secrets, text=st.text(st.characters(exclude_characters="+/=-_", exclude_categories=["L", "N", "Cs"])))
def test_texts_without_a_key_stay_as_they_are(secret: str, text: str) -> None:
    masking._known.clear()
    masking.hide(secret)
    assert masked_json(text) == text


# Runs that keep nothing, runs that go on.


@pytest.mark.parametrize("job", [AsksOnce, AsksForAll])
def test_without_a_trace_nothing_is_kept_and_failures_are_told_as_ever(job: type[SwarmJob]) -> None:
    result = ran(job, ["a", "b"], failing_first("a", "a b", status=400), retries=0, trace=False)
    assert result.failed >= 1
    for part in parts():
        assert TRACE not in pq.read_schema(part).names
    assert rows("out.errors.parquet")[0]["type"] == "EndpointError"


def test_rows_in_threads_keep_nothing_either_without_a_trace() -> None:
    write("in.parquet", {"item": ["1", "2", "3"]})
    submit(Stumbles, retries=2, trace=False)
    assert {name for part in parts() for name in pq.read_schema(part).names} == {
        "__position__", "_row_id", "text", FAILURE
    }  # fmt: skip


def test_a_run_of_which_there_is_nothing_to_tell_has_no_column_for_it() -> None:
    write("in.parquet", {"item": ["0", "3", "6"]})
    submit(Stumbles)
    assert TRACE not in pq.read_schema(parts()[0]).names


def test_runs_that_go_on_and_parts_that_are_merged_keep_what_each_row_had() -> None:
    write("in.parquet", {"item": [str(number) for number in range(12)]})
    with serving(failing_first("2", "5", "9")) as server:
        for limit in (4, 8, None):
            submit(AsksOnce, server.url, retries=1, limit=limit)
    assert len(parts()) == 1, "three small parts were merged"
    assert {row: asked(*log) for row, log in logs().items()} == {row: str(row) for row in range(12)}
    tries = {row: len(log[0].attempts) for row, log in logs().items() if isinstance(log[0], Exchange)}
    assert tries == {row: 2 if row in (2, 5, 9) else 1 for row in range(12)}


@pytest.mark.parametrize("kept", [[False, True], [True, False], [False, True, False], [True, False, True]])
def test_runs_with_and_without_a_trace_go_on_from_one_another(kept: list[bool]) -> None:
    """Parts of an earlier version have no such column, as those of a run with --no-trace."""
    items = [str(number) for number in range(3 * len(kept))]
    write("in.parquet", {"item": items})
    with serving(echo) as server:
        for number, trace_it in enumerate(kept, 1):
            result = submit(AsksOnce, server.url, limit=3 * number, trace=trace_it)
    assert (result.rows, result.done_before) == (len(items), len(items) - 3)
    assert [row["text"] for row in rows("out.parquet")] == [f"<{item}>" for item in items]
    assert {row: text is not None for row, text in told().items()} == {row: kept[row // 3] for row in range(len(items))}
    assert len(parts()) == 1


def test_a_row_that_failed_and_is_done_later_has_the_way_of_the_later_run_once_its_parts_are_merged() -> None:
    write("in.parquet", {"item": ["a", "b"]})
    with serving(failing_first("b", status=400)) as server:
        assert submit(AsksOnce, server.url).failed == 1
        assert submit(AsksOnce, server.url).failed == 0
    (entry,) = logs()[1]
    assert isinstance(entry, Exchange)
    assert [one.status for one in entry.attempts] == [None]
    assert answered(entry) == "<b>"


def test_what_finished_before_a_run_ended_early_keeps_its_way() -> None:
    handler = answering(lambda: said("fine"))
    write("in.parquet", {"item": ["a", "b", "stop"]})
    with serving(handler) as server, pytest.raises(JobError):
        submit(AsksThenStops, server.url, max_concurrency=1)
    assert {row: asked(*log) for row, log in logs().items()} == {0: "a", 1: "b"}


class AsksThenStops(AsksOnce):
    """Ends the run at a row `stop`."""

    async def transform_item(self, item: str) -> str:
        if item == "stop":
            raise JobError("The licence has expired.")
        return await super().transform_item(item)


# What is made of it: kinds of failures.


def test_slots_of_a_traceback_are_the_users_file_and_line() -> None:
    frames = '  File "/a/b c/my_job.py", line 8, in transform_item\n    x\n  File "/d/lib.py", line 30, in <lambda>\n'
    assert trace.place_in(frames) == "lib.py, line 30, in <lambda>"
    assert trace.place_in("") == ""
    assert trace.place_in("Traceback, of some other kind") == ""


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("row 12 of 300 failed", "row # of # failed"),
        ("took 3.14 s, 0x7f3a", "took # s, #"),
        ("first\nsecond 2", "first"),
        ("", ""),
        ("x" * 500, "x" * 160),
    ],
)
def test_messages_that_differ_in_numbers_alone_have_one_shape(message: str, shape: str) -> None:
    assert trace.shape_of(message) == shape


def test_the_last_traceback_is_that_of_the_last_error_that_has_one() -> None:
    log: Log = [
        Attempt(1.0, error="A", traceback="one"), Exchange("p", b"{}", [Attempt(2.0, error="B")]),
        Attempt(3.0, error="C", traceback="two"), Attempt(4.0, error="D"),
    ]  # fmt: skip
    assert trace.traceback_in(encoded(log)) == "two"
    assert trace.traceback_in(None) == ""


def test_where_nobody_has_started_a_log_nothing_is_kept() -> None:
    sent = trace.exchange("chat/completions", b"{}")
    trace.shared("chat/completions", b"{}", {})
    assert sent.attempts == []
    log = trace.start()
    kept = trace.exchange("chat/completions", b"{}")
    assert log == [kept]
    log.clear()
