"""The bundled demo endpoint: an OpenAI-compatible server whose answers, failures and limits can be relied upon."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from domyn_swarm.endpoint.demo import DemoSettings, demo_server
from domyn_swarm.errors import ConfigurationError
from tests.conftest import Command, start_command

PATIENCE = 60.0


def ask(url: str, body: Any = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers of a GET, or of a POST when there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=PATIENCE) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def chat(url: str, text: str = "hello") -> tuple[int, dict[str, Any], dict[str, str]]:
    return ask(f"{url}/chat/completions", {"model": "demo", "messages": [{"role": "user", "content": text}]})


def statuses(settings: DemoSettings, requests: int) -> list[int]:
    """What so many requests, one after the other, are answered with."""
    with demo_server(settings) as url:
        return [chat(url)[0] for _ in range(requests)]


# What it answers.


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo_server() as url:
        yield url


def test_it_lists_one_model(url: str) -> None:
    status, body, _ = ask(f"{url}/models")
    assert (status, [model["id"] for model in body["data"]]) == (200, ["demo"])


def test_a_chat_is_answered_from_its_last_message(url: str) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]
    status, body, headers = ask(f"{url}/chat/completions", {"messages": messages})
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert body["object"] == "chat.completion"
    assert body["model"] == "demo"
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "You wrote 3 words: one two three"},
        }
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}


def test_a_completion_is_made_from_its_prompt(url: str) -> None:
    status, body, _ = ask(f"{url}/completions", {"model": "mine", "prompt": "a b c d e f g h"})
    assert (status, body["object"], body["model"]) == (200, "text_completion", "mine")
    assert body["choices"] == [{"index": 0, "finish_reason": "stop", "text": "You wrote 8 words: a b c d e f …"}]


def test_the_same_question_has_the_same_answer_on_every_server(url: str) -> None:
    with demo_server(DemoSettings(seed=5)) as other:
        answers = [chat(where, "why is this so?")[1]["choices"] for where in (url, url, other)]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {}),
        ("chat/completions", {"messages": []}),
        ("chat/completions", {"messages": [{"role": "user"}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": None}]}),
        ("completions", {"prompt": 7}),
        ("completions", [1]),
        ("completions", b"{"),
        ("completions", b'{"prompt": "\xff"}'),
        ("completions", b'{"prompt": ' + b"[" * 100_000),
    ],
)
def test_a_bad_request_is_refused_with_a_message(url: str, path: str, body: Any) -> None:
    status, answer, _ = ask(f"{url}/{path}", body)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (400, 400, "demo_error")
    introduction, _, reason = answer["error"]["message"].partition(": ")
    assert introduction == "The request is not valid"
    assert reason, "the words are Python's, or those of the JSON library"


# How it can be made to behave.


def test_its_statistics_count_what_became_of_requests() -> None:
    with demo_server(DemoSettings(failure_rate=0.5, seed=1)) as url:
        for _ in range(10):
            chat(url)
        ask(f"{url}/models")
        assert ask(url.replace("/v1", "/demo/stats"))[1] == {
            "requests": 10, "answered": 4, "rejected": 0, "failed": 6,
        }  # fmt: skip


def test_bad_and_rejected_requests_are_counted_too() -> None:
    with demo_server(DemoSettings(rate_limit=0.01)) as url:
        ask(f"{url}/completions", {})
        chat(url)
        assert ask(url.replace("/v1", "/demo/stats"))[1] == {"requests": 2, "answered": 0, "rejected": 1, "failed": 1}


def test_the_same_seed_fails_the_same_requests() -> None:
    def failing(seed: int) -> list[int]:
        answered = statuses(DemoSettings(failure_rate=0.2, seed=seed), 20)
        return [number for number, status in enumerate(answered) if status == 500]

    assert (failing(7), failing(7), failing(8)) == (
        [1, 3, 6, 8, 10, 11, 14],
        [1, 3, 6, 8, 10, 11, 14],
        [2, 4, 12, 14, 16],
    )


def test_a_failure_has_status_500_and_a_message() -> None:
    with demo_server(DemoSettings(failure_rate=1)) as url:
        status, body, _ = chat(url)
    assert (status, body["error"]["message"]) == (500, "This request was chosen to fail.")


def test_an_answer_takes_as_long_as_it_is_told_to_and_does_not_keep_others_waiting() -> None:
    with demo_server(DemoSettings(latency=0.3)) as url:
        since = time.monotonic()
        threads = [threading.Thread(target=chat, args=(url,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - since
    assert 0.29 <= seconds < 7.5  # one after the other they would take 15


def test_more_requests_than_allowed_are_told_how_long_to_wait() -> None:
    with demo_server(DemoSettings(rate_limit=2)) as url:
        first, (status, body, headers) = chat(url)[0], chat(url)
        wait = float(headers["Retry-After"])
        time.sleep(wait)
        third = chat(url)[0]
    assert (first, status, third) == (200, 429, 200)
    assert body["error"]["message"] == "Too many requests."
    assert 0 < wait <= 0.5


def test_servers_do_not_share_their_state() -> None:
    with demo_server(DemoSettings(failure_rate=1)) as failing, demo_server() as other:
        assert (chat(failing)[0], chat(other)[0]) == (500, 200)
        assert ask(other.replace("/v1", "/demo/stats"))[1]["requests"] == 1


def test_it_is_gone_when_it_is_no_longer_needed() -> None:
    before = set(threading.enumerate())
    with demo_server() as url:
        chat(url)
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/models")
    assert set(threading.enumerate()) == before


def test_a_port_that_is_taken_is_refused_and_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused, demo_server(port=port):
            pass
    assert (refused.value.code, refused.value.option) == ("port.unusable", "port")
    assert f"{port} cannot be used: Address already in use" in refused.value.message
    assert set(threading.enumerate()) == before


# As a process.


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`domyn-swarm endpoint demo`, and the URL that it prints once it listens."""
    with start_command("endpoint", "demo", "--port", "0", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("Demo endpoint at http://127.0.0.1:")
            assert line.endswith("/v1 (Ctrl-C stops it)\n")
            yield process, line.split()[3]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_command_serves_until_a_signal_ends_it_with_status_0(number: signal.Signals) -> None:
    with started() as (process, url):
        assert chat(url)[0] == 200
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0


def test_the_command_does_not_wait_for_an_answer_that_takes_long() -> None:
    body = b'{"prompt": "x"}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with started("--latency", "600") as (process, url):
        port = int(url.split(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            while ask(url.replace("/v1", "/demo/stats"))[1]["requests"] == 0:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0


def test_the_command_behaves_as_its_flags_say() -> None:
    with started("--failure-rate", "0.2", "--seed", "7") as (_, url):
        assert [chat(url)[0] for _ in range(10)] == [200, 500, 200, 500, 200, 200, 500, 200, 500, 200]


def test_the_command_refuses_a_port_that_is_taken(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("endpoint", "demo", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: --port: {port} cannot be used: Address already in use.\nChoose another.\n"
