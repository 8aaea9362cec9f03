"""`--max-concurrency auto` against the best fixed setting, over a server with a limit that the job is not told.

    python tests/benchmarks/auto_concurrency.py [--rows 200000]

Beyond 200 requests in flight the server answers 429, or gets slower in proportion. Then the same while its limit moves
from 200 to 100 and back, at a third and two thirds of the rows: the best fixed setting is that of each phase.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from latency_server import latency_server, move_limit, stats

FIXED = ("100", "150", "200", "250", "400")


def write_input(folder: str, rows: int) -> None:
    texts = [f"Question number {row}, of a usual length, about nothing in particular?" for row in range(rows)]
    pq.write_table(pa.table({"messages": texts}), f"{folder}/input.parquet")


def submit(folder: str, url: str, concurrency: str) -> float:
    """Seconds of the whole command; every row has to be done."""
    command = [str(Path(sys.executable).with_name("domyn-swarm")), "job", "submit", "--endpoint", url, "--no-resume"]
    command += ["--input", f"{folder}/input.parquet", "--output", f"{folder}/output.parquet", "--overwrite"]
    start = time.perf_counter()
    subprocess.run([*command, "--max-concurrency", concurrency, "--retries", "50"], check=True, capture_output=True)
    return time.perf_counter() - start


def limit_at_the_end(folder: str) -> int:
    run = json.loads(Path(folder, ".domyn-swarm", "output.parquet", "run.json").read_text())
    return int(run["traffic"]["limit"])


def standing(beyond: str, rows: int, folder: str) -> None:
    rates = {}
    for concurrency in (*FIXED, "auto"):
        with latency_server(limit=200, beyond=beyond) as url:
            rates[concurrency] = rows / submit(folder, url, concurrency)
            rejected = stats(url)["rejected"]
        found = f", ended at {limit_at_the_end(folder)}" if concurrency == "auto" else ""
        print(f"  {concurrency:>5}{rates[concurrency]:>10,.0f} rows/s, {rejected:,.0f} rejected{found}", flush=True)
    best = max(FIXED, key=rates.__getitem__)
    print(f"{beyond}, limit 200: ratio auto / best ({best}): {rates['auto'] / rates[best]:.2f}\n", flush=True)


def moving(beyond: str, rows: int, folder: str) -> None:
    """Each phase has a third of the rows, so its best time is known from how long one takes at its limit."""
    with latency_server(limit=200, beyond=beyond) as url:
        started = time.perf_counter()
        phases: list[str] = []

        def move() -> None:
            for share, limit in ((1 / 3, 100), (2 / 3, 200)):
                while stats(url)["answers"] < share * rows:
                    time.sleep(0.05)
                phases.append(f"{time.perf_counter() - started:.0f} s")
                move_limit(url, limit)

        mover = threading.Thread(target=move, daemon=True)
        mover.start()
        seconds = submit(folder, url, "auto")
        mover.join()
    with latency_server(limit=200, beyond=beyond) as url:
        fixed = submit(folder, url, "200")
    best = fixed * 4 / 3  # the middle third at half the speed
    print(
        f"{beyond}, 200 to 100 after {phases[0]} and back after {phases[1]}: ratio auto / best: {best / seconds:.2f}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_input(folder, arguments.rows)
        for beyond in ("reject", "slow"):
            standing(beyond, arguments.rows, folder)
            moving(beyond, arguments.rows, folder)


if __name__ == "__main__":
    main()
