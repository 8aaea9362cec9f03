"""The graph that a JobSpec selects, as plain data: read from Hamilton's own, before any run and without its data."""

from __future__ import annotations

import difflib
import heapq
import inspect
import types
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import msgspec

from domyn_swarm.data.backends.base import Frame
from domyn_swarm.data.backends.registry import load_backend
from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.graph import config_of, driver_for
from domyn_swarm.jobs.loading import build_job, load_job_class
from domyn_swarm.jobs.record import without_secrets
from domyn_swarm.jobs.transform import batch_rows, check_method, method_of
from domyn_swarm.masking import masked
from domyn_swarm.view.model import Effect, Graph, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from domyn_swarm.data.backends.base import DataBackend
    from domyn_swarm.jobs.base import SwarmJob
    from domyn_swarm.jobs.spec import JobSpec

VALUE_CHARS = 200
_OWN = ("builtins", "collections", "typing", "domyn_swarm")
"""Packages whose types are told without their package."""


def describe(spec: JobSpec, where: str | None = None, job: SwarmJob | None = None) -> Graph:
    """The graph for `spec`: config, inputs and nodes, each after what it is made from, in the page's order where free.

    `where` is as in `driver_for`; None: where the rows of a run would go through. `job` spares building it again.

    Raises:
        ConfigurationError: the job cannot be made, or has no method for the mode.
        MissingDependencyError: the engine is not installed.
    """
    job = job or build_job(load_job_class(spec.job), spec.job_kwargs)
    check_method(job, spec)
    backend = load_backend(spec.data_backend)
    where = where or ("workers" if backend.distributed else "driver")
    variables = driver_for(spec, where).list_available_variables()
    config = config_of(spec, where)
    computed = {variable.name: variable for variable in variables if not variable.is_external_input}
    taken = {name for variable in computed.values() for name in _inputs_of(variable)} - computed.keys()
    given = [_input(variable, spec, job) for variable in variables if variable.name in taken]
    nodes = [_node(variable, backend) for variable in _in_data_order(computed)]
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
    _check_name(graph, name, "--upstream-of")
    return _only(graph, _reached({node.name: node.inputs for node in graph.nodes}, name))


def between(graph: Graph, start: str, end: str) -> Graph:
    """Only what lies on ways from `start` to `end`.

    Raises:
        ConfigurationError: there is no such node, or no way.
    """
    for name in (start, end):
        _check_name(graph, name, "--path")
    inputs = {node.name: node.inputs for node in graph.nodes}
    users = {name: [node.name for node in graph.nodes if name in node.inputs] for name in inputs}
    kept = _reached(inputs, end) & _reached(users, start)
    if not kept:
        back = f"There is one back: --path {end} {start}." if start in _reached(users, end) else ""
        hint = back or f"What {end} is made from: --upstream-of {end}."
        raise ConfigurationError(f"--path: no way leads from {start} to {end}.", hint)
    return _only(graph, kept)


def _reached(edges: Mapping[str, list[str]], start: str) -> set[str]:
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += edges[name]
    return reached


def _only(graph: Graph, kept: set[str]) -> Graph:
    nodes = [
        msgspec.structs.replace(node, inputs=[name for name in node.inputs if name in kept])
        for node in graph.nodes
        if node.name in kept or node.kind == "config"
    ]
    return Graph(graph.title, nodes)


def _check_name(graph: Graph, name: str, flag: str) -> None:
    names = [node.name for node in graph.nodes if node.kind != "config"]
    if name in names:
        return
    near = difflib.get_close_matches(name.partition("__")[0], names, 3, 0.5)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    nodes = ", ".join(node.name for node in graph.nodes if node.kind == "node")
    raise ConfigurationError(f"{flag}: the graph has no node {name!r}.", f"{meant}Nodes: {nodes}.")


def _in_data_order(variables: Mapping[str, Any]) -> list[Any]:
    """Each after what it is made from, and otherwise as they stand on the page."""
    missing = {name: len(_inputs_of(variable) & variables.keys()) for name, variable in variables.items()}
    ready = [(_line(_function(variables[name])), name) for name, count in missing.items() if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, made = heapq.heappop(ready)
        ordered.append(variables[made])
        for name, variable in variables.items():
            if made in _inputs_of(variable):
                missing[name] -= 1
                if not missing[name]:
                    heapq.heappush(ready, (_line(_function(variable)), name))
    return ordered


def _inputs_of(variable: Any) -> set[str]:
    names: set[str] = variable.required_dependencies | variable.optional_dependencies
    return names


def _first_use(node: Node, nodes: list[Node]) -> int:
    return next(at for at, user in enumerate(nodes) if node.name in user.inputs)


def _node(variable: Any, backend: DataBackend) -> Node:
    function = _function(variable)
    variant = function.__code__.co_name.removeprefix(variable.name).removeprefix("__")
    native = inspect.getdoc(backend.iter_batches) if "native" in variant else None
    effects = variable.tags.get("effects", [])
    return Node(
        name=variable.name,
        type=_engines_type(backend) if variable.type is Frame else type_text(variable.type),
        variant=variant,
        doc="\n".join(filter(None, [variable.documentation, native])),
        where=f"{function.__module__.replace('.', '/')}.py:{_line(function)}",
        inputs=[name for name in inspect.signature(function).parameters if name in _inputs_of(variable)],
        effects=msgspec.convert([effects] if isinstance(effects, str) else effects, list[Effect]),
    )


def _function(variable: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = variable.originating_functions[0]
    return function


def _line(function: Any) -> int:
    """Where its `def` stands, below the decorators."""
    lines, start = inspect.getsourcelines(function)
    return start + next(at for at, line in enumerate(lines) if line.startswith("def "))


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
    return Node(name=variable.name, kind="input", type=kind, value=_value(variable.name, spec, job))


def _value(name: str, spec: JobSpec, job: SwarmJob) -> str:
    """What a run would give the graph as `name`, as text; nothing for what there is only while it runs."""
    known = {
        "spec": job_name(spec),
        "job": f"{job_name(spec)}.{method_of(job, native=spec.native_backend)}",
        "read_batch_size": batch_rows(spec, job),
    }
    value = known[name] if name in known else getattr(without_secrets(spec), name, "")
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = masked({"null": "none", "{}": "none"}.get(text, text))
    return text if len(text) <= VALUE_CHARS else f"{text[: VALUE_CHARS - 1]}…"
