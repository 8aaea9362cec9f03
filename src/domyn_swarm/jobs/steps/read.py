"""From a module of functions to its steps: Hamilton reads the functions and applies their modifiers.

Mistakes are refused here, by function and file, before Hamilton meets them.
"""

from __future__ import annotations

import contextlib
import heapq
import importlib
import inspect
import logging
import types
import typing
from collections import Counter
from typing import TYPE_CHECKING, Any

from domyn_swarm.errors import ConfigurationError
from domyn_swarm.jobs.steps.step import Step, StepGraph, kind_of_model, place_of
from domyn_swarm.storage.paths import check_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that `module` defines, by name; those that it imports are not its own."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__
        and value.__name__.isidentifier()
    }  # fmt: skip


def parameters_of(module: ModuleType) -> frozenset[str]:
    """The names of all parameters of the module's functions."""
    return frozenset(name for one in functions_of(module).values() for name in inspect.signature(one).parameters)


def asks_a_model(module: ModuleType) -> bool:
    """Whether a parameter of any function is a model. What cannot be read is refused later."""
    for function in functions_of(module).values():
        with contextlib.suppress(Exception):
            if any(map(kind_of_model, typing.get_type_hints(function).values())):
                return True
    return False


def selectors_of(module: ModuleType) -> frozenset[str] | None:
    """The names by which modifiers select variants (`config.when(style=...)`); None when they may look at any."""
    found: set[str] = set()
    for modifier in (one for function in functions_of(module).values() for one in _modifiers(function)):
        for wanted in (modifier.required_config(), modifier.optional_config()):
            if wanted is None:
                return None
            found.update(wanted)
    return frozenset(found)


def _modifiers(function: Callable[..., Any]) -> list[Any]:
    """Hamilton's modifiers of `function`."""
    lists = (value for value in vars(function).values() if isinstance(value, list))
    return [one for values in lists for one in values if hasattr(one, "optional_config")]


def read_steps(module: ModuleType, config: Mapping[str, Any], reference: str) -> StepGraph:
    """The steps of `module`; `config` selects among variants of a step (`@config.when`).

    Raises:
        ConfigurationError: a function cannot be a step, or steps use one another in a circle.
    """
    functions = functions_of(module)
    for function in functions.values():
        _check_annotations(function)
    nodes = _nodes(module, functions, config, reference)
    return StepGraph(module, _in_order(nodes))


def _nodes(
    module: ModuleType, functions: Mapping[str, Callable[..., Any]], config: Mapping[str, Any], reference: str
) -> list[Any]:
    """Hamilton's nodes, without those for what is put in from outside."""
    check_home()
    logging.getLogger("hamilton").setLevel(logging.CRITICAL)  # it prints tracebacks of errors that are explained here
    driver = importlib.import_module("hamilton.driver")  # slow: it imports pandas
    # A module of its own functions alone: Hamilton takes imported functions too, where names of modules are alike.
    own = types.ModuleType(module.__name__)
    vars(own).update(functions)
    try:
        built = driver.Builder().with_modules(own).with_config(dict(config)).build()
    except Exception as error:  # whatever a modifier raises
        raise ConfigurationError(
            f"Job {reference!r}: no graph can be made of its functions: {type(error).__name__}: {error}",
            "Fix the function that the message names.",
            code="step.graph",
            path=reference,
        ) from error
    return [node for node in built.graph.nodes.values() if not node.user_defined and node.callable is not None]


def _check_annotations(function: Callable[..., Any]) -> None:
    """Refuse a function of which Hamilton could not tell what it takes and makes."""
    where = place_of(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 - annotations are anybody's code
        raise ConfigurationError(
            f"{where}: its annotations cannot be read: {error}.",
            "Import the names that they use; not under TYPE_CHECKING, because they are read when the job runs.",
            code="step.annotation",
            step=function.__name__,
        ) from None
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if not _is_decorated(function):
                raise ConfigurationError(
                    f"{where}: a step cannot take {parameter}.",
                    "Name each of its inputs.",
                    code="step.signature",
                    step=function.__name__,
                )
        elif name not in hints:
            raise ConfigurationError(
                f"{where}: its parameter {name!r} has no annotation.",
                f"Write its type: {name}: str.",
                code="step.annotation",
                step=function.__name__,
            )
    if hints.get("return", types.NoneType) is types.NoneType:
        raise ConfigurationError(
            f"{where}: it has no return annotation, so it is not known what the step makes.",
            f"Write it: def {function.__name__}(...) -> str. A function that is no step begins with an underscore.",
            code="step.annotation",
            step=function.__name__,
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{where}: a generator is no step.", "Return a list.", code="step.signature", step=function.__name__
        )


def _is_decorated(function: Callable[..., Any]) -> bool:
    return bool(_modifiers(function))


def _in_order(nodes: list[Any]) -> dict[str, Step]:
    """The nodes as steps: each after those that it uses, and otherwise as they stand in the module."""
    steps = {node.name: _step(node) for node in sorted(nodes, key=_line)}
    place = {name: at for at, name in enumerate(steps)}
    missing = Counter({name: sum(one in steps for one in step.takes) for name, step in steps.items()})
    ready = [place[name] for name in steps if not missing[name]]
    names, ordered = list(steps), {}
    heapq.heapify(ready)
    while ready:
        name = names[heapq.heappop(ready)]
        ordered[name] = steps[name]
        for user, step in steps.items():
            if name in step.takes:
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, place[user])
    if len(ordered) < len(steps):
        raise _circle({name: step for name, step in steps.items() if name not in ordered})
    return ordered


def _circle(steps: Mapping[str, Step]) -> ConfigurationError:
    """The error that names one circle among `steps`, all of which are in one or after one."""
    name = next(iter(steps))
    path: list[str] = []
    while name not in path:
        path.append(name)
        name = next(one for one in steps[name].takes if one in steps)
    around = [*path[path.index(name) :], name]
    uses = ", ".join(steps[one].where for one in around[:-1])
    return ConfigurationError(
        f"Steps use one another in a circle: {' <- '.join(around)}. They are {uses}.",
        "One of them must not use the other. A parameter that means a column of the input needs another name.",
        code="step.cycle",
        step=name,
    )


def _line(node: Any) -> int:
    code = getattr(_sources(node)[0], "__code__", None) if _sources(node) else None
    return code.co_firstlineno if code else 0


def _sources(node: Any) -> tuple[Callable[..., Any], ...]:
    return tuple(node.originating_functions or ())


def _step(node: Any) -> Step:
    takes = {name: kind[0] for name, kind in node.input_types.items()}
    optional = frozenset(name for name, kind in node.input_types.items() if kind[1].name == "OPTIONAL")
    call = node.callable
    if not inspect.iscoroutinefunction(call) and any(map(inspect.iscoroutinefunction, _sources(node))):
        call = _awaiting(call)
    return Step(
        name=node.name, call=call, is_async=inspect.iscoroutinefunction(call), type=node.type,
        takes=takes, optional=optional, sources=_sources(node), doc=node.documentation or "", tags=dict(node.tags),
    )  # fmt: skip


def _awaiting(call: Callable[..., Any]) -> Callable[..., Any]:
    """What a modifier made of a coroutine function: a plain function that may return its coroutine."""

    async def awaited(**arguments: Any) -> Any:
        value = call(**arguments)
        return await value if inspect.isawaitable(value) else value

    return awaited
