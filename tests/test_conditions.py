"""Conditions are shared: a rate limit holds the endpoint and fails nobody, what no row can pass ends the run."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from domyn_swarm.endpoint.answers import fault_of
from domyn_swarm.endpoint.conditions import (
    Allowance,
    allowances_of,
    condition_of,
    condition_of_error,
    duration_of,
    retry_after_of,
)
from tests.conftest import Command, rows, write
from tests.test_completion_jobs import echo, last
from tests.test_endpoint import Handler, serving

TEXTS = [f"row {number}" for number in range(60)]


def submit(url: str | list[str], *options: str, job: str = "domyn_swarm.jobs:ChatCompletionJob") -> list[str]:
    urls = [url] if isinstance(url, str) else url
    return [
        "job", "submit", job, "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
        *(word for one in urls for word in ("--endpoint", one)), *options,
    ]  # fmt: skip


def requests_of() -> int:
    found = json.loads(Path(".domyn-swarm/out.parquet/run.json").read_text())["traffic"]["requests"]
    assert isinstance(found, int)
    return found


def limited(rate: float, burst: float, **headers: str) -> Handler:
    """A server that lets `rate` requests a second in, and says no to the rest."""
    state: dict[str, float] = {}

    async def handler(body: Any) -> web.Response:
        now = asyncio.get_running_loop().time()
        level = min(burst, state.get("level", burst) + (now - state.get("then", now)) * rate)
        state.update(then=now, level=level - 1 if level >= 1 else level)
        if level < 1:
            return web.json_response({"error": {"code": "rate_limit_exceeded"}}, status=429, headers=headers)
        return await echo(body)

    return handler


def after(count: int, status: int, body: Any, **headers: str) -> Handler:
    """A server that answers `count` requests and refuses the rest."""
    seen = 0

    async def handler(asked: Any) -> web.Response:
        nonlocal seen
        seen += 1
        return await echo(asked) if seen <= count else web.json_response(body, status=status, headers=headers)

    return handler


# Rate limits.


@pytest.mark.parametrize(
    ("concurrency", "headers"),
    [
        pytest.param("32", {"Retry-After": "1"}, id="32-told"),
        pytest.param("auto", {}, id="auto-not told"),
        pytest.param("32", {}, id="32-not told", marks=pytest.mark.stress),
        pytest.param("auto", {"Retry-After": "1"}, id="auto-told", marks=pytest.mark.stress),
    ],
)
def test_with_a_rate_limit_no_row_fails_though_each_may_be_tried_once(
    concurrency: str, headers: Mapping[str, str], command: Command
) -> None:
    write("in.parquet", {"item": TEXTS})
    with serving(limited(30, 10, **headers)) as server:
        done = command(*submit(server.url, "--max-concurrency", concurrency, "--retries", "0"))
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in rows("out.parquet")] == [f"<{text}>" for text in TEXTS]


OFFICIAL = textwrap.dedent("""
    import openai
    from domyn_swarm import SwarmJob
    from domyn_swarm.jobs import EndpointJob

    class Official(EndpointJob):
        input_columns = ("item",)
        output_columns = ("text",)

        async def transform_item(self, item):
            messages = [{"role": "user", "content": item}]
            answer = await self.client.chat.completions.create(model=self.model, messages=messages)
            return answer.choices[0].message.content

    class Blocking(EndpointJob):
        input_columns = ("item",)
        output_columns = ("text",)

        def transform_item(self, item):
            messages = [{"role": "user", "content": item}]
            client = openai.OpenAI(base_url=self._replicas.pick().base_url, api_key="none", max_retries=0)
            return client.chat.completions.create(model=self.model, messages=messages).choices[0].message.content
""")


@pytest.mark.parametrize("job", ["Official", "Blocking"])
def test_with_a_rate_limit_no_row_fails_that_asks_with_a_client_of_its_own(job: str, command: Command) -> None:
    Path("asks.py").write_text(OFFICIAL)
    write("in.parquet", {"item": TEXTS[:30]})
    with serving(limited(15, 5, **{"Retry-After": "1"})) as server:
        done = command(*submit(server.url, "--max-concurrency", "8", "--retries", "0", job=f"asks.py:{job}"))
    assert done.returncode == 0, done.stderr
    assert [row["text"] for row in rows("out.parquet")] == [f"<{text}>" for text in TEXTS[:30]]


def test_a_request_that_is_refused_for_its_size_is_its_rows_failure(command: Command) -> None:
    async def handler(body: Any) -> web.Response:
        if last(body) != TEXTS[3]:
            return await echo(body)
        words = "Request too large for m on tokens per min (TPM): Limit 10000, Requested 15000."
        return web.json_response({"error": {"message": words, "code": "rate_limit_exceeded"}}, status=429)

    write("in.parquet", {"item": TEXTS})
    with serving(handler) as server:
        done = command(*submit(server.url, "--retries", "1"))
    assert done.returncode == 3, done.stderr
    assert [row["_row_id"] for row in rows("out.errors.parquet")] == [3]


def test_nothing_is_sent_before_the_moment_that_an_answer_names_when_nothing_is_left(command: Command) -> None:
    sent: list[float] = []

    async def handler(body: Any) -> web.Response:
        sent.append(asyncio.get_running_loop().time())
        response = await echo(body)
        left = 3 - len(sent) % 4
        response.headers.update({"x-ratelimit-remaining-requests": str(left), "x-ratelimit-reset-requests": "1s"})
        return response

    write("in.parquet", {"item": TEXTS[:9]})
    with serving(handler) as server:
        done = command(*submit(server.url, "--max-concurrency", "1"))
    assert done.returncode == 0, done.stderr
    assert sent[3] - sent[2] > 0.9
    assert sent[7] - sent[6] > 0.9


# What ends the run.

NO_CREDIT = {"error": {"message": "Insufficient Balance"}}
QUOTA = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
ENDS = [
    (402, NO_CREDIT, {}, "Insufficient Balance"),
    (429, QUOTA, {"Retry-After": "1"}, "You exceeded your current quota."),
    (403, {"error": {"message": "Stop.", "type": "billing_hard_limit_reached"}}, {}, "Stop."),
    (400, {"error": {"message": "Your credit balance is too low to access the API."}}, {}, "credit balance is too low"),
    (429, {"error": {"message": "Come back tomorrow."}}, {"Retry-After": "86400"}, "Come back tomorrow."),
    (503, {"message": "Maintenance"}, {"Retry-After": "7200"}, "Maintenance"),
    (200, {"error": {"code": "insufficient_quota", "message": "No more."}}, {}, "No more."),
    (200, {"error": {"code": 402, "message": "Pay first."}}, {}, "Pay first."),
    (401, {"error": {"message": "Key revoked."}}, {}, "Key revoked."),
    (410, {"error": {"message": "Gone for good."}}, {}, "Gone for good."),
]


@pytest.mark.parametrize(("status", "body", "headers", "words"), ENDS, ids=[f"{one[0]} {one[3]}" for one in ENDS])
def test_what_no_row_can_pass_ends_the_run_with_the_servers_words_and_keeps_what_is_done(
    status: int, body: Any, headers: Mapping[str, str], words: str, command: Command
) -> None:
    write("in.parquet", {"item": TEXTS})
    with serving(after(20, status, body, **headers)) as server:
        ended = command(*submit(server.url, "--max-concurrency", "4"))
        assert len(server.bodies) <= 20 + 2 * 4
    assert ended.returncode == 1, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "20 rows of this run are kept" in ended.stderr
    assert not Path("out.parquet").exists()
    with serving(echo) as server:
        done = command(*submit(server.url))
        assert len(server.bodies) == 40
    assert done.returncode == 0, done.stderr


def test_no_credit_met_by_the_official_client_ends_the_run(command: Command) -> None:
    Path("asks.py").write_text(OFFICIAL)
    write("in.parquet", {"item": TEXTS})
    with serving(after(20, 429, QUOTA)) as server:
        ended = command(*submit(server.url, "--max-concurrency", "4", job="asks.py:Official"))
        assert len(server.bodies) <= 20 + 8
    assert ended.returncode == 1, ended.stderr
    assert "You exceeded your current quota." in ended.stderr
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize(
    ("count", "status", "body"),
    [
        pytest.param(5, 402, NO_CREDIT, id="no credit later"),
        pytest.param(0, 401, {"error": "Wrong key."}, id="a wrong key"),
        pytest.param(5, 401, {"error": "Key revoked."}, id="a key that is revoked", marks=pytest.mark.stress),
        pytest.param(0, 404, {"error": "No such model."}, id="another model", marks=pytest.mark.stress),
    ],
)
def test_an_endpoint_that_refuses_whatever_it_is_asked_leaves_the_rows_to_the_others(
    count: int, status: int, body: Any, command: Command
) -> None:
    write("in.parquet", {"item": TEXTS})
    with serving(after(count, status, body)) as poor, serving(echo) as rich:
        done = command(*submit([poor.url, rich.url], "--max-concurrency", "4", "--retries", "0"))
        assert len(poor.bodies) <= count + 8
    assert done.returncode == 0, done.stderr
    if count == 0 or status == 402:  # one that has answered is given several chances, more than these rows need
        assert f"{poor.url} is asked no more in this run: " in done.stderr


def test_a_text_for_which_a_key_is_refused_is_its_rows_failure_in_the_end(command: Command) -> None:
    async def handler(body: Any) -> web.Response:
        return web.json_response({"error": "no"}, status=401) if last(body) == TEXTS[3] else await echo(body)

    write("in.parquet", {"item": TEXTS})
    with serving(handler) as server:
        done = command(*submit(server.url, "--retries", "1", "--retry-timeout", "1"))
    assert done.returncode == 3, done.stderr
    assert [row["_row_id"] for row in rows("out.errors.parquet")] == [3]


# What is no answer.

NO_ANSWERS: dict[str, Any] = {
    "error": lambda: web.json_response({"error": {"code": 502, "message": "Upstream is down"}}),
    "error text": lambda: web.json_response({"error": "down"}),
    "object": lambda: web.json_response({"object": "error", "message": "down", "code": 50001}),
    "no choices": lambda: web.json_response({"choices": [], "usage": {}}),
    "null choices": lambda: web.json_response({"choices": None}),
    "list": lambda: web.json_response([]),
    "page": lambda: web.Response(text="<!doctype html><title>Please sign in</title>", content_type="text/html"),
    "stream": lambda: web.Response(text='data: {"choices": []}\n\n', content_type="text/event-stream"),
    "text": lambda: web.Response(text="ok", content_type="text/plain"),
    "nothing": web.Response,
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_a_replica_that_answers_at_once_with_what_is_no_answer_fails_no_row(kind: str, command: Command) -> None:
    async def slow(body: Any) -> web.Response:
        await asyncio.sleep(0.05)
        return await echo(body)

    async def broken(_body: Any) -> web.Response:
        made: web.Response = NO_ANSWERS[kind]()
        return made

    write("in.parquet", {"item": TEXTS})
    with serving(slow) as good, serving(broken) as bad:
        done = command(*submit([bad.url, good.url], "--max-concurrency", "16", "--retries", "1"))
        assert len(bad.bodies) <= 24
    assert done.returncode == 0, done.stderr
    assert [row["answer"] for row in rows("out.parquet")] == [f"<{text}>" for text in TEXTS]


@pytest.mark.parametrize(
    ("path", "body", "is_answer"),
    [
        ("chat/completions", {"choices": [{}]}, True),
        ("chat/completions", {"choices": [{}], "error": None}, True),
        ("completions", {"choices": [None]}, False),
        ("embeddings", {"data": []}, False),
        ("embeddings", {"data": [{}]}, True),
        ("rerank", {"results": []}, True),
        ("rerank", {"error": "no"}, False),
        ("responses", {"error": None, "output": []}, True),
    ],
)
def test_an_answer_has_what_its_path_promises(path: str, body: Any, *, is_answer: bool) -> None:
    assert (fault_of(path, body) is None) is is_answer


# How it is told.


@pytest.mark.parametrize(
    ("status", "error", "text", "asked", "condition"),
    [
        (429, None, "", None, "busy"),
        (529, None, "", None, "busy"),
        (503, None, "", None, ""),
        (503, None, "", 1.0, "busy"),
        (503, None, "The engine is currently overloaded", None, "busy"),
        (500, {"type": "overloaded_error"}, "", None, "busy"),
        (500, None, "boom", None, ""),
        (429, {"status": "RESOURCE_EXHAUSTED"}, "You exceeded your current quota", 38.0, "busy"),
        (429, None, "You exceeded your current quota", None, "spent"),
        (402, None, "", None, "spent"),
        (400, None, "no such parameter", None, ""),
        (500, None, "The server is overloaded", None, "busy"),
        (400, None, "The server is overloaded", None, ""),
        (200, {"code": 502}, "Upstream is down", None, ""),
        (200, {"code": 429}, "", None, "busy"),
        (200, {"code": "429"}, "", None, "busy"),
        (200, {"code": 402}, "", None, "spent"),
        (200, {"code": "rate_limit_exceeded"}, "", None, "busy"),
    ],
)
def test_a_condition_is_told_by_status_code_and_words(
    status: int, error: Any, text: str, asked: float | None, condition: str
) -> None:
    assert condition_of(status, error, text, asked) == condition


class TheirsError(Exception):
    """An error of a client that the package knows nothing of."""

    def __init__(self, status_code: Any, body: Any = None) -> None:
        super().__init__("theirs")
        self.status_code = status_code
        self.body = body


def test_errors_of_other_clients_are_told_by_their_status() -> None:
    assert condition_of_error(TheirsError(429)) == "busy"
    assert condition_of_error(TheirsError(429, {"code": "insufficient_quota"})) == "spent"
    assert condition_of_error(TheirsError("429")) == ""
    assert condition_of_error(ValueError("429")) == ""


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"retry-after": "9"}, "try again in 2s", 9.0),
        ({}, "Rate limit reached. Please try again in 6m0.5s.", 360.5),
        ({}, "Please retry after 20 seconds.", 20.0),
        ({}, "Please try again in 850ms", 0.85),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12ms"}, "", 0.012),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "1s"}, "", None),
        ({}, "again", None),
    ],
)
def test_when_to_come_again_stands_in_headers_or_words(
    headers: Mapping[str, str], text: str, seconds: float | None
) -> None:
    assert retry_after_of(headers, text) == seconds


def test_when_to_come_again_stands_in_the_details_of_an_error() -> None:
    details: list[Any] = [None, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "38.5s"}]
    assert retry_after_of({}, "exceeded", {"details": details}) == 38.5
    assert retry_after_of({}, "exceeded", {"details": {"retryDelay": "1s"}}) is None


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"X-RateLimit-Remaining-Requests": "5", "X-RateLimit-Reset-Requests": "1m30s"}, {"requests": (5, 90)}),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "7.66s"}, {"tokens": (5, 7.66)}),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}, {"": (0, 20)}),
        ({"RateLimit-Remaining": "3", "RateLimit-Reset": "4"}, {"": (3, 4)}),
        ({"RateLimit": "limit=100, remaining=5, reset=20"}, {"": (5, 20)}),
        ({"RateLimit": '"default";r=50;t=30'}, {"": (50, 30)}),
        ({"x-ratelimit-remaining-requests": "5"}, {}),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "soon"}, {}),
        ({"content-type": "application/json"}, {}),
    ],
)
def test_what_is_left_is_read_in_the_usual_spellings(
    headers: Mapping[str, str], left: Mapping[str, tuple[float, float]]
) -> None:
    assert allowances_of(headers) == {unit: Allowance(*found) for unit, found in left.items()}


def test_moments_are_seconds_from_now() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=100)
    for text in (moment.isoformat(), str(moment.timestamp()), str(int(moment.timestamp() * 1000))):
        assert 90 < (duration_of(text) or 0) <= 100
    assert duration_of("2015-10-21T07:28:00Z") == 0
    assert duration_of("") is None
