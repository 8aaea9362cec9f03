"""What each engine costs, against the engine alone doing the same work.

    python tests/benchmarks/engine_overhead.py [--rows 5000000] [--files 8] [--pairs 3] [--backends pandas polars ray]
        [--items]

The job adds a column (a text in upper case) to three, in native mode or (`--items`) row by row; the engine alone reads,
adds and writes, with no ids, checkpoint or resume. Ray is up before the first run. Runs alternate; the ratio is that of
the medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domyn_swarm import SwarmJob, make_spec, run


class Upper(SwarmJob):
    input_columns = ("text",)
    output_columns = ("upper",)

    async def transform_item(self, text: str) -> str:
        return text.upper()

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        if isinstance(batch, pl.DataFrame):
            return batch.select(pl.col("text").str.to_uppercase().alias("upper"))
        return pa.table({"upper": pc.utf8_upper(pa.table(batch).column("text"))})


def write_input(folder: Path, rows: int, files: int) -> None:
    folder.mkdir()
    for number in range(files):
        keys = np.arange(number * rows // files, (number + 1) * rows // files)
        texts = [f"row {key} of the benchmark's input" for key in keys.tolist()]
        columns = {"key": keys, "text": texts, "value": np.sqrt(keys)}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=100_000)


def polars_alone(source: Path, target: Path) -> None:
    frame = pl.scan_parquet(source / "*.parquet")
    frame.with_columns(pl.col("text").str.to_uppercase().alias("upper")).sink_parquet(target)


def pandas_alone(source: Path, target: Path) -> None:
    """What pandas reads and writes with: pyarrow, batch by batch."""
    writer = None
    for path in sorted(source.iterdir()):
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(batch_size=65_536):
                out = batch.append_column("upper", pc.utf8_upper(batch.column("text")))
                writer = writer or pq.ParquetWriter(target, out.schema, compression="zstd")
                writer.write_batch(out)
    if writer:
        writer.close()


def ray_alone(source: Path, target: Path) -> None:
    """Into a directory of files: Ray Data writes no other way."""
    import ray.data

    def upper(batch: pa.Table) -> pa.Table:
        return batch.append_column("upper", pc.utf8_upper(batch.column("text")))

    ray.data.read_parquet(str(source)).map_batches(upper, batch_format="pyarrow").write_parquet(str(target))


def start_ray() -> None:
    import logging

    import ray
    import ray.data

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False


ALONE: dict[str, Callable[[Path, Path], None]] = {"pandas": pandas_alone, "polars": polars_alone, "ray": ray_alone}


def whole_job(backend: str, source: Path, target: Path, *, native: bool) -> None:
    run(make_spec({"job": f"{__file__}:Upper", "input": str(source), "output": str(target), "data_backend": backend,
                   "native_backend": native, "native_batch_size": 65_536, "resume": False, "overwrite": True,
                   "input_columns": ["text"], "output_columns": ["upper"]}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--backends", nargs="+", default=list(ALONE))
    parser.add_argument("--items", action="store_true", help="row by row instead of native")
    arguments = parser.parse_args()
    if "ray" in arguments.backends:
        start_ray()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "input"), Path(folder, "out.parquet")
        write_input(source, arguments.rows, arguments.files)
        for backend in arguments.backends:
            seconds: dict[str, list[float]] = {"alone": [], "job": []}
            for pair in range(arguments.pairs):
                for name, times in seconds.items():
                    start = time.perf_counter()
                    if name == "job":
                        whole_job(backend, source, target, native=not arguments.items)
                    else:
                        ALONE[backend](source, target)
                    times.append(time.perf_counter() - start)
                    rate = arguments.rows / times[-1]
                    print(f"{pair + 1}  {backend:<8}{name:<7}{rate:>12,.0f} rows/s")
                    shutil.rmtree(target) if target.is_dir() else target.unlink()
                shutil.rmtree(Path(folder, ".domyn-swarm"))
            alone, job = (statistics.median(values) for values in seconds.values())
            print(f"{backend}: ratio job / engine alone {alone / job:.2f}")


if __name__ == "__main__":
    main()
