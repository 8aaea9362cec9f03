"""What the pipeline costs: an echo job over many rows, against a bare loop over the same Arrow batches.

    python tests/benchmarks/items_overhead.py [--rows 2000000] [--pairs 3]

Both read one text column, make Python values of it, and write input and output columns back. The loop does nothing
else: no ids, no checkpoint, no concurrency. Runs alternate; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm import SwarmJob, make_spec, run


class Echo(SwarmJob):
    input_columns = ("text",)
    output_columns = ("echo",)

    async def transform_item(self, text: str) -> str:
        return text


def write_input(path: Path, rows: int) -> None:
    step = 100_000
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for start in range(0, rows, step):
            texts = [f"row {number} of the benchmark's input" for number in range(start, min(start + step, rows))]
            writer.write_table(pa.table({"text": texts}))


def bare_loop(source: Path, target: Path) -> None:
    schema = pa.schema([("text", pa.string()), ("echo", pa.string())])
    with pq.ParquetFile(source) as parquet, pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in parquet.iter_batches(batch_size=65_536):
            values = batch.column(0).to_pylist()
            writer.write_table(pa.table([batch.column(0), pa.array(values, pa.string())], schema=schema))


def whole_job(source: Path, target: Path) -> None:
    result = run(make_spec({"job": f"{__file__}:Echo", "input": str(source), "output": str(target), "resume": False,
                            "overwrite": True, "input_columns": ["text"], "output_columns": ["echo"]}))  # fmt: skip
    assert result.exit_status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare loop": [], "job": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "input.parquet")
        write_input(source, arguments.rows)
        for pair in range(arguments.pairs):
            for name, work in (("bare loop", bare_loop), ("job", whole_job)):
                start = time.perf_counter()
                work(source, Path(folder, f"{name.replace(' ', '-')}.parquet"))
                seconds[name].append(time.perf_counter() - start)
                print(f"{pair + 1}  {name:<10}{arguments.rows / seconds[name][-1]:>12,.0f} rows/s")
    loop, job = (statistics.median(seconds[name]) for name in ("bare loop", "job"))
    print(f"ratio job / bare loop: {loop / job:.2f}")


if __name__ == "__main__":
    main()
