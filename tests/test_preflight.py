"""What is asked of endpoints before a run: the list of models is advice, and the model that answers is an identity."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from domyn_swarm.engine.runner import RunResult, run
from domyn_swarm.errors import CheckpointError, ConfigurationError
from domyn_swarm.jobspec import make_spec
from tests.conftest import Command, rows, write
from tests.test_endpoint import Models, Server, closed_port, serving

RUN = Path(".domyn-swarm/out.parquet")
MESSAGE = {"role": "assistant", "content": "ok"}


async def by_model(body: Any) -> web.Response:
    """Say which model was asked; the text "fail" is refused."""
    text = body["messages"][-1]["content"]
    if text == "fail":
        return web.json_response({"error": "no"}, status=400)
    message = {**MESSAGE, "content": f"{body['model']}: {text}"}
    return web.json_response({"model": body["model"], "choices": [{"message": message}]})


def listing(*entries: Any) -> Models:
    return lambda: web.json_response({"data": [one if isinstance(one, dict) else {"id": one} for one in entries]})


def refusing(status: int) -> Models:
    return lambda: web.json_response({"error": {"message": "no"}}, status=status)


def asked(*servers: Server, **options: Any) -> RunResult:
    given = {"input": "in.parquet", "output": "out.parquet", "input_columns": ["q"], "output_columns": ["answer"]}
    return run(make_spec({**given, "endpoints": [server.url for server in servers], "retries": 0, **options}))


def answers() -> list[str | None]:
    return [row["answer"] for row in rows("out.parquet")]


def identity() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUN / "run.json").read_text())["identity"]
    return found


@pytest.fixture(autouse=True)
def questions() -> None:
    write("in.parquet", {"q": ["one", "two"]})


# With a model named, the list is advice.


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(refusing(401), id="401"),
        pytest.param(refusing(403), id="403"),
        pytest.param(refusing(404), id="404"),
        pytest.param(refusing(500), id="500"),
        pytest.param(lambda: web.json_response([{"id": "m"}]), id="a bare list"),
        pytest.param(lambda: web.json_response({"object": "list"}), id="no list"),
        pytest.param(lambda: web.Response(text="<html>Sign in</html>", content_type="text/html"), id="a page"),
        pytest.param(listing(), id="an empty list"),
        pytest.param(listing("m:latest"), id="a tag"),
        pytest.param(listing("models/m"), id="a path"),
        pytest.param(listing("other", "M"), id="capitals"),
        pytest.param(listing("*"), id="any"),
    ],
)
def test_a_model_that_is_named_is_asked_whatever_the_list_looks_like(models: Models) -> None:
    with serving(by_model, models) as server:
        assert asked(server, model="m").exit_status == 0
    assert answers() == ["m: one", "m: two"]


def test_a_list_that_takes_long_delays_a_run_no_longer_than_it_may(command: Command) -> None:
    async def never() -> web.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    with serving(by_model, never) as server:
        done = command(
            "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--input-column", "q",
            "--endpoint", server.url, "--model", "m", "--preflight-timeout", "0.3",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "does not show its models, so the run starts without having seen 'm': GET models: no answer within 0.3 s"
        in (done.stderr)
    )


def test_a_list_that_has_other_models_refuses_the_run_unless_nobody_asks_for_it() -> None:
    with serving(by_model, listing("other")) as server:
        with pytest.raises(ConfigurationError, match="has no model 'm'") as refused:
            asked(server, model="m")
        assert (refused.value.code, refused.value.option) == ("model.unknown", "model")
        assert "preflight=False" in refused.value.hint
        assert not RUN.exists()
        assert asked(server, model="m", preflight=False).exit_status == 0
    assert answers() == ["m: one", "m: two"]


def test_without_a_model_the_list_has_to_be_there() -> None:
    with serving(by_model, refusing(403)) as server, pytest.raises(ConfigurationError, match="cannot be used"):
        asked(server)
    with serving(by_model) as server, pytest.raises(ConfigurationError) as refused:
        asked(server, preflight=False)
    assert (refused.value.code, refused.value.option) == ("model.missing", "preflight")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        asked(Server(closed_port()), model="m")
    assert not RUN.exists()


def test_endpoints_that_list_other_models_than_the_first_need_a_name() -> None:
    with serving(by_model, ["a", "b"]) as one, serving(by_model, ["b"]) as other:
        with pytest.raises(ConfigurationError, match=f"{other.url} has no model 'a'"):
            asked(one, other)
        assert asked(one, other, model="b").exit_status == 0


def test_an_address_that_is_that_of_a_request_is_corrected_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "domyn_swarm")
    with serving(by_model, ["m"]) as server:
        assert asked(Server(f"{server.url}/chat/completions")).exit_status == 0
    assert f"its server is at {server.url}" in caplog.text


# The model that answers is part of the identity.


def test_a_server_that_changes_its_model_between_runs_is_refused_like_any_other_change() -> None:
    write("in.parquet", {"q": ["one", "fail"]})
    with serving(by_model, ["llama"]) as server:
        assert asked(server).failed == 1
    assert identity()["model"] == "llama"
    before = (RUN / "run.json").read_bytes()
    with serving(by_model, ["qwen"]) as server:
        with pytest.raises(CheckpointError, match="model: 'llama', now 'qwen'") as refused:
            asked(server)
        assert refused.value.code == "job.changed"
        assert "allow_model_change=True" in refused.value.hint
        assert server.bodies == []
    assert (RUN / "run.json").read_bytes() == before
    with serving(by_model, ["qwen"]) as server:
        assert asked(server, allow_model_change=True).failed == 1
        assert identity()["model"] == "qwen"
        assert [body["model"] for body in server.bodies] == ["qwen"]
    with serving(by_model, ["qwen"]) as server:
        assert asked(server, model="qwen").failed == 1


def test_naming_the_model_that_was_found_before_changes_nothing() -> None:
    with serving(by_model, ["llama"]) as server:
        asked(server, limit=1)
        assert asked(server, model="llama").done_before == 1
        with pytest.raises(CheckpointError, match="model: 'llama', now 'large'"):
            asked(server, model="large", preflight=False)
    assert asked(model="llama").done_before == 2  # nothing to do: nobody is asked


def test_another_revision_under_the_same_name_is_another_model() -> None:
    first, second = ({"id": "m", "root": root, "created": number} for number, root in enumerate(("/a", "/b")))
    with serving(by_model, listing(first)) as one, serving(by_model, listing(second)) as other:
        asked(one, limit=1, model="m")
        assert identity()["model_revision"] == ["root /a"]
        with pytest.raises(CheckpointError, match=r"model_revision: \['root /a'\], now \['root /b'\]"):
            asked(other, model="m")
        assert asked(one, model="m").done_before == 1
        asked(one, other, model="m", resume=False, limit=1)
        assert asked(other, model="m").done_before == 1  # one of those that were there
        assert asked(one, model="m", limit=1).done_before == 1


def test_what_is_not_known_of_a_revision_is_no_change() -> None:
    entry = {"id": "m", "meta": {"n_params": 7, "size": 8, "n_ctx": 9}, "created": 5}
    with serving(by_model, listing(entry)) as told, serving(by_model, refusing(403)) as silent:
        asked(told, model="m", limit=1)
        assert identity()["model_revision"] == ["n_params 7, size 8"]
        assert asked(silent, model="m").done_before == 1
        assert identity()["model_revision"] == ["n_params 7, size 8"]


def test_a_model_that_changes_while_a_run_goes_on_is_counted() -> None:
    write("in.parquet", {"q": ["one", "two", "three", "four"]})
    answered = 0

    async def changing(_: Any) -> web.Response:
        nonlocal answered
        answered += 1
        body = {"model": "m", "system_fingerprint": f"fp_{answered // 3}", "choices": [{"message": MESSAGE}]}
        return web.json_response(body)

    with serving(changing, ["m"]) as server:
        asked(server, max_concurrency=1)
    record = json.loads((RUN / "run.json").read_text())
    assert record["traffic"]["answered_by"] == {"m fp_0": 2, "m fp_1": 2}
    assert record["traffic"]["model_changes"] == 1
    assert any("answers come from m fp_1, and came from m fp_0 before" in one for one in record["warnings"])
