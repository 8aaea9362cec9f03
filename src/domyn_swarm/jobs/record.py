"""What a run writes down of itself (`spec.json`, `run.json`), and whether an earlier run's parts belong to this job."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import CheckpointError
from domyn_swarm.masking import masked

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.store import CheckpointStore
    from domyn_swarm.helpers.counts import Counts
    from domyn_swarm.jobs.meter import Meter
    from domyn_swarm.jobs.spec import JobSpec

IDENTITY = ("job_kwargs", "input_columns", "output_columns", "id_column", "model")
"""Options that change what a row's output is: parts made under others of these do not belong to the job."""


class Record:
    """`run.json` and `spec.json` of one run. The run's id stays the same for as long as its folder does."""

    def __init__(self, store: CheckpointStore, spec: JobSpec) -> None:
        before = store.load("run.json") or {}
        self._store = store
        self._spec = spec
        self._since = time.monotonic()
        self._content = {
            "run_id": before.get("run_id") or uuid.uuid4().hex,
            "started": _now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "input_digest": store.input_digest,
            "identity": identity_of(spec),
        }

    def begin(self) -> None:
        """Write down that the run goes on, and what it was asked to do."""
        self._store.save("spec.json", self._spec)
        self._store.save("run.json", {**self._content, "state": "running"})

    def end(self, state: str, meter: Meter, error: BaseException | None = None) -> None:
        """Write down how the run ended; a disk that refuses does not hide the error that ended it."""
        content = {
            **self._content,
            "state": state,
            "ended": _now(),
            **_figures(meter.counts, time.monotonic() - self._since),
        }
        if error is None:
            self._store.save("run.json", content)
            return
        with contextlib.suppress(OSError):
            self._store.save("run.json", {**content, "error": masked(f"{type(error).__name__}: {error}")})


def _figures(counts: Counts, seconds: float) -> dict[str, Any]:
    """What the run has counted; without requests, nothing is said of them."""
    figures: dict[str, Any] = {"rows": counts.rows, "failed": counts.failed, "seconds": round(seconds, 3)}
    if not counts.requests:
        return figures
    names = ("requests", "answers", "retries", "shared", "tokens_in", "tokens_out", "limit")
    figures |= {name: getattr(counts, name) for name in names}
    rates = {
        "requests_per_second": round(counts.requests / seconds, 3),
        "tokens_per_second": round((counts.tokens_in + counts.tokens_out) / seconds, 3),
    }
    return {**figures, **rates, "p50": counts.latencies.percentile(0.5), "p95": counts.latencies.percentile(0.95)}


def identity_of(spec: JobSpec) -> dict[str, Any]:
    """What must stay the same for parts to belong to the job. A job's file may move; its name and class may not."""
    where, _, name = spec.job.rpartition(":")
    identity = {"job": f"{PurePath(where).name}:{name}", **{name: getattr(spec, name) for name in IDENTITY}}
    return {**identity, "filters": spec.backend_read_kwargs.get("filters")}


def check_identity(spec: JobSpec, store: CheckpointStore) -> None:
    """Refuse to mix outputs of different jobs, or rows of different inputs under generated ids.

    Raises:
        CheckpointError: with what differs, and the ways out.
    """
    record = store.load("run.json")
    if record is None or not store.parts():
        return
    ways_out = "Run with --no-resume to compute every row again, or with another --checkpoint-tag to keep both."
    now = identity_of(spec)
    for name, before in record.get("identity", {}).items():
        if name in now and now[name] != before:
            raise CheckpointError(
                f"The run in {store.path} had {name} = {before!r}, now it is {now[name]!r}.", ways_out
            )
    if spec.id_column is None and record.get("input_digest") != store.input_digest:
        raise CheckpointError(
            f"The input changed since the run in {store.path}, and generated ids only count its rows.",
            f"{ways_out} With --id-column, a run follows its rows through changes of the input.",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
