"""Two runs to compare: a job that says what its rows say, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from domyn_swarm import RunResult, SwarmJob, compare, make_spec, run
from domyn_swarm.errors import JobError
from domyn_swarm.report.comparison.model import Comparison
from tests.browser import Browser, browser  # noqa: F401 - a fixture
from tests.conftest import write

A, B = ".domyn-swarm/a.parquet", ".domyn-swarm/b.parquet"
FAIL = "no JSON"


class Told(SwarmJob):
    """Says what the row's text says, as JSON; fails where that is none."""

    async def transform_item(self, item: str) -> Any:
        return json.loads(item)

    def transform_items_native(self, batch: Any, *, backend_name: str, id_col: str, input_cols: list[str]) -> list[Any]:
        texts = pa.table(batch).column(input_cols[0]).to_pylist()
        return [ValueError(text) if text == FAIL else json.loads(text) for text in texts]


class Stops(Told):
    """Ends the run at `stop`, until the file `go` is there."""

    async def transform_item(self, item: str) -> Any:
        if item == "stop" and not Path("go").exists():
            raise JobError("The licence has expired.")
        return item


def submit(name: str, reference: str = f"{__name__}:Told", **options: Any) -> RunResult:
    defaults = {"input": "in.parquet", "output": f"{name}.parquet", "output_columns": ["out"], "retries": 0}
    return run(make_spec({"job": reference, **defaults, **options}))


def texts(values: Sequence[Any]) -> list[str]:
    return [value if value == FAIL else json.dumps(value) for value in values]


def outputs(a: Sequence[Any], b: Sequence[Any], **options: Any) -> Comparison:
    """Two runs over one input whose rows come out as `a` and as `b`, compared."""
    write("in.parquet", {"a": texts(a), "b": texts(b)})
    for name in "ab":
        submit(name, input_columns=[name], **options)
    return compare(A, B)


def record(name: str) -> Path:
    return Path(f".domyn-swarm/{name}.parquet/run.json")


def edited(name: str, **entries: Any) -> None:
    """Change entries of a run's record; None takes them away."""
    content = {**json.loads(record(name).read_text()), **entries}
    record(name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
