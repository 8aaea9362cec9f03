"""What steps cost: five pure async steps for each row, against the same five functions called in one transform_item.

    python tests/benchmarks/steps_overhead.py [--rows 1000000] [--pairs 3]

Both are runs of the whole program that echo one text column through five functions. In a chain each step takes what
the one before it made; five that are independent could run at the same time. Runs alternate; the ratio is that of the
medians of rows per second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.items_overhead import write_input

from domyn_swarm import SwarmJob, make_spec, run

CHAIN = """
async def one(text: str) -> str:
    return text

async def two(one: str) -> str:
    return one

async def three(two: str) -> str:
    return two

async def four(three: str) -> str:
    return three

async def five(four: str) -> str:
    return four
"""
INDEPENDENT = """
async def one(text: str) -> str:
    return text

async def two(text: str) -> str:
    return text

async def three(text: str) -> str:
    return text

async def four(text: str) -> str:
    return text

async def five(text: str) -> str:
    return text

def last(one: str, two: str, three: str, four: str, five: str) -> str:
    return five
"""


async def one(text: str) -> str:
    return text


async def two(text: str) -> str:
    return text


async def three(text: str) -> str:
    return text


async def four(text: str) -> str:
    return text


async def five(text: str) -> str:
    return text


class Five(SwarmJob):
    input_columns = ("text",)
    output_columns = ("five",)

    async def transform_item(self, text: str) -> str:
        return await five(await four(await three(await two(await one(text)))))


def seconds_of(job: str, source: Path, target: Path) -> float:
    options = {"job": job, "input": str(source), "output": str(target), "resume": False, "overwrite": True}
    columns = {"input_columns": ["text"], "output_columns": ["five"]} if ":" in job else {}
    started = time.perf_counter()
    assert run(make_spec({**options, **columns})).exit_status == 0
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "input.parquet")
        write_input(source, arguments.rows)
        jobs = {"transform_item": f"{__file__}:Five"}
        for name, text in (("chain", CHAIN), ("independent", INDEPENDENT)):
            jobs[name] = str(Path(folder, f"{name}_steps.py"))
            Path(jobs[name]).write_text(text)
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(arguments.pairs):
            for name, job in jobs.items():
                seconds[name].append(seconds_of(job, source, Path(folder, name, "out.parquet")))
    medians = {name: arguments.rows / statistics.median(taken) for name, taken in seconds.items()}
    for name, rate in medians.items():
        print(f"{name:<16}{rate:>12,.0f} rows/s{rate / medians['transform_item']:>8.2f}")


if __name__ == "__main__":
    main()
