"""What a request costs: whole jobs against bare loops over the same server, which answers at once.

    python tests/benchmarks/endpoint_speed.py [--rows 100000] [--concurrency 64 512] [--pairs 3]

Bare loops ask from memory and keep nothing: aiohttp and orjson on asyncio's loop and on uvloop, and the official client
(`openai`) with its own transport and with aiohttp's, over a tenth of the rows. Jobs are the whole command, start and
checkpoints included: parquet in, parquet out. Each runs in a process of its own, in turns; figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from static_server import static_server

JOBS = {"job on pandas": "pandas", "job on polars": "polars"}
LOOPS = ("aiohttp", "aiohttp+uvloop")
CLIENTS = ("openai", "openai+aiohttp")


def question(row: int) -> str:
    return f"Question number {row}, of a usual length, about nothing in particular?"


async def repeat(ask: Callable[[int], Awaitable[None]], rows: int, concurrency: int) -> float:
    """Rows a second, with `concurrency` in flight."""
    numbers = iter(range(rows))

    async def work() -> None:
        for row in numbers:
            await ask(row)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return rows / (time.perf_counter() - start)


async def bare_loop(url: str, rows: int, concurrency: int) -> float:
    import aiohttp
    import orjson

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:

        async def ask(row: int) -> None:
            body = orjson.dumps({"model": "static", "messages": [{"role": "user", "content": question(row)}]})
            async with session.post(f"{url}/chat/completions", data=body) as response:
                orjson.loads(await response.read())["choices"][0]["message"]["content"]

        return await repeat(ask, rows, concurrency)


async def official(url: str, rows: int, concurrency: int, *, over_aiohttp: bool) -> float:
    import openai

    http = openai.DefaultAioHttpClient() if over_aiohttp else None
    async with openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http) as client:

        async def ask(row: int) -> None:
            messages = [{"role": "user", "content": question(row)}]
            answer = await client.chat.completions.create(model="static", messages=messages)  # type: ignore[arg-type]
            assert answer.choices[0].message.content

        return await repeat(ask, rows, concurrency)


def measure_here(name: str, url: str, rows: int, concurrency: int) -> float:
    if name == "aiohttp+uvloop":
        import uvloop

        return uvloop.run(bare_loop(url, rows, concurrency))
    if name == "aiohttp":
        return asyncio.run(bare_loop(url, rows, concurrency))
    return asyncio.run(official(url, rows, concurrency, over_aiohttp=name == "openai+aiohttp"))


def measure(name: str, url: str, rows: int, concurrency: int, folder: str) -> float:
    """Rows a second of one way, in a process of its own."""
    if name not in JOBS:
        rows = rows // 10 if name in CLIENTS else rows
        command = [sys.executable, __file__, "--one", name, "--url", url, "--rows", str(rows)]
        return float(subprocess.check_output([*command, "--concurrency", str(concurrency)]))
    command = [str(Path(sys.executable).with_name("domyn-swarm")), "job", "submit", "--endpoint", url, "--no-resume"]
    command += ["--input", f"{folder}/input.parquet", "--output", f"{folder}/output.parquet", "--overwrite"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--data-backend", JOBS[name], "--max-concurrency", str(concurrency)], check=True, capture_output=True
    )
    return rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure_here(arguments.one, arguments.url, arguments.rows, arguments.concurrency[0]))
        return
    with static_server() as (kind, url), tempfile.TemporaryDirectory() as folder:
        print(f"server: {kind}; {arguments.rows:,} rows")
        pq.write_table(pa.table({"messages": list(map(question, range(arguments.rows)))}), f"{folder}/input.parquet")
        for concurrency in arguments.concurrency:
            rates = defaultdict(list)
            for _ in range(arguments.pairs):
                for name in (*LOOPS, *CLIENTS, *JOBS):
                    rates[name].append(measure(name, url, arguments.rows, concurrency, folder))
            median = {name: statistics.median(found) for name, found in rates.items()}
            print(f"\nconcurrency {concurrency}{'':>14}rows/s   of aiohttp   of aiohttp+uvloop   times openai")
            for name, rate in median.items():
                of = [rate / median["aiohttp"], rate / median["aiohttp+uvloop"], rate / median["openai"]]
                print(f"  {name:<18}{rate:>16,.0f}{of[0]:>13.2f}{of[1]:>20.2f}{of[2]:>15.1f}")


if __name__ == "__main__":
    main()
