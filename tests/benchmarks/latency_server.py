"""A server that takes its time, and may take only so many requests at once. Cheap enough to be no bottleneck itself.

Latencies are lognormal, with a share of stragglers. Beyond `limit` requests in flight it answers 429, or everybody gets
slower in proportion, as with a batch that is full. `POST /limit` moves the limit while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import uvloop
from static_server import ANSWER, MODELS, Requests, response


class Settings(argparse.Namespace):
    median: float
    sigma: float
    tail_share: float
    tail_seconds: float
    limit: float
    beyond: str


class State:
    """What has happened; times are in seconds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(0)
        self.in_flight = self.answers = self.rejected = 0
        self.latencies = 0.0

    def latency(self) -> float:
        settings = self.settings
        if self.random.random() < settings.tail_share:
            return settings.tail_seconds
        seconds = settings.median * math.exp(settings.sigma * self.random.gauss(0, 1))
        return seconds * max(1.0, self.in_flight / settings.limit) if settings.beyond == "slow" else seconds


class Server(Requests):
    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def handle(self, path: bytes, body: bytes) -> None:
        state = self._state
        if path.endswith(b"/models"):
            self.transport.write(response(MODELS))
        elif path.endswith(b"/limit"):
            state.settings.limit = float(body)
            self.transport.write(response({}))
        elif path.endswith(b"/stats"):
            counts = {"answers": state.answers, "rejected": state.rejected, "latencies": state.latencies}
            self.transport.write(response(counts))
        elif state.settings.beyond == "reject" and state.in_flight >= state.settings.limit:
            state.rejected += 1
            self.transport.write(response({"error": {"message": "too many"}}, "429 Too Many Requests"))
        else:
            state.in_flight += 1
            latency = state.latency()
            state.latencies += latency
            asyncio.get_running_loop().call_later(latency, self._answer)

    def _answer(self) -> None:
        self._state.in_flight -= 1
        self._state.answers += 1
        self.transport.write(_ANSWER)


_ANSWER = response(ANSWER)


@contextlib.contextmanager
def latency_server(**settings: float | str) -> Iterator[str]:
    """The base URL of a server in a process of its own; `settings` are the command line's."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats(url: str) -> dict[str, float]:
    found: dict[str, float] = json.load(urllib.request.urlopen(f"{url}/stats"))
    return found


def move_limit(url: str, limit: float) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{url}/limit", data=str(limit).encode(), method="POST"))


async def main(settings: Settings) -> None:
    state = State(settings)
    server = await asyncio.get_running_loop().create_server(lambda: Server(state), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--median", type=float, default=0.05)
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--tail-share", type=float, default=0.0)
    parser.add_argument("--tail-seconds", type=float, default=5.0)
    parser.add_argument("--limit", type=float, default=math.inf)
    parser.add_argument("--beyond", choices=["reject", "slow"], default="slow")
    uvloop.run(main(parser.parse_args(namespace=Settings())))
