"""Checks of an endpoint: it responds, serves the model, accepts the key, and completes a prompt."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.doctor.finding import Finding
from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.endpoint.client import CONNECT_SECONDS, EndpointClient
from domyn_swarm.endpoint.demo import demo_server
from domyn_swarm.endpoint.keys import VARIABLES, read_key
from domyn_swarm.endpoint.models import named
from domyn_swarm.endpoint.preflight import is_absent, listed_models
from domyn_swarm.errors import ConfigurationError, EndpointError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from domyn_swarm.endpoint.models import Model

DEMO = "demo"
SHOWN_MODELS = 5
ANSWER_SECONDS = 60.0
QUESTION = "Answer with the one word: ready"
MOST_TOKENS = 16
KEY = f"Set {VARIABLES[0]} or {VARIABLES[1]} to a valid key, or name a file with --api-key-file."
UNLISTED = (404, 405, 501)
"""HTTP statuses of servers that have no model list."""


def no_endpoint() -> Iterator[Finding]:
    """Reported when no endpoint was given."""
    yield Finding("endpoint", "skipped", "none given", "Use --endpoint URL, or set ENDPOINT")


def check_endpoint(url: str, model: str | None, api_key_file: str | None) -> Iterator[Finding]:
    """Check the endpoint at `url` by its model list and by a short completion."""
    try:
        key = read_key(api_key_file)
        yield from asyncio.run(_check(url, model, key))
    except ConfigurationError as error:
        yield Finding("endpoint", "failed", *error.rendered(COMMAND_LINE))


async def _check(url: str, model: str | None, key: str | None) -> list[Finding]:
    async with _client(url, key) as client:
        started = time.monotonic()
        try:
            models = await listed_models(client)
        except EndpointError as error:
            if is_absent(error) or model is None:
                return [_refused("endpoint", url, error)]
            why = "" if error.status in UNLISTED else f": {error.text}"
            text = f"{url} responds, but lists no models{why}"
            found = Finding("endpoint", "warning", text, "No action is needed if the next check succeeds.")
        else:
            found = _listing(url, models, time.monotonic() - started, model)
        if found.state == "failed":
            return [found]
        return [found, await _completion(client, model or models[0].name)]


@contextlib.asynccontextmanager
async def _client(url: str, key: str | None) -> AsyncIterator[EndpointClient]:
    with demo_server() if url == DEMO else contextlib.nullcontext(url) as base:
        async with EndpointClient(base, api_key=key, timeout=ANSWER_SECONDS) as client:
            yield client


def _listing(url: str, models: list[Model], seconds: float, model: str | None) -> Finding:
    shown = ", ".join(one.name for one in models[:SHOWN_MODELS]) + (", …" if len(models) > SHOWN_MODELS else "")
    if model is None and not models:
        return Finding("endpoint", "failed", f"{url} responds, but lists no models", "Name one with --model.")
    if model is not None and models and named(model, models) is None:
        return Finding("endpoint", "failed", f"{url} has no model {model!r}", f"It lists: {shown}.")
    return Finding("endpoint", "ok", f"{url} responds in {_took(seconds)}; models: {shown or 'not listed'}")


async def _completion(client: EndpointClient, model: str) -> Finding:
    """Send a short prompt; servers differ in the name of the token limit, so it is retried without one."""
    started = time.monotonic()
    try:
        try:
            response = await client.post("chat/completions", _asked(model, max_tokens=MOST_TOKENS))
        except EndpointError as error:
            if error.status not in (400, 422):
                raise
            started = time.monotonic()
            response = await client.post("chat/completions", _asked(model))
    except EndpointError as error:
        return _refused("completion", model, error)
    seconds = time.monotonic() - started
    match response:
        case {"choices": [{"message": {"content": str() as text}}, *_]}:
            return Finding("completion", "ok", f"{model} answered {text.strip()!r:.60} in {_took(seconds)}")
    return Finding("completion", "warning", f"{model} answered in {_took(seconds)}, but without text", _NO_TEXT)


_NO_TEXT = f"A reasoning model may need more than {MOST_TOKENS} tokens; otherwise check the server."


def _asked(model: str, **more: Any) -> bytes:
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": QUESTION}], **more})


def _refused(name: str, what: str, error: EndpointError) -> Finding:
    if error.status in (401, 403):
        return Finding(name, "failed", f"{what}: the API key was rejected: {error.text}", KEY)
    if error.status == 0:
        fix = f"Check that the server is up and that this is its address. The timeout is {CONNECT_SECONDS:.0f} s."
        return Finding(name, "failed", f"{what} does not respond: {error.text}", fix)
    hints = {
        404: "The URL of an OpenAI-compatible server usually ends in /v1.",
        429: "The server limits the request rate.",
    }
    return Finding(name, "failed", f"{what}: {error.text}", hints.get(error.status, "Check the server's log."))


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
