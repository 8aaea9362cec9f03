"""Pulling rows through the stream, from batches to durable parts: in this process, or in a worker of an engine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from domyn_swarm.checkpoint.writer import FlushReport
from domyn_swarm.engine.signals import on_signals

if TYPE_CHECKING:
    from collections.abc import Generator

    import pyarrow as pa

    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.engine.recording.metrics import Meter


def run_pipeline(
    store: CheckpointStore, transformed: Generator[pa.Table, None, None], meter: Meter, interval: float | None
) -> FlushReport:
    """Pull `transformed`, which pulls its batches; count the finished rows, and write parts every `interval` seconds.

    Raises:
        Exception: why a part could not be written, or whatever the stream raises; what came before is durable.
    """
    with contextlib.closing(transformed) as tables:
        return store.flush(map(meter, tables), interval, meter.stop, meter.refused)


def flush_pending(
    store: CheckpointStore,
    transformed: Generator[pa.Table, None, None],
    pending: int,
    meter: Meter,
    interval: float | None,
    on_error: str,
) -> FlushReport:
    """`run_pipeline` in the process of the run, where signals end it gracefully. The job is not opened for no rows.

    Raises:
        Interrupted: the run was asked to stop.
        JobError: more rows failed than may.
    """
    report = FlushReport()
    if pending:
        with on_signals(meter.stop):
            report = run_pipeline(store, transformed, meter, interval)
    meter.check(store.id_col, on_error)
    return report
