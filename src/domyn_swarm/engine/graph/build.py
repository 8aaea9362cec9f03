"""The graph that a JobSpec selects.

The only importer of Hamilton's driver, which is slow to import and pulls in pandas.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import types
import uuid
from typing import TYPE_CHECKING, Any

from domyn_swarm.engine.calls.pipeline import batch_rows
from domyn_swarm.engine.graph.overrides import NOTHING, node_function
from domyn_swarm.jobspec import JobSpec
from domyn_swarm.storage.paths import check_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hamilton.driver import Driver

    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.recording.node_stats import Flows
    from domyn_swarm.jobs.base import SwarmJob

GRAPH = "domyn_dags.job"
OFFERED = ("spec", "job", "read_batch_size", *JobSpec.__struct_fields__)
"""What any node may take."""


def driver_for(
    spec: JobSpec,
    where: str = "driver",
    adapters: Sequence[Any] = (),
    flows: Flows | None = None,
    overrides: Overrides = NOTHING,
) -> Driver:
    """The graph for `spec`: its config chooses among the nodes' variants, and functions of `overrides` replace them.

    `where` is "driver" when rows go through this process, "workers" when they go through an engine's own. Nodes that
    run in this process are measured into `flows`, if it is given.
    """
    os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")  # it would import polars wherever that is installed
    logging.getLogger("hamilton").setLevel(logging.CRITICAL)  # it prints tracebacks of errors that we explain
    check_home()
    from hamilton import driver  # noqa: PLC0415

    if flows is not None:
        from domyn_swarm.engine.graph.observer import Observer  # noqa: PLC0415 - made from Hamilton's class

        adapters = [Observer(flows), *adapters]
    graph = importlib.import_module(GRAPH)
    builder = driver.Builder().with_config(config_of(spec, where)).with_adapters(*adapters)
    if not overrides.functions:
        return builder.with_modules(graph).build()
    with _module_of(overrides, driver_for(spec, where)) as replacing:
        return builder.with_modules(graph, replacing).allow_module_overrides().build()


@contextlib.contextmanager
def _module_of(overrides: Overrides, replaced: Driver) -> Iterator[types.ModuleType]:
    """The functions as a module, which Hamilton finds by its name while it builds the graph."""
    from hamilton.function_modifiers.metadata import ray_remote_options  # noqa: PLC0415 - slow, as all of Hamilton

    nodes = {variable.name: variable for variable in replaced.list_available_variables()}
    module = types.ModuleType(f"{GRAPH}.replacing_{uuid.uuid4().hex}")
    for name, function in overrides.functions.items():
        node: Any = node_function(name, nodes[name].type, function, {*nodes, *OFFERED})
        node.replaces = nodes[name].originating_functions[0]
        node.__module__ = module.__name__
        setattr(module, name, ray_remote_options(num_cpus=0, max_retries=0)(node))
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def types_and_inputs(spec: JobSpec) -> tuple[dict[str, Any], dict[str, set[str]]]:
    """Of each node where rows go through this process, in the page's order: its type, and what it is made from."""
    nodes = [variable for variable in driver_for(spec).list_available_variables() if not variable.is_external_input]
    nodes.sort(key=lambda node: node.originating_functions[0].__code__.co_firstlineno)
    return {node.name: node.type for node in nodes}, {node.name: made_from(node) for node in nodes}


def made_from(variable: Any) -> set[str]:
    """The names of what one of Hamilton's variables is made from."""
    names: set[str] = variable.required_dependencies | variable.optional_dependencies
    return names


def reached(edges: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """What can be reached from `start`, itself included."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += edges.get(name, ())
    return found


def inputs_of(spec: JobSpec, job: SwarmJob) -> Mapping[str, Any]:
    """What every graph is given: the options by their names, the spec, the job."""
    options = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return {**options, "spec": spec, "job": job, "read_batch_size": batch_rows(spec, job)}


def planning_inputs(spec: JobSpec, job: SwarmJob, run_dir: str) -> dict[str, Any]:
    """What the graph is given before a run: everything but what only a run has."""
    return {**inputs_of(spec, job), "run_dir": run_dir, "run_storage": spec.run_storage if spec.checkpointing else {}}


def config_of(spec: JobSpec, where: str = "driver") -> dict[str, str]:
    """What chooses among the nodes' variants."""
    return {
        "ids": "generated" if spec.id_column is None else "given",
        "mode": "native" if spec.native_backend else "items",
        "checkpoints": "resumed" if spec.resume else "anew",
        "where": where,
    }
