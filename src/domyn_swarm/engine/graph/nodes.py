"""The nodes as the graph's page declares them, with their tags; nothing else lists them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_origin

from domyn_swarm.data.backends.base import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hamilton.driver import Driver

WRITES = "writes"
"""What an effect begins with when it changes files."""


@dataclass(frozen=True)
class PageNode:
    """A node: its type, what it is made from, and its tags (phase, rows, effects)."""

    name: str
    type: Any
    inputs: frozenset[str]
    phase: str
    rows: str
    effects: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str | list[str]]:
        """Its tags as Hamilton's decorator takes them."""
        given: dict[str, str | list[str]] = {"phase": self.phase, "rows": self.rows, "effects": [*self.effects]}
        return {name: value for name, value in given.items() if value}

    @property
    def is_frame(self) -> bool:
        """Whether rows pass through it as an engine's lazy frame."""
        return bool(self.rows) and self.type is Frame

    @property
    def is_stream(self) -> bool:
        """Whether rows pass through it in this process, a batch at a time."""
        return bool(self.rows) and get_origin(self.type) in (Iterator, Generator)

    @property
    def writes(self) -> bool:
        """Whether it changes files."""
        return any(effect.startswith(WRITES) for effect in self.effects)


def page_nodes(driver: Driver) -> dict[str, PageNode]:
    """The driver's nodes by name, in the page's order."""
    variables = [variable for variable in driver.list_available_variables() if not variable.is_external_input]
    variables.sort(key=lambda variable: function_on_page(variable).__code__.co_firstlineno)
    return {variable.name: _page_node(variable) for variable in variables}


def _page_node(variable: Any) -> PageNode:
    tags = variable.tags
    effects = tags.get("effects", [])
    return PageNode(
        variable.name, variable.type, frozenset(made_from(variable)), tags.get("phase", ""), tags.get("rows", ""),
        (effects,) if isinstance(effects, str) else tuple(effects),
    )  # fmt: skip


def function_on_page(variable: Any) -> Callable[..., Any]:
    """The function on the page that makes one of Hamilton's variables, or would, if it were not overridden."""
    function: Callable[..., Any] = variable.originating_functions[0]
    replaced: Callable[..., Any] = getattr(function, "replaces", function)
    return replaced


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
