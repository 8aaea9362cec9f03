"""Random servers on simulated time, the real `LoadBalancer` that asks them, and what the best fixed pace would take.

A server admits requests by a token bucket or by windows of fixed length, says when to come again or does not, takes its
time, fails now and then. It is told nothing of the client and the client nothing of it but what HTTP would say.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domyn_swarm.endpoint.client import Reply
from domyn_swarm.endpoint.conditions import condition_of, retry_after_of
from domyn_swarm.endpoint.load_balancer import LoadBalancer
from domyn_swarm.endpoint.rate_limit import Rates
from domyn_swarm.errors import EndpointError
from tests.test_slots import now

ANSWER = {"choices": [{"message": {"content": "ok"}}]}
ROUND_TRIP = 0.004
SAYS = ("nothing", "constant", "whole", "milliseconds", "headers")
"""How a server says when to come again: not at all, always 1 s, in whole seconds, exactly, or by what is left, too."""


@dataclass
class Limit:
    """Requests a second that a server admits. `window`: so many seconds' worth at their start; else a token bucket."""

    rate: float
    burst: float
    window: float = 0.0
    level: float = 0.0
    since: float = 0.0

    def admits(self, at: float) -> bool:
        if self.window:
            if at - self.since >= self.window:
                self.since += (at - self.since) // self.window * self.window
                self.level = self.rate * self.window
        else:
            self.level = min(self.burst, self.level + (at - self.since) * self.rate)
            self.since = at
        if self.level < 1 - 1e-9:
            return False
        self.level -= 1
        return True

    def seconds_to_next(self, at: float) -> float:
        return self.since + self.window - at if self.window else (1 - self.level) / self.rate


@dataclass
class Server:
    """One replica. `says`: how it tells when to come again; `lies`: it answers at once, with what is no answer."""

    seed: int
    latency: float
    limit: Limit | None = None
    says: str = "nothing"
    failing: float = 0.0
    lies: bool = False
    away: Sequence[tuple[float, float]] = ()
    base_url: str = "http://simulated/v1"
    seen: int = 0
    refused: int = 0
    failures: Counter[bytes] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    async def send(self, path: str, body: bytes) -> Reply:
        """What `EndpointClient.send` does with what this server would say."""
        del path
        self.seen += 1
        await asyncio.sleep(ROUND_TRIP)
        self._check_presence()
        if self.lies:
            return Reply({"error": {"code": 502, "message": "Upstream is down"}}, {})
        if self._refuses():
            raise self._refusal()
        headers = self._headers()
        if self._random.random() < self.failing and self.failures[body] < 3:
            self.failures[body] += 1
            raise EndpointError("status 500", status=500)
        await asyncio.sleep(self.latency * self._random.lognormvariate(0, 0.4))
        self._check_presence()
        return Reply(ANSWER, headers)

    async def models(self) -> list[str]:
        self._check_presence()
        return ["m"]

    def _refuses(self) -> bool:
        return self.limit is not None and not self.limit.admits(now())

    def _check_presence(self) -> None:
        if any(start <= now() < end for start, end in self.away):
            raise EndpointError("connection refused", status=0)

    def _refusal(self) -> EndpointError:
        assert self.limit
        self.refused += 1
        seconds = self.limit.seconds_to_next(now())
        said = {
            "nothing": {}, "constant": {"retry-after": "1"}, "whole": {"retry-after": str(int(seconds) + 1)},
            "milliseconds": {"retry-after-ms": f"{seconds * 1000:.0f}"}, "headers": {"retry-after": f"{seconds:.3f}"},
        }[self.says]  # fmt: skip
        after = retry_after_of(said)
        return EndpointError("429", status=429, retry_after=after, condition=condition_of(429, None, "", after))

    def _headers(self) -> Mapping[str, str]:
        if self.says != "headers" or self.limit is None:
            return {}
        limit = self.limit
        reset = limit.since + limit.window - now() if limit.window else (limit.burst - limit.level) / limit.rate
        return {
            "x-ratelimit-remaining-requests": str(int(limit.level)),
            "x-ratelimit-reset-requests": f"{reset * 1000:.0f}ms",
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a run: rows that failed, requests in all, and seconds."""

    failed: int
    requests: int
    seconds: float


async def run(servers: Sequence[Server], rows: int, concurrency: int, retries: int = 5) -> Outcome:
    """Ask the servers for an answer to each row, with so many in flight."""
    loop = asyncio.get_running_loop()
    replicas = LoadBalancer(
        servers, Rates(None, None), retries=retries, retry_timeout=600, dedupe=False, clock=loop.time
    )  # fmt: skip
    numbers = iter(range(rows))
    failed = 0

    async def work() -> None:
        nonlocal failed
        for row in numbers:
            try:
                await replicas.post("chat/completions", {"row": row})
            except EndpointError:
                failed += 1

    begun = now()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds = now() - begun
    await replicas.close()
    return Outcome(failed, sum(server.seen for server in servers), seconds)


def limited(seed: int) -> tuple[Server, int, int]:
    """A random server with a rate limit and nothing else, how many rows it is asked, and with how many in flight."""
    chance = random.Random(seed)
    rows = 3000 if seed % 50 == 0 else chance.randint(240, 400)
    rate = rows / 10 ** chance.uniform(2.2, 2.7)  # so that the best pace takes minutes
    window = chance.choice([0, 0, 0, 1, 10, 60])
    if window:
        rate = max(round(rate * window), 1 if window == 1 else 3) / window
    burst = min(max(1.0, rate * chance.choice([0.0, 0.2, 1, 5, 60])), rows / 5)
    limit = Limit(rate, burst, window, level=rate * window or chance.choice([0, 1]) * burst)
    concurrency = chance.choice([8, 32, 64, 256])
    latency = min(10 ** chance.uniform(-2, 1), concurrency / rate / 1.5)
    return Server(seed, latency, limit, chance.choice(SAYS)), rows, concurrency


def troubled(seed: int) -> tuple[list[Server], int, int]:
    """One to four random servers with limits, errors, absences and lies; each row has an answer somewhere."""
    chance = random.Random(seed)
    count = chance.randint(1, 4)
    rows, concurrency = chance.randint(150, 300), chance.choice([8, 32, 64])
    servers = []
    for number in range(count):
        rate = rows / 10 ** chance.uniform(1.3, 2)
        limit = Limit(rate, max(1.0, rate * chance.choice([0.5, 2, 10])), level=1)
        at = chance.uniform(0, 30)
        servers.append(
            Server(
                seed + number,
                10 ** chance.uniform(-2, 0.5),
                limit if chance.random() < 0.5 else None,
                chance.choice(SAYS),
                failing=chance.choice([0, 0, 0.05, 0.3]),
                lies=number > 0 and chance.random() < 0.4,
                away=[(at, at + chance.uniform(1, 100))] if chance.random() < 0.4 else (),
                base_url=f"http://simulated-{number}/v1",
            )
        )
    return servers, rows, concurrency


def best_seconds(server: Server, rows: int) -> float:
    """How long the best fixed pace takes: the highest that is never refused, the burst spread over the whole run."""
    assert server.limit
    limit = server.limit
    whole = max(rows - (0 if limit.window else limit.level), 1.0) / limit.rate
    chance = random.Random(server.seed)
    takes = [server.latency * chance.lognormvariate(0, 0.4) for _ in range(rows)]
    return max(whole * (number + 1) / rows + seconds for number, seconds in enumerate(takes))
