"""`python -m domyn_swarm.doctor.probes NAME ARGUMENT...`: tried out in a process of its own, and told as JSON."""

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
    """Send ROWS rows through the backend `name`.

    Raises:
        SwarmError: its library is missing.
        RuntimeError: other rows came out.
    """
    import pyarrow as pa  # noqa: PLC0415 - a probe imports what it tries
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
    """Use a checkpoint directory as runs do."""
    from domyn_swarm.doctor.checkpoints import examined  # noqa: PLC0415

    return {"findings": list(examined(directory))}


PROBES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "backend": backend, "packages": packages, "checkpoints": checkpoints,
}  # fmt: skip


def tell(probe: Callable[..., dict[str, Any]], *arguments: str) -> None:
    """Print what `probe` finds, or what it raises."""
    try:
        said = probe(*arguments)
    except SwarmError as error:
        said = {"error": error.message, "mend": error.hint}
    except Exception as error:  # noqa: BLE001 - whatever a library throws is what was found
        said = {"error": f"{type(error).__name__}: {error}"}
    print(msgspec.json.encode(said).decode(), flush=True)  # noqa: T201 - what a probe is for


if __name__ == "__main__":
    tell(PROBES[sys.argv[1]], *sys.argv[2:])
