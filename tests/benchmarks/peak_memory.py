"""Peak memory as rows grow: the same job over some rows and over ten times as many.

    python tests/benchmarks/peak_memory.py [--rows 10000000] [--backend pandas ...] [--modes items native] [--resume]

The larger input is more than 2 GB on disk at 10,000,000 rows (220 bytes of text that does not compress). Each run is a
process of its own, which reports its peak resident set; the ratio is larger / smaller. With `--resume` the run that is
measured has 99 of 100 rows done before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.data.backends.registry import backend_names

TEXT_BYTES = 220


class Echo(SwarmJob):
    input_columns = ("text",)
    output_columns = ("echo",)

    async def transform_item(self, text: str) -> str:
        return text

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        return pa.table({"echo": pa.table(batch).column("text")})


def write_input(path: Path, rows: int) -> None:
    random = np.random.default_rng(7)
    step = 100_000
    schema = pa.schema([("key", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, rows, step):
            count = min(step, rows - start)
            letters = random.integers(97, 123, count * TEXT_BYTES, dtype=np.uint8)
            offsets = np.arange(0, (count + 1) * TEXT_BYTES, TEXT_BYTES, dtype=np.int32)
            texts = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))
            keys = pa.array([f"key-{number:012d}" for number in range(start, start + count)])
            writer.write_table(pa.table([keys, texts], schema=schema))


def one_run(source: str, target: str, backend: str, mode: str, *, ids: bool, limit: int | None) -> None:
    options = {"job": f"{__file__}:Echo", "input": source, "output": target, "data_backend": backend,
               "native_backend": mode == "native", "input_columns": ["text"], "output_columns": ["echo"],
               "id_column": "key" if ids else None, "limit": limit}  # fmt: skip
    result = run(make_spec(options))
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    print(peak, round(result.seconds, 1))


def measured(arguments: list[str]) -> tuple[int, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    peak, seconds = done.stdout.split()[-2:]
    return int(peak), float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the larger input")
    parser.add_argument("--backend", nargs="+", default=backend_names())
    parser.add_argument("--modes", nargs="+", default=["items", "native"])
    parser.add_argument("--ids", action="store_true", help="identify rows by a column of strings")
    parser.add_argument(
        "--resume", action="store_true", help="measure a run that goes on with the last 1 %% of the rows"
    )
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, metavar=("SOURCE", "TARGET", "BACKEND", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        source, target, backend, mode = arguments.one
        one_run(source, target, backend, mode, ids=arguments.ids, limit=arguments.limit)
        return
    ids = ["--ids"] if arguments.ids else []
    with tempfile.TemporaryDirectory() as folder:
        inputs = {rows: Path(folder, f"{rows}.parquet") for rows in (arguments.rows // 10, arguments.rows)}
        for rows, path in inputs.items():
            write_input(path, rows)
            print(f"input of {rows:,} rows: {path.stat().st_size / 1e9:.2f} GB")
        for backend in arguments.backend:
            for mode in arguments.modes:
                peaks = []
                for rows, path in inputs.items():
                    target = Path(folder, f"{backend}-{mode}-{rows}", "out.parquet")
                    command = [*ids, "--one", str(path), str(target), backend, mode]
                    if arguments.resume:
                        measured([*command, "--limit", str(rows * 99 // 100)])
                    peak, seconds = measured(command)
                    peaks.append(peak)
                    print(f"{backend} {mode:<7}{rows:>12,} rows  peak {peak:>6,} MB  {rows / seconds:>10,.0f} rows/s")
                    subprocess.run(["rm", "-rf", str(target.parent)], check=True)
                more = (peaks[1] - peaks[0]) * 2**20 / (arguments.rows * 0.9)
                print(
                    f"{backend} {mode:<7}ratio {peaks[1] / peaks[0]:.2f}, {more:.1f} bytes for each further row",
                    flush=True,
                )


if __name__ == "__main__":
    main()
