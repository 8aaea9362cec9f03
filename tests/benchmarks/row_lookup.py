"""`job row` on a run with many rows, against the bare look-up of that id in the parts.

    python tests/benchmarks/row_lookup.py [--rows 10000000] [--looks 5] [--ids]

A real run finishes all rows. Then, in turns and in one process each, so that start-up does not count: the whole story
of a row, from the input's file to the part; and pyarrow's dataset alone, which filters the parts by the id. The target
is twice the bare time. With `--ids` a column of strings identifies the rows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as ds
from keyed_input import write_input
from resume_nothing import submit

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.report.row import look_up


def bare(parts: list[str], id_col: str, value: object) -> int:
    return ds.dataset(parts, format="parquet").to_table(filter=ds.field(id_col) == value).num_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--looks", type=int, default=5)
    parser.add_argument("--ids", action="store_true")
    arguments = parser.parse_args()
    arguments.shuffled = False
    seconds: dict[str, list[float]] = {"story": [], "bare": []}
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "input.parquet"), Path(name, "out.parquet")
        write_input(source, arguments.rows)
        submit(source, target, "pandas", arguments)
        folder = RunFolder(f"{name}/.domyn-swarm/out.parquet")
        parts, id_col = folder.parts(), (folder.load("run.json") or {})["id_column"]
        print(f"{arguments.rows:,} rows, {len(parts)} parts")
        for look in range(arguments.looks + 1):
            row = random.randrange(arguments.rows)
            value = f"key-{row:09d}" if arguments.ids else row
            start = time.perf_counter()
            story = look_up(folder, str(value))
            middle = time.perf_counter()
            assert bare(parts, id_col, value) == 1
            end = time.perf_counter()
            assert (story.state, story.position) == ("done", row)
            if look:  # the first one imports
                seconds["story"].append(middle - start)
                seconds["bare"].append(end - middle)
                print(f"{look}  story {middle - start:.3f} s   bare {end - middle:.3f} s")
        start = time.perf_counter()
        command = [str(Path(sys.executable).with_name("domyn-swarm")), "job", "row", folder.path, str(value)]
        subprocess.run(command, check=True, capture_output=True)
        print(f"the whole command, start-up included: {time.perf_counter() - start:.2f} s")
    story_, bare_ = (statistics.median(seconds[name]) for name in ("story", "bare"))
    print(f"ratio story / bare: {story_ / bare_:.2f}; target 2")


if __name__ == "__main__":
    main()
