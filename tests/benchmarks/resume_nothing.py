"""A run that finds nothing to do, against polars reading the ids of the finished rows.

    python tests/benchmarks/resume_nothing.py [--rows 10000000] [--backend pandas polars ray] [--ids] [--shuffled]

A real run finishes all rows. Then, in turns and as whole fresh processes: the same command again; polars alone, which
reads the id column of the parts; the same command where one row is all there is, which is what starting up takes. The
target is that the first takes no longer than start-up and twice polars' time. With `--ids` a column of strings
identifies the rows. With `--shuffled` calls finish out of order, as they do in real runs, so that parts overlap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from keyed_input import write_input

from domyn_swarm import SwarmJob
from domyn_swarm.data.backends.registry import backend_names

STRAGGLERS = 0.0005
STRAGGLE_SECONDS = 0.3
IMPORT = "import polars"
SCAN = """
import sys, time
import polars as pl
start = time.perf_counter()
pl.scan_parquet(sys.argv[1]).select(sys.argv[2]).collect()
print(time.perf_counter() - start)
"""


class Echo(SwarmJob):
    input_columns = ("number",)
    output_columns = ("echo",)

    async def transform_item(self, number: int) -> int:
        if random.random() < STRAGGLERS:
            await asyncio.sleep(random.random() * STRAGGLE_SECONDS)
        return number

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        return pa.table({"echo": pa.table(batch).column("number")})


def submit(source: Path, target: Path, backend: str, options: argparse.Namespace) -> float:
    """Seconds of the whole command."""
    command = [str(Path(sys.executable).with_name("domyn-swarm")), "job", "submit", f"{__file__}:Echo"]
    command += ["--input", str(source), "--output", str(target), "--data-backend", backend]
    command += ["--id-column", "key"] if options.ids else []
    command += ["--max-concurrency", "256"] if options.shuffled else ["--native-backend"]
    return timed(command)[0]


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of a process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    return seconds, done.stdout


def finish(source: Path, target: Path, backend: str, options: argparse.Namespace) -> None:
    """The run that leaves nothing to do; says how many parts it left."""
    submit(source, target, backend, options)
    folder = run_dir(target)
    seconds = json.loads((folder / "run.json").read_text())["seconds"]
    parts = [pq.read_metadata(part) for part in folder.glob("parts/*.parquet")]
    assert sum(part.num_rows for part in parts) == options.rows
    print(
        f"{backend}: {options.rows:,} rows in {seconds:.1f} s are {len(parts)} parts; "
        f"rows / 50,000 + seconds / 10 = {options.rows / 50_000 + seconds / 10:.0f}",
        flush=True,
    )


def run_dir(target: Path) -> Path:
    return target.parent / ".domyn-swarm" / target.name


def measure(folder: Path, sources: dict[str, Path], backend: str, options: argparse.Namespace) -> dict[str, float]:
    """Medians of seconds."""
    target, single = folder / f"{backend}.parquet", folder / f"{backend}-single.parquet"
    scan = [sys.executable, "-c", SCAN, f"{run_dir(target)}/parts/*.parquet", "key" if options.ids else "_row_id"]
    found: dict[str, list[float]] = {}
    for pair in range(options.pairs):
        process, inside = timed(scan)
        seconds = {
            "nothing to do": submit(sources["all"], target, backend, options),
            "start-up": submit(sources["one"], single, backend, options),
            "polars' scan": float(inside),
            "polars' process": process - timed([sys.executable, "-c", IMPORT])[0],
        }
        print(f"{pair + 1}  " + "   ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)
        for name, value in seconds.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--backend", nargs="+", default=backend_names())
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--ids", action="store_true", help="identify rows by a column of strings")
    parser.add_argument("--shuffled", action="store_true", help="row by row, some of them late")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {"all": folder / "input.parquet", "one": folder / "one.parquet"}
        write_input(sources["all"], options.rows)
        write_input(sources["one"], 1)
        for backend in options.backend:
            finish(sources["all"], folder / f"{backend}.parquet", backend, options)
            submit(sources["one"], folder / f"{backend}-single.parquet", backend, options)
            again, start_up, scan, process = measure(folder, sources, backend, options).values()
            more = again - start_up
            print(
                f"{backend}: {again:.2f} s, start-up {start_up:.2f} s, polars {scan:.2f} s; ratio {more / scan:.2f} "
                f"({more / process:.2f} of polars' whole process without its import); "
                f"target {start_up + 2 * scan:.2f} s {'met' if again <= start_up + 2 * scan else 'missed'}\n",
                flush=True,
            )


if __name__ == "__main__":
    main()
