"""A server of its own process that speaks the OpenAI API and behaves in one of many ways, chosen by name.

    python tests/servers/modes.py MODE [NAME=VALUE ...] [--port PORT] [--log requests.jsonl]

It prints its URL when it listens. Each request is a line of the log: `{"path": ..., "body": ...}`. A mode is a function
below, by its name: it gets the request's body and returns a body or a response. To add one, write the function, and say
in its docstring what it does; NAME=VALUE settings are in `SETTINGS`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import inspect
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"
SETTINGS: dict[str, str] = {}
SEEN: list[Any] = []


# What tests see of it.


class Modes:
    """The server as a process."""

    def __init__(self, mode: str, log: Path, settings: dict[str, Any]) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        given = [f"{name}={value}" for name, value in settings.items()]
        from tests import forked  # which the server, a script, does not need

        self.process = forked.start(__file__, mode, *given, "--log", str(log), stdout=subprocess.PIPE)
        self.url = self.process.stdout.readline().strip()

    def bodies(self) -> list[Any]:
        """The bodies of all requests so far, in the order in which they came."""
        return [json.loads(line)["body"] for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def forget(self) -> None:
        """Take down requests anew, for a server that several tests share."""
        self.log.unlink(missing_ok=True)


@contextlib.contextmanager
def playing(mode: str, log: str | Path = "requests.jsonl", **settings: Any) -> Iterator[Modes]:
    """A server in `mode` that does not outlive the test."""
    server = Modes(mode, Path(log).absolute(), settings)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


# The server.


def answer(content: Any, finish_reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    """A chat's answer; `more` is what else stands in the message."""
    message = {"role": "assistant", "content": content, **more}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def text_in(body: Any) -> str:
    """What the first message of the user's says."""
    found: str = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return found


async def plain(_body: Any) -> Any:
    """Says `ok`."""
    return answer("ok")


async def echo(body: Any) -> Any:
    """Says what it is asked."""
    return answer(text_in(body))


async def choices_in_turn(body: Any) -> Any:
    """Answers with the choices that the text, a JSON list, holds: each in turn, the last from then on."""
    told = json.loads(text_in(body))
    before = sum(text_in(one) == text_in(body) for one in SEEN) - 1  # the last is the request itself
    return {"choices": [told[min(before, len(told) - 1)]]}


async def slow(_body: Any) -> Any:
    """Says `ok` after `seconds`."""
    await asyncio.sleep(float(SETTINGS.get("seconds", "1")))
    return answer("ok")


async def large(_body: Any) -> Any:
    """Says a random 1 MB after two seconds, and says nothing of how long that is if `says` is "nothing"."""
    await asyncio.sleep(2)
    response = web.json_response(answer(base64.b64encode(os.urandom(750_000)).decode()))
    if SETTINGS.get("says") == "nothing":
        response.enable_chunked_encoding()
    return response


async def raw(_body: Any) -> Any:
    """Answers with the text `text`, whose type is `type`, with status `status`."""
    kind = SETTINGS.get("type", "application/json")
    return web.Response(
        body=SETTINGS["text"].encode(), status=int(SETTINGS.get("status", "200")), headers={"Content-Type": kind}
    )


async def no_base64(body: Any) -> Any:
    """Embeds each text as its length, and takes no `encoding_format` of `base64`. Texts of `x` are too long."""
    if body.get("encoding_format") == "base64":
        return web.json_response({"message": "base64 encoding is not currently supported"}, status=400)
    if "x" in body["input"]:
        return web.json_response({"message": "too long"}, status=400)
    return {"data": [{"index": index, "embedding": [len(text), 0.5]} for index, text in enumerate(body["input"])]}


MODES = {name: found for name, found in list(globals().items()) if inspect.iscoroutinefunction(found)}


def application(mode: str, log: Path | None) -> web.Application:
    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": SETTINGS.get("model", "m")}]})

    async def post(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        SEEN.append(body)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps({"path": request.path_qs, "body": body}) + "\n")
        made = await MODES[mode](body)
        return made if isinstance(made, web.StreamResponse) else web.json_response(made)

    app = web.Application(client_max_size=2**30)
    app.router.add_get("/{path:.*}models", models)
    app.router.add_post("/{path:.*}", post)
    return app


async def serve(mode: str, port: int, log: Path | None) -> None:
    runner = web.AppRunner(application(mode, log), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    print(f"http://{HOST}:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    options = parser.parse_args()
    SETTINGS.update(setting.split("=", 1) for setting in options.settings)
    asyncio.run(serve(options.mode, options.port, options.log))
