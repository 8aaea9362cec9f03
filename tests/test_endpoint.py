"""The client of OpenAI-compatible endpoints, against real sockets: what it sends, and how it says what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from domyn_swarm.edges import on_command_line
from domyn_swarm.endpoint.address import normalised
from domyn_swarm.endpoint.client import MOST_REDIRECTS, EndpointClient
from domyn_swarm.endpoint.demo import demo_server
from domyn_swarm.endpoint.keys import read_key
from domyn_swarm.endpoint.models import Model
from domyn_swarm.endpoint.preflight import check_endpoint
from domyn_swarm.errors import ConfigurationError, EndpointError

KEY = "sk-never-to-be-seen-4711"
PATIENCE = 30.0  # seconds for an answer that comes at once

Handler = Callable[[Any], Awaitable[web.StreamResponse]]
Models = Sequence[str] | Callable[[], web.Response | Awaitable[web.Response]]


@dataclass
class Server:
    """A server on loopback: where it is, and what it got."""

    url: str = ""
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)


@contextlib.contextmanager
def serving(
    handler: Handler, models: Models = ("small", "large"), tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve in a thread: GET models lists `models`, or is what they return; a POST is `handler`'s with its JSON."""
    server = Server()
    runners: list[web.AppRunner] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        server.connections.add(request.transport and request.transport.get_extra_info("peername"))
        server.headers.append(dict(request.headers))
        server.paths.append(request.raw_path)
        if request.method == "POST":
            server.bodies.append(await request.json())
            return await handler(server.bodies[-1])
        if callable(models):
            answer = models()
            return await answer if inspect.isawaitable(answer) else answer
        return web.json_response({"data": [{"id": name} for name in models]})

    async def start() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runners.append(web.AppRunner(app, shutdown_timeout=0.1))
        await runners[0].setup()
        await web.TCPSite(runners[0], "127.0.0.1", 0, ssl_context=tls).start()
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{runners[0].addresses[0][1]}/v1"

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def raw_server(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """Hand each connection to `reply` once the request's headers are there, then close it; yields the URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    while b"\r\n\r\n" not in connection.recv(65536):
                        pass
                    reply(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answering(response: Callable[[], web.Response]) -> Handler:
    async def handler(_body: Any) -> web.Response:
        return response()

    return handler


def post(url: str, *, key: str | None = None, timeout: float = PATIENCE, payload: Any = None) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with EndpointClient(url, api_key=key, timeout=timeout) as client:
            return await client.post("chat/completions", json.dumps(payload or {}).encode())

    return asyncio.run(ask())


def refusal(url: str, *, key: str | None = None, timeout: float = PATIENCE) -> EndpointError:
    """The error that a request ends with."""
    with pytest.raises(EndpointError) as raised:
        post(url, key=key, timeout=timeout)
    return raised.value


def refusal_of(**response: Any) -> EndpointError:
    """The error that a response ends with."""
    with serving(answering(lambda: web.Response(**response))) as server:
        return refusal(server.url)


def closed_port() -> str:
    """The URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def reset(connection: socket.socket) -> None:
    """Break the connection off in the middle of the body."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices": [')
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Requests.


def test_a_request_is_json_and_so_is_its_answer() -> None:
    with serving(answering(lambda: web.json_response({"choices": [{"text": "ünï"}]}))) as server:
        assert post(server.url, payload={"prompt": "héllo", "n": 1, "x": None}) == {"choices": [{"text": "ünï"}]}
    assert server.bodies == [{"prompt": "héllo", "n": 1, "x": None}]
    assert server.headers[0]["Content-Type"] == "application/json"


def test_connections_are_reused_and_no_more_than_there_are_calls_in_flight() -> None:
    answers = iter(range(1000))

    async def handler(_body: Any) -> web.Response:
        await asyncio.sleep(0.001)
        return web.json_response({"n": 1}, status=500 if next(answers) % 5 == 0 else 200)

    async def ask(url: str) -> list[Any]:
        places = asyncio.Semaphore(8)
        async with EndpointClient(url, timeout=PATIENCE) as client:

            async def one(row: int) -> Any:
                async with places:
                    return await client.post("completions", json.dumps({"row": row}).encode())

            return await asyncio.gather(*(one(row) for row in range(200)), return_exceptions=True)

    with serving(handler) as server:
        answered = asyncio.run(ask(server.url))
    assert len(server.bodies) == 200
    assert sum(isinstance(answer, EndpointError) for answer in answered) == 40
    assert 1 <= len(server.connections) <= 8


def test_the_key_is_sent_as_a_bearer_token() -> None:
    with serving(answering(lambda: web.json_response({}))) as server:
        post(server.url, key=KEY)
        post(server.url)
    assert [headers.get("Authorization") for headers in server.headers] == [f"Bearer {KEY}", None]


def test_models_are_listed_by_name() -> None:
    async def ask(url: str) -> list[Model]:
        async with EndpointClient(url, timeout=PATIENCE) as client:
            return await client.models()

    with demo_server() as url:
        assert asyncio.run(ask(url)) == [Model("demo")]


def test_a_client_that_is_not_open_says_so() -> None:
    client = EndpointClient("http://127.0.0.1:1", timeout=PATIENCE)
    with pytest.raises(RuntimeError, match="the client is not open: use `async with`"):
        asyncio.run(client.post("completions", b"{}"))


# Refusals.


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False), (401, False), (403, False), (404, False), (408, True), (409, True), (413, False), (422, False),
        (429, True), (500, True), (502, True), (503, True), (504, True), (529, True),
    ],
)  # fmt: skip
def test_a_status_tells_whether_asking_again_can_help(status: int, *, retryable: bool) -> None:
    error = refusal_of(status=status)
    assert (error.status, error.retryable, error.retry_after) == (status, retryable, None)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.25", 0.25), ("-5", 0.0), ("soon", None), ("", None), ("nan", None), ("inf", None), ("1e999", None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 99 Oct 2015 07:28:00 GMT", None)],
)  # fmt: skip
def test_retry_after_is_how_many_seconds_to_wait(header: str, seconds: float | None) -> None:
    assert refusal_of(status=429, headers={"Retry-After": header}).retry_after == seconds


def test_retry_after_may_be_a_date() -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 40 < (refusal_of(status=503, headers={"Retry-After": header}).retry_after or 0) <= 100


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no such model", "type": "x"}}', "no such model"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"object": "error", "message": "no such model"}', "no such model"),
        (b'{"detail": "Not Found"}', "{'detail': 'Not Found'}"),
        (b'["odd"]', "['odd']"),
        (b"", "no message"),
        (b"   ", "no message"),
        (b'{"error": {"message": "' + b"y" * 5000 + b'"}}', "y" * 300 + "…"),
        (b'\xef\xbb\xbf{"error": "no such model", "code": NaN}', "no such model"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_an_error_has_what_the_server_says_of_it(body: bytes, message: str) -> None:
    assert str(refusal_of(status=400, body=body)) == f"POST chat/completions: status 400: {message}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"  upstream is down\n", "upstream is down"),
        (b'{"error": ', '{"error":'),
        (b"\xff\xfe", "��"),
        (b'{"error": "\xff"}', '{"error": "�"}'),
        (b"x" * 300, "x" * 300),
        (b"x" * 301, "x" * 300 + "…"),
        (b"[" * 100_000, "[" * 300 + "…"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_an_error_that_is_no_json_has_its_beginning_and_its_content_type(body: bytes, message: str) -> None:
    error = refusal_of(status=400, body=body, headers={"Content-Type": "text/html"})
    assert str(error) == f"POST chat/completions: status 400 (text/html): {message}"


def test_a_rate_limit_that_speaks_of_quota_is_one_if_it_says_when_to_come_again() -> None:
    words = f"You exceeded your current quota. {'x' * 400}\nPlease retry in 22.5s."
    body = json.dumps([{"error": {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED"}}]).encode()
    error = refusal_of(status=429, body=body)
    assert (error.condition, error.retry_after) == ("busy", 22.5)
    assert error.message.startswith("POST chat/completions: status 429: You exceeded your current quota. xxx")


# Answers that are JSON for Python, though not for the standard, and redirections.


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "ü"}'.encode("utf-16"), {"a": "ü"}),
        (b'{"a": "half \\ud83d", "\\udc00": ["\\ud83d\\ude42"]}', {"a": "half \ufffd", "\ufffd": ["🙂"]}),
        (b'{"a": "half \xed\xa0\xbd"}', {"a": "half \ufffd"}),
        (b'{"a": [Infinity, -Infinity, 1e999]}', {"a": [float("inf"), float("-inf"), float("inf")]}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
    ],
    ids=["byte order mark", "UTF-16", "escaped half of a pair", "half of a pair", "infinities", "big integer"],
)
def test_what_pythons_json_reads_is_read(body: bytes, answer: dict[str, Any]) -> None:
    with serving(answering(lambda: web.Response(body=body, content_type="application/json"))) as server:
        assert post(server.url) == answer


def test_not_a_number_is_read() -> None:
    with serving(answering(lambda: web.Response(body=b'{"a": NaN}'))) as server:
        assert str(post(server.url)) == "{'a': nan}"


def test_an_answer_that_cannot_be_read_shows_its_beginning_its_content_type_and_its_location() -> None:
    headers = {"Content-Type": "text/html; charset=utf-8", "Location": "/login"}
    error = refusal_of(body=b"<title>Please sign in</title>" + b"x" * 1000, headers=headers)
    assert "(text/html; charset=utf-8, Location /login): <title>Please sign in</title>xxx" in error.message
    assert error.message.endswith(f"</title>{'x' * 271}…")


def redirecting(status: int, location: str) -> tuple[Server, Any]:
    """What comes of a POST to chat/completions that is answered with `status` and `location`."""

    async def handler(_body: Any) -> web.Response:
        if len(server.bodies) > 1:
            return web.json_response({"got": server.headers[-1].get("Authorization")})
        return web.Response(status=status, headers={"Location": location.format(url=server.url)}, text="moved")

    with serving(handler, models=lambda: web.json_response({"fetched": "result"})) as server:
        try:
            return server, post(server.url, key=KEY, payload={"n": 1})
        except EndpointError as error:
            return server, error


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("location", ["/v1/chat/completions/", "{url}/elsewhere", "?again=1"])
def test_a_redirection_within_the_server_is_followed_with_the_same_request(status: int, location: str) -> None:
    server, answer = redirecting(status, location)
    assert answer == {"got": f"Bearer {KEY}"}
    assert server.bodies == [{"n": 1}, {"n": 1}]


def test_a_result_that_is_elsewhere_on_the_server_is_fetched() -> None:
    server, answer = redirecting(303, "/results/1")
    assert answer == {"fetched": "result"}
    assert server.bodies == [{"n": 1}]


@pytest.mark.parametrize("location", ["http://127.0.0.2:9/v1", "https://example.org/login?next=/v1", "ftp://x/", "//["])
def test_a_redirection_to_another_server_is_not_followed_and_shown(location: str) -> None:
    server, error = redirecting(302, location)
    assert str(error).startswith("POST chat/completions: ")
    assert error.status in (0, 302)
    assert len(server.bodies) == 1
    if error.status:
        assert f"status 302 (text/plain; charset=utf-8, Location {location}): moved" in error.message


def test_redirections_without_end_are_an_error() -> None:
    moved = {"Location": "/v1/chat/completions"}
    with serving(answering(lambda: web.Response(status=307, headers=moved))) as server:
        assert refusal(server.url).status == 307
    assert len(server.bodies) == MOST_REDIRECTS


@pytest.mark.parametrize(
    "body",
    [b'{"choices": [', b"", b"[1]", b"null", b"<html>", b'{"a": "\xff"}', b'{"a": ' + b"[" * 100_000],
    ids=lambda body: repr(body[:10]),
)
def test_an_answer_that_is_no_json_object_is_an_error_that_may_be_tried_again(body: bytes) -> None:
    error = refusal_of(body=body)
    assert error.message.startswith("POST chat/completions: the answer is not a JSON object: ")
    assert (error.status, error.retryable) == (200, True)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (reset, "Client"),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "ClientResponse"),
        (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}"), "ClientPayload"),
        (lambda connection: None, "ServerDisconnectedError: "),
    ],
    ids=["reset in mid-body", "garbage", "cut off", "closed"],
)
def test_a_connection_that_breaks_is_an_error_that_may_be_tried_again(
    reply: Callable[[socket.socket], None], name: str
) -> None:
    with raw_server(reply) as url:
        error = refusal(url)
    assert str(error).startswith(f"POST chat/completions: {name}")
    assert (error.status, error.retryable, error.retry_after) == (0, True, None)


def test_an_endpoint_that_is_not_there_is_an_error_that_names_its_address() -> None:
    url = closed_port()
    error = refusal(url)
    assert str(error).startswith("POST chat/completions: ClientConnectorError: Cannot connect to host 127.0.0.1:")
    assert (error.status, error.retryable) == (0, True)


def test_an_endpoint_that_hangs_is_an_error_when_the_time_is_up() -> None:
    async def handler(_body: Any) -> web.Response:
        await asyncio.sleep(PATIENCE)
        return web.Response()

    with serving(handler) as server:
        error = refusal(server.url, timeout=0.25)
    assert str(error) == "POST chat/completions: no answer within 0.25 s."
    assert (error.status, error.retryable) == (0, True)


def test_an_answer_that_trickles_in_for_too_long_is_an_error_too() -> None:
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.01):
            connection.sendall(b" ")

    with raw_server(trickle) as url:
        error = refusal(url, timeout=0.25)
        stop.set()
    assert str(error) == "POST chat/completions: no answer within 0.25 s."


# The key.


@pytest.mark.parametrize("lead", [0, 290], ids=["whole", "where the message is cut"])
@pytest.mark.parametrize("quoted", [True, False], ids=["in JSON", "as text"])
def test_a_server_that_repeats_the_key_does_not_get_it_into_the_error(lead: int, *, quoted: bool) -> None:
    text = "." * lead + f"bad key {KEY}"
    body = {"error": {"message": text}}
    response = (lambda: web.json_response(body, status=401)) if quoted else lambda: web.Response(text=text, status=401)
    with serving(answering(response)) as server:
        error = refusal(server.url, key=KEY)
    assert "bad key" in str(error) or lead
    for shown in (str(error), repr(error), repr(error.args)):
        assert KEY[:8] not in shown


def test_the_key_stands_in_no_error_whatever_goes_wrong() -> None:
    urls = [closed_port(), "http://127.0.0.1:1/v1", "http://no-such-host.invalid/v1"]
    with raw_server(reset) as resetting, serving(answering(lambda: web.Response(text="[]"))) as server:
        errors = [refusal(url, key=KEY) for url in [*urls, resetting, server.url]]
    assert not any(KEY in str(error) + repr(error) for error in errors)


def test_the_key_does_not_stand_in_the_client() -> None:
    client = EndpointClient("http://127.0.0.1:1", api_key=KEY, timeout=1)
    assert KEY not in str(client) + repr(client)


def test_a_key_that_no_header_can_carry_is_an_error_without_it() -> None:
    with serving(answering(lambda: web.json_response({}))) as server:
        error = refusal(server.url, key=f"{KEY}\nX-Evil: 1")
    assert KEY not in str(error)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({}, None),
        ({"DOMYN_SWARM_API_KEY": "a"}, "a"),
        ({"OPENAI_API_KEY": "b"}, "b"),
        ({"DOMYN_SWARM_API_KEY": "a", "OPENAI_API_KEY": "b"}, "a"),
        ({"DOMYN_SWARM_API_KEY": "", "OPENAI_API_KEY": "b"}, "b"),
        ({"DOMYN_SWARM_API_KEY": " \n", "OPENAI_API_KEY": " b\r\n"}, "b"),
        ({"DOMYN_SWARM_API_KEY": "", "OPENAI_API_KEY": ""}, None),
    ],
)
def test_the_key_comes_from_the_environment_our_own_name_first(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], key: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_key() == key


def test_the_key_may_stand_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    (folder / "key").write_text(f"{KEY}\n")
    assert read_key("key") == KEY


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "key.unreadable"),
        (b" \n", "key.invalid"),
        (b"\xff\xfe", "key.unreadable"),
        (b"one\ntwo", "key.invalid"),
    ],
)
def test_a_file_without_a_key_is_refused(folder: Path, content: bytes | None, code: str) -> None:
    if content is not None:
        (folder / "key").write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        read_key("key")
    assert (refused.value.code, refused.value.option) == (code, "api_key_file")


# The check before a run.

KEY_HINT = "Set DOMYN_SWARM_API_KEY or OPENAI_API_KEY, or name an --api-key-file, with a key that it takes."
ADDRESS_HINT = "The address of an OpenAI-compatible server mostly ends in /v1."
SERVER_HINT = "Is the server up, and is this its address?"


def test_the_check_lists_the_models_and_sends_the_key() -> None:
    with serving(answering(web.Response)) as server:
        assert [model.name for model in check_endpoint(server.url, KEY)] == ["small", "large"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_check_works_inside_a_running_event_loop() -> None:
    async def notebook(url: str) -> list[str]:
        return [model.name for model in check_endpoint(url)]

    with demo_server() as url:
        assert asyncio.run(notebook(url)) == ["demo"]


@pytest.mark.parametrize(
    ("status", "text", "message", "hint"),
    [
        (401, "no key", "GET models: status 401: no key", KEY_HINT),
        (403, "", "GET models: status 403: no message", KEY_HINT),
        (404, "nothing here", "GET models: status 404: nothing here", ADDRESS_HINT),
        (503, "loading", "GET models: status 503: loading", "It is there, and has too much to do: try again later."),
        (500, "broken", "GET models: status 500: broken", SERVER_HINT),
        (
            200,
            '{"data": "many"}',
            'GET models: the answer has no list of models (text/plain; charset=utf-8): {"data": "many"}',
            SERVER_HINT,
        ),
    ],
)
def test_the_check_refuses_an_endpoint_that_does_not_list_models(
    status: int, text: str, message: str, hint: str
) -> None:
    models = lambda: web.Response(status=status, text=text)  # noqa: E731
    with serving(answering(web.Response), models) as server, pytest.raises(ConfigurationError) as refused:
        check_endpoint(server.url)
    error = refused.value
    assert (error.code, error.option, error.path) == ("endpoint.unusable", "endpoints", server.url)
    assert message in error.message
    assert on_command_line(error).endswith(f"\n{hint}")


def test_the_check_refuses_an_endpoint_that_is_not_there() -> None:
    url = closed_port()
    with pytest.raises(ConfigurationError, match=f"{url} cannot be used: GET models: ClientConnectorError"):
        check_endpoint(url)


def test_the_check_refuses_an_endpoint_that_does_not_answer_in_time() -> None:
    stop = threading.Event()
    with raw_server(lambda _: stop.wait(PATIENCE) and None) as url:
        with pytest.raises(ConfigurationError, match=r"cannot be used: GET models: no answer within 0\.25 s"):
            check_endpoint(url, seconds=0.25)
        stop.set()


def test_a_key_that_may_not_list_models_is_not_taken_for_a_missing_one() -> None:
    models = lambda: web.Response(status=403, text="Missing scopes: model.read")  # noqa: E731
    with serving(answering(web.Response), models) as server, pytest.raises(ConfigurationError) as refused:
        check_endpoint(server.url, KEY)
    assert refused.value.hint.startswith("The key that is set was sent: it is not accepted, or may not list models.")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ({"data": [{"id": "a"}, {"name": "b"}, "c", None, {"id": 7}, {"size": 5}]}, ["a", "b", "c", "7"]),
        ([{"id": "a"}], ["a"]),
        (["a", "b"], ["a", "b"]),
        ({"models": [{"name": "models/a"}, {"model": "b:latest"}]}, ["models/a", "b:latest"]),
        ({"data": []}, []),
    ],
)
def test_lists_of_models_come_in_many_shapes(answer: Any, names: list[str]) -> None:
    with serving(answering(web.Response), lambda: web.json_response(answer)) as server:
        assert [model.name for model in check_endpoint(server.url)] == names


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://host", "http://host/v1"),
        ("http://host/", "http://host/v1"),
        ("https://host:8443", "https://host:8443/v1"),
        ("http://host/v1", "http://host/v1"),
        ("http://host/v1/", "http://host/v1"),
        ("https://host/a/b/", "https://host/a/b"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        (" http://host/v1\n", "http://host/v1"),
        ("http://host/v1/chat/completions", "http://host/v1"),
        ("http://host/v1/embeddings/", "http://host/v1"),
        ("https://host/a/completions", "https://host/a"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(url: str, base: str) -> None:
    assert normalised(url) == base
    assert normalised(base) == base


@pytest.mark.parametrize(
    "url",
    [
        "", "host", "host:8000", "ftp://host", "http://", "http:///v1", "http://:80", "http://[bad", "http://host:port",
        "http://host:99999", "file:///etc/passwd", "http://host/v1#x", "http://host/v1?a=b#x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        normalised(url)
    assert (refused.value.code, refused.value.option) == ("endpoint.url", "endpoints")


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError) as refused:
        normalised(f"https://me:{KEY}@host/v1")
    assert (refused.value.code, refused.value.option) == ("option.secret", "endpoints")
    assert KEY not in str(refused.value)
