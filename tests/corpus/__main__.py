"""The command: an echo job over each parquet file below a folder, on every engine, and what came of it.

A file ends as `agrees`, as `refused` (in planning, with status 2, by whom and why), as `differs` (engines have other
types, values or metadata, and none has said so), or as `BROKEN` (status 1, a traceback, an abort). The command exits
with status 1 if any file differs or is broken.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from domyn_swarm.data.backends.registry import backend_names
from tests.corpus.compare import differences, output
from tests.corpus.engines import Engine, Outcome

SUFFIXES = (".parquet", ".parq", ".pq")
ENDED, REFUSED = (0, 3), 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 if any file differs or is broken."""
    options = _parser().parse_args(arguments)
    engines = [Engine(backend, options.seconds) for backend in options.backend or backend_names()]
    verdicts: Counter[str] = Counter()
    try:
        for path in sorted(path for path in options.folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
            verdict, lines = judged(path, engines, options.rows)
            verdicts[verdict] += 1
            if verdict != "agrees" or options.verbose:
                print(f"{verdict:<8} {path.relative_to(options.folder)}", *lines, sep="\n           ", flush=True)
    finally:
        for engine in engines:
            engine.close()
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "no files")
    return 1 if verdicts["differs"] or verdicts["BROKEN"] else 0


def judged(path: Path, engines: Sequence[Engine], rows: int) -> tuple[str, list[str]]:
    """What came of one file, and the lines that explain it."""
    folder = Path(tempfile.mkdtemp(prefix="domyn-swarm-corpus-"))
    try:
        outcomes = {
            engine.backend: engine.run(
                {
                    "input": str(path.resolve()),
                    "output": str(folder / f"{engine.backend}.parquet"),
                    **options_for(path, rows),
                }
            )
            for engine in engines
        }
        return verdict(outcomes, folder)
    finally:
        shutil.rmtree(folder)


def options_for(path: Path, rows: int) -> dict[str, Any]:
    """Every column makes the item; a file whose schema cannot be read is left to the tool."""
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError):
        names = []
    return {"input_columns": names, "limit": rows}


def verdict(outcomes: Mapping[str, Outcome], folder: Path) -> tuple[str, list[str]]:
    """The verdict, and why."""
    said = [f"{engine}: {one.kind} {one.message}" for engine, one in outcomes.items() if one.status not in ENDED]
    if any(one.status not in (*ENDED, REFUSED) for one in outcomes.values()):
        return "BROKEN", said
    ended = [engine for engine, one in outcomes.items() if one.status in ENDED]
    tables = {engine: output(folder / f"{engine}.parquet") for engine in ended}
    failures = {engine: output(path) for engine in ended if (path := folder / f"{engine}.errors.parquet").exists()}
    found = [*differences(tables)] if tables else []
    if failures:
        none = next(iter(failures.values())).schema.empty_table()
        found += [
            f"failed rows: {line}" for line in differences({engine: failures.get(engine, none) for engine in ended})
        ]
    if found:
        return "differs", [*found, *said]
    return ("refused" if said else "agrees"), said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the parquet files are, at any depth")
    parser.add_argument("--backend", action="append", help="an engine to run; repeatable (default: all)")
    parser.add_argument("--rows", type=int, default=1000, help="the first rows of each file (default: 1000)")
    parser.add_argument("--seconds", type=float, default=120, help="what a file may take on one engine (default: 120)")
    parser.add_argument("--verbose", action="store_true", help="name the files that agree, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
