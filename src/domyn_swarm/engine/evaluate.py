"""Looking into the graph: one node's value, small if wanted, in this process. No run is touched."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.concurrency.stop import Stop
from domyn_swarm.engine.calls.pipeline import check_method
from domyn_swarm.engine.graph.build import build_graph
from domyn_swarm.engine.graph.inputs import planning_inputs
from domyn_swarm.engine.graph.overrides import check_node
from domyn_swarm.engine.planning import with_columns_of
from domyn_swarm.engine.recording.metrics import Meter, NullProgress
from domyn_swarm.engine.recovery import Recovery
from domyn_swarm.engine.serving import served
from domyn_swarm.engine.signals import on_signals
from domyn_swarm.errors import Interrupted
from domyn_swarm.jobs.loading import build_job, load_job_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from domyn_swarm.data.backends.base import DataBackend
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.jobspec import JobSpec


@dataclass(frozen=True)
class Look:
    """The value of a node; a stream is a list of what it passed on. `backend` knows what a lazy frame is."""

    value: Any
    backend: DataBackend


def evaluate(spec: JobSpec, overrides: Overrides, node: str, limit: int | None, folder: str) -> Look:
    """The value of `node`, made from the first `limit` pending rows if that is given.

    What writes does so in `folder`, for all rows as if none were done; everything else looks at the run's own folder.

    Raises:
        SwarmError: there is no such node, or it cannot be computed.
    """
    job = build_job(load_job_class(spec.job), spec.job_kwargs)
    spec = with_columns_of(job, spec)
    check_method(job, spec)
    graph = build_graph(spec, overrides, where="driver")
    if node not in graph.nodes:
        graph = build_graph(spec, overrides)
    check_node(node, graph.nodes)
    writes = graph.nodes[node].writes
    if writes:
        spec = msgspec.structs.replace(spec, output=f"{folder}/output.parquet")
    stop = Stop()
    inputs = {
        **planning_inputs(spec, job, f"{folder}/run" if writes else spec.run_dir),
        "stop": stop,
        "meter": Meter(NullProgress(), stop=stop),
    }
    # Nothing is recorded, and only a folder of its own is recovered.
    known = {"record": None, **({} if writes else {"recovered": Recovery()}), **graph.values}

    def value_of(name: str) -> Any:
        return graph.driver.execute([name], inputs=inputs, overrides=known)[name]

    needed = graph.upstream_of(node, known.keys() | overrides.values.keys())
    if any(name in overrides.values and graph.nodes[name].is_stream for name in needed & graph.nodes.keys()):
        known |= graph.streams(value_of("columns"))
    backend: DataBackend = value_of("backend")
    head = "limited" if writes else "pending"
    if limit is not None and head in needed and node != head:
        known[head] = backend.head(value_of(head), limit)
    asks = "job" in needed
    with _interruptible(stop), served(spec, RunFolder(folder), stop) if asks else contextlib.nullcontext(spec) as spec:
        inputs["spec"] = spec
        if asks:
            job.preflight(spec)
        value = value_of(node)
        return Look(_taken(value, limit) if graph.nodes[node].is_stream else value, backend)


@contextlib.contextmanager
def _interruptible(stop: Stop) -> Iterator[None]:
    """Raise Interrupted when `stop` is set, whatever broke then: `finalized` misses rows that did not come."""
    try:
        with on_signals(stop):
            yield
    finally:
        if stop.is_set():
            raise stop.reason or Interrupted("Interrupted.", "Nothing was written.") from None


def _taken(stream: Iterable[Any], limit: int | None) -> list[Any]:
    """What the stream passes on, until `limit` rows have come."""
    taken: list[Any] = []
    rows = 0
    iterator = iter(stream)
    try:
        for item in iterator:
            size = len(getattr(item, "ids", item))
            if size:
                taken.append(item)
            rows += size
            if limit is not None and rows >= limit:
                break
    finally:
        if (close := getattr(iterator, "close", None)) is not None:
            close()
    return taken
