"""Writing the output when all rows are done: memory and speed, against a bare copy of the same bytes.

    python tests/benchmarks/finalize.py [--rows 20000000] [--bytes 200] [--backend pandas polars ray] [--ids]
        [--shuffled]

A real native run finishes all rows; outputs are texts of so many bytes, which hardly compress. Then its output is
removed and made again by a fresh process, which reports its peak resident set: as one file and as a directory, on each
backend. Compared with a copy of the file, and with a bare pass of pyarrow, which reads the input and the parts and
writes both, compressed alike; all of them end when the disk has the bytes. The output is checked, row by row. With
`--shuffled` calls finish out of order, so that parts overlap; with `--ids` a column of strings identifies the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from keyed_input import write_input

from domyn_swarm import SwarmJob, make_spec, run
from domyn_swarm.data.backends.registry import backend_names

KEY_BYTES = 12
LETTERS = 16 * 2**20
STRAGGLERS = 0.0005
STRAGGLE_SECONDS = 0.3
BATCH_ROWS = 131_072


@functools.cache
def letters() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(7).integers(97, 123, LETTERS, dtype=np.uint8)


class Write(SwarmJob):
    """A text that begins with the row's number, so that it can be told to stand in its place."""

    input_columns = ("number",)
    output_columns = ("text",)
    width: int

    async def transform_item(self, number: int) -> str:
        if random.random() < STRAGGLERS:
            await asyncio.sleep(random.random() * STRAGGLE_SECONDS)
        count = self.width - KEY_BYTES
        at = number * count % (LETTERS - count)
        return f"{number:0{KEY_BYTES}d}{letters()[at : at + count].tobytes().decode()}"

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> Any:
        numbers = pa.table(batch).column("number").to_numpy()
        count = self.width - KEY_BYTES
        powers = 10 ** np.arange(KEY_BYTES - 1, -1, -1)
        digits = (48 + numbers[:, None] // powers % 10).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(letters(), count)
        texts = np.hstack([digits, windows[numbers * count % (LETTERS - count)]])
        offsets = np.arange(0, texts.size + 1, self.width, dtype=np.int32)
        array = pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(texts))
        return pa.table({"text": array})


def one_run(folder: str, output: str, backend: str, options: argparse.Namespace) -> None:
    """Run the job, and print the peak resident set in MB, the seconds, and the rows that it found done."""
    spec = {"job": f"{__file__}:Write", "job_kwargs": {"width": options.bytes}, "input": f"{folder}/input.parquet",
            "output": f"{folder}/{output}", "checkpoint_tag": "finalize", "data_backend": backend,
            "native_backend": not options.shuffled, "max_concurrency": 256 if options.shuffled else None,
            "id_column": "key" if options.ids else None}  # fmt: skip
    result = run(make_spec(spec))
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024, result.seconds, result.done_before)


def bare_pass(folder: Path) -> None:
    """Write the input's columns and the outputs, in whatever order the parts have them, and print the seconds."""
    start = time.perf_counter()
    source = pq.read_table(folder / "input.parquet")
    schema = source.schema.append(pa.field("text", pa.string()))
    with (folder / "bare.parquet").open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
            at = 0
            for texts in outputs_of(folder):
                columns = [*source.slice(at, len(texts)).columns, texts]
                writer.write_table(pa.table(columns, schema=schema))
                at += len(texts)
        os.fsync(file.fileno())
    print(time.perf_counter() - start)


def outputs_of(folder: Path) -> Iterator[pa.Array[Any]]:
    for part in sorted((folder / ".domyn-swarm" / "finalize" / "parts").iterdir()):
        with pq.ParquetFile(part) as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=["text"]):
                yield batch.column(0)


def bare_copy(source: Path) -> float:
    target = source.with_name("copy.parquet")
    start = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def check(output: Path, rows: int) -> None:
    """Every row once, in input order, with its own text."""
    at = 0
    for file in sorted(output.iterdir()) if output.is_dir() else [output]:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=["number", "text"]):
                expected = np.arange(at, at + batch.num_rows)
                assert (batch.column("number").to_numpy() == expected).all(), f"not in input order near row {at:,}"
                own = pc.utf8_slice_codeunits(batch.column("text"), 0, KEY_BYTES).cast(pa.int64())
                assert (own.to_numpy() == expected).all(), f"outputs of other rows near row {at:,}"
                at += batch.num_rows
    assert at == rows, f"{at:,} rows of {rows:,}"


def size(output: Path) -> float:
    files = output.iterdir() if output.is_dir() else [output]
    return sum(file.stat().st_size for file in files) / 1e6


def measured(arguments: list[str]) -> list[float]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return [float(value) for value in done.stdout.split()]


def measure(folder: Path, backend: str, options: argparse.Namespace, flags: list[str]) -> None:
    """Both kinds of output, and the bare ones between them."""
    bare: dict[str, float] = {}
    for kind, output in (("one file", folder / "out.parquet"), ("directory", folder / "out")):
        peak, seconds, done = measured([*flags, "--one", str(folder), output.name, backend])
        assert done == options.rows
        written = size(output)
        check(output, options.rows)
        if not bare:
            bare["copy"] = bare_copy(output)
            bare["pyarrow"] = measured(["--bare", str(folder)])[0]
            (folder / "bare.parquet").unlink()
            print(f"{backend}: " + ", ".join(f"bare {name} {value:.1f} s" for name, value in bare.items()))
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        print(
            f"{backend:<8}{kind:<10}peak {peak:>6,.0f} MB  {seconds:>6.1f} s  {written / seconds:>5.0f} MB/s  "
            f"ratio to copy {seconds / bare['copy']:.2f}, to pyarrow {seconds / bare['pyarrow']:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--bytes", type=int, default=200, help="of each output")
    parser.add_argument("--backend", nargs="+", default=backend_names())
    parser.add_argument("--ids", action="store_true", help="identify rows by a column of strings")
    parser.add_argument("--shuffled", action="store_true", help="row by row, some of them late")
    parser.add_argument("--one", nargs=3, metavar=("FOLDER", "OUTPUT", "BACKEND"), help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_run(*options.one, options)
        return
    if options.bare:
        bare_pass(options.bare)
        return
    flags = ["--bytes", str(options.bytes), *(f"--{name}" for name in ("ids", "shuffled") if getattr(options, name))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder / "input.parquet", options.rows)
        _, seconds, _ = measured([*flags, "--one", name, "out.parquet", options.backend[0]])
        output = folder / "out.parquet"
        print(f"{options.rows:,} rows done in {seconds:.0f} s; the output has {size(output):,.0f} MB", flush=True)
        output.unlink()
        for backend in options.backend:
            measure(folder, backend, options, flags)


if __name__ == "__main__":
    main()
