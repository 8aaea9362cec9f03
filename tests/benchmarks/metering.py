"""What it costs to measure the streams and to keep the report: the echo job with and without, in pairs.

    python tests/benchmarks/metering.py [--rows 2000000] [--pairs 7]

Both are the job of `items_overhead.py`. Without measuring, streams pass on as they are, nobody watches the run, and no
row's trace is kept. The target is that measuring costs at most 3 % of the rows a second.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from items_overhead import whole_job, write_input

from domyn_swarm.engine import runner
from domyn_swarm.engine.recording.node_stats import Flows
from domyn_swarm.engine.recording.reporter import Reporter


class Blind(Reporter):
    """Writes only when the run begins and ends, as run.json is part of a run."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        yield

    def _save_report(self, report: Any) -> None:
        """Draw no diagram."""


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    with (
        patch.object(Flows, "measured", lambda self, node, stream: stream),
        patch.object(Flows, "sample_memory", lambda self: 0),
        patch.object(runner, "Reporter", Blind),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"measured": [], "unmeasured": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "input.parquet")
        write_input(source, arguments.rows)
        whole_job(source, Path(folder, "warm.parquet"))
        for pair in range(arguments.pairs):
            for name in seconds if pair % 2 else reversed(seconds):
                with contextlib.nullcontext() if name == "measured" else unmeasured():
                    start = time.perf_counter()
                    whole_job(source, Path(folder, f"{name}.parquet"))
                    seconds[name].append(time.perf_counter() - start)
                print(f"{pair + 1}  {name:<11}{arguments.rows / seconds[name][-1]:>12,.0f} rows/s")
    with_, without = (statistics.median(seconds[name]) for name in ("measured", "unmeasured"))
    print(f"ratio measured / unmeasured: {without / with_:.3f} rows/s; target 0.97")


if __name__ == "__main__":
    main()
