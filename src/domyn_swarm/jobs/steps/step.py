"""Steps as plain data: what a module's functions become once Hamilton has read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import ModuleType

MODELS = "domyn_swarm.jobs.steps.models"
"""The module of the types that make a parameter a model. Looking for one must not import it: it loads a client."""


@dataclass(frozen=True)
class Step:
    """A function that makes one column.

    `takes` are its parameters by name, with their types; `optional` are those that have a default. `sources` are the
    user's functions that it was made from, with their decorators.
    """

    name: str
    call: Callable[..., Any]
    is_async: bool
    type: Any
    takes: Mapping[str, Any]
    optional: frozenset[str]
    sources: tuple[Callable[..., Any], ...]
    doc: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The function and its place: `answer (steps.py, line 7)`."""
        function = self.sources[0] if self.sources else self.call
        return place_of(function, self.name)


def place_of(function: Any, name: str = "") -> str:
    """`answer (steps.py, line 7)`, as far as it is known."""
    code = getattr(function, "__code__", None)
    name = name or getattr(function, "__name__", "a function")
    return f"{name} ({PurePath(code.co_filename).name}, line {code.co_firstlineno})" if code else name


@dataclass(frozen=True)
class StepGraph:
    """The steps of a module, each after those that it uses; `externals` are parameters that no step makes."""

    module: ModuleType
    steps: Mapping[str, Step]

    @property
    def file(self) -> str:
        """The module's file, or its name."""
        return PurePath(getattr(self.module, "__file__", None) or self.module.__name__).name

    def sinks(self) -> list[str]:
        """Steps that no other step uses, in the module's order."""
        used = {name for step in self.steps.values() for name in step.takes}
        return [name for name in self.steps if name not in used]

    def following(self, name: str) -> set[str]:
        """The steps that are made from the step `name`, and that itself."""
        found = {name}
        for step in self.steps.values():  # each comes after those that it uses
            if not found.isdisjoint(step.takes):
                found.add(step.name)
        return found

    def needed(self, outputs: Sequence[str], known: Collection[str] = ()) -> list[Step]:
        """The steps that `outputs` are made from, and those themselves, in order; `known` ones are given."""
        wanted: set[str] = set()
        ahead = list(outputs)
        while ahead:
            name = ahead.pop()
            if name in self.steps and name not in wanted and name not in known:
                wanted.add(name)
                ahead += self.steps[name].takes
        return [step for name, step in self.steps.items() if name in wanted]


def kind_of_model(hint: Any) -> str:
    """`Chat`, `Completion` or `Embedding` where a parameter's type is one of them; else nothing."""
    return hint.__name__ if isinstance(hint, type) and hint.__module__ == MODELS else ""


def models_of(steps: Iterable[Step]) -> dict[tuple[str, str], str]:
    """The kind of model of each (step, parameter) that is one."""
    return {
        (step.name, name): kind for step in steps for name, hint in step.takes.items() if (kind := kind_of_model(hint))
    }
