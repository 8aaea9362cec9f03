"""Nodes that somebody replaces: by values, which spare what is upstream of them, or by functions of the same name.

A frame in memory that stands in for `source`, `identified`, `limited` or `pending` is what the rows of the run are from
the beginning: it stands in for those of them that come before it, too.
"""

from __future__ import annotations

import difflib
import graphlib
import inspect
import pickle
import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

import msgspec
import pandas as pd
import pyarrow as pa

from domyn_swarm.data.backends.base import DataBackend, Frame
from domyn_swarm.data.columns import POSITION, ROW_ID
from domyn_swarm.data.memory import InMemoryInput, digest_of
from domyn_swarm.engine.graph.code_digest import code_digest
from domyn_swarm.engine.graph.coercion import (
    ReplayableStream,
    among,
    collected,
    identified,
    is_frame,
    is_frame_type,
    lazy_type,
    makes_other,
    misfit,
    named,
    streamed,
    table_of,
    wanted,
    without,
)
from domyn_swarm.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from domyn_swarm.engine.columns import Columns
    from domyn_swarm.engine.graph.nodes import PageNode
    from domyn_swarm.jobspec import JobSpec

DIGEST_CHARS = 8


@dataclass(frozen=True)
class Overrides:
    """What is replaced, by node: values and functions. `held` is the input, when that is in memory."""

    values: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    held: InMemoryInput | None = None

    def __bool__(self) -> bool:
        return bool(self.values or self.functions)

    @property
    def names(self) -> frozenset[str]:
        """The nodes that are replaced."""
        return frozenset({**self.values, **self.functions})

    @property
    def pull_rows(self) -> bool:
        """Whether the output is still made from rows that were flushed."""
        finalized = self.functions.get("finalized")
        taken = finalized is None or {"flushed", "compacted"} & {*inspect.signature(finalized).parameters}
        return bool(taken) and "finalized" not in self.values

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """What decides the outputs, beside the job: digests of what nodes are replaced by."""
        made = {name: code_digest(function) for name, function in self.functions.items()}
        return dict(sorted({**made, **{name: _value_digest(value) for name, value in self.values.items()}}.items()))

    def apart(self, spec: JobSpec) -> JobSpec:
        """`spec` with a folder for runs in which just this is replaced."""
        if not self:
            return spec
        digest = code_digest(str(self.identity))[:DIGEST_CHARS]
        return msgspec.structs.replace(spec, checkpoint_tag=f"{spec.tag}+{min(self.names)}-{digest}")


NOTHING = Overrides()


def functions_of(replacements: Iterable[Callable[..., Any] | ModuleType]) -> dict[str, Callable[..., Any]]:
    """Functions by the names of the nodes that they replace; a module stands for its public functions.

    Raises:
        ConfigurationError: something is no function that has a name.
    """
    found: dict[str, Callable[..., Any]] = {}
    for one in replacements:
        if isinstance(one, ModuleType):
            own = {name: value for name, value in vars(one).items() if not name.startswith("_")}
            found |= {n: v for n, v in own.items() if inspect.isfunction(v) and v.__module__ == one.__name__}
        elif inspect.isfunction(one) and one.__name__.isidentifier():
            found[one.__name__] = one
        else:
            raise ConfigurationError(
                f"A node is replaced by a function of its name, or by those of a module, not by a {named(type(one))}.",
                "Values are given as overrides={node: value}.",
                code="override.function",
            )
    return found


def check(overrides: Overrides, nodes: Mapping[str, PageNode], offered: Iterable[str], backend: DataBackend) -> None:
    """Refuse what no node can be overridden by. `offered` are the names of the inputs that any node may take.

    Raises:
        ConfigurationError: the node does not exist, or it cannot be that; the message says what can.
    """
    kinds = {name: node.type for name, node in nodes.items()}
    inputs = {name: node.inputs for name, node in nodes.items()}
    known = set(inputs).union(*inputs.values(), offered)
    for name in sorted(overrides.names):
        check_node(name, kinds, known)
    for name, value in overrides.values.items():
        if takes := misfit(kinds[name], value, backend):
            raise ConfigurationError(
                f"Node {name!r} cannot be a {named(type(value))}.",
                f"It takes {takes}.",
                code="override.type",
                step=name,
            )
    made_from: dict[str, Iterable[str]] = dict(inputs)
    for name, function in overrides.functions.items():
        _check_parameters(name, function, kinds, inputs[name], known)
        made_from[name] = _taken(function, known)
        returned = _hints(function).get("return", Any)
        if returned is not Any and (takes := makes_other(kinds[name], returned, backend)):
            raise ConfigurationError(
                f"{name}() is to make a {named(returned)}.",
                f"Node {name!r} takes {takes}.",
                code="override.type",
                step=name,
            )
    try:
        graphlib.TopologicalSorter(made_from).prepare()
    except graphlib.CycleError as error:
        way = " -> ".join(reversed(error.args[1]))
        raise ConfigurationError(
            f"A node would be made from itself: {way}.",
            "A function takes what is before its node.",
            code="override.cycle",
        ) from None


def check_node(name: str, nodes: Iterable[str], inputs: Iterable[str] = ()) -> None:
    """Refuse what is no node.

    Raises:
        ConfigurationError: with the names that there are.
    """
    nodes = list(nodes)
    if name in nodes:
        return
    there = f"Nodes: {', '.join(nodes)}."
    if name in inputs:
        raise ConfigurationError(
            f"{name!r} is no node, but an input of the graph.",
            f"Options go to plan(). {there}",
            code="override.input",
            step=name,
        )
    raise ConfigurationError(
        f"The graph has no node {name!r}.",
        f"{_near(name, nodes)}{there}",
        code="node.unknown",
        step=name,
        choices=tuple(nodes),
    )


def _check_parameters(
    name: str, function: Callable[..., Any], kinds: Mapping[str, Any], replaced: Iterable[str], known: Iterable[str]
) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"{name}({parameter}): a node takes its inputs by their names.",
                f"Node {name!r} takes: {', '.join(sorted(replaced)) or 'nothing'}.",
                code="override.parameter",
                step=name,
            )
        if parameter.name not in known and parameter.default is parameter.empty:
            raise ConfigurationError(
                f"{name}({parameter.name}): the graph has neither a node nor an option {parameter.name!r}.",
                f"{_near(parameter.name, known)}Node {name!r} takes: {', '.join(sorted(replaced)) or 'nothing'}. "
                f"Nodes: {', '.join(kinds)}.",
                code="override.parameter",
                step=name,
            )


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f"Did you mean {near[0]!r}? " if near else ""


def planning_values(
    overrides: Overrides, nodes: Mapping[str, PageNode], spec: JobSpec, backend: DataBackend
) -> dict[str, Any]:
    """What is known of the nodes before any is computed, but for streams: see `stream_values`.

    Raises:
        ConfigurationError: a frame lacks the id column.
        DataError: ids are not valid.
    """
    known: dict[str, Any] = {}
    frames = [name for name, node in nodes.items() if node.is_frame]
    if overrides.held is not None:
        known = {"files": overrides.held.files, "source": backend.from_arrow(overrides.held.table)}
    for name in (name for name in frames if name in overrides.values):
        value = overrides.values[name]
        if isinstance(value, lazy_type(backend)):
            known["limited" if name == "pending" else name] = value  # finished rows are not computed again
        else:
            before = frames[: frames.index(name) + 1]
            known |= _from_the_beginning(before, table_of(value), spec, backend)
    others = {name: value for name, value in overrides.values.items() if not nodes[name].is_stream}
    return known | {name: value for name, value in others.items() if name not in frames}


def _from_the_beginning(frames: list[str], table: pa.Table, spec: JobSpec, backend: DataBackend) -> dict[str, Any]:
    """The values of `frames`, and of the files that the first is read from, when the table is the last of them."""
    plain = without(table, POSITION) if spec.id_column else without(table, POSITION, ROW_ID)
    known = {"files": InMemoryInput.of(plain).files, "source": backend.from_arrow(plain)}
    # `pending` is computed even then: finished rows are not computed again.
    given = [name for name in frames[1:] if name != "pending"]
    return known | (dict.fromkeys(given, identified(table, spec.id_column, backend)) if given else {})


def stream_values(overrides: Overrides, nodes: Mapping[str, PageNode], columns: Columns) -> dict[str, Any]:
    """The streams that stand in for nodes."""
    given = {name: value for name, value in overrides.values.items() if nodes[name].is_stream}
    return {name: ReplayableStream(nodes[name].type, value, columns) for name, value in given.items()}


def node_function(
    page: PageNode, nodes: Mapping[str, PageNode], function: Callable[..., Any], known: Iterable[str]
) -> Callable[..., Any]:
    """`function` as the graph calls it: given the frames that its annotations ask for, its result brought into form.

    `known` are the nodes and inputs of the graph; a parameter that is none of them keeps its default. What came after
    the recovery of the run's folder still does.
    """
    name, kind = page.name, page.type
    hints, taken = _hints(function), _taken(function, known)
    needed = {"columns"} if page.is_stream else {"spec"} if page.is_frame else set()
    needed |= {"limited", "done"} if name == "pending" else set()
    needed |= {one for one in page.inputs if one in nodes and nodes[one].phase == "recover"}
    asked = sorted(taken | needed | ({"backend"} if name != "backend" else set()))

    def node(**given: Any) -> Any:
        arguments = {parameter: _as_asked(given[parameter], hints.get(parameter), given) for parameter in taken}
        return _in_form(name, kind, function(**arguments), given)

    node.__name__ = node.__qualname__ = name
    node.__annotations__ = {**dict.fromkeys(asked, Any), "return": kind}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(parameter, keyword, annotation=Any) for parameter in asked]
    node.__signature__ = inspect.Signature(parameters, return_annotation=kind)  # type: ignore[attr-defined]
    return node


def _taken(function: Callable[..., Any], known: Iterable[str]) -> set[str]:
    return set(inspect.signature(function).parameters) & set(known)


def _as_asked(value: Any, hint: Any, given: Mapping[str, Any]) -> Any:
    """The engine's lazy frame, or all of its rows in memory where the annotation is a frame's."""
    if not is_frame_type(hint) or not isinstance(value, lazy_type(given["backend"])):
        return value
    table = collected(value, given["backend"])
    if hint is pa.Table:
        return table
    return table.to_pandas() if hint is pd.DataFrame else given["backend"].in_memory(table)


def _in_form(name: str, kind: Any, value: Any, given: Mapping[str, Any]) -> Any:
    backend = value if name == "backend" else given["backend"]
    if misfit(kind, value, backend):
        raise ConfigurationError(
            f"{name}() made a {named(type(value))}.",
            f"Node {name!r} takes {wanted(kind)}.",
            code="override.type",
            step=name,
        )
    is_lazy = kind is Frame and isinstance(value, lazy_type(backend))
    if get_origin(kind) in (Iterator, Generator):
        return streamed(kind, value, given["columns"])
    if kind is not Frame:
        return value
    id_column = given["spec"].id_column
    if name == "pending":
        value = value if is_lazy else among(table_of(value), given["limited"], id_column or ROW_ID, backend)
        return backend.exclude(value, given["done"].finished)  # finished rows stay so, whatever a function says
    if is_lazy:
        return value
    return backend.from_arrow(table_of(value)) if name == "source" else identified(table_of(value), id_column, backend)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - names that only a type checker sees, or what they do when evaluated
        return {}


def _value_digest(value: Any) -> str:
    """For what cannot be digested, something that nothing else has."""
    if isinstance(value, ModuleType):
        return value.__name__
    try:
        if is_frame(value):
            return digest_of(table_of(value))
        return code_digest(pickle.dumps(value))
    except Exception:  # noqa: BLE001 - whatever somebody put in
        return uuid.uuid4().hex
