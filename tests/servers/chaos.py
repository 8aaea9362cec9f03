"""An endpoint in trouble: a server of its own process that speaks chat completions, fails on purpose, and keeps a log.

    python tests/servers/chaos.py --log requests.jsonl --latency 0.02 --share 500=0.05 --share hang=0.05 --when rude=400

It prints its URL when it listens. Which requests fail is drawn from `--seed`, request by request. Each request is a
line of the log, written when it arrives, because what will become of it is settled then:

    at           when it arrived, as `time.time()` has it
    text         what the row asks
    did          one of FAULTS, or "answer"
    in_flight    requests that have no answer yet, this one included; a client that has hung up waits for none
    retry_after  the header's value, if it gave one
    not_before   when the row may come again then, as `at`
    tokens       in and out together, of an answer
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import math
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

HOST = "127.0.0.1"
MODEL = "chaos"
STATUS = ("400", "401", "403", "404", "429", "429-date", "500", "503")
"""Faults that are an error's status; 429 tells the seconds to wait, 429-date the moment to wait for."""
FAULTS = (*STATUS, "reset", "truncated", "garbage", "hang", "error-200")
"""Connections that break in mid-body, hard or softly; what is no JSON object; nothing, ever; an error that says 200."""
GARBAGE = (b"", b"\xff\xfe\x00", b"[1, 2]", b"null", b"<html>Bad Gateway</html>", b'{"choices": [{"message": {"con')
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "half": lambda key: key[: len(key) // 2],
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "quoted": lambda key: quote(key, safe=""),
    "escaped": lambda key: "".join(f"\\u{ord(one):04x}" for one in key),
}
"""How a server repeats the key that it got. `quoted` is for URLs; `escaped` is `plain` again once the JSON is read."""


def answer_to(text: str) -> str:
    """What the server says to `text`, the same every time."""
    return f"{text.upper()} ({len(text)} characters)"


# What tests see of it.


class Chaos:
    """The server as a process that can be killed, and started again at the same port."""

    def __init__(self, options: tuple[str, ...], log: Path) -> None:
        self.log = log
        self.port = 0
        self._options = options
        self._process: Any = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    def start(self) -> None:
        """Start it, or start it again where it was. It goes on writing the same log."""
        from tests import forked  # which the server, a script, does not need

        options = ("--port", str(self.port), "--log", str(self.log), *self._options)
        self._process = forked.start(__file__, *options, stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline().rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        """As the machine would: without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def requests(self) -> list[dict[str, Any]]:
        """The log so far, without a line that is only half written."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def count(self) -> int:
        """How many requests there were so far."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


@contextlib.contextmanager
def chaos(*options: str, log: str | Path = "requests.jsonl") -> Iterator[Chaos]:
    """A server that does not outlive the test."""
    server = Chaos(options, Path(log).absolute())
    try:
        yield server
    finally:
        server.kill()


# The server.


@dataclass
class Server:
    """The requests that have no answer yet, and how the next one fails."""

    options: argparse.Namespace
    log: Any
    chance: random.Random
    arrived: int = 0
    open: dict[int, web.Request] = field(default_factory=dict)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def models(self, request: web.Request) -> web.StreamResponse:
        if self.options.models:
            return self.refusal(request, self.options.models, {})
        return web.json_response({"data": [{"id": MODEL}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        at = time.time()
        self.arrived += 1
        self.open[id(request)] = request
        try:
            text = (await request.json())["messages"][-1]["content"]
            in_flight = sum(not _has_hung_up(one) for one in self.open.values())
            did = self.drawn(text, in_flight)
            entry = {"at": at, "text": text, "did": did, "in_flight": in_flight}
            if did.startswith("429"):
                entry |= self.wait(did)
            if did == "answer":
                entry["tokens"] = len(text.split()) + self.options.tokens
            print(json.dumps(entry), file=self.log, flush=True)
            return await self.done(request, did, entry)
        finally:
            self.open.pop(id(request), None)

    def drawn(self, text: str, in_flight: int) -> str:
        """What becomes of a request: too many come before all else, then what was asked for, then chance."""
        chance = self.chance.random()
        if in_flight > self.options.most_in_flight:
            return "429"
        for part, fault in self.options.when:
            if part in text:
                return fault
        for count, fault in self.options.after:
            if self.arrived > int(count):
                return fault
        for fault, share in self.options.share:
            chance -= float(share)
            if chance < 0:
                return fault
        return "answer"

    def wait(self, did: str) -> dict[str, Any]:
        """A Retry-After, in one of its two forms, and the moment that it means."""
        now, seconds = time.time(), round(self.chance.uniform(*self.options.retry_after), 3)
        if did == "429":
            return {"retry_after": f"{seconds:g}", "not_before": now + seconds}
        moment = math.ceil(now + seconds)  # dates have no fractions
        return {"retry_after": format_datetime(datetime.fromtimestamp(moment, UTC), usegmt=True), "not_before": moment}

    async def done(self, request: web.Request, did: str, entry: dict[str, Any]) -> web.StreamResponse:
        if did.startswith("429"):  # at once, so that what it says is right
            return self.closed(request, self.refusal(request, did, {"Retry-After": entry["retry_after"]}))
        await asyncio.sleep(3600 if did == "hang" else self.options.latency)
        if did in STATUS:
            return self.closed(request, self.refusal(request, did, {}))
        if did == "garbage":
            body = self.chance.choice(GARBAGE)
            return self.closed(request, web.Response(body=body, content_type="application/json"))
        if did == "error-200":
            return self.closed(request, self.error(request, 200, "no luck", {}))
        body = self.answer(entry["text"])
        if did in ("reset", "truncated"):
            return await self.broken(request, body, hard=did == "reset")
        return self.closed(request, web.Response(body=body, content_type="application/json"))

    def closed(self, request: web.Request, response: web.Response) -> web.Response:
        """Count the request as answered before the client can know."""
        self.open.pop(id(request), None)
        return response

    def answer(self, text: str) -> bytes:
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": self.options.tokens}
        choice = {"message": {"role": "assistant", "content": answer_to(text)}, "finish_reason": "stop"}
        return json.dumps({"model": MODEL, "choices": [choice], "usage": usage}).encode()

    async def broken(self, request: web.Request, body: bytes, *, hard: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        self.open.pop(id(request), None)
        if (transport := request.transport) is not None:
            if hard:  # RST instead of FIN
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()
            else:
                transport.close()
        return response

    def refusal(self, request: web.Request, did: str, headers: dict[str, str]) -> web.Response:
        return self.error(request, int(did[:3]), f"this is a {did}", headers)

    def error(self, request: web.Request, status: int, message: str, headers: dict[str, str]) -> web.Response:
        """An error as OpenAI's API has them, which may repeat the key that it got."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        shown = FORMS[self.options.repeat_key](key) if self.options.repeat_key and key else "nobody"
        body = f'{{"error": {{"message": "{message}, {_in_json(shown)}!"}}}}'
        return web.Response(body=body.encode(), status=status, headers=headers, content_type="application/json")


def _in_json(text: str) -> str:
    """`text` as it stands in a JSON string; `\\u0041` is what it is already."""
    return text if text.startswith("\\u") else json.dumps(text)[1:-1]


def _has_hung_up(request: web.Request) -> bool:
    """Whether the client is gone. The kernel knows before the event loop does."""
    if request.transport is None or request.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(request.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _pair(text: str) -> tuple[str, str]:
    what, _, fault = text.rpartition("=")
    return what, fault


def _range(text: str) -> tuple[float, float]:
    least, _, most = text.partition("..")
    return float(least), float(most or least)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An endpoint in trouble.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that an answer takes")
    parser.add_argument("--tokens", type=int, default=6, help="tokens of an answer")
    parser.add_argument("--share", type=_pair, action="append", default=[], metavar="FAULT=SHARE")
    parser.add_argument("--when", type=_pair, action="append", default=[], metavar="TEXT=FAULT")
    parser.add_argument("--after", type=_pair, action="append", default=[], metavar="REQUESTS=FAULT")
    parser.add_argument("--most-in-flight", type=int, default=sys.maxsize, help="more get status 429")
    parser.add_argument("--retry-after", type=_range, default=(0.1, 0.1), metavar="SECONDS[..SECONDS]")
    parser.add_argument("--models", choices=STATUS, help="what a request for the list of models gets")
    parser.add_argument("--repeat-key", choices=FORMS, help="errors show the key")
    return parser.parse_args()


async def _serve(options: argparse.Namespace, log: Any) -> None:
    server = Server(options, log, random.Random(options.seed))
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, HOST, options.port).start()
    print(f"http://{HOST}:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    options = _arguments()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Path(options.log).open("a", encoding="utf-8") as log, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options, log))


if __name__ == "__main__":
    main()
