"""ChatCompletionJob and CompletionJob, which come with the package: rows in, requests out, answers beside the rows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import web

from domyn_swarm import RunResult, make_spec, run
from domyn_swarm.edges import on_command_line
from domyn_swarm.endpoint.demo import DemoSettings, demo_server
from domyn_swarm.errors import ConfigurationError
from tests.conftest import Command, rows, start_command, tree, write
from tests.test_endpoint import answering, serving

KEY = "sk-never-to-be-seen-4711"
CHAT = "domyn_swarm.jobs:ChatCompletionJob"
COMPLETION = "domyn_swarm.jobs:CompletionJob"


def submit(url: str, job: str = CHAT, **options: Any) -> RunResult:
    """Run `job` over the column `item` of in.parquet."""
    column = "answer" if job == CHAT else "completion"
    defaults = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["item"], "output_columns": [column]}
    return run(make_spec({**defaults, "job": job, "endpoints": [url] if url else [], **options}))


def answers(column: str = "answer") -> list[Any]:
    return [row[column] for row in rows("out.parquet")]


def failures() -> list[tuple[str, str, int]]:
    return [(row["type"], row["message"], row["attempts"]) for row in rows("out.errors.parquet")]


def said(text: Any, **more: Any) -> web.Response:
    """A chat's answer."""
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": text}, **more}]})


async def echo(body: Any) -> web.Response:
    """Say the last message again."""
    return said(f"<{body['messages'][-1]['content']}>")


def last(body: Any) -> str:
    """What a chat request asks."""
    text: str = body["messages"][-1]["content"]
    return text


# What is sent.


def test_a_text_is_the_users_one_message_and_the_model_is_the_first_that_is_listed() -> None:
    write("in.parquet", {"item": ["hello", ""]})
    with serving(echo) as server:
        result = submit(server.url, max_concurrency=1)
    assert server.bodies == [
        {"model": "small", "messages": [{"role": "user", "content": "hello"}]},
        {"model": "small", "messages": [{"role": "user", "content": ""}]},
    ]
    assert answers() == ["<hello>", "<>"]
    assert (result.done_now, result.failed, result.exit_status) == (2, 0, 0)


def test_a_list_of_messages_is_sent_as_it_is_but_for_the_nulls_that_parquet_fills_in() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    conversations = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi", "name": "ann"}],
        [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "7"}],
        [{"role": "user", "content": "x", "parts": [{"type": "text", "text": "look"}, picture]}],
    ]
    write("in.parquet", {"item": conversations})
    assert rows("in.parquet")[0]["item"][0]["tool_calls"] is None
    with serving(echo) as server:
        submit(server.url, max_concurrency=1)
    assert [body["messages"] for body in server.bodies] == conversations
    assert answers() == ["<hi>", "<7>", "<x>"]


def test_a_system_prompt_goes_first() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        submit(server.url, job_kwargs={"system_prompt": "be brief"})
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]


def test_request_parameters_are_passed_on_untouched() -> None:
    request = {"temperature": 0, "max_tokens": 5, "stop": ["\n"], "extra": {"a": [None, 1.5, {"b": True}]}}
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        submit(server.url, model="large", job_kwargs={"request": request})
    assert server.bodies == [{"model": "large", **request, "messages": [{"role": "user", "content": "hello"}]}]


def test_a_completion_asks_for_what_follows_a_text() -> None:
    write("in.parquet", {"item": ["once upon"]})
    with serving(answering(lambda: web.json_response({"choices": [{"text": " a time"}]}))) as server:
        submit(server.url, COMPLETION, job_kwargs={"request": {"max_tokens": 2}})
    assert server.bodies == [{"model": "small", "max_tokens": 2, "prompt": "once upon"}]
    assert answers("completion") == [" a time"]


def test_the_bundled_endpoint_is_started_for_the_run() -> None:
    write("in.parquet", {"item": ["one two", "three"]})
    submit("demo")
    assert answers() == ["You wrote 2 words: one two", "You wrote 1 words: three"]
    submit("demo", COMPLETION, output="completed.parquet", model="any")
    assert [row["completion"] for row in rows("completed.parquet")] == answers()


# What is refused before any row is asked.


@pytest.mark.parametrize(
    ("job", "request_", "held"),
    [
        (CHAT, {"model": "x"}, "model"),
        (CHAT, {"stream": True, "messages": [], "temperature": 0}, "messages, stream"),
        (COMPLETION, {"prompt": "x"}, "prompt"),
    ],
)
def test_request_parameters_that_the_job_sets_itself_are_refused(job: str, request_: dict[str, Any], held: str) -> None:
    write("in.parquet", {"item": ["hello"]})
    before = tree()
    with serving(echo) as server, pytest.raises(ConfigurationError) as refused:
        submit(server.url, job, job_kwargs={"request": request_})
    assert (refused.value.code, refused.value.option) == ("request.reserved", "job_kwargs")
    assert f"`request` holds {held}." in refused.value.message
    assert server.headers == []
    assert tree() == before


@pytest.mark.parametrize(
    ("options", "models", "message"),
    [
        ({"endpoints": []}, ["a"], "--endpoint is missing: ChatCompletionJob asks an OpenAI-compatible server."),
        ({"model": "c"}, ["a", "b"], "has no model 'c'.\nIt lists: a, b.\nName another, or add --no-preflight"),
        ({"model": "c"}, [*"abdefghijklm"], "has no model 'c'.\nIt lists: a, b, d, e, f, g, h, i, j, k, …."),
        ({}, [], "--model is missing: "),
    ],
)
def test_an_endpoint_that_cannot_serve_the_job_is_refused(
    options: dict[str, Any], models: list[str], message: str
) -> None:
    write("in.parquet", {"item": ["hello"]})
    before = tree()
    with serving(echo, models) as server, pytest.raises(ConfigurationError) as refused:
        submit(**{"url": server.url, **options} if "endpoints" not in options else {"url": None})
    assert message in on_command_line(refused.value)
    assert server.bodies == []
    assert tree() == before


def test_an_endpoint_that_lists_no_models_serves_one_that_is_named() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(echo, models=[]) as server:
        submit(server.url, model="hidden")
    assert server.bodies[0]["model"] == "hidden"


def test_a_run_with_nothing_to_do_needs_no_endpoint() -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(echo) as server:
        submit(server.url)
    result = submit(server.url)
    assert (result.done_before, result.done_now, result.exit_status) == (1, 0, 0)


# Rows that fail.


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "a text or a list of messages is needed, the row has null"),
        ([], "a text or a list of messages is needed, the row has an empty list"),
        ([None], "message 0 is null, not a role and a content"),
        ([{"role": "user", "content": "a"}, {"role": None, "content": "b"}], "message 1 has no role"),
        ([{"role": "user", "content": None}], "message 0 has no content"),
    ],
)
def test_an_item_that_no_request_can_be_made_from_is_its_rows_failure_and_is_not_tried_again(
    item: Any, message: str
) -> None:
    good = [{"role": "user", "content": "good"}]
    write("in.parquet", {"item": [good, item, good]})
    with serving(echo) as server:
        result = submit(server.url, retries=5)
    assert answers() == ["<good>", None, "<good>"]
    assert failures() == [("ItemError", message, 1)]
    assert len(server.bodies) == 2
    assert result.exit_status == 3


def test_a_null_is_its_rows_failure_among_texts_too() -> None:
    write("in.parquet", {"item": ["good", None]})
    submit("demo", retries=5)
    assert failures() == [("ItemError", "a text or a list of messages is needed, the row has null", 1)]
    submit("demo", COMPLETION, output="completed.parquet", retries=5)
    assert rows("completed.errors.parquet") == [
        {"_row_id": 1, "type": "ItemError", "message": "a text is needed, the row has null", "attempts": 1}
    ]


def test_numbers_are_no_items() -> None:
    write("in.parquet", {"item": [5]})
    submit("demo")
    assert failures() == [("ItemError", "a text or a list of messages is needed, the row has int 5", 1)]


def test_a_request_that_the_endpoint_refuses_is_its_rows_failure_with_the_servers_message() -> None:
    async def handler(body: Any) -> web.Response:
        if "rude" in last(body):
            return web.json_response({"error": {"message": "not in this tone"}}, status=400)
        return await echo(body)

    write("in.parquet", {"item": ["fine", "rude", "also fine"]})
    with serving(handler) as server:
        result = submit(server.url, retries=5)
    assert answers() == ["<fine>", None, "<also fine>"]
    assert failures() == [("EndpointError", "POST chat/completions: status 400: not in this tone", 1)]
    assert len(server.bodies) == 3
    assert (result.failed, result.exit_status) == (1, 3)


def test_a_failure_of_the_endpoint_is_tried_again_and_then_succeeds() -> None:
    asked: Counter[str] = Counter()

    async def handler(body: Any) -> web.Response:
        asked[last(body)] += 1
        return web.Response(status=500) if asked[last(body)] == 1 else await echo(body)

    write("in.parquet", {"item": ["a", "b"]})
    with serving(handler) as server:
        result = submit(server.url, retries=1)
    assert answers() == ["<a>", "<b>"]
    assert asked == {"a": 2, "b": 2}
    assert result.exit_status == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"choices": []}, "The answer has no choices: {'choices': []}"),
        ({"error": {"message": "no template"}}, "The answer has no choices: {'error': {'message': 'no template'}}"),
        ({"choices": [{"message": {"content": None}}]}, "The answer has no text."),
        (
            {"choices": [{"message": {"tool_calls": []}, "finish_reason": "tool_calls"}]},
            "The answer has no text (finish_reason 'tool_calls').",
        ),
    ],
)
def test_an_answer_without_text_is_its_rows_failure(body: Any, message: str) -> None:
    write("in.parquet", {"item": ["hello"]})
    with serving(answering(lambda: web.json_response(body))) as server:
        submit(server.url, retries=1)
    # A model that has ended, by its own account, would do so again.
    assert failures() == [("EndpointError", message, 1 if "finish_reason" in message else 2)]


def test_a_row_whose_answer_takes_too_long_is_its_own_failure() -> None:
    async def handler(body: Any) -> web.Response:
        await asyncio.sleep(60 if last(body) == "slow" else 0)
        return await echo(body)

    write("in.parquet", {"item": ["a", "slow", "c"]})
    with serving(handler) as server:
        submit(server.url, timeout=1, retries=0)
    assert answers() == ["<a>", None, "<c>"]
    assert failures() == [("EndpointError", "POST chat/completions: no answer within 1 s.", 1)]


def test_with_every_fifth_request_failing_all_rows_end_done() -> None:
    write("in.parquet", {"item": [f"row {number}" for number in range(100)]})
    with demo_server(DemoSettings(failure_rate=0.2, seed=3)) as url:
        result = submit(url, retries=20)
    assert answers() == [f"You wrote 2 words: row {number}" for number in range(100)]
    assert (result.done_now, result.failed) == (100, 0)


def test_through_a_rate_limit_all_rows_end_done() -> None:
    write("in.parquet", {"item": [f"row {number}" for number in range(30)]})
    with demo_server(DemoSettings(rate_limit=50)) as url:
        result = submit(url, retries=200, max_concurrency=4)
        counts = json.load(urllib.request.urlopen(url.replace("/v1", "/demo/stats")))
    assert answers() == [f"You wrote 2 words: row {number}" for number in range(30)]
    assert (result.done_now, result.failed) == (30, 0)
    assert counts["answered"] == 30
    assert counts["rejected"] > 0


def test_the_model_is_looked_up_once_and_asked_by_name_whatever_is_listed_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listings = iter([web.json_response({"data": [{"id": "small"}]}), web.Response(status=500, text="restarting")])
    write("in.parquet", {"item": ["hello"]})
    with serving(echo, lambda: next(listings)) as server:
        assert submit(server.url).exit_status == 0
    assert [body["model"] for body in server.bodies] == ["small"]
    gc.collect()
    assert "Unclosed" not in caplog.text


# The key.


def test_the_key_reaches_the_endpoint_and_is_written_down_nowhere(command: Command) -> None:
    async def handler(body: Any) -> web.Response:
        if "tell" in last(body):  # as some servers do
            return web.json_response({"error": {"message": f"who is {KEY}?"}}, status=400)
        return await echo(body)

    write("in.parquet", {"item": ["hello", "tell me", "bye"]})
    with serving(handler) as server:
        done = command(
            "--verbose", "job", "submit", "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
            "--endpoint", server.url, env={"OPENAI_API_KEY": KEY},
        )  # fmt: skip
    assert done.returncode == 3
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert failures() == [("EndpointError", "POST chat/completions: status 400: who is ***?", 1)]
    assert KEY not in done.stdout + done.stderr
    for path in filter(Path.is_file, map(Path, tree())):
        assert KEY.encode() not in path.read_bytes()
        if path.suffix == ".parquet":  # compressed
            table = pq.read_table(path)
            assert KEY not in str(table.to_pylist()) + str(table.schema)
    assert {"out.parquet", "out.errors.parquet", ".domyn-swarm/out.parquet/spec.json"} <= tree()


# An endpoint that dies.


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`domyn-swarm` as a process that does not outlive the test."""
    with start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as started:
        try:
            yield started
        finally:
            started.kill()


def stats(port: int) -> dict[str, int]:
    counts: dict[str, int] = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/demo/stats"))
    return counts


def test_an_endpoint_that_is_gone_for_good_ends_the_run_and_a_rerun_asks_for_the_rest_only(command: Command) -> None:
    write("in.parquet", {"item": [f"row {number}" for number in range(300)]})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    submitted = (
        "job", "submit", "--input", "in.parquet", "--input-column", "item", "--output", "out.parquet",
        "--endpoint", f"http://127.0.0.1:{port}/v1", "--max-concurrency", "2", "--retry-timeout", "2",
    )  # fmt: skip
    with process("endpoint", "demo", "--port", str(port), "--latency", "0.02") as endpoint:
        assert endpoint.stdout
        endpoint.stdout.readline()
        with process(*submitted) as job:
            while stats(port)["answered"] < 20:
                assert job.poll() is None
                time.sleep(0.02)
            answered = stats(port)["answered"]
            endpoint.kill()
            told, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    assert f"Error: No endpoint has answered for 2 s: http://127.0.0.1:{port}/v1." in told
    assert "Run the same command again to resume." in told
    assert not Path("out.parquet").exists()

    with demo_server(port=port):
        done = command(*submitted)
        assert 0 < stats(port)["requests"] <= 300 - answered + 2  # those that were in flight, once more
    assert done.returncode == 0
    assert answers() == [f"You wrote 2 words: row {number}" for number in range(300)]
    assert not Path("out.errors.parquet").exists()
