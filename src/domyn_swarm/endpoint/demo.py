"""The demo endpoint: an OpenAI-compatible server on loopback whose answers are made up, and always the same.

Newcomers try a job on it, tests talk to it, and its knobs let people rehearse a job against a slow or failing server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from domyn_swarm.endpoint.demo_answers import DIMENSIONS, answer, data, embedding
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
MODEL = "demo"
SHUTDOWN_SECONDS = 1.0


@dataclass(frozen=True)
class DemoSettings:
    """How the server behaves: seconds for an answer, share of requests that fail, requests per second before 429."""

    latency: float = 0.0
    failure_rate: float = 0.0
    rate_limit: float | None = None
    seed: int = 0


@dataclass
class Stats:
    """Requests so far, and what became of them."""

    requests: int = 0
    answered: int = 0
    rejected: int = 0
    failed: int = 0


@contextlib.contextmanager
def demo_server(settings: DemoSettings | None = None, port: int = 0) -> Iterator[str]:
    """Serve in a thread of this process, with which it dies; yields the base URL.

    Raises:
        ConfigurationError: the port is taken.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="domyn-swarm-demo-endpoint", daemon=True)
    thread.start()
    try:
        runner, url = asyncio.run_coroutine_threadsafe(_started(settings or DemoSettings(), port), loop).result()
        try:
            yield url
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def serve(settings: DemoSettings, port: int, announce: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `announce` gets the base URL once the server listens.

    Raises:
        ConfigurationError: the port is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), demo_server(settings, port) as url:
        announce(url)
        threading.Event().wait()


async def _started(settings: DemoSettings, port: int) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(_Demo(settings).app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigurationError(
            f"{port} cannot be used: {_reason(error)}.", "Choose another.", code="port.unusable", option="port"
        ) from None
    return runner, f"http://{HOST}:{runner.addresses[0][1]}/v1"


def _reason(error: OSError) -> str:
    """Its plain text: asyncio puts the address, which the message has already, into `strerror`."""
    return os.strerror(error.errno) if error.errno else str(error)


class _Demo:
    """The server's state and its routes."""

    def __init__(self, settings: DemoSettings) -> None:
        self._settings = settings
        self._stats = Stats()
        self._random = random.Random(settings.seed)  # noqa: S311 - to rehearse with, no secret
        self._allowed_from = 0.0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_get("/demo/stats", self._show_stats)
        return app

    async def _models(self, _request: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "domyn-swarm"}]})

    async def _show_stats(self, _request: web.Request) -> web.Response:
        return _json(msgspec.to_builtins(self._stats))

    async def _chat(self, request: web.Request) -> web.Response:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            prompt = _text(body["messages"][-1]["content"])
            wanted = (body.get("response_format") or {}).get("json_schema")
            text = data(prompt, wanted["schema"]) if wanted else answer(prompt)
            choices = [
                {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                for index in range(body.get("n") or 1)
            ]
            return _completion("chat.completion", choices, prompt, text)

        return await self._answered(request, reply)

    async def _complete(self, request: web.Request) -> web.Response:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            prompt = _text(body["prompt"])
            text = answer(prompt)
            choices = [{"index": index, "finish_reason": "stop", "text": text} for index in range(body.get("n") or 1)]
            return _completion("text_completion", choices, prompt, text)

        return await self._answered(request, reply)

    async def _embed(self, request: web.Request) -> web.Response:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            texts = [_text(text) for text in (body["input"] if isinstance(body["input"], list) else [body["input"]])]
            dimensions, as_base64 = body.get("dimensions") or DIMENSIONS, body.get("encoding_format") == "base64"
            vectors = [embedding(text, dimensions, as_base64=as_base64) for text in texts]
            entries = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)]
            return {"object": "list", "data": entries, "usage": _usage(" ".join(texts), "")}

        return await self._answered(request, reply)

    async def _answered(self, request: web.Request, reply: Callable[[dict[str, Any]], dict[str, Any]]) -> web.Response:
        self._stats.requests += 1
        number = self._stats.requests
        if (wait := self._wait_for_a_turn()) > 0:
            self._stats.rejected += 1
            return _error(429, "Too many requests.", {"Retry-After": f"{wait:.3f}"})
        if self._settings.latency:
            await asyncio.sleep(self._settings.latency)
        if self._random.random() < self._settings.failure_rate:
            self._stats.failed += 1
            return _error(500, "This request was chosen to fail.")
        try:
            body = msgspec.json.decode(await request.read(), type=dict[str, Any])
            answered = reply(body)
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            self._stats.failed += 1
            return _error(400, f"The request is not valid: {type(error).__name__}: {error}")
        self._stats.answered += 1
        return _json({"id": f"demo-{number}", "model": body.get("model") or MODEL, **answered})

    def _wait_for_a_turn(self) -> float:
        """Seconds until a request may come; 0 when this one may, and then the next one has to wait."""
        if not self._settings.rate_limit:
            return 0.0
        now = time.monotonic()
        if now < self._allowed_from:
            return self._allowed_from - now
        self._allowed_from = now + 1.0 / self._settings.rate_limit
        return 0.0


def _text(content: Any) -> str:
    """A text, or a list of parts as it stands."""
    if not isinstance(content, (str, list)):
        raise TypeError(f"a text is needed, not {content!r:.40}")
    return str(content)


def _completion(kind: str, choices: list[dict[str, Any]], prompt: str, text: str) -> dict[str, Any]:
    return {
        "object": kind,
        "created": int(time.time()),
        "choices": choices,
        "usage": _usage(prompt, text * len(choices)),
    }


def _usage(prompt: str, text: str) -> dict[str, int]:
    used = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    return {**used, "total_tokens": sum(used.values())}


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(content), status=status, content_type="application/json", headers=headers
    )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json({"error": {"message": message, "type": "demo_error", "code": status}}, status, headers)
