"""`python -m domyn_swarm.doctor.probes NAME ARGUMENT...`: run a check in a subprocess and print JSON."""

from __future__ import annotations

import importlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.errors import SwarmError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROWS = 3


def backend(name: str) -> dict[str, Any]:
    """Process ROWS rows with the backend `name`.

    Raises:
        SwarmError: its library is missing.
        RuntimeError: the rows that came out differ.
    """
    import pyarrow as pa  # noqa: PLC0415 - a probe imports what it checks
    import pyarrow.parquet as pq  # noqa: PLC0415

    from domyn_swarm.data.backends.registry import load_backend  # noqa: PLC0415
    from domyn_swarm.data.columns import ROW_ID  # noqa: PLC0415
    from domyn_swarm.data.input_files import list_files  # noqa: PLC0415

    engine, texts = load_backend(name), [f"text {number}" for number in range(ROWS)]
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": texts}), f"{folder}/rows.parquet")
        frame = engine.with_row_id(engine.read(list_files(f"{folder}/rows.parquet"), {}), None)
        passed = [text for batch in engine.to_pandas(frame, [ROW_ID, "text"], ROWS) for text in batch["text"]]
        ids = [id_ for batch in engine.iter_batches(frame, ROW_ID, ["text"], ROWS) for id_ in batch.ids.to_pylist()]
    if (passed, ids) != (texts, list(range(ROWS))):
        raise RuntimeError(f"{ROWS} rows went in, and {len(passed)} came out: {passed!r:.100}")
    return {"rows": len(passed)}


def packages(*modules: str) -> dict[str, Any]:
    """Import each of `modules`."""
    for module in modules:
        importlib.import_module(module)
    return {"imported": len(modules)}


def checkpoints(directory: str) -> dict[str, Any]:
    """Check a checkpoint directory."""
    from domyn_swarm.doctor.checkpoints import check_in_process  # noqa: PLC0415

    return {"findings": list(check_in_process(directory))}


PROBES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "backend": backend, "packages": packages, "checkpoints": checkpoints,
}  # fmt: skip


def print_result(probe: Callable[..., dict[str, Any]], *arguments: str) -> None:
    """Print the result of `probe`, or its error."""
    try:
        result = probe(*arguments)
    except SwarmError as error:
        result = {"error": error.text, "fix": getattr(error, "command", "") or error.advice, "code": error.code}
    except Exception as error:  # noqa: BLE001 - any error of a library is a result
        result = {"error": f"{type(error).__name__}: {error}"}
    print(msgspec.json.encode(result).decode(), flush=True)  # noqa: T201 - what a probe is for


if __name__ == "__main__":
    print_result(PROBES[sys.argv[1]], *sys.argv[2:])
