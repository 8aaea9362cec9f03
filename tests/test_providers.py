"""What providers ask for beside a key: queries, headers, another header for the key. None of it is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from aiohttp import web

from domyn_swarm import make_spec, run
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.steps.names import spec_for
from tests.conftest import Command, rows, tree, write
from tests.test_chat_jobs import refused
from tests.test_completion_jobs import echo, submit
from tests.test_endpoint import Server, serving
from tests.test_secrets import files

KEY, HEADER, QUERY = "sk-Aq7Lw3Xv9Rt5Kp2Hd", "hv-Bz6Mw2Yu8Sq4Jn1Gc", "qy-Cx5/Nv1+Zt7=Rp3Fb"
SECRETS = {"DOMYN_SWARM_API_KEY": KEY, "MY_HEADER": HEADER, "MY_QUERY": QUERY}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOMYN_SWARM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write("in.parquet", {"item": ["hello"]})


def sent(monkeypatch: pytest.MonkeyPatch, query: str = "", **options: Any) -> Server:
    """What a server gets of a run over one row, with all secrets in the environment."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with serving(echo) as server:
        submit(server.url + query, **options)
    assert [row["answer"] for row in rows("out.parquet")] == ["<hello>"]
    return server


def each(server: Server, name: str) -> set[str | None]:
    return {{key.lower(): value for key, value in one.items()}.get(name.lower()) for one in server.headers}


def test_a_query_goes_behind_the_path_of_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    server = sent(monkeypatch, "?api-version=2024-10-21&key=env:MY_QUERY")
    asked = [(urlsplit(path).path, parse_qs(urlsplit(path).query)) for path in server.paths]
    query = {"api-version": ["2024-10-21"], "key": [QUERY]}
    assert asked == [("/v1/models", query), ("/v1/chat/completions", query)]


def test_the_address_of_a_request_with_its_query_is_that_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    server = sent(monkeypatch, "/chat/completions?api-version=1")
    assert server.paths == ["/v1/models?api-version=1", "/v1/chat/completions?api-version=1"]


def test_headers_are_sent_with_each_request_beside_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["X-Team: search: all", "X-Key:env:MY_HEADER", "X-Token: Token env:MY_HEADER", "User-Agent: me"]
    server = sent(monkeypatch, headers=given)
    assert len(server.headers) == 2
    assert each(server, "X-Team") == {"search: all"}
    assert each(server, "X-Key") == {HEADER}
    assert each(server, "X-Token") == {f"Token {HEADER}"}
    assert each(server, "User-Agent") == {"me"}
    assert each(server, "Authorization") == {f"Bearer {KEY}"}


def test_the_key_may_go_in_a_header_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    server = sent(monkeypatch, api_key_header="api-key")
    assert (each(server, "api-key"), each(server, "Authorization")) == ({KEY}, {None})


def test_a_header_that_is_given_wins_over_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert each(sent(monkeypatch, headers=["authorization: Basic env:MY_HEADER"]), "Authorization") == {
        f"Basic {HEADER}"
    }


OFFICIAL = """
from domyn_swarm.jobs import EndpointJob

class Official(EndpointJob):
    output_columns = ("answer",)

    async def transform_item(self, item):
        messages = [{"role": "user", "content": item}]
        answer = await self.client.chat.completions.create(model=self.model, messages=messages)
        return answer.choices[0].message.content
"""


def test_the_official_client_sends_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("official.py").write_text(OFFICIAL)
    options: dict[str, Any] = {
        "headers": ["X-Key: env:MY_HEADER"],
        "api_key_header": "api-key",
        "job": "official.py:Official",
    }
    options["output_columns"] = ["answer"]
    server = sent(monkeypatch, "?api-version=1&key=env:MY_QUERY", **options)
    assert (each(server, "X-Key"), each(server, "api-key"), each(server, "Authorization")) == ({HEADER}, {KEY}, {None})
    last = urlsplit(server.paths[-1])
    assert (last.path, parse_qs(last.query)) == ("/v1/chat/completions", {"api-version": ["1"], "key": [QUERY]})


def test_nothing_of_them_is_left_behind_or_shown_whatever_the_server_says(command: Command) -> None:
    async def rude(body: Any) -> web.Response:
        everything = f"{dict(server.headers[-1])} {server.paths[-1]} {QUERY}"
        if body["messages"][-1]["content"] == "rude":
            return web.json_response({"error": {"message": everything}}, status=400)
        return await echo(body)

    write("in.parquet", {"item": ["fine", "rude"]})
    with serving(rude, lambda: web.json_response({"error": f"{server.headers[-1]} {QUERY}"}, status=403)) as server:
        arguments = [
            "--verbose", "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--input-column", "item",
            "--endpoint", f"{server.url}?key=env:MY_QUERY&api-version=1", "--header", "X-Key: Token env:MY_HEADER",
            "--api-key-header", "api-key", "--model", "m",
        ]  # fmt: skip
        done = command(*arguments, env=SECRETS)
        again = command(*arguments, env=SECRETS)
    assert (done.returncode, again.returncode) == (3, 3), done.stderr + again.stderr
    assert [headers["X-Key"] for headers in server.headers] == [f"Token {HEADER}"] * len(server.headers)
    said = [*files(), ("stdout", done.stdout + again.stdout), ("stderr", done.stderr + again.stderr)]
    assert "or name the model with model=, which needs no list" in done.stderr
    spec = json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())
    assert spec["headers"] == ["X-Key: Token env:MY_HEADER"]
    assert spec["endpoints"] == [f"{server.url}?key=env:MY_QUERY&api-version=1"]
    pieces = {secret[at : at + 8] for secret in (KEY, HEADER, QUERY) for at in range(len(secret) - 7)}
    assert {name: found for name, text in said if (found := sorted(p for p in pieces if p in text))} == {}


def test_values_that_stand_in_the_options_themselves_are_not_written_down(command: Command) -> None:
    with serving(echo) as server:
        done = command(
            "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--input-column", "item",
            "--endpoint", f"{server.url}?sig={HEADER}", "--header", f"X-Whatever: {KEY}", "--header", "User-Agent: me",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert server.headers[-1]["X-Whatever"] == KEY
        spec = json.loads(Path(".domyn-swarm/out.parquet/spec.json").read_text())
        with pytest.raises(ConfigurationError) as raised:
            run(make_spec(spec))
    assert spec["headers"] == ["X-Whatever: ***", "User-Agent: me"]
    assert [name for name, text in files() if KEY[:8] in text or HEADER[:8] in text] == []
    assert raised.value.code == "option.secret"
    assert "env:NAME" in raised.value.hint


@pytest.mark.parametrize(
    "header",
    ["", "X-Key", ":x", "X-Key:", "X Key: v", "X-Ké: v", "X-Key: a\nX-Evil: b", "Content-Length: 5", "X-Key: ü"],
)
def test_what_can_be_no_header_is_refused(header: str) -> None:
    error = refused("--endpoint", "demo", "--input-column", "item", "--header", header)
    assert (error.code, error.option) == ("header.invalid", "headers")


@pytest.mark.parametrize("name", ["", "a b", "Content-Type", "é"])
def test_what_can_be_no_name_of_the_keys_header_is_refused(name: str) -> None:
    error = refused("--endpoint", "demo", "--input-column", "item", "--api-key-header", name)
    assert (error.code, error.option) == ("header.invalid", "api_key_header")


def test_a_header_that_is_given_twice_is_refused() -> None:
    error = refused("--endpoint", "demo", "--input-column", "item", "--header", "X-A: 1", "--header", "x-a: 2")
    assert (error.code, error.option) == ("header.invalid", "headers")


@pytest.mark.parametrize(
    "options",
    [("--header", "X-Key: env:NOT_THERE"), ("--endpoint", "http://127.0.0.1:9/v1?key=env:NOT_THERE")],
    ids=["header", "query"],
)
def test_a_variable_that_does_not_exist_is_refused(options: tuple[str, str]) -> None:
    error = refused("--input-column", "item", "--model", "m", "--endpoint", "http://127.0.0.1:9/v1", *options)
    assert error.code == "secret.missing"
    assert "NOT_THERE" in error.message


def test_a_variable_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HEADER", "two\nlines-of-it")
    before = tree()
    with serving(echo) as server, pytest.raises(ConfigurationError) as raised:
        submit(server.url, headers=["X-Key: env:MY_HEADER"])
    assert (raised.value.code, tree(), server.headers) == ("header.invalid", before, [])
    assert "lines-of-it" not in str(raised.value)


def test_a_model_with_an_endpoint_of_its_own_gets_no_headers_but_its_own() -> None:
    options = {
        "input": "in.parquet", "output": "out.parquet",
        "endpoints": ["http://a/v1", "judge=http://b/v1"],
        "headers": ["X-Key: shared", "judge=X-Key: own", "other=X-More: more"],
    }  # fmt: skip
    spec = make_spec(options)
    assert {name: spec_for(spec, name).headers for name in ("", "judge", "other")} == {
        "": ["X-Key: shared"],
        "judge": ["X-Key: own"],
        "other": ["X-Key: shared", "X-More: more"],
    }
    assert msgspec.structs.asdict(spec)["headers"] == options["headers"]
