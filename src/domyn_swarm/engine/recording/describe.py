"""The graph that a JobSpec selects, as plain data: read from Hamilton's own, before any run and without its data."""

from __future__ import annotations

import difflib
import heapq
import inspect
import linecache
import types
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import msgspec

from domyn_swarm.data.backends.base import Frame
from domyn_swarm.engine.calls.pipeline import check_method, method_of
from domyn_swarm.engine.graph.build import build_graph, config_of
from domyn_swarm.engine.graph.coercion import is_frame, named
from domyn_swarm.engine.graph.inputs import OBJECTS, planning_inputs
from domyn_swarm.engine.graph.nodes import function_on_page, made_from, reached
from domyn_swarm.engine.graph.overrides import NOTHING
from domyn_swarm.engine.recording.run_record import without_secrets
from domyn_swarm.engine.recording.steps import with_steps
from domyn_swarm.errors import ConfigurationError, opt
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.masking import masked
from domyn_swarm.report.model import Effect, Graph, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from domyn_swarm.data.backends.base import DataBackend
    from domyn_swarm.engine.graph.build import RunGraph
    from domyn_swarm.engine.graph.overrides import Overrides
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobspec import JobSpec

VALUE_CHARS = 200
_OWN = ("builtins", "collections", "typing", "domyn_swarm")
"""Packages whose types are shown without their package."""


def describe(
    spec: JobSpec,
    where: str | None = None,
    job: SwarmJob | None = None,
    overrides: Overrides = NOTHING,
    graph: RunGraph | None = None,
) -> Graph:
    """The graph for `spec`: config, inputs and nodes, each after what it is made from, in the page's order where free.

    `where` is as in `build_graph`. `job` and `graph` (which has overrides of its own) spare building them again. Nodes
    that nothing needs, because `overrides` has values for what is downstream of them, are left out.

    Raises:
        ConfigurationError: the job cannot be made, or has no method for the mode.
        MissingDependencyError: the engine is not installed.
    """
    job = job or build_job(load_job_class(spec.job), spec.job_kwargs)
    check_method(job, spec)
    graph = graph or build_graph(spec, overrides, where=where)
    variables = graph.driver.list_available_variables()
    config = config_of(spec, graph.where)
    computed = {variable.name: variable for variable in variables if not variable.is_external_input}
    nodes = _needed([_node(variable, graph) for variable in _in_data_order(computed)])
    nodes, models = with_steps(nodes, job, spec, type_text)
    taken = {name for node in nodes for name in node.inputs} - computed.keys()
    given = [*models, *(_input(variable, spec, job) for variable in variables if variable.name in taken)]
    about = [Node(name=name, kind="config", value=value) for name, value in config.items()]
    title = f"{job_name(spec)} on {spec.data_backend}, {config['mode']}"
    return Graph(title, [*about, *sorted(given, key=lambda node: _first_use(node, nodes)), *nodes])


def job_name(spec: JobSpec) -> str:
    """The job's class: where it stands says little, and may be long."""
    return spec.job.rpartition(":")[2]


def upstream_of(graph: Graph, name: str) -> Graph:
    """Only what `name` is made from, and itself.

    Raises:
        ConfigurationError: there is no such node.
    """
    _check_name(graph, name, "upstream_of")
    return _only(graph, reached({node.name: node.inputs for node in graph.nodes}, name))


def between(graph: Graph, start: str, end: str) -> Graph:
    """Only what lies on ways from `start` to `end`.

    Raises:
        ConfigurationError: there is no such node, or no way.
    """
    for name in (start, end):
        _check_name(graph, name, "path")
    inputs = {node.name: node.inputs for node in graph.nodes}
    users = {name: [node.name for node in graph.nodes if name in node.inputs] for name in inputs}
    kept = reached(inputs, end) & reached(users, start)
    if not kept:
        back = f"There is one back: {opt('path', f'{end} {start}')}." if start in reached(users, end) else ""
        hint = back or f"What {end} is made from: {opt('upstream_of', end)}."
        raise ConfigurationError(
            f"no way leads from {start} to {end}.", hint, code="node.unreachable", option="path", step=end
        )
    return _only(graph, kept)


def _only(graph: Graph, kept: set[str]) -> Graph:
    nodes = [
        msgspec.structs.replace(node, inputs=[name for name in node.inputs if name in kept])
        for node in graph.nodes
        if node.name in kept or node.kind == "config"
    ]
    return Graph(graph.title, nodes)


def _check_name(graph: Graph, name: str, option: str) -> None:
    names = [node.name for node in graph.nodes if node.kind != "config"]
    if name in names:
        return
    near = difflib.get_close_matches(name.partition("__")[0], names, 3, 0.5)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    nodes = ", ".join(node.name for node in graph.nodes if node.kind in ("node", "step"))
    raise ConfigurationError(
        f"the graph has no node {name!r}.", f"{meant}Nodes: {nodes}.", code="node.unknown", option=option, step=name
    )


def _in_data_order(variables: Mapping[str, Any]) -> list[Any]:
    """Each after what it is made from, and otherwise as they stand on the page."""
    missing = {name: len(made_from(variable) & variables.keys()) for name, variable in variables.items()}
    ready = [(_line(function_on_page(variables[name])), name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, made = heapq.heappop(ready)
        ordered.append(variables[made])
        for name, variable in variables.items():
            if made in made_from(variable):
                missing[name] -= 1
                if not missing[name]:
                    heapq.heappush(ready, (_line(function_on_page(variable)), name))
    return ordered


def _first_use(node: Node, nodes: list[Node]) -> int:
    return next(at for at, user in enumerate(nodes) if node.name in user.inputs)


def _needed(nodes: list[Node]) -> list[Node]:
    """Those that the last one is made from, or that a run needs before any row, and what they are made from."""
    inputs = {node.name: node.inputs for node in nodes}
    wanted = [node.name for node in nodes if node.phase == "recover"]
    needed = set().union(*(reached(inputs, name) for name in (*wanted, nodes[-1].name)))
    return [node for node in nodes if node.name in needed]


def _node(variable: Any, graph: RunGraph) -> Node:
    overrides, backend, page = graph.overrides, graph.backend, graph.nodes[variable.name]
    if variable.name in overrides.values:
        value = _value_text(overrides.values[variable.name])
        kind = _type_of(variable, backend)
        return Node(name=variable.name, type=kind, phase=page.phase, rows=page.rows, value=value, overridden="value")
    if variable.name in overrides.functions:
        return _replaced(variable, overrides.functions[variable.name], graph)
    function = function_on_page(variable)
    variant = function.__code__.co_name.removeprefix(variable.name).removeprefix("__")
    native = inspect.getdoc(backend.iter_batches) if "native" in variant else None
    return Node(
        name=variable.name,
        type=_type_of(variable, backend),
        variant=variant,
        doc="\n".join(filter(None, [inspect.getdoc(function), native])),
        where=f"{function.__module__.replace('.', '/')}.py:{_line(function)}",
        inputs=[name for name in inspect.signature(function).parameters if name in made_from(variable)],
        phase=page.phase,
        rows=page.rows,
        effects=msgspec.convert(page.effects, list[Effect]),
    )


def _replaced(variable: Any, function: Callable[..., Any], graph: RunGraph) -> Node:
    code = function.__code__
    # What a notebook's cells are called is of no use to anybody.
    where = f"{PurePath(code.co_filename).name}:{code.co_firstlineno}" if Path(code.co_filename).is_file() else ""
    return Node(
        name=variable.name,
        type=_type_of(variable, graph.backend),
        doc=inspect.getdoc(function) or "",
        where=where,
        phase=graph.nodes[variable.name].phase,
        rows=graph.nodes[variable.name].rows,
        inputs=[name for name in inspect.signature(function).parameters if name in made_from(variable)],
        overridden="function",
    )


def _type_of(variable: Any, backend: DataBackend) -> str:
    return _engines_type(backend) if variable.type is Frame else type_text(variable.type)


def _value_text(value: Any) -> str:
    """What somebody put in, shortly: its kind, and how many rows or items it has."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    kind = named(type(value))
    try:
        size = f", {len(value):,} {'rows' if is_frame(value) and not isinstance(value, dict) else 'items'}"
    except TypeError:
        size = ""
    return f"{kind}{size}"


def _line(function: Any) -> int:
    """Where its `def` stands, below the decorators."""
    code = inspect.unwrap(function).__code__  # which begins with the decorators
    lines = linecache.getlines(code.co_filename, function.__globals__)
    numbered = enumerate(lines[code.co_firstlineno - 1 :], code.co_firstlineno)
    return next(number for number, line in numbered if line.startswith("def "))


def _engines_type(backend: DataBackend) -> str:
    """What the backend calls its lazy frame: what its `read` says that it returns."""
    returned: Any = inspect.get_annotations(backend.read).get("return", "")
    return returned if isinstance(returned, str) else type_text(returned)


def type_text(hint: Any) -> str:
    """`collections.abc.Iterator[domyn_swarm...JobBatch]` as `Iterator[JobBatch]`; other packages' types keep theirs."""
    if hint is None or hint is types.NoneType:
        return "None"
    parts = list(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(map(type_text, parts))
    while parts and get_origin(hint) is not tuple and parts[-1] in (None, types.NoneType):
        parts.pop()  # what a generator is sent, and returns
    plain = get_origin(hint) or hint
    name = getattr(plain, "__qualname__", None) or getattr(plain, "_name", None) or str(plain)
    package = getattr(plain, "__module__", "builtins").partition(".")[0]
    name = name if package in _OWN else f"{package}.{name}"
    return f"{name}[{', '.join(map(type_text, parts))}]" if parts else name


def _input(variable: Any, spec: JobSpec, job: SwarmJob) -> Node:
    kind = type_text(variable.type) if variable.type is not Any else ""
    about = OBJECTS.get(variable.name, "")
    return Node(name=variable.name, kind="input", type=kind, doc=about, value=_value(variable.name, spec, job))


def _value(name: str, spec: JobSpec, job: SwarmJob) -> str:
    """What a run would give the graph as `name`, as text; nothing for what there is only while it runs."""
    shown = {"spec": job_name(spec), "job": f"{job_name(spec)}.{method_of(job, native=spec.native_backend)}"}
    value = {**planning_inputs(without_secrets(spec), job, spec.run_dir), **shown}.get(name, "")
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = masked({"null": "none", "{}": "none"}.get(text, text))
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"
