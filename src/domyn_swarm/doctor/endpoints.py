"""An endpoint, as jobs will use it: it answers, has the model, takes the key, and completes a text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.doctor.finding import Finding
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
KEY = f"Put the right key into {VARIABLES[0]} or {VARIABLES[1]}, or name its file with --api-key-file."
UNLISTED = (404, 405, 501)
"""What servers without a list of models say when they are asked for it."""


def no_endpoint() -> Iterator[Finding]:
    """What stands in for the checks when no endpoint is named."""
    yield Finding("endpoint", "skipped", "none was named", "Give --endpoint URL, or set ENDPOINT")


def check_endpoint(url: str, model: str | None, api_key_file: str | None) -> Iterator[Finding]:
    """The endpoint at `url`, by the list of its models and by a short completion."""
    try:
        key = read_key(api_key_file)
        yield from asyncio.run(_examined(url, model, key))
    except ConfigurationError as error:
        yield Finding("endpoint", "failed", error.message, error.hint)


async def _examined(url: str, model: str | None, key: str | None) -> list[Finding]:
    async with _client(url, key) as client:
        started = time.monotonic()
        try:
            models = await listed_models(client)
        except EndpointError as error:
            if is_absent(error) or model is None:
                return [_refused("endpoint", url, error)]
            why = "" if error.status in UNLISTED else f": {error.message}"
            said = f"{url} answers, and lists no models{why}"
            found = Finding("endpoint", "warning", said, "Fine, if the next line is.")
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
        return Finding("endpoint", "failed", f"{url} answers, and lists no models", "Name one with --model.")
    if model is not None and models and named(model, models) is None:
        return Finding("endpoint", "failed", f"{url} has no model {model!r}", f"It lists: {shown}.")
    return Finding("endpoint", "ok", f"{url} answers in {_took(seconds)}; models: {shown or 'not listed'}")


async def _completion(client: EndpointClient, model: str) -> Finding:
    """What a job would do next; not every server knows the same name for the limit of tokens."""
    started = time.monotonic()
    try:
        try:
            answer = await client.post("chat/completions", _asked(model, max_tokens=MOST_TOKENS))
        except EndpointError as error:
            if error.status not in (400, 422):
                raise
            started = time.monotonic()
            answer = await client.post("chat/completions", _asked(model))
    except EndpointError as error:
        return _refused("completion", model, error)
    seconds = time.monotonic() - started
    match answer:
        case {"choices": [{"message": {"content": str() as text}}, *_]}:
            return Finding("completion", "ok", f"{model} said {text.strip()!r:.60} in {_took(seconds)}")
    return Finding("completion", "warning", f"{model} answered in {_took(seconds)}, but with no text", _NO_TEXT)


_NO_TEXT = f"A model that thinks first may need more than {MOST_TOKENS} tokens; otherwise look at the server."


def _asked(model: str, **more: Any) -> bytes:
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": QUESTION}], **more})


def _refused(name: str, what: str, error: EndpointError) -> Finding:
    if error.status in (401, 403):
        return Finding(name, "failed", f"{what}: the key is refused: {error.message}", KEY)
    if error.status == 0:
        mend = f"Is the server up, and is this its address? It has {CONNECT_SECONDS:.0f} s to connect."
        return Finding(name, "failed", f"{what} does not answer: {error.message}", mend)
    hints = {404: "The address of an OpenAI-compatible server mostly ends in /v1.", 429: "It has too much to do."}
    return Finding(name, "failed", f"{what}: {error.message}", hints.get(error.status, "Look at the server's log."))


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
