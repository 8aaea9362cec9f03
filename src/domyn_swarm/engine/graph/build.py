"""The graph that a JobSpec selects, built once with what overrides its nodes.

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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.engine.graph.inputs import OFFERED
from domyn_swarm.engine.graph.nodes import page_nodes, reached
from domyn_swarm.engine.graph.overrides import NOTHING, check, node_function, planning_values, stream_values
from domyn_swarm.storage.paths import check_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hamilton.driver import Driver

    from domyn_swarm.data.backends.base import DataBackend
    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.engine.graph.nodes import PageNode
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.engine.recording.node_stats import Flows
    from domyn_swarm.jobspec import JobSpec

GRAPH = "domyn_dags.job"


@dataclass(frozen=True)
class RunGraph:
    """The graph of one run: a driver, its nodes in the page's order, and what overrides them.

    Its rows go through this process if `where` is "driver", through an engine's workers if it is "workers".
    """

    spec: JobSpec
    where: str
    driver: Driver
    nodes: Mapping[str, PageNode]
    overrides: Overrides
    backend: DataBackend

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values of nodes that nothing has to be computed for, but for streams: see `streams`.

        Raises:
            ConfigurationError: a frame in memory lacks the id column.
            DataError: its ids are not valid.
        """
        if not self.overrides and self.overrides.held is None:
            return {}
        return planning_values(self.overrides, self.nodes, self.spec, self.backend)

    def streams(self, columns: Columns) -> dict[str, Any]:
        """The values of nodes that are streams somebody gave."""
        return stream_values(self.overrides, self.nodes, columns)

    def of_phase(self, phase: str) -> list[str]:
        """The names of the nodes of one phase."""
        return [name for name, node in self.nodes.items() if node.phase == phase]

    def upstream_of(self, name: str, known: Iterable[str] = ()) -> set[str]:
        """What has to be computed for `name`, itself and inputs included, when `known` nodes have values."""
        given = set(known)
        return reached({node.name: () if node.name in given else node.inputs for node in self.nodes.values()}, name)

    def unaffected_by_recovery(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of the nodes' `values`, those that a run need not compute again once it has recovered its folder."""
        changing = {*self.of_phase("recover")}
        given = {*self.values, *(name for name, node in self.nodes.items() if node.is_stream)}
        return {
            name: value
            for name, value in values.items()
            if name in given or not changing & self.upstream_of(name, given)
        }


def build_graph(
    spec: JobSpec,
    overrides: Overrides = NOTHING,
    adapters: Sequence[Any] = (),
    flows: Flows | None = None,
    where: str | None = None,
) -> RunGraph:
    """The graph for `spec`: its config chooses among the nodes' variants, and `overrides` are checked and put in.

    `where` is chosen by the engine and by what is overridden, if it is not given. Nodes that run in this process are
    measured into `flows`, if it is given.

    Raises:
        ConfigurationError: something cannot override its node; the message says what can.
    """
    _before_import()
    if flows is not None:
        from domyn_swarm.engine.graph.observer import Observer  # noqa: PLC0415 - made from Hamilton's class

        adapters = [Observer(flows), *adapters]
    backend: DataBackend = overrides.values.get("backend") or load_backend(spec.data_backend)
    if not overrides:
        chosen = where or _where(backend)
        driver = _driver(spec, chosen, adapters)
        return RunGraph(spec, chosen, driver, page_nodes(driver), overrides, backend)
    driver = _driver(spec, "driver", adapters)
    nodes = page_nodes(driver)
    check(overrides, nodes, OFFERED, backend)
    chosen = where or ("driver" if _keeps_rows_here(overrides, nodes) else _where(backend))
    if overrides.functions:
        driver = _overridden(spec, chosen, adapters, overrides)
    elif chosen != "driver":
        driver = _driver(spec, chosen, adapters)
    return RunGraph(spec, chosen, driver, page_nodes(driver), overrides, backend)


def _where(backend: DataBackend) -> str:
    return "workers" if backend.distributed else "driver"


def check_overrides(spec: JobSpec, overrides: Overrides) -> None:
    """Refuse what cannot override its node, by name and type.

    Raises:
        ConfigurationError: the message says what can.
    """
    if overrides:
        backend = overrides.values.get("backend") or load_backend(spec.data_backend)
        check(overrides, page_nodes(_driver(spec, "driver", ())), OFFERED, backend)


def driver_elsewhere(graph: RunGraph, adapters: Sequence[Any]) -> Driver:
    """A driver of the same graph, whose nodes are executed by `adapters`."""
    if graph.overrides.functions:
        return _overridden(graph.spec, graph.where, adapters, graph.overrides)
    return _driver(graph.spec, graph.where, adapters)


def _keeps_rows_here(overrides: Overrides, nodes: Mapping[str, PageNode]) -> bool:
    """Whether rows go through this process even if the engine has workers, which know nothing of overrides."""
    if not overrides.pull_rows or "backend" in overrides.functions:
        return True
    return any(nodes[name].phase == "stream" for name in overrides.names)


def _before_import() -> None:
    """Set what Hamilton reads while it is imported.

    Raises:
        ConfigurationError: the user has no home, which it needs.
    """
    os.environ.setdefault("HAMILTON_AUTOLOAD_EXTENSIONS", "0")  # it would import polars wherever that is installed
    logging.getLogger("hamilton").setLevel(logging.CRITICAL)  # it prints tracebacks of errors that we explain
    check_home()


def _driver(spec: JobSpec, where: str, adapters: Sequence[Any], *more: types.ModuleType) -> Driver:
    _before_import()
    from hamilton import driver  # noqa: PLC0415

    builder = driver.Builder().with_config(config_of(spec, where)).with_adapters(*adapters)
    builder = builder.with_modules(importlib.import_module(GRAPH), *more)
    return (builder.allow_module_overrides() if more else builder).build()


def _overridden(spec: JobSpec, where: str, adapters: Sequence[Any], overrides: Overrides) -> Driver:
    """A driver with functions in place of nodes."""
    plain = _driver(spec, where, ())
    with _module_of(overrides, plain) as replacing:
        return _driver(spec, where, adapters, replacing)


@contextlib.contextmanager
def _module_of(overrides: Overrides, replaced: Driver) -> Iterator[types.ModuleType]:
    """The functions as a module, which Hamilton finds by its name while it builds the graph."""
    from hamilton.function_modifiers import tag  # noqa: PLC0415 - slow, as all of Hamilton

    variables = {variable.name: variable for variable in replaced.list_available_variables()}
    nodes = page_nodes(replaced)
    module = types.ModuleType(f"{GRAPH}.replacing_{uuid.uuid4().hex}")
    for name, function in overrides.functions.items():
        node: Any = node_function(nodes[name], nodes, function, {*variables, *OFFERED})
        node.replaces = variables[name].originating_functions[0]
        node.__module__ = module.__name__
        setattr(module, name, tag(**nodes[name].tags)(node))
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def config_of(spec: JobSpec, where: str = "driver") -> dict[str, str]:
    """What chooses among the nodes' variants."""
    return {
        "ids": "generated" if spec.id_column is None else "given",
        "mode": "native" if spec.native_backend else "items",
        "checkpoints": "resumed" if spec.resume else "anew",
        "where": where,
    }
