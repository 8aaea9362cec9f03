"""Counting what goes by on its way to the disk: for whoever watches, and for the error budget."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.compute as pc

from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.data.columns import FAILURE, TRACE
from domyn_swarm.engine.calls.pipeline import row_failed
from domyn_swarm.engine.recording.node_stats import Flows, of_no_node, shown
from domyn_swarm.errors import Interrupted, JobError, opt
from domyn_swarm.storage.texts import id_text
from domyn_swarm.telemetry.counts import EXAMPLES, Counts, Failed, reasons_of
from domyn_swarm.telemetry.trace import OTHERS, kind_of, traceback_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import pyarrow as pa

ROWS_FOR_A_SHARE = 100
"""Rows from which on a share of failures says something."""
MOST_KINDS = 200


class Progress(Protocol):
    """Sees a run go by. Called from the thread that runs the job."""

    def started(self, total: int, done: int) -> None:
        """`total` rows in all, `done` of them by earlier runs."""

    def advanced(self, more: Counts) -> None:
        """What happened since the last time."""

    def finished(self) -> None:
        """The rows are through, or the run broke."""


class NullProgress:
    """Shows nothing."""

    def started(self, total: int, done: int) -> None:
        """Nothing to show."""

    def advanced(self, more: Counts) -> None:
        """Nothing to show."""

    def finished(self) -> None:
        """Nothing to show."""


class ErrorBudget:
    """How many rows may fail: a number (`"50"`), a share of those that have finished (`"5%"`), or any (None)."""

    def __init__(self, most: str | None) -> None:
        self.text = most
        self._share = Fraction(most.removesuffix("%")) / 100 if most and most.endswith("%") else None
        self._most = float(most) if most and self._share is None else float("inf")

    def is_spent(self, counts: Counts) -> bool:
        """Whether more have failed than may."""
        if self._share is None:
            return counts.failed > self._most
        return counts.rows >= ROWS_FOR_A_SHARE and counts.failed > self._share * counts.rows


class Meter:
    """Counts rows as they pass, and the requests that `traffic` tells of; sets `stop` when too many rows failed.

    `flows` are those of this process's nodes.
    """

    def __init__(
        self,
        progress: Progress,
        traffic: Callable[[], Counts | None] = lambda: None,
        budget: ErrorBudget | None = None,
        stop: Stop | None = None,
        flows: Flows | None = None,
    ) -> None:
        self.counts = Counts()
        self.overspent = False
        self.stop = stop or Stop()
        self.flows = flows or Flows()
        self.progress = progress
        self._traffic = traffic
        self._seen = Counts()
        self._budget = budget or ErrorBudget(None)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Count the rows of `table` and the requests since the last one, and pass it on."""
        failed = table.num_rows - table[FAILURE].null_count
        more = Counts(table.num_rows, failed, failures=kinds_of(table, self.counts.failures.keys()) if failed else {})
        self.advanced(more + self._requests())
        return table

    def refused(self, table: pa.Table) -> None:
        """Count rows as failed that were counted before, and could not be stored."""
        failures = kinds_of(table, self.counts.failures.keys())
        self.advanced(Counts(failed=table.num_rows, failures=failures))

    def finish(self) -> None:
        """Count the last requests, which may have brought no row. Nothing is shown: showing may be what broke."""
        self.counts += self._requests()

    def check(self, id_col: str, on_error: str) -> None:
        """Refuse to complete a run that was asked to stop, or in which more rows failed than may.

        Raises:
            JobError: too many rows failed.
            Interrupted: the run was asked to stop.
        """
        counts = self.counts
        if on_error == "fail" and counts.failed:
            (error, _), failed = next(iter(counts.failures.items()))
            raise of_no_node(row_failed(id_col, failed.examples[0][0], error, failed.examples[0][1]))
        if self.overspent:
            allowed = opt("max_errors", self._budget.text)
            message = f"{counts.failed:,} of {counts.rows:,} rows have failed, more than {allowed} allows."
            hint = f"{_reasons(counts)}\nRemove the cause, or allow more."
            raise of_no_node(JobError(message, hint, code="run.max_errors", option="max_errors"))
        if self.stop.is_set():
            raise of_no_node(Interrupted("The run was asked to stop."))

    def snapshot(self) -> Counts:
        """What happened so far, with what this process's nodes passed on. Safe to take from any thread."""
        return self.counts + Counts(flows={node: replace(flow) for node, flow in list(self.flows.by_node.items())})

    def _requests(self) -> Counts:
        seen, self._seen = self._seen, self._traffic() or self._seen
        return self._seen - seen

    def advanced(self, more: Counts) -> None:
        """Count what happened elsewhere."""
        self.counts += more
        self.progress.advanced(more)
        if self._budget.is_spent(self.counts):
            self.overspent = True
            self.stop.set()


def _reasons(counts: Counts) -> str:
    """The most frequent reasons for failures, a line for each."""
    return "\n".join(f"{one.count:,}: {one.type}: {one.message}" for one in reasons_of(counts.failures))


def kinds_of(table: pa.Table, known: Collection[tuple[str, str]] = ()) -> dict[tuple[str, str], Failed]:
    """The failed rows of `table` (POSITION, the id, ..., FAILURE, TRACE) by what they failed of.

    That is the error's type, and the place in the code where there is one, else its message. `known` are kinds that
    there are already: new ones are put together when there are too many.
    """
    rows = table.filter(pc.is_valid(table[FAILURE]))
    ids: list[Any] = rows.column(1).to_pylist()
    failures: list[Any] = rows[FAILURE].to_pylist()
    traces: list[Any] = rows[TRACE].to_pylist() if TRACE in rows.column_names else [None] * len(ids)
    kinds: dict[tuple[str, str], Failed] = {}
    for id_, failure, trace_text in zip(ids, failures, traces, strict=True):
        frames = traceback_in(trace_text)
        key = (failure["type"], kind_of(failure["message"], frames))
        if key not in known and len(known) + len(kinds) >= MOST_KINDS:
            key = (failure["type"], OTHERS)
        kind = kinds.setdefault(key, Failed())
        kind.count += 1
        if len(kind.examples) < EXAMPLES:
            kind.examples.append((shown(id_text(id_)), failure["message"], failure["attempts"], frames))
    return kinds
