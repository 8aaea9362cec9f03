"""A slow answer holds back nobody: throughput where one answer in a hundred takes a hundred times as long.

    python tests/benchmarks/stragglers.py [--rows 200000] [--concurrency 256]

Latencies are lognormal with a median of 50 ms, 1 % of them 5 s. The ideal is the sum of all latencies over the number
of requests in flight: no request starts late. Compared with it: the whole command, start and end included.
"""

from __future__ import annotations

import argparse
import tempfile

from auto_concurrency import submit, write_input
from latency_server import latency_server, stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--concurrency", type=int, default=256)
    arguments = parser.parse_args()
    with latency_server(tail_share=0.01) as url, tempfile.TemporaryDirectory() as folder:
        write_input(folder, arguments.rows)
        seconds = submit(folder, url, str(arguments.concurrency))
        ideal = stats(url)["latencies"] / arguments.concurrency
    print(f"ideal {arguments.rows / ideal:,.0f} rows/s in {ideal:.1f} s, job {arguments.rows / seconds:,.0f} rows/s")
    print(f"ratio job / ideal: {ideal / seconds:.2f}")


if __name__ == "__main__":
    main()
